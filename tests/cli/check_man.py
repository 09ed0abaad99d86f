#!/usr/bin/env python3
"""Compares the manual pages with what the program says of itself.

* Every command of "pgstow --help" has a page, named in pgstow.1 and in docs/man/CMakeLists.txt.
* Every option of a command's --help is in its page's OPTIONS, with or without argument alike, and
  the page has no other.
* The pages are of this version, and groff (where there is one) has nothing to complain about.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "man"
BIN = os.environ.get("PGSTOW_BIN", ROOT / "build" / "dev" / "pgstow")

problems = []


def complain(text):
    problems.append(text)
    print(text)


def program(*arguments):
    """What pgstow prints."""
    return subprocess.run([BIN, *arguments], check=True, capture_output=True,
                          text=True, env={"LC_ALL": "C"}).stdout


def help_options(text):
    """{"-D": True, "--no-slot": False, ...}: the options, and whether they take an argument."""
    options = {}
    pattern = r"^  (?:(-\S)(?:, )?|    )(--[a-z-]+)?(=?)"
    for short, long, equals in re.findall(pattern, text, re.MULTILINE):
        for name in filter(None, (short, long)):
            options[name] = equals == "="
    return options


def plain(line):
    """A line of a page without escapes for fonts, dashes and backslashes."""
    return re.sub(r"\\f.", "", line).replace(r"\-", "-").replace(r"\e", "\\")


def section(source, name):
    match = re.search(rf"^\.SH {name}$(.*?)(?=^\.SH )", source, re.MULTILINE | re.DOTALL)
    return match.group(1) if match else ""


def page_options(source):
    """The options of a page: the tags, that is the lines behind .TP, which begin with a dash."""
    options = {}
    for tag in map(plain, re.findall(r"^\.TP\n(.*)$", section(source, "OPTIONS"), re.MULTILINE)):
        if not tag.startswith("-"):
            continue
        for part in tag.split(", "):
            name, argument = re.fullmatch(r"(--[a-z-]+|-\S)(.*)", part).groups()
            options[name] = argument != ""
    return options


def compare_options(name, help_text, source):
    said, written = help_options(help_text), page_options(source)
    if not said:
        complain(f"{name}: no options found in its --help")
    for option in said.keys() - written.keys():
        complain(f"{name}.1: {option} is missing")
    for option in written.keys() - said.keys():
        complain(f"{name}.1: {option} is no option of the program")
    for option in said.keys() & written.keys():
        if said[option] != written[option]:
            complain(f"{name}.1: {option} {'takes an' if said[option] else 'has no'} argument")


def check_page(name, help_text, version):
    path = PAGES / f"{name}.1"
    if not path.exists():
        complain(f"{name}.1: there is no such page")
        return
    source = path.read_text()
    title = f'.TH {name.upper()} 1 '.replace("-", r"\-")
    if not source.startswith(title) or f'"{version}"' not in source.split("\n", 1)[0]:
        complain(f"{name}.1: the first line does not name the page and \"{version}\"")
    compare_options(name, help_text, source)
    if f"{name}.1" not in (PAGES / "CMakeLists.txt").read_text():
        complain(f"{name}.1: is not installed by docs/man/CMakeLists.txt")
    for reference in re.findall(r"(pgstow(?:-[a-z]+)?) \(1\)", plain(source)):
        if not (PAGES / f"{reference}.1").exists():
            complain(f"{name}.1: refers to {reference}(1), which is not there")
    if shutil.which("groff"):
        result = subprocess.run(["groff", "-man", "-ww", "-z", "-Tutf8", path], capture_output=True,
                                text=True)
        if result.returncode != 0 or result.stderr:
            complain(f"{name}.1: {result.stderr.strip()}")


def main():
    overview = program("--help")
    commands = re.findall(r"^  ([a-z]+)  +", overview, re.MULTILINE)
    version = " ".join(program("--version").split()[:2])
    if not commands:
        complain("no commands found in pgstow --help")

    check_page("pgstow", overview, version)
    for command in commands:
        check_page(f"pgstow-{command}", program(command, "--help"), version)
        if not re.search(rf"^\.B {command}$", section((PAGES / "pgstow.1").read_text(), "COMMANDS"),
                         re.MULTILINE):
            complain(f"pgstow.1: the command {command} is missing")
    for path in PAGES.glob("*.1"):
        if path.stem not in ["pgstow"] + [f"pgstow-{command}" for command in commands]:
            complain(f"{path.name}: there is no such command")

    print(f"{len(commands) + 1} pages, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
