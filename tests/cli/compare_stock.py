#!/usr/bin/env python3
"""Runs pg_basebackup command lines with pgstow and with the stock tool, and compares what they say.

    compare_stock.py [-v]

Nothing listens where both are sent, so that a command line that is in order ends there. Compared are
exit status, standard output, standard error and what was made in the directory they run in.

The stock tool is the newest one that there is: of scripts/servers, and in the directory of
MAJOR/bin/pg_basebackup that STOCK_DIR may name. Those before 18 miss some options: see SINCE. pgstow
is the pg_basebackup in PGSTOW_COMPAT. Ends with status 77 when there is no stock tool.
"""

import argparse
import difflib
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COMPAT = Path(os.environ.get("PGSTOW_COMPAT", ROOT / "build" / "dev" / "compat")).absolute()
NOT_RUN = 77
KEPT_VARIABLES = ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "LSAN_OPTIONS",
                  "LD_LIBRARY_PATH")

# One command line per line. Both must do the same.
ALIKE = """
# what getopt says

--bogus
-y
-D
--pgdata
-s
-F
-i
--incremental
-t
-Z
--compress
--waldir
--sync-method
-D x --no-slot=yes
-D x --gzip=9
-D x --write-recovery-conf=on
-D x --no-s
-D x --no-m
-D x -Pjson
-D x -zZ

# arguments

x
x y
-D x y -C
x -D y
-D x -- y
-D x -- -y
-D x --progress json

# where to

-D ''
-P -v
-F tar
-F t -F p
-t client
--target=client
-D x -t client
-t server:/backup -t client
-t client:detail -X none
-t blackhole
-t blackhole -X fetch
-t blackhole -X none
-t blackhole -X none -Fp
-t blackhole -X none -Ft
-t blackhole -D x -F plain
-D x -t blackhole
-D x -t blackhole -X none
-t server:/backup
-t server:/backup -X fetch
-t server:/a:b -X none
-t : -X none
-t '' -X none
-t '' -D x
-t blackhole -t '' -X none
-D x -F x
-D x -F ''
-D x -F TAR
-D x -F plain
-D x -F t
-D - -F t
-D - -F t -X stream
-D - -F t -X fetch
-D - -F tar -X none
-D ./- -F t
-D ./-

# compression

-D x -z
-D x -Z 0
-D x -Z 5
-D x -Z 00
-D x -Z ''
-D x -Z ' 5'
-D x -Z '5 '
-D x -Z +5
-D x -Z -5
-D x -Z 5x
-D x -Z 0x5
-D x -Z none
-D x -Z gzip
-D x -Z lz4
-D x -Z zstd
-D x -Z GZIP
-D x -Z foo
-D x -Z :
-D x -Z :5
-D x -Z foo:5
-D x -Z none:5
-D x -Z none:
-D x -Z none:0
-D x -Z client-none
-D x -Z client-gzip
-D x -Z client-gzip:5
-D x -Z client-5
-D x -Z client-
-D x -Z client-server-gzip
-D x -Z client-foo
-D x -Z server-none
-D x -Z server-gzip
-D x -Z server-gzip:99
-D x -Z server-foo:bar
-D x -Z server-5
-D x -Z server-
-D x -Z Server-gzip
-D x -z -Z none
-D x -Z none -z
-D x -Z server-zstd -z
-D x -z -Z server-zstd
-D x -Ft -z
-D x -Ft -Z 1
-D x -Ft -Z 9
-D x -Ft -Z 10
-D x -Ft -Z -1
-D x -C -Z -1
-D x -Ft -Z gzip
-D x -Ft -Z gzip:0
-D x -Ft -Z gzip:1
-D x -Ft -Z gzip:10
-D x -Ft -Z gzip:-1
-D x -Ft -Z gzip:level=9
-D x -Ft -Z gzip:level=
-D x -Ft -Z gzip:level
-D x -Ft -Z gzip:level=fast
-D x -Ft -Z gzip:level=1,level=2
-D x -Ft -Z gzip:,
-D x -Ft -Z gzip:
-D x -Ft -Z gzip:foo
-D x -Ft -Z gzip:foo=1
-D x -Ft -Z gzip:9,
-D x -Ft -Z gzip:9,workers=1
-D x -Ft -Z gzip:workers=1
-D x -Ft -Z gzip:level=9,workers=1
-D x -Ft -Z gzip:long
-D x -Ft -Z lz4:0
-D x -Ft -Z lz4:12
-D x -Ft -Z lz4:13
-D x -Ft -Z lz4:-1
-D x -Ft -Z lz4:workers=2
-D x -Ft -Z lz4:long=no
-D x -Ft -Z zstd:22
-D x -Ft -Z zstd:23
-D x -Ft -Z zstd:-7
-D x -Ft -Z zstd:workers
-D x -Ft -Z zstd:workers=x
-D x -Ft -Z zstd:level=3,workers=2,long
-D x -Ft -Z zstd:long=maybe
-D x -Ft -Z zstd:long=off
-D x -Ft -Z zstd:long=1
-D x -Ft -Z zstd:Level=1
-D x -Ft -Z zstd:level=1,,workers=2
-D x -Ft -Z 'zstd: level=1'
-D x -Ft -Z client-zstd:5
-t blackhole -X none -z
-t blackhole -X none -Z foo
-t blackhole -X none -Z none:99
-t blackhole -X none -Z client-none
-t blackhole -X none -Z client-gzip
-t blackhole -X none -Z client-foo
-t blackhole -X none -Z server-lz4
-t blackhole -Z client-gzip

# WAL and slots

-D x -X n
-D x -X f
-D x -X s
-D x -X bogus
-D x -X ''
-D x -X none -S s
-D x -X fetch -S s --no-slot
-D x -S s --no-slot
-D x -S s --no-slot --create-slot
-D x -C
-D x -C --no-slot
-D x -C -S s
-D x --no-slot
-t blackhole -X fetch -S s
-D x --waldir=wal
-D x --waldir=
-D x --waldir=/wal
-D x --waldir=//wal/./x/../
-D x --waldir=/wal -F t
-D x --waldir=wal -F t
-t blackhole -X none --waldir=/wal
-t blackhole -X none --waldir=wal
-D x --waldir=wal -P --no-estimate-size
-D x --waldir=wal -C

# the rest

-D x -P --no-estimate-size
-D x --progress --no-estimate-size --no-manifest --manifest-checksums=NONE
-D x --no-manifest --manifest-checksums=NONE
-D x --no-manifest --manifest-force-encode
-D x --no-manifest --manifest-force-encode --manifest-checksums=foo
-D x --manifest-checksums=foo
-D x --no-verify-checksums --no-estimate-size --no-clean
-D x --sync-method=fsync
-D x --sync-method=syncfs
-D x --sync-method=syncfs -N
-D x --sync-method=
-D x --sync-method=FSYNC
-D x --sync-method=none
-D x --sync-method=fdatasync y
-D x -i missing_manifest
-D x -i ''
-D x -R
-D x -R -F t
-D x -R -S s
-D x -c FAST
-D x -c Spread
-D x -c slow
-D x -c ''
-D x -l ''
-D x -r 32
-D x -r '1.5 M '
-D x -r 1024M
-D x -r 0
-D x -r -1
-D x -r 1e999
-D x -r abc
-D x -r ''
-D x -r 32X
-D x -r 32kB
-D x -T /old=/new
-D x -T /old
-D x -T ''
-D x -T =
-D x -T /old=
-D x -T =/new
-D x -T '/old\\=/new'
-D x -T /old=/new=/newer
-D x -T /old=/new=
-D x -T old=/new
-D x -T /old=new
-D x -s 0
-D x -s '2147483 '
-D x -s 2147484
-D x -s -1
-D x -s 99999999999999999999
-D x -s 10s

# connections

-D x -p 99999
-D x -p nineteen
-D x -d 'colour=red'
-D x -d "host='"
-D x -d postgresql://127.0.0.1:1
-D x -w -h 127.0.0.1 -p 1 -U nobody
"""

