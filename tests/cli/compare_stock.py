#!/usr/bin/env python3
"""Runs command lines with pgstow and with the stock tools, and compares what they say.

    compare_stock.py [-v]

Nothing listens where pg_basebackup and pg_receivewal are sent, so that a command line that is in
order ends there; pg_verifybackup finds some small backups, pg_archivecleanup archives. Compared are
exit status, standard output, standard error and what was made or removed in the directory they run in.

The stock tools are the newest ones that there are: of scripts/servers, and in the directory of
MAJOR/bin/pg_basebackup, say, that STOCK_DIR may name. Those before 18 miss some options: see `since`
of each tool. pgstow is what is called like them in PGSTOW_COMPAT. Ends with status 77 when there is no
stock tool.
"""

import argparse
import difflib
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from run_cli import flip_bit, make_backup, make_tar_backup, write

ROOT = Path(__file__).resolve().parents[2]
COMPAT = Path(os.environ.get("PGSTOW_COMPAT", ROOT / "build" / "dev" / "compat")).absolute()
NOT_RUN = 77
KEPT_VARIABLES = ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "LSAN_OPTIONS",
                  "LD_LIBRARY_PATH")


@dataclass
class Tool:
    """What is compared of one tool."""
    name: str
    alike: str  # one command line per line: both must do the same
    different: dict  # what differs on purpose, and why: still run, so that this stays true
    # Command lines (as regular expressions, searched for) that an older stock tool than this does
    # not take as 18 does.
    since: dict
    prepare: Callable = lambda root: None  # what is there in the directory they run in


BASEBACKUP_ALIKE = """
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
-D x --page-digests
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

BASEBACKUP_DIFFERENT = {
    "--help": "no addresses of the PostgreSQL project, and options of our own",
    "--version": "names pgstow too",
    "-D x --help": "taken anywhere in the line",
    "-D x -V": "taken anywhere in the line",
    "-D x --c": "the possible options are listed in the order of --help",
    "-D x --m": "the possible options are listed in the order of --help",
    "-D x --ver": "the possible options are listed in the order of --help",
    "-D x --page-digests": "an option of our own",
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

BASEBACKUP_SINCE = {
    r"-i\b|--incremental": 17,
    r"--sync-method": 17,
    r"long": 16,
    r"-Z (0|00|''|client-|client-5)$": 16,
}

RECEIVEWAL_ALIKE = """
# what getopt says

--bogus
-y
-D
--directory
-E
-s
-S
-Z
--compress
--slot
-D x --synchronous=on
-D x --no-sync=yes
-D x --no-loop=1
-D x --create-slot=s
-D x --no-p
-D x --no-lo
-D x --sync
-D x --end=0/1
-D x -nvZ
-D x -i

# arguments

x
x y
-D x y
x -D y
-D x -- y
-D x -- -y
-n y -D x

# where to

-D ''
-D x
-D x/y
-D x -n
-D x -v
-D /dev/null
-D .
-D ./
-D . -n
-D . -v -n --no-sync
-D . --synchronous
-D . -S s
-D . -S ''
-D x -D .

# actions

--create-slot
--drop-slot
--create-slot -D x
--create-slot --drop-slot
--create-slot --drop-slot -S s
--create-slot -S s
--create-slot --if-not-exists -S s
--create-slot -S s -v
--create-slot -S s -n
--drop-slot -S s
--drop-slot -S s --if-not-exists -v
-D . --if-not-exists
--if-not-exists
-S s

# what goes together

--synchronous --no-sync
-D x --synchronous --no-sync
-D x --no-sync --synchronous -Z foo
--create-slot --synchronous --no-sync
--create-slot -S s --synchronous --no-sync
--drop-slot -S s --no-sync

# compression

-Z foo
-Z foo -D x y
-Z foo --create-slot
-Z foo --create-slot -S s
-D x -Z 0
-D x -Z 5
-D x -Z 10
-D x -Z 00
-D x -Z -1
-D x -Z ''
-D x -Z ' 5'
-D x -Z '5 '
-D x -Z +5
-D x -Z 5x
-D x -Z none
-D x -Z none:
-D x -Z none:5
-D x -Z gzip
-D x -Z gzip:0
-D x -Z gzip:1
-D x -Z gzip:9
-D x -Z gzip:10
-D x -Z gzip:foo
-D x -Z gzip:level=
-D x -Z gzip:level=5
-D x -Z gzip:level=1,level=2
-D x -Z gzip:workers=1
-D x -Z gzip:long
-D x -Z lz4
-D x -Z lz4:1
-D x -Z lz4:12
-D x -Z lz4:13
-D x -Z lz4:workers=2
-D x -Z zstd:23
-D x -Z zstd:workers=x
-D x -Z GZIP
-D x -Z foo
-D x -Z foo:5
-D x -Z :
-D x -Z :5
-D x -Z client-gzip
-D x -Z server-gzip
-D x -Z foo -Z none
-D . -Z lz4 -n

