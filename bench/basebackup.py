"""Base backups: pgstow basebackup beside the stock pg_basebackup and beside the floor, in turns.

    python3 bench/basebackup.py [--quick] [--data NAME] [--cases NAME ...] [--json FILE] ... PGSTOW

Starts a server of its own with one of these sets of data, all of it in the page cache:

    pgbench      pgbench's tables: hardly any file that is not large, and most of it repeats itself
    random       the same, but of rows that cannot be compressed to less than half
    relations    100,000 small tables
    mixed        20 large tables and many small ones

The floor is a program (bench/floor.c) that reads what the server sends and throws it away. Printed
are the medians of elapsed time, of the client's CPU seconds (also for each GB of the data
directory), of its peak memory and of what it left on disk, with their ranges, and the median ratios
in the rounds. Every check of ours is on. The target is in --directory, as is the server, which
should be on a real disk.
"""

import argparse
import itertools
import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "integration"))

from harness.run import STOCK_BIN, ScratchDir  # noqa: E402
from harness.servers import Server  # noqa: E402

from pairs import create_tables, in_turns, measured, report, settle  # noqa: E402

SETTINGS = {
    "fsync": "off",
    "shared_buffers": "512MB",
    "max_wal_size": "64GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
}

# name: options, the same for both
CASES = {
    "plain": ["-F", "plain"],
    "plain, no sync": ["-F", "plain", "-N"],
    "tar": ["-F", "tar"],
    "tar, no sync": ["-F", "tar", "-N"],
    "tar, gzip": ["-F", "tar", "-Z", "client-gzip:6"],
    "tar, lz4": ["-F", "tar", "-Z", "client-lz4"],
    "tar, zstd": ["-F", "tar", "-Z", "client-zstd:3"],
}
backup_numbers = itertools.count()
NUMBERS = {"seconds": "s", "cpu": "CPU s", "memory": "MiB", "size": "MB on disk"}
SMALL_TABLE = "AS SELECT g AS id FROM generate_series(1, 100) g"


# --- the data ---


def make_pgbench(server, options):
    server.pgbench_init(options.scale)


def make_random(server, options):
    server.sql("CREATE TABLE random AS SELECT g AS id, gen_random_uuid() AS a, random() AS b,"
               " repeat(md5(g::text), 2) AS c, sha256(g::text::bytea) AS d"
               f" FROM generate_series(1, {options.scale * 80000}) g", timeout=1200)
    server.sql("CREATE INDEX ON random (a)", timeout=1200)


def make_relations(server, options):
    create_tables(server, options.tables, SMALL_TABLE)


def make_mixed(server, options):
    for i in range(20):
        server.sql(f"CREATE TABLE large{i} AS SELECT g AS id, md5(g::text) AS v"
                   f" FROM generate_series(1, {options.scale * 10000}) g", timeout=600)
    create_tables(server, options.tables // 10, SMALL_TABLE)


DATA = {"pgbench": make_pgbench, "random": make_random, "relations": make_relations,
        "mixed": make_mixed}


def gigabytes_of(server):
    return int(server.value("SELECT sum(size) FROM pg_database,"
                            " pg_database_size(oid) AS size")) / 1e9


# --- runs ---


def size_of(directory):
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) / 1e6


def take(program, server, place):
    """One backup by one program."""
    target = place / f"backup{next(backup_numbers)}"
    command = [target if word == "TARGET" else word for word in program]
    settle()
    result = measured(command, server.env())
    result["size"] = size_of(target) if target.exists() else 0.0
    empty(target)
    return result


def empty(directory):
    """Makes room, and leaves the files themselves: ext4 searches long for inodes that it may use
    when many were deleted within the last minutes.
    """
    for path in directory.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.truncate(path, 0)


def measure_case(name, server, place, gigabytes, options):
    more = ["-D", "TARGET", "-c", "fast", *CASES[name]]
    programs = {
        "pgstow": [options.pgstow, "basebackup", *more],
        "stock": [options.stock / "pg_basebackup", *more],
        "floor": [options.floor],
    }
    runs = in_turns(programs, options.rounds, lambda program: take(program, server, place))
    report(name, runs, NUMBERS, gigabytes)
    return runs


# --- options ---


def parse_options():
    parser = argparse.ArgumentParser()
    parser.add_argument("pgstow", type=lambda path: Path(path).resolve())
    parser.add_argument("--quick", action="store_true", help="a small run: does it work?")
    parser.add_argument("--data", choices=DATA, default="pgbench")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="NAME",
                        help="of these: " + "; ".join(CASES))
    parser.add_argument("--directory", default="/var/tmp", help="where server and backups go")
    parser.add_argument("--stock", metavar="DIR", type=Path, default=STOCK_BIN)
    parser.add_argument("--floor", type=Path, help="the program; default: as PGSTOW was built")
    parser.add_argument("--major", type=int, default=15, help="of the server, 15 or later")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=int, default=150, help="of the data; 15 MB each")
    parser.add_argument("--tables", type=int, default=100000, help="small ones")
    parser.add_argument("--json", help="write all that was measured into this file")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.scale, options.tables = 1, 5, 1000
    options.floor = options.floor or options.pgstow.parent / "bench" / "floor"
    return options


def main():
    options = parse_options()
    tempfile.tempdir = options.directory
    with Server(options.major, **SETTINGS) as server, ScratchDir() as place:
        DATA[options.data](server, options)
        server.sql("VACUUM; CHECKPOINT;", timeout=1200)
        gigabytes = gigabytes_of(server)
        print(f"{options.data}, {gigabytes:.2f} GB, {options.rounds} rounds,"
              f" {os.cpu_count()} processors", flush=True)
        results = {name: measure_case(name, server, place, gigabytes, options)
                   for name in options.cases}
    if options.json:
        Path(options.json).write_text(
            json.dumps({"gigabytes": gigabytes, "cases": results}, indent=1))


if __name__ == "__main__":
    main()