# What differs on purpose: still run, so that this table stays true.
DIFFERENT = {
    "--help": "no addresses of the PostgreSQL project, and one more line: --progress=json",
    "--version": "names pgstow too",
    "-D x --help": "taken anywhere in the line",
    "-D x -V": "taken anywhere in the line",
    "-D x --c": "the possible options are listed in the order of --help",
    "-D x --m": "the possible options are listed in the order of --help",
    "-D x --ver": "the possible options are listed in the order of --help",
    "-D x --progress=text": "the stock option takes no argument",
    "-D x --progress=json": "the stock option takes no argument",
    "-D x --progress=xml": "the stock option takes no argument",
    "-D -": "the stock tool makes a directory of that name, which nobody means",
    "-t blackhole -X none -R": "the stock tool says it after it has connected",
    "-D x -Ft -Z 99999999999999999999": "the stock tool cuts the number off, to the default level",
    "-D x -r 31.9": "a hint tells the range",
    "-D x -r 1025M": "a hint tells the range",
    "-D x -r 2000M": "a hint tells the range",
    "-D x -r inf": "a hint tells the range",
    "-D x -r nan": "a number that is not positive, to us",
    "-D x -s ''": "the stock tool takes nothing for 0",
    "-D x -s ' '": "the stock tool takes nothing for 0",
}

