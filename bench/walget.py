"""Recovery: how long a server takes with `pgstow wal get` as its restore_command, and with what people
use otherwise, in pairs on the same backup and archive.

    python3 bench/walget.py [--quick] [--pairs N] [--json FILE] PGSTOW

Starts a server of its own, takes a backup and archives some gigabytes of WAL of pgbench as it is and
with gzip, lz4 and zstd. Then the backup is recovered with all of it, by one command right after the
other, in turns first: cp for plain segments, else METHOD -dc. Printed are the medians of elapsed time
from the server's first to its last message about recovery, with their range, and the median ratio of
the pairs.
"""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "integration"))

from harness.run import STOCK_BIN, ScratchDir, run  # noqa: E402
from harness.servers import Server  # noqa: E402

from pairs import in_turns, report, settle  # noqa: E402

# name: suffix, what others do with it
ARCHIVES = {
    "none": ("", "cp {}/%f %p"),
    "gzip": (".gz", "gzip -dc {}/%f.gz > %p"),
    "lz4": (".lz4", "lz4 -qdc {}/%f.lz4 > %p"),
    "zstd": (".zst", "zstd -qdc {}/%f.zst > %p"),
}
STAMP = r"^(\d+-\d+-\d+ \d+:\d+:\d+\.\d+) UTC .*"
BEGIN = re.compile(STAMP + "starting archive recovery", re.MULTILINE)
END = re.compile(STAMP + "archive recovery complete", re.MULTILINE)


def make_archives(options, directory):
    """The backup, and how many segments there are behind it."""
    for method in options.archives:
        run(["mkdir", directory / method]).check()
    pushes = [f"{options.pgstow} wal push -Z {method} %p {directory / method}"
              for method in options.archives]
    with Server(options.major, archive_mode="on", archive_command=" && ".join(pushes),
                max_wal_size="4GB", shared_buffers="512MB") as server:
        server.pgbench_init(options.scale)
        run([options.pgstow, "basebackup", "-c", "fast", "-N", "-D", directory / "base"],
            env=server.env(), timeout=1200).check()
        started = server.value("SELECT pg_current_wal_lsn()")
        while int(server.value(f"SELECT (pg_current_wal_lsn() - '{started}')::bigint")) < (
                options.megabytes << 20):
            run([STOCK_BIN / "pgbench", "-n", "-c", "4", "-t", "5000", "postgres"],
                env=server.env(), timeout=1200).check()
        last = server.value("SELECT pg_walfile_name(pg_switch_wal())")
        server.wait_for("EXISTS (SELECT FROM pg_stat_archiver"
                        f" WHERE last_archived_wal >= '{last}')", timeout=1200)
        return server, len(list((directory / options.archives[0]).iterdir()))


def stamp(pattern, log):
    return datetime.fromisoformat(pattern.search(log)[1])


def recovery(server, directory, command, options):
    data = directory / "data"
    shutil.rmtree(data, ignore_errors=True)
    run(["cp", "-a", directory / "base", data], timeout=600).check()
    settle()
    started = time.monotonic()
    with server.start_recovered(data, None, command, archive_mode="off", hot_standby="off",
                                max_wal_size="64GB") as copy:
        elapsed = time.monotonic() - started
        log = copy.log()
    return {"seconds": (stamp(END, log) - stamp(BEGIN, log)).total_seconds(), "elapsed": elapsed}


def parse_options():
    parser = argparse.ArgumentParser()
    parser.add_argument("pgstow", type=lambda path: Path(path).resolve())
    parser.add_argument("--quick", action="store_true", help="a small run: does it work?")
    parser.add_argument("--directory", default="/var/tmp", help="where everything goes")
    parser.add_argument("--major", type=int, default=18, help="of the server")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--scale", type=int, default=20, help="of pgbench")
    parser.add_argument("--megabytes", type=int, default=1500, help="of WAL, at least")
    parser.add_argument("--archives", nargs="+", choices=ARCHIVES, default=list(ARCHIVES))
    parser.add_argument("--json", help="write all that was measured into this file")
    options = parser.parse_args()
    if options.quick:
        options.pairs, options.scale, options.megabytes = 1, 5, 150
    return options


def main():
    options = parse_options()
    tempfile.tempdir = options.directory
    results = {}
    with ScratchDir() as directory:
        server, segments = make_archives(options, directory)
        print(f"{segments} files, {options.pairs} pairs, {os.cpu_count()} processors")
        for method in options.archives:
            _suffix, other = ARCHIVES[method]
            programs = {"pgstow": f"{options.pgstow} wal get {directory / method} %f %p",
                        other.split()[0]: other.format(directory / method)}
            results[method] = in_turns(
                programs, options.pairs,
                lambda command: recovery(server, directory, command, options))
            report(method, results[method], {"seconds": "recovery, s", "elapsed": "start, s"})
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
