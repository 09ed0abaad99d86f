"""The include layers of docs/architecture.md as code.

A folder of src/ has a level; a file may include headers of its own folder and of the folders that its
row names. Only a folder's own files may include its internal.h. Foreign headers belong to the files
that are listed for them.
"""

import pathlib
import re
import sys

LEVEL_1 = {"pgformat", "stream", "protocol", "manifest"}
WITHOUT_PROTOCOL = LEVEL_1 - {"protocol"}

# folder: the folders it may include besides itself
MAY_INCLUDE = {
    "common": set(),
    "pgformat": {"common"},
    "stream": {"common"},
    "protocol": {"common"},
    "manifest": {"common"},
    "segment": {"common", "pgformat", "stream"},
    "verify": {"common", "segment"} | WITHOUT_PROTOCOL,
    "walrecv": {"common", "segment"} | LEVEL_1,
    "archive": {"common", "segment", "pgformat", "stream", "manifest"},
    "basebackup": {"common", "verify", "walrecv"} | LEVEL_1,
    "cmd": {"common", "segment", "verify", "walrecv", "archive", "basebackup"} | LEVEL_1,
}

# header pattern: the only files that may include it
FOREIGN = {
    r"openssl/": {"src/common/checksum.c"},
    r"(libpq-fe|libpq/.*|pg_config.*|postgres.*)\.h": "src/protocol/",
    r"lz4.*\.h": {"src/stream/codec_lz4.c"},
    r"zstd.*\.h": {"src/stream/codec_zstd.c"},
    r"(zlib|libdeflate)\.h": {"src/stream/codec_gzip.c"},
}

INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]')


def check_own(path, folder, target):
    """A header of ours, included by `path` of `folder`."""
    if "/" not in target:
        return f'"{target}": write the folder, as in "{folder}/{target}"'
    room, name = target.split("/", 1)
    if room == folder:
        return None
    if room not in MAY_INCLUDE[folder]:
        return f'"{target}": {folder} may not include {room}'
    if name in ("internal.h", "stage.h") and not (name == "stage.h" and room == "stream"):
        return f'"{target}": {name} belongs to {room} alone'
    return None


def check_foreign(path, target):
    for pattern, allowed in FOREIGN.items():
        if not re.match(pattern, target):
            continue
        inside = path.startswith(allowed) if isinstance(allowed, str) else path in allowed
        if not inside:
            return f"<{target}>: only {allowed} may include it"
    return None


def check_file(root, file):
    path = file.relative_to(root).as_posix()
    folder = path.split("/")[1]
    problems = []
    if folder not in MAY_INCLUDE:
        return [f"{path}: folder {folder} has no level in {pathlib.Path(__file__).name}"]
    for number, line in enumerate(file.read_text().splitlines(), 1):
        match = INCLUDE.match(line)
        if not match:
            continue
        quote, target = match.groups()
        problem = check_own(path, folder, target) if quote == '"' else check_foreign(path, target)
        if problem:
            problems.append(f"{path}:{number}: {problem}")
    return problems


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    files = sorted(root.glob("src/**/*.[ch]"))
    problems = [problem for file in files for problem in check_file(root, file)]
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems or not files else 0


if __name__ == "__main__":
    sys.exit(main())
