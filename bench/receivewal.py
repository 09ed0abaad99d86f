"""WAL archives: pgstow receivewal beside the stock pg_receivewal, in pairs on one server.

    python3 bench/receivewal.py [--quick] [--only catch-up|commits] [--json FILE] ... PGSTOW

Starts a server of its own and measures two things, always one program right after the other, in
turns first, so that whatever else the machine does meets both:

    catch up   an empty archive receives WAL that is there already (a slot kept it), durably: the
               time until the program has ended, its CPU seconds, and what it wrote
    commits    the program is the synchronous standby that every commit waits for: transactions per
               second of pgbench's simple updates, and their latency; with the server's own fsync,
               and without it, where nearly nothing but the receiver is waited for

The archive is in --directory, which should be on a real disk, as should the server's.
"""

import argparse
import contextlib
import json
import os
import re
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "integration"))

from harness.run import STOCK_BIN, Background, ScratchDir, run  # noqa: E402
from harness.servers import Server  # noqa: E402

from pairs import in_turns, measured, report, settle  # noqa: E402

MB = 1024 * 1024
SEGMENT_SIZE = 16 * MB
SLOT_POSITIONS_SINCE = 15  # READ_REPLICATION_SLOT: where an empty archive begins

COMPRESSIONS = ["none", "gzip:1", "gzip", "lz4", "zstd"]
NOT_IN_STOCK = ["zstd"]
ARCHIVED = re.compile(r"[0-9A-F]{24}(\.gz|\.lz4|\.zst)?")

# A checkpoint in the midst of a run would favour whoever does not meet it.
SETTINGS = {
    "fsync": "on",
    "shared_buffers": "512MB",
    "max_connections": 100,
    "max_wal_size": "64GB",
    "checkpoint_timeout": "1h",
    "log_replication_commands": "off",
}

# The units of what is measured.
CATCH_UP_NUMBERS = {"seconds": "s", "cpu": "CPU s", "written": "MB written"}
COMMIT_NUMBERS = {"tps": "tps", "average": "ms average", "p95": "ms 95th percentile"}


@contextlib.contextmanager
def temporary_files_in(directory):
    before = tempfile.tempdir
    tempfile.tempdir = str(directory)
    try:
        yield
    finally:
        tempfile.tempdir = before


def server_in(directory, major):
    with temporary_files_in(directory):
        return Server(major, **SETTINGS)


def scratch_in(directory):
    with temporary_files_in(directory):
        return ScratchDir()


# --- catch up ---