# positions and numbers

-D x -E ''
-D x -E 0
-D x -E foo
-D x -E 0/
-D x -E /0
-D x -E 0/0
-D x -E a/bC
-D x -E FFFFFFFF/FFFFFFFF
-D x -E 0/G
-D . -E 0/1 -n
-D x -E foo -Z bar
-D x -s 0
-D x -s '2147483 '
-D x -s 2147484
-D x -s -1
-D x -s 99999999999999999999
-D x -s 10s

# connections

-D . -p 99999
-D . -p nineteen
-D . -d 'colour=red'
-D . -d "host='"
-D . -d postgresql://127.0.0.1:1
-D . -w -h 127.0.0.1 -p 1 -U nobody
-D . -w -h 127.0.0.1 -p 1 -v -n
--create-slot -S s -w -h 127.0.0.1 -p 1
"""

RECEIVEWAL_DIFFERENT = {
    "--help": "no addresses of the PostgreSQL project, and options of our own",
    "--version": "names pgstow too",
    "-D x --help": "taken anywhere in the line",
    "-D x -V": "taken anywhere in the line",
    "-D x --s": "the possible options are listed in the order of --help",
    "-D x --no": "the possible options are listed in the order of --help",
    "-D x --status=1": "--status-file makes it ambiguous",
    "-D x --accept-gap": "an option of our own",
    "-D x --receive-timeout=5": "an option of our own",
    "-D x --status-file=x": "an option of our own",
    "-D x -Z zstd": "the stock tool cannot",
    "-D x -Z zstd:long": "the stock tool cannot",
    "-D x -s ''": "the stock tool takes nothing for 0",
    "-D x -s ' '": "the stock tool takes nothing for 0",
    "-D x -E 123456789/0": "the stock tool cuts the number off",
    "-D x -E ' 0/0'": "scanf, in the stock tool, skips blanks",
    "-D x -E '0/0 '": "scanf, in the stock tool, does not look at what follows",
    "-D x -E 0/0/0": "scanf, in the stock tool, does not look at what follows",
    "-D x -E +0/0": "scanf, in the stock tool, takes a sign",
    "-D x -E 0x1/0": "scanf, in the stock tool, takes a prefix",
}

RECEIVEWAL_SINCE = {
    r"-Z (0|00|'')$": 16,
    r"zstd:long": 16,
    r"gzip:long": 16,
}

VERIFYBACKUP_ALIKE = """
# what getopt says

--bogus
-y
-i
-m
-w
-F
--ignore
--manifest-path
--wal-directory
--format
--no-parse-wal=1
--quiet=yes
--progress=1
--skip-checksums=no
--exit-on-error=x
--no
-nqz good

# arguments

-n ''
good good
good x y
nowhere -n
-e
-P -q
-P -q good
-P -q good x
-n -- -e
-n -- good
good -n
good -n -q

# formats

-F x good
-F '' good
-F PLAIN good
-F p -F x good
-F p -n good
-n --format=plain good
-n -F tar tar
-n -F t tar
-n tar
-n -F plain -e tar

# manifests

-n -m nowhere good
-n -m good/backup_manifest nowhere
-m good/backup_manifest -n moved
-n -m good good
-n empty
-n version
-n altered

# what is found

-n ./good//
-n -e good
-n -s good
-n -q good
-n -q -s -e good
-n -w nowhere good
-n missing
-n -e missing
-n -s missing
-n -q missing
-n extra
-n size
-n -s size
-n content
-n -s content
-n -e content
-n -i PG_VERSION missing
-n -i PG_VERSION -n extra
-n -i a extra
-n -i ./a/ extra
-n -i a/b extra
-n --ignore=a -i nothing extra
-n -i base size
-n -i base content
-n -i '' missing
-n fifo
-n users
-n tar_content
-n -s tar_content
-n tar_extra
-n -i notes tar_extra
-n tar_missing
"""

VERIFYBACKUP_DIFFERENT = {
    "--help": "no addresses of the PostgreSQL project, and options of our own",
    "--version": "names pgstow too",
    "good --help": "taken anywhere in the line",
    "good -V": "taken anywhere in the line",
    "-n --p good": "--pages makes it ambiguous",
    "-n --s good": "--skip-pages makes it ambiguous",
    "-n --skip good": "--skip-pages makes it ambiguous",
    "-n --ski=1 good": "--skip-pages makes it ambiguous",
    "-n -j 2 good": "an option of our own",
    "-n --jobs=2 good": "an option of our own",
    "--pages good": "an option of our own",
    "-n --report=json good": "an option of our own",
    "-n --skip-pages good": "an option of our own",
    "-n -P good": "a summary follows",
    "-n -P -s good": "a summary follows",
    "-n -P tar": "a summary follows, and archives without content have no line",
    "-n file": "a hint tells what is wanted",
    "-n -F t file": "a hint tells what is wanted",
    "-n -m good/backup_manifest file": "a hint tells what is wanted",
    "-n tmp": "a hint tells what backup_manifest.tmp means",
    "-n junk": "where it is in the manifest is told",
    "-n link": "links are not followed",
    "-n lost": "a plain backup, to us, because it has a directory base",
    "tar": "the stock tool wants -n",
    "-F tar tar": "the stock tool wants -n",
    "wal": "the stock tool leaves the reason to pg_waldump",
}

VERIFYBACKUP_SINCE = {
    r"-F|--format|tar|lost": 18,
    r"fifo": 18,
    r"-P|--progress": 16,
}


ARCHIVECLEANUP_ALIKE = """
# what getopt says

