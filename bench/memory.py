"""Peak memory of a base backup: with 100,000 relations, and with a database of some size.

    python3 bench/memory.py [--relations N] [--scale N] [--major N] PGSTOW

Starts a server of its own, takes a backup in each way that keeps something about every file, and
prints the largest resident set of each run, as the kernel counted it (getrusage: ru_maxrss).
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "integration"))

from harness.run import ScratchDir, as_user, environment  # noqa: E402
from harness.servers import Server  # noqa: E402

from pairs import create_tables  # noqa: E402

WAYS = [
    ("plain, WAL streamed", ["-F", "p"]),
    ("plain, SHA-512 manifest", ["-F", "p", "--manifest-checksums=SHA512"]),
    ("plain, page digests", ["-F", "p", "--page-digests"]),
    ("tar, WAL streamed", ["-F", "t"]),
    ("tar, zstd with 4 workers", ["-F", "t", "-Z", "zstd:workers=4"]),
    ("tar with -R", ["-F", "t", "-R"]),
    ("tar to standard output", ["-F", "t", "-X", "fetch"]),
]


def peak_megabytes(command, env, output):
    """Runs a command to its end and returns the most memory it had at once."""
    process = subprocess.Popen(command, env=environment(env), stdout=output, **as_user(None))
    _pid, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{' '.join(command)}: status {status}")
    return usage.ru_maxrss / 1024


def measure(pgstow, server, title):
    print(f"{title}:")
    for name, options in WAYS:
        with ScratchDir() as scratch, open("/dev/null", "wb") as nowhere:
            target = "-" if name.endswith("output") else str(scratch / "backup")
            command = [pgstow, "basebackup", "-c", "fast", "-N", "-D", target, *options]
            print(f"    {name:28} {peak_megabytes(command, server.env(), nowhere):6.1f} MiB")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("pgstow")
    parser.add_argument("--relations", type=int, default=100_000)
    parser.add_argument("--scale", type=int, default=100, help="of pgbench")
    parser.add_argument("--major", type=int, default=18)
    options = parser.parse_args()
    with Server(options.major, max_wal_size="8GB") as server:
        measure(options.pgstow, server, "an empty cluster")
        create_tables(server, options.relations, "(a int)")
        measure(options.pgstow, server, f"{options.relations} relations")
        server.pgbench_init(options.scale)
        size = server.value("SELECT pg_size_pretty(pg_database_size('postgres'))")
        measure(options.pgstow, server, f"and pgbench of scale {options.scale} ({size})")


if __name__ == "__main__":
    main()
