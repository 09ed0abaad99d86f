#!/usr/bin/env python3
"""Runs the command lines of cases/*.txt and compares their output and exit status with what is there.

    run_cli.py [--update] [CASEFILE]...

--update writes what the programs said into the case files. Read the difference before you keep it.

A case file is a list of cases with empty lines between them:

    # why this case is here
    @ dir backup            something to prepare, see FIXTURES; any number
    < secret                a line of standard input; any number
    $ PG_COLOR=always pg_basebackup -D x --no-slot -S s
    > a line of standard output
    2> a line of standard error
    + a/file/that/was/made
    = 1

Every case runs in an empty directory of its own, without a terminal, with no variables but those
that stand before the command. "pgstow" is PGSTOW_BIN, the other names are looked up in
PGSTOW_COMPAT; when these are not set (ctest sets them), both are those of build/dev.
In what is compared, control characters, backslashes and blanks at the end of a line are escaped; a
single "\\" at the end of a line says that there was no newline. How long something took is "T".
"= signal NAME" instead of a status says that the program died of that signal.
"""

import argparse
import difflib
import hashlib
import json
import os
import re
import shlex
import signal
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

CASES = Path(__file__).resolve().parent / "cases"
BUILD = Path(__file__).resolve().parents[2] / "build" / "dev"
BIN = Path(os.environ.get("PGSTOW_BIN", BUILD / "pgstow")).absolute()
COMPAT = Path(os.environ.get("PGSTOW_COMPAT", BUILD / "compat")).absolute()
TIMEOUT = 30
KEPT_VARIABLES = ("ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "LSAN_OPTIONS",
                  "LD_LIBRARY_PATH")


@dataclass
class Case:
    where: str
    comments: list = field(default_factory=list)
    fixtures: list = field(default_factory=list)
    stdin: list = field(default_factory=list)
    command: str = ""
    outcome: list = field(default_factory=list)  # the lines behind the command, as they are

    def text(self, outcome):
        lines = [f"# {c}".rstrip() for c in self.comments]
        lines += [f"@ {f}" for f in self.fixtures]
        lines += [f"< {line}".rstrip() for line in self.stdin]
        if self.command:
            lines.append(f"$ {self.command}")
        return "\n".join(lines + outcome)


def parse(path):
    """The cases of a file; a paragraph of comments only becomes a case without a command."""
    cases = []
    text = path.read_text()
    for paragraph in re.finditer(r"(?:^.+\n?)+", text, re.MULTILINE):
        number = text.count("\n", 0, paragraph.start()) + 1
        case = Case(f"{path.name}:{number}")
        for line in paragraph.group().splitlines():
            mark, _, rest = line.partition(" ")
            if mark == "#":
                case.comments.append(rest)
            elif mark == "@":
                case.fixtures.append(rest)
            elif mark == "<":
                case.stdin.append(rest)
            elif mark == "$" and not case.command:
                case.command = rest
            elif mark in (">", "2>", "+", "=") and case.command:
                case.outcome.append(line)
            else:
                raise SystemExit(f"{case.where}: cannot be read: {line!r}")
        cases.append(case)
    return cases


