"""Verification: pgstow verifybackup beside the stock pg_verifybackup, in pairs on the same backups.

    python3 bench/verify.py [--quick] [--stock DIR] [--json FILE] ... PGSTOW

Starts a server of its own, makes a data set (pgbench, and many small tables) and takes backups of
it: plain with CRC32C and with SHA256, and tar without compression, with gzip, lz4 and zstd. Then
each is verified by one program right after the other, in turns first, from the page cache. Printed
are the medians of elapsed time, CPU seconds and peak memory, with their range, the median ratio of
the pairs, and CPU seconds for each GB of the data directory. What is compared:

    stock                the tool of version 15 for plain backups, WAL included; for tar format that
                         of 18 with -n, for it cannot read WAL there (--stock DIR, or else that of
                         the servers; it must have been built with the codec)
    pgstow, everything   checksums, data pages, WAL, in tar format as well
    no pages             --skip-pages: in plain format, just what stock does
    no pages, no WAL     with -n: in tar format, just what stock does
    each with -j 1 and with as many threads as there are processors (the default)
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "integration"))

from harness.run import STOCK_BIN, ScratchDir, run  # noqa: E402
from harness.servers import Server, stock_tool  # noqa: E402

from pairs import create_tables, in_turns, measured, report  # noqa: E402

TAR_VERIFIER = 18
STOCK_MAJOR = 15  # of the tools in STOCK_BIN
SMALL_TABLE = "AS SELECT g AS id, md5(g::text) AS v FROM generate_series(1, 100) g"

# name: options of basebackup
BACKUPS = {
    "plain, CRC32C": ["-F", "plain"],
    "plain, SHA256": ["-F", "plain", "--manifest-checksums=SHA256"],
    "tar": ["-F", "tar"],
    "tar.gz": ["-F", "tar", "-Z", "client-gzip:1"],
    "tar.lz4": ["-F", "tar", "-Z", "client-lz4:1"],
    "tar.zst": ["-F", "tar", "-Z", "client-zstd:1"],
}

# The numbers of a run and their units.
NUMBERS = {"seconds": "s", "cpu": "CPU s", "memory": "MiB"}


# --- the data set ---


def take_backups(options, directory):
    """{name: directory}, and the gigabytes of the data directory that each is of."""
    with Server(options.major, max_wal_size="8GB", shared_buffers="512MB") as server:
        server.pgbench_init(options.scale)
        create_tables(server, options.tables, SMALL_TABLE)
        server.sql("VACUUM; CHECKPOINT;")
        backups = {}
        for name in options.backups:
            backups[name] = directory / name.replace(", ", "-")
            print(f"taking {name} ...", file=sys.stderr, flush=True)
            run([options.pgstow, "basebackup", "-c", "fast", "-N", "-D", backups[name],
                 *BACKUPS[name]], env=server.env(), timeout=1200).check()
        gigabytes = sum_of_files(next(iter(backups.values()))) / 1e9
    return backups, gigabytes


def sum_of_files(backup):
    """As the manifest says."""
    manifest = json.loads((backup / "backup_manifest").read_text())
    return sum(entry["Size"] for entry in manifest["Files"])


def read_all(backup):
    """So that it is in the page cache."""
    for path in backup.rglob("*"):
        if path.is_file():
            with open(path, "rb", buffering=0) as file:
                while file.read(1 << 20):
                    pass


# --- runs ---


def is_plain(name):
    return name.startswith("plain")


def stock_of(name, options):
    """The stock command that verifies this backup, without the directory, or None. CPU seconds are
    those of pg_waldump as well.
    """
    if is_plain(name):
        return [STOCK_BIN / "pg_verifybackup", "-q"] if options.major == STOCK_MAJOR else None
    return options.tar_verifier and [options.tar_verifier, "-q", "-n", "-F", "tar"]


def can_verify(command):
    """A tool may have been built without a codec."""
    result = run(command, timeout=600)
    if result.rc != 0:
        print(f"  stock cannot: {result.err.splitlines()[0]}")
    return result.rc == 0


def ours(name, options):
    """{name: command} of our ways, without the directory."""
    program = [options.pgstow, "verifybackup", "-q"]
    ways = {"everything": [], "no pages": ["--skip-pages"]}
    if not is_plain(name):
        ways["no pages, no WAL"] = ["--skip-pages", "-n"]
    jobs = {"-j 1": ["-j", "1"], f"-j {os.cpu_count()}": []}
    return {f"{way}, {threads}": [*program, *more, *how]
            for way, how in ways.items() for threads, more in jobs.items()}


def measure_backup(name, backup, gigabytes, options):
    """Each of our ways in pairs with stock: {way: {"pgstow": [numbers], "stock": [numbers]}}."""
    print(f"{name}:", flush=True)
    read_all(backup)
    stock = stock_of(name, options)
    stock = stock and [*stock, backup]
    if stock and not can_verify(stock):
        stock = None
    results = {}
    for way, command in ours(name, options).items():
        programs = {"pgstow": [*command, backup]} | ({"stock": stock} if stock else {})
        results[way] = in_turns(programs, options.pairs, measured)
        report(way, results[way], NUMBERS, gigabytes)
    return results


# --- options ---


def parse_options():
    parser = argparse.ArgumentParser()
    parser.add_argument("pgstow", type=lambda path: Path(path).resolve())
    parser.add_argument("--quick", action="store_true", help="a small run: does it work?")
    parser.add_argument("--directory", default="/var/tmp", help="where the backups go")
    parser.add_argument("--stock", metavar="DIR", type=Path,
                        help="of a pg_verifybackup that reads tar format")
    parser.add_argument("--major", type=int, default=15, help="of the server")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--scale", type=int, default=120, help="of pgbench")
    parser.add_argument("--tables", type=int, default=5000, help="small ones")
    parser.add_argument("--backups", nargs="+", choices=BACKUPS, default=list(BACKUPS),
                        metavar="NAME", help="of these: " + "; ".join(BACKUPS))
    parser.add_argument("--json", help="write all that was measured into this file")
    options = parser.parse_args()
    if options.quick:
        options.pairs, options.scale, options.tables = 1, 10, 500
    options.tar_verifier = (options.stock / "pg_verifybackup" if options.stock
                            else stock_tool("pg_verifybackup", TAR_VERIFIER))
    return options


def main():
    options = parse_options()
    tempfile.tempdir = options.directory
    with ScratchDir() as directory:
        backups, gigabytes = take_backups(options, directory)
        print(f"{gigabytes:.2f} GB, {options.pairs} pairs, {os.cpu_count()} processors")
        results = {name: measure_backup(name, backup, gigabytes, options)
                   for name, backup in backups.items()}
    if options.json:
        Path(options.json).write_text(
            json.dumps({"gigabytes": gigabytes, "backups": results}, indent=1))


if __name__ == "__main__":
    main()
