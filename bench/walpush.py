"""Archiving: how long a server takes to archive what has piled up, with `pgstow wal push` as its
archive_command, with --spool and without, in pairs on the same segments.

    python3 bench/walpush.py [--quick] [--pairs N] [--json FILE] PGSTOW

Starts a server of its own and lets pgbench fill segments. Then all of them are marked as not archived
while the server is down, and are archived into an empty directory, in turns first with each command.
Printed are the medians of elapsed time from the server's start to the last one, with their range, and
the median ratio of the pairs.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "integration"))

from harness import wait_until  # noqa: E402
from harness.run import STOCK_BIN, ScratchDir, run  # noqa: E402
from harness.servers import Server  # noqa: E402

from pairs import in_turns, report, settle  # noqa: E402


def fill_segments(server, options):
    """Those of the load, and no more."""
    server.pgbench_init(options.scale)
    while len(archived(server)) < options.segments:
        run([STOCK_BIN / "pgbench", "-n", "-c", "4", "-t", "2000", "postgres"],
            env=server.env(), timeout=1200).check()
        last = server.value("SELECT pg_walfile_name(pg_switch_wal())")
        server.wait_for("EXISTS (SELECT FROM pg_stat_archiver"
                        f" WHERE last_archived_wal >= '{last}')", timeout=1200)
    server.stop()


def status_directory(server):
    return server.data_dir / "pg_wal" / "archive_status"


def archived(server):
    return list(status_directory(server).glob("*.done"))


def archiving(server, directory, command, options):
    archive = directory / "archive"
    shutil.rmtree(archive, ignore_errors=True)
    shutil.rmtree(directory / "pgstow_pushed", ignore_errors=True)
    run(["mkdir", archive]).check()
    status = status_directory(server)
    names = sorted(path.stem for path in archived(server))[:options.segments]
    server.configure(archive_command=command)
    for name in names:
        run(["mv", status / f"{name}.done", status / f"{name}.ready"]).check()
    settle()
    started = time.monotonic()
    server.start()
    # The server asks for them in this order.
    wait_until((status / f"{names[-1]}.done").exists, "all is archived", 1200)
    elapsed = time.monotonic() - started
    failed = server.value("SELECT failed_count FROM pg_stat_archiver")
    server.stop()
    if failed != "0":
        raise SystemExit(f"{command}: failed {failed} times")
    return {"seconds": elapsed}


def parse_options():
    parser = argparse.ArgumentParser()
    parser.add_argument("pgstow", type=lambda path: Path(path).resolve())
    parser.add_argument("--quick", action="store_true", help="a small run: does it work?")
    parser.add_argument("--directory", default="/var/tmp", help="where everything goes")
    parser.add_argument("--major", type=int, default=18, help="of the server")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--scale", type=int, default=20, help="of pgbench")
    parser.add_argument("--segments", type=int, default=100)
    parser.add_argument("--methods", nargs="+", default=["none", "lz4", "zstd"])
    parser.add_argument("--json", help="write all that was measured into this file")
    options = parser.parse_args()
    if options.quick:
        options.pairs, options.scale, options.segments = 1, 5, 12
    return options


def main():
    options = parse_options()
    tempfile.tempdir = options.directory
    results = {}
    with ScratchDir() as directory, Server(
            options.major, archive_mode="on", archive_command="true", wal_keep_size="64GB",
            max_wal_size="64GB", checkpoint_timeout="1d") as server:
        fill_segments(server, options)
        print(f"{options.segments} segments, {options.pairs} pairs, {os.cpu_count()} processors")
        for method in options.methods:
            push = f"{options.pgstow} wal push -Z {method}"
            programs = {"pgstow": f"{push} --spool={directory} %p {directory / 'archive'}",
                        "no spool": f"{push} %p {directory / 'archive'}"}
            results[method] = in_turns(
                programs, options.pairs,
                lambda command: archiving(server, directory, command, options))
            report(method, results[method], {"seconds": "archived, s"})
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