# ---- fixtures: what a case finds in its directory ----


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def remove(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def flip_bit(path, offset):
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


# Which are empty in most backups.
EMPTY_DIRECTORIES = ("pg_commit_ts", "pg_logical/mappings", "pg_logical/snapshots", "pg_notify",
                     "pg_replslot", "pg_stat", "pg_stat_tmp", "pg_subtrans", "pg_tblspc",
                     "pg_twophase", "pg_wal")


HUGE = 1 << 40


def make_backup(root, name, *traits):
    """A backup of two files. Traits: "wal" needs WAL that is not there, "tmp" was not completed,
    "huge" has a file that takes for ever.
    """
    contents = {"PG_VERSION": "16\n", "base/1/2619": "rows " * 410}
    files = []
    for path, content in contents.items():
        write(root / name / path, content)
        files.append({
            "Path": path, "Size": len(content), "Last-Modified": "2026-11-20 00:00:00 GMT",
            "Checksum-Algorithm": "SHA256",
            "Checksum": hashlib.sha256(content.encode()).hexdigest(),
        })
    if "huge" in traits:
        os.truncate(root / name / "base/1/2619", HUGE)
        files[-1]["Size"] = HUGE
    for path in EMPTY_DIRECTORIES:
        (root / name / path).mkdir(parents=True)
    ranges = [{"Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000100"}]
    text = ('{ "PostgreSQL-Backup-Manifest-Version": 1,\n'
            f'"Files": {json.dumps(files)},\n'
            f'"WAL-Ranges": {json.dumps(ranges if "wal" in traits else [])},\n')
    text += f'"Manifest-Checksum": "{hashlib.sha256(text.encode()).hexdigest()}"}}\n'
    write(root / name / ("backup_manifest.tmp" if "tmp" in traits else "backup_manifest"), text)


def same_everywhere(member):
    """A member of an archive, whoever made it, and when."""
    member.mode, member.mtime = 0o600, 0
    member.uid, member.gid, member.uname, member.gname = 0, 0, "", ""
    return member


def make_tar_backup(root, name, *traits):
    """The same in tar format, without an archive of WAL."""
    make_backup(root, name, *traits)
    top = root / name
    with tarfile.open(top / "base.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for path in ("PG_VERSION", "base/1/2619", *EMPTY_DIRECTORIES):
            archive.add(top / path, path, recursive=False, filter=same_everywhere)
    (top / "PG_VERSION").unlink()
    for directory in [path for path in top.iterdir() if path.is_dir()]:
        shutil.rmtree(directory)


FIXTURES = {
    "dir": lambda root, path: (root / path).mkdir(parents=True),
    "file": lambda root, path, content="": write(root / path, content),
    "flip": lambda root, path, offset="0": flip_bit(root / path, int(offset)),
    "remove": lambda root, path: remove(root / path),
    "label": lambda root, path, lsn, segment: write(
        root / path / "backup_label", f"START WAL LOCATION: {lsn} (file {segment})\n"),
    "link": lambda root, path, target: (root / path).symlink_to(target),
    "backup": make_backup,
    "tar_backup": make_tar_backup,
}

# Fixtures about how the program is run: "stdout PATH", "stderr PATH" (instead of a PATH also
# "closed"), and "signal NAME", which is sent as soon as the program has said something, while its
# standard input stays open.
RUN_FIXTURES = ("stdout", "stderr", "signal")


# ---- running ----


ESCAPES = {"\\": "\\\\", "\t": "\\t", "\r": "\\r", "\33": "\\e"}


# What differs from run to run: "in 0.3 s (1.2 MB/s)" and a member of a report.
TIMES = [(re.compile(r"\bin \d+\.\d s(?: \(\d+(?:\.\d)? [kM]B/s\))?"), "in T s"),
         (re.compile(r'"elapsed_ms":\d+'), '"elapsed_ms":T')]


def escape(line):
    for pattern, text in TIMES:
        line = pattern.sub(text, line)
    escaped = "".join(
        ESCAPES.get(c, c if c >= " " and c != "\x7f" else f"\\x{ord(c):02x}") for c in line)
    return escaped[:-1] + "\\x20" if escaped.endswith(" ") else escaped


def marked(mark, output):
    """Output as lines that begin with `mark`."""
    *lines, rest = output.decode(errors="backslashreplace").split("\n")
    result = [f"{mark} {escape(line)}".rstrip() for line in lines]
    return result + [f"{mark} {escape(rest)}\\"] if rest else result


def split_command(command):
    """The variables before a command, and its words."""
    words = shlex.split(command)
    variables = {}
    while words and re.match(r"[A-Z_]+=", words[0]):
        name, _, value = words.pop(0).partition("=")
        variables[name] = value
    return variables, words


def hear_and_signal(process, name):
    """Signal the program once it has said something; returns what it said then."""
    said = os.read(process.stderr.fileno(), 4096)
    time.sleep(0.2)
    process.send_signal(signal.Signals[name])
    return said


def output_for(how, stream):
    """Where a standard stream goes: the pipe that is compared, unless a fixture says otherwise."""
    path = how.get(stream, "")
    if not path:
        return subprocess.PIPE
    return os.open("/dev/null" if path == "closed" else path, os.O_WRONLY)


def close_streams(how):
    """In the new process: the streams that the program is to find closed."""
    for number, stream in ((1, "stdout"), (2, "stderr")):
        if how.get(stream) == "closed":
            os.close(number)


def execute(case, root, how):
    variables, words = split_command(case.command)
    environment = {k: os.environ[k] for k in KEPT_VARIABLES if k in os.environ}
    environment |= {"LC_ALL": "C", "TZ": "UTC", "HOME": str(root),
                    "PATH": f"{COMPAT}:/usr/bin:/bin"}
    environment |= variables
    stdout, stderr = output_for(how, "stdout"), output_for(how, "stderr")
    process = subprocess.Popen(
        words, executable=BIN if words[0] == "pgstow" else COMPAT / words[0], cwd=root,
        env=environment, start_new_session=True, stdin=subprocess.PIPE, stdout=stdout,
        stderr=stderr, preexec_fn=lambda: close_streams(how))
    said = b""
    try:
        if "signal" in how:
            said = hear_and_signal(process, how["signal"])
            process.wait(TIMEOUT)
        given = "".join(f"{line}\n" for line in case.stdin).encode()
        out, err = process.communicate(given, TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        err = (err or b"") + f"(killed after {TIMEOUT} seconds)\n".encode()
    for file in (stdout, stderr):
        if file != subprocess.PIPE:
            os.close(file)
    status = process.returncode
    end = str(status) if status >= 0 else f"signal {signal.Signals(-status).name}"
    return marked(">", out or b""), marked("2>", said + (err or b"")), [f"= {end}"]


def run(case):
    """What the command of a case did, as the lines of a case file."""
    with tempfile.TemporaryDirectory(prefix="pgstow-cli-") as directory:
        root = Path(directory)
        how = {}
        for fixture in case.fixtures:
            name, *arguments = shlex.split(fixture)
            if name in RUN_FIXTURES:
                how[name] = arguments[0]
            elif name in FIXTURES:
                FIXTURES[name](root, *arguments)
            else:
                raise SystemExit(f"{case.where}: no such fixture: {name}")
        before = {p.relative_to(root) for p in root.rglob("*")}
        out, err, status = execute(case, root, how)
        after = {p.relative_to(root) for p in root.rglob("*")}
        return out + err + [f"+ {made}" for made in sorted(after - before)] + status


def main():
    parser = argparse.ArgumentParser(description="Runs the cases of tests/cli.")
    parser.add_argument("--update", action="store_true", help="write what the programs said")
    parser.add_argument("files", nargs="*", type=Path, help="case files (default: all)")
    arguments = parser.parse_args()
    if not BIN.exists():
        parser.error(f"there is no program {BIN}")

    count = failed = 0
    for path in arguments.files or sorted(CASES.glob("*.txt")):
        paragraphs = []
        for case in parse(path):
            outcome = run(case) if case.command else []
            paragraphs.append(case.text(outcome))
            count += bool(case.command)
            if outcome != case.outcome and not arguments.update:
                failed += 1
                print(f"{case.where}: $ {case.command}")
                for line in difflib.unified_diff(case.outcome, outcome, "expected", "got",
                                                 lineterm=""):
                    print(f"    {line}")
        if arguments.update:
            path.write_text("\n\n".join(paragraphs) + "\n")
    print(f"{count} command lines, {failed} differ")
    if failed:
        print(f"If the new output is right: "
              f"PGSTOW_BIN={BIN} PGSTOW_COMPAT={COMPAT} {Path(__file__).resolve()} --update")
    return 1 if failed or count == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