class History:
    """WAL that a slot keeps: from where to where."""

    def __init__(self, server, megabytes):
        self.server = server
        server.sql("SELECT pg_create_physical_replication_slot('history', true)")
        self.start = self._position("restart_lsn", "FROM pg_replication_slots")
        # Rows, an index and full pages: a scale makes 15 MB of the first two.
        server.pgbench_init(max(1, megabytes // 20))
        while self._size() < megabytes * MB:
            server.sql("CHECKPOINT")
            pgbench = [STOCK_BIN / "pgbench", "-n", "-N", "-c", 8, "-t", 1000, "postgres"]
            run(pgbench, env=server.env()).check()
        server.sql("SELECT pg_switch_wal()")
        server.sql("CHECKPOINT")
        # Just inside of the segment behind the last complete one: stock wants to be beyond it.
        self.end = self._position("pg_current_wal_lsn()") // SEGMENT_SIZE * SEGMENT_SIZE + 1
        self.segments = self.end // SEGMENT_SIZE - self.start // SEGMENT_SIZE

    def _position(self, expression, rest=""):
        return int(self.server.value(f"SELECT ({expression} - '0/0'::pg_lsn)::bigint {rest}"))

    def _size(self):
        return self._position("pg_current_wal_lsn()") - self.start

    @contextlib.contextmanager
    def slot(self):
        """A slot of one run, which has not given anything away yet."""
        self.server.sql("SELECT pg_copy_physical_replication_slot('history', 'run')")
        try:
            yield "run"
        finally:
            self.server.wait_for("NOT active FROM pg_replication_slots WHERE slot_name = 'run'")
            self.server.sql("SELECT pg_drop_replication_slot('run')")


def catch_up(program, history, compression, options, env=None):
    """Receives all of a history into an empty archive; returns what that took. `env`: of another
    way to the server.
    """
    with scratch_in(options.directory) as archive, history.slot() as slot:
        end = f"{history.end >> 32:X}/{history.end & 0xFFFFFFFF:X}"
        command = [*program, "-D", archive, "-S", slot, "-E", end, "-n"]
        command += [] if compression == "none" else ["-Z", compression]
        settle(options.drop_caches)
        numbers = measured(command, env or history.server.env())
        received = sum(1 for path in archive.iterdir() if ARCHIVED.fullmatch(path.name))
        if received != history.segments:
            raise SystemExit(f"{program[0]}: {received} segments instead of {history.segments}")
        return numbers


def measure_catch_up(server, options):
    history = History(server, options.megabytes)
    megabytes = (history.end - history.start) / 1e6
    print(f"Catching up on {megabytes:.0f} MB of WAL, durably:")
    cases = {}
    for compression in options.compressions:
        programs = options.programs.copy()
        if compression in NOT_IN_STOCK:
            del programs["stock"]
        cases[compression] = in_turns(programs, options.pairs, lambda program: catch_up(
            program, history, compression, options))
        report(compression, cases[compression], CATCH_UP_NUMBERS)
    server.sql("SELECT pg_drop_replication_slot('history')")
    return {"megabytes": megabytes, "cases": cases}


# --- commits ---


def commits(program, server, clients, options):
    """The commits of some clients, each waiting for this program; returns how many and how long."""
    with scratch_in(options.directory) as archive, ScratchDir() as logs:
        server.sql("CHECKPOINT")
        settle(options.drop_caches)
        command = [*program, "-D", archive, "--synchronous"]
        with Background(command, env=server.env()) as receiver:
            server.wait_for("count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming'")
            with synchronous(server):
                result = pgbench(server, clients, options.seconds, logs)
            if not receiver.is_running():
                raise SystemExit(str(receiver.wait()))
            receiver.stop()
        return result


@contextlib.contextmanager
def synchronous(server):
    """Commits wait for the standby that there is, and afterwards for none again."""
    server.configure(synchronous_standby_names="*")
    server.wait_for("count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'")
    try:
        yield
    finally:
        server.configure(synchronous_standby_names="")
        server.wait_for("current_setting('synchronous_standby_names') = ''")


def pgbench(server, clients, seconds, logs):
    """The transactions per second and the latencies, in ms, of pgbench's simple updates."""
    result = run([
        STOCK_BIN / "pgbench", "-n", "-N", "-M", "prepared", "-c", clients, "-j", min(clients, 2),
        "-T", seconds, "-l", "--log-prefix", logs / "log", "-h", server.socket_dir, "postgres",
    ], env=server.env(), timeout=seconds + 60).check()
    latencies = sorted(
        int(line.split()[2]) / 1000 for log in logs.iterdir() for line in open(log))
    return {
        "tps": float(re.search(r"^tps = ([0-9.]+)", result.out, re.MULTILINE)[1]),
        "average": statistics.fmean(latencies),
        "p95": latencies[len(latencies) * 95 // 100],
    }


def measure_commits(server, options):
    server.pgbench_init(10)
    cases = {}
    for fsync in ("on", "off"):
        print(f"Synchronous commits, fsync = {fsync} on the server, {options.seconds} s each:")
        server.configure(fsync=fsync)
        for clients in options.clients:
            runs = in_turns(options.programs, options.pairs, lambda program: commits(
                program, server, clients, options))
            cases[f"fsync {fsync}, {clients} clients"] = runs
            report(f"{clients} clients", runs, COMMIT_NUMBERS)
    server.configure(fsync="on")
    return {"seconds": options.seconds, "cases": cases}


# --- options ---


def parse_options():
    parser = argparse.ArgumentParser()
    parser.add_argument("pgstow")
    parser.add_argument("--quick", action="store_true", help="a small run: does it work?")
    parser.add_argument("--only", choices=["catch-up", "commits"])
    parser.add_argument("--directory", default="/var/tmp", help="where the archives go")
    parser.add_argument("--server-directory", help="default: that of the archives")
    parser.add_argument("--stock", default=STOCK_BIN / "pg_receivewal")
    parser.add_argument("--major", type=int, default=15, help="of the server, 15 or later")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=1500, help="of WAL to catch up on")
    parser.add_argument("--compressions", nargs="+", default=COMPRESSIONS, metavar="METHOD")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32], metavar="N")
    parser.add_argument("--seconds", type=int, default=10, help="of commits")
    parser.add_argument("--drop-caches", action="store_true",
                        help="before each run (as root): the server reads its WAL from the disk")
    parser.add_argument("--json", help="write all that was measured into this file")
    options = parser.parse_args()
    if options.major < SLOT_POSITIONS_SINCE:
        parser.error("an empty archive cannot begin at a slot's position before version 15")
    if options.quick:
        options.pairs, options.megabytes, options.seconds = 1, 200, 2
    options.programs = {"stock": [options.stock],
                        "pgstow": [Path(options.pgstow).resolve(), "receivewal"]}
    return options


def main():
    options = parse_options()
    results = {}
    with server_in(options.server_directory or options.directory, options.major) as server:
        if options.only != "commits":
            results["catch up"] = measure_catch_up(server, options)
        if options.only != "catch-up":
            results["commits"] = measure_commits(server, options)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