--bogus
-y
-x

# arguments

archive
archive 000000010000000000000003 x
nowhere 000000010000000000000003
nowhere x
file x
'' 000000010000000000000003
archive ''
archive x
archive 00000001000000000000000
archive 00000001000000000000000g
archive 00000001000000000000000a
archive 0000000100000000000000030
archive 000000010000000000000003.gz
archive 000000010000000000000003.partial.gz
archive 000000010000000000000003.00000028
archive 000000010000000000000003.zz.backup
archive 00000002.history

# what goes

archive 000000010000000000000002
archive 000000010000000000000003
archive/ 000000010000000000000003
-d archive 000000010000000000000002
-nd archive 000000010000000000000002
-n archive/. 000000010000000000000002
archive 000000070000000000000003
archive 000000010000000000000003.partial
archive 000000010000000000000003.00000028.backup
-x .gz archive 000000010000000000000003
-x .gz archive 000000010000000000000003.gz
-x .gz -n -d archive 000000010000000000000002.gz
-x .lz4 archive 000000010000000000000003.00000028.backup
-x .partial archive 000000010000000000000003.partial
-x '' archive 000000010000000000000003
-x gz archive 000000010000000000000003
-x .gz -x .zst archive 000000010000000000000003
archive FFFFFFFF00000000000000FF
odd 000000010000000000000003
"""

ARCHIVECLEANUP_DIFFERENT = {
    "--help": "no addresses of the PostgreSQL project",
    "--version": "names pgstow too",
    "archive 000000000000000000000003": "there is no timeline 0",
    "archive 00000001000000000000FFFF": "no cluster has so many segments in a log file",
    "archive 000000010000000000000003.28.backup": "the name has eight digits",
    "-x .gz archive 000000010000000000000005": "NAME.gz.partial goes too",
}

ARCHIVECLEANUP_SINCE = {r"--bogus": 17}


def prepare_archives(root):
    """What pg_archivecleanup is to look at. Files go in another order than with the stock tool, so
    there is mostly one that goes."""
    for name in ("000000010000000000000001", "000000010000000000000002.gz",
                 "000000010000000000000002.00000028.backup", "000000030000000000000003.partial",
                 "000000010000000000000003", "000000010000000000000004.gz.partial",
                 "000000010000000000000004.lz4", "00000003.history", "notes",
                 "000000010000000000000001.tmp", "00000001000000000000000a"):
        write(root / "archive" / name, name)
    (root / "odd/000000010000000000000002").mkdir(parents=True)
    write(root / "file", "")


def prepare_backups(root):
    """What pg_verifybackup is to look at, each in a directory of its own."""
    for name in ("good", "missing", "extra", "size", "content", "link", "fifo", "users",
                 "altered", "lost"):
        make_backup(root, name)
    make_backup(root, "wal", "wal")
    make_backup(root, "tmp", "tmp")
    make_backup(root, "moved")
    (root / "moved/backup_manifest").unlink()
    (root / "missing/base/1/2619").unlink()
    write(root / "extra/a/b", "")
    write(root / "size/base/1/2619", "short")
    flip_bit(root / "content/base/1/2619", 1000)
    (root / "link/link").symlink_to("nowhere")
    os.mkfifo(root / "fifo/fifo")
    write(root / "users/postgresql.auto.conf", "x")
    write(root / "users/standby.signal", "")
    write(root / "users/pg_wal/anything", "")
    flip_bit(root / "altered/backup_manifest", -5)
    (root / "lost/PG_VERSION").unlink()
    (root / "empty").mkdir()
    write(root / "file", "")
    write(root / "junk/backup_manifest", "junk")
    write(root / "version/backup_manifest", '{"PostgreSQL-Backup-Manifest-Version": 9}')
    for name in ("tar", "tar_content", "tar_extra", "tar_missing"):
        make_tar_backup(root, name)
    flip_bit(root / "tar_content/base.tar", 512)
    write(root / "tar_extra/notes", "")
    (root / "tar_missing/base.tar").unlink()


TOOLS = [
    Tool("pg_basebackup", BASEBACKUP_ALIKE, BASEBACKUP_DIFFERENT, BASEBACKUP_SINCE),
    Tool("pg_receivewal", RECEIVEWAL_ALIKE, RECEIVEWAL_DIFFERENT, RECEIVEWAL_SINCE),
    Tool("pg_verifybackup", VERIFYBACKUP_ALIKE, VERIFYBACKUP_DIFFERENT, VERIFYBACKUP_SINCE,
         prepare_backups),
    Tool("pg_archivecleanup", ARCHIVECLEANUP_ALIKE, ARCHIVECLEANUP_DIFFERENT, ARCHIVECLEANUP_SINCE,
         prepare_archives),
]


def stock_tool(name):
    """The path of the newest stock tool of this name, or None."""
    listing = subprocess.run([ROOT / "scripts" / "servers", "--path"], check=True,
                             capture_output=True, text=True)
    homes = [Path(home) for home in (listing.stdout.strip(), os.environ.get("STOCK_DIR")) if home]
    tools = [tool for home in homes for tool in home.glob(f"[0-9]*/bin/{name}")]
    return max(tools, key=lambda tool: int(tool.parts[-3]), default=None)


def stock_major(tool):
    out = subprocess.run([tool, "--version"], check=True, capture_output=True, text=True).stdout
    return int(re.search(r"\(PostgreSQL\) (\d+)", out).group(1))


def command_lines(tool, major):
    """Those that a stock tool of this major version takes as 18 does."""
    lines = [line for line in tool.alike.splitlines() if line and not line.startswith("#")]
    for line in [*lines, *tool.different]:
        if all(first <= major for pattern, first in tool.since.items() if re.search(pattern, line)):
            yield line


def behaviour(path, tool, line):
    """What the tool at this path does with a command line, as lines of text."""
    environment = {k: os.environ[k] for k in KEPT_VARIABLES if k in os.environ}
    # Stock tools look for others beside themselves, and for themselves in PATH.
    environment |= {"LC_ALL": "C", "PATH": f"{path.parent}:/usr/bin:/bin", "PGHOST": "/nowhere"}
    with tempfile.TemporaryDirectory(prefix="pgstow-cli-") as directory:
        tool.prepare(Path(directory))
        before = set(Path(directory).rglob("*"))
        result = subprocess.run([tool.name, *shlex.split(line)], executable=path, cwd=directory,
                                env=environment, capture_output=True, timeout=30,
                                start_new_session=True, stdin=subprocess.DEVNULL)
        after = set(Path(directory).rglob("*"))
        made, gone = (sorted(str(path.relative_to(directory)) for path in paths)
                      for paths in (after - before, before - after))
    lines = [f"exit status {result.returncode}"]
    lines += [f"made {name}" for name in made] + [f"gone {name}" for name in gone]
    for mark, output in ((">", result.stdout), ("2>", result.stderr)):
        lines += [f"{mark} {text}" for text in output.decode(errors="replace").splitlines()]
    return lines


def compare(tool, stock, verbose):
    """How many command lines are not as expected."""
    major = stock_major(stock)
    count = failed = 0
    for line in command_lines(tool, major):
        count += 1
        ours = behaviour(COMPAT / tool.name, tool, line)
        theirs = behaviour(stock, tool, line)
        meant = line in tool.different
        if (ours != theirs) != meant:
            failed += 1
            print(f"{tool.name} {line}: {'no difference any more' if meant else 'differs'}")
        if ours != theirs and (not meant or verbose):
            for text in difflib.unified_diff(theirs, ours, "stock", "pgstow", lineterm=""):
                print(f"    {text}")
    print(f"{count} command lines compared with {stock} ({major}), {failed} not as expected")
    return failed


def main():
    parser = argparse.ArgumentParser(description="Compares our tools with the stock tools.")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the differences meant")
    arguments = parser.parse_args()
    pairs = [(tool, stock_tool(tool.name)) for tool in TOOLS]
    if not any(stock for _, stock in pairs):
        print("there is no stock tool: run scripts/servers")
        return NOT_RUN
    failed = sum(compare(tool, stock, arguments.verbose) for tool, stock in pairs if stock)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
