"""Archives of WAL: how fast pgstow lists and checks them, from the page cache.

    python3 bench/wal.py [--quick] [--gigabytes N] [--json FILE] PGSTOW

Starts a server of its own, whose archive_command fills an archive with what pgbench writes. That is
checked in every compression with one thread and with as many as there are processors, in turns;
beside it "read" is what reading the same files costs. Then the names of 100,000 segments are listed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "integration"))

from harness.run import ScratchDir  # noqa: E402
from harness.servers import Server  # noqa: E402

from pairs import in_turns, measured, report  # noqa: E402

SEGMENT = 16 << 20
COMPRESSORS = {"plain": None, "gz": ["gzip", "-1"], "lz4": ["lz4", "-q", "-m", "--rm"],
               "zst": ["zstd", "-q", "-1", "--rm"]}
NUMBERS = {"seconds": "s", "cpu": "CPU s", "memory": "MiB"}
NAMES = 100_000


# --- archives ---


def fill_archive(archive, segments, major):
    """With what updates and inserts write, full-page images and all."""
    command = f'cp "%p" "{archive}/%f"'
    with Server(major, max_wal_size="8GB", shared_buffers="512MB", archive_mode="on",
                archive_command=command) as server:
        scale = max(1, segments * SEGMENT // (80 << 20))
        print(f"filling an archive, pgbench scale {scale} ...", file=sys.stderr, flush=True)
        server.pgbench_init(scale)
        while len(list(archive.iterdir())) < segments:
            server.sql("UPDATE pgbench_accounts SET abalance = abalance + 1"
                       " WHERE aid % 7 = 0; SELECT pg_switch_wal()", timeout=3600)
    for path in archive.iterdir():
        path.chmod(0o644)
    for path in sorted(archive.glob("*[0-9A-F]"))[segments:]:
        path.unlink()


def compressed(archive, directory, compressor):
    target = directory / "compressed"
    shutil.copytree(archive, target)
    target.chmod(0o755)
    files = sorted(target.glob("*[0-9A-F]"))
    subprocess.run([*compressor, *files], check=True)
    return target


def make_names(directory):
    """Sparse files, each with its size."""
    for number in range(NAMES):
        path = directory / f"00000001{number // 256:08X}{number % 256:08X}"
        with open(path, "wb") as file:
            file.truncate(SEGMENT)
        path.chmod(0o644)


# --- runs ---


def ways(program, archive):
    files = sorted(map(str, archive.iterdir()))
    check = [program, "wal", "check", "-q"]
    return {
        "pgstow": [*check, archive],
        "-j 1": [*check, "-j", "1", archive],
        "--quick": [*check, "--quick", archive],
        "read": ["cat", *files],
    }


def measure_archive(name, archive, options):
    gigabytes = len(list(archive.glob("[0-9A-F]*"))) * SEGMENT / 1e9
    results = in_turns(ways(options.pgstow, archive), options.pairs, measured)
    report(f"{name}, {gigabytes:.2f} GB of WAL", results, NUMBERS, gigabytes)
    return results


def measure_names(directory, options):
    make_names(directory)
    programs = {"pgstow": [options.pgstow, "wal", "list", directory],
                "ls": ["ls", "-l", directory]}
    results = in_turns(programs, options.pairs, measured)
    report(f"names of {NAMES} segments", results, NUMBERS)
    return results


def parse_options():
    parser = argparse.ArgumentParser()
    parser.add_argument("pgstow", type=lambda path: Path(path).resolve())
    parser.add_argument("--quick", action="store_true", help="a small run: does it work?")
    parser.add_argument("--gigabytes", type=float, default=1.5)
    parser.add_argument("--directory", default="/var/tmp", help="where the archives go")
    parser.add_argument("--major", type=int, default=18, help="of the server")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", help="write all that was measured into this file")
    options = parser.parse_args()
    if options.quick:
        options.pairs, options.gigabytes = 1, 0.2
    return options


def main():
    options = parse_options()
    tempfile.tempdir = options.directory
    results = {}
    print(f"{options.pairs} pairs, {os.cpu_count()} processors")
    with ScratchDir() as archive:
        fill_archive(archive, int(options.gigabytes * 1e9 / SEGMENT), options.major)
        for name, compressor in COMPRESSORS.items():
            with ScratchDir() as directory:
                target = compressed(archive, directory, compressor) if compressor else archive
                results[name] = measure_archive(name, target, options)
    with ScratchDir() as directory:
        results["names"] = measure_names(directory, options)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