# Command lines (as regular expressions, searched for) that an older stock tool than this does not
# take as 18 does.
SINCE = {
    r"-i\b|--incremental": 17,
    r"--sync-method": 17,
    r"long": 16,
    r"-Z (0|00|''|client-|client-5)$": 16,
}


def stock_tool():
    """The path of the newest stock tool, or None."""
    listing = subprocess.run([ROOT / "scripts" / "servers", "--path"], check=True,
                             capture_output=True, text=True)
    homes = [Path(home) for home in (listing.stdout.strip(), os.environ.get("STOCK_DIR")) if home]
    tools = [tool for home in homes for tool in home.glob("[0-9]*/bin/pg_basebackup")]
    return max(tools, key=lambda tool: int(tool.parts[-3]), default=None)


def stock_major(tool):
    out = subprocess.run([tool, "--version"], check=True, capture_output=True, text=True).stdout
    return int(re.search(r"\(PostgreSQL\) (\d+)", out).group(1))


def command_lines():
    for line in ALIKE.splitlines():
        if line and not line.startswith("#"):
            yield line


def since(line):
    return max((major for pattern, major in SINCE.items() if re.search(pattern, line)), default=0)


def behaviour(tool, line):
    """What the tool does with a command line, as lines of text."""
    environment = {k: os.environ[k] for k in KEPT_VARIABLES if k in os.environ}
    environment |= {"LC_ALL": "C", "PATH": "/usr/bin:/bin", "PGHOST": "/nowhere"}
    with tempfile.TemporaryDirectory(prefix="pgstow-cli-") as directory:
        result = subprocess.run(["pg_basebackup", *shlex.split(line)], executable=tool,
                                cwd=directory, env=environment, capture_output=True, timeout=30,
                                start_new_session=True, stdin=subprocess.DEVNULL)
        made = sorted(str(path.relative_to(directory)) for path in Path(directory).rglob("*"))
    lines = [f"exit status {result.returncode}"] + [f"made {name}" for name in made]
    for mark, output in ((">", result.stdout), ("2>", result.stderr)):
        lines += [f"{mark} {text}" for text in output.decode(errors="replace").splitlines()]
    return lines


def main():
    parser = argparse.ArgumentParser(description="Compares pg_basebackup with the stock tool.")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the differences meant")
    arguments = parser.parse_args()
    stock = stock_tool()
    if stock is None:
        print("there is no stock tool: run scripts/servers")
        return NOT_RUN
    major = stock_major(stock)

    count = failed = 0
    for line in [*command_lines(), *DIFFERENT]:
        if since(line) > major:
            continue
        count += 1
        ours, theirs = (behaviour(tool, line) for tool in (COMPAT / "pg_basebackup", stock))
        meant = line in DIFFERENT
        if (ours != theirs) != meant:
            failed += 1
            print(f"pg_basebackup {line}: {'no difference any more' if meant else 'differs'}")
        if ours != theirs and (not meant or arguments.verbose):
            for text in difflib.unified_diff(theirs, ours, "stock", "pgstow", lineterm=""):
                print(f"    {text}")
    print(f"{count} command lines compared with {stock} ({major}), {failed} not as expected")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
