"""Incremental backups put together, by a program that shares nothing with those under test.

    combine([full, first, second], target)   # the oldest first; what pg_combinebackup does

The layout of the files is that of PostgreSQL's backup/basebackup_incremental.c.
"""

import os
import struct
from pathlib import Path

from .run import run

BLOCK = 8192
MAGIC = 0xD3AE1F0D
PREFIX = "INCREMENTAL."


class IncrementalFile:
    """What an INCREMENTAL.* file says: how many blocks there must be, and the changed ones."""

    def __init__(self, path):
        data = path.read_bytes()
        magic, count, self.truncation_length = struct.unpack_from("<III", data)
        if magic != MAGIC:
            raise ValueError(f"{path} is not an incremental file")
        numbers = struct.unpack_from(f"<{count}I", data, 12)
        at = (12 + 4 * count + BLOCK - 1) // BLOCK * BLOCK if count else 12
        if len(data) != at + count * BLOCK:
            raise ValueError(f"{path} has {len(data)} bytes for {count} blocks")
        self.blocks = {number: data[at + i * BLOCK:at + (i + 1) * BLOCK]
                       for i, number in enumerate(numbers)}


def combine(backups, target):
    """Makes a full backup, without a manifest, of a full one and those on top of it.

    Tablespaces go to directories beside the target.
    """
    run(["cp", "-a", backups[-1], target]).check()
    (target / "backup_manifest").unlink(missing_ok=True)
    for link in filter(Path.is_symlink, list((target / "pg_tblspc").iterdir())):
        place = target.with_name(f"{target.name}-tablespace-{link.name}")
        run(["cp", "-a", link.readlink(), place]).check()
        run(["ln", "-sfn", place, link]).check()
    for directory, _, names in os.walk(target, followlinks=True):
        for name in names:
            if name.startswith(PREFIX):
                _make_full(target, Path(directory).relative_to(target), name, backups)
    _make_label_full(target / "backup_label")


def _make_full(target, directory, name, backups):
    incremental = target / directory / name
    full = target / directory / name.removeprefix(PREFIX)
    content = _reconstruct(directory, full.name, backups)
    incremental.rename(full)  # for owner and mode
    full.write_bytes(content)


def _reconstruct(directory, name, backups):
    newest = IncrementalFile(backups[-1] / directory / (PREFIX + name))
    blocks, length = newest.blocks, newest.truncation_length
    for backup in reversed(backups[:-1]):
        path = backup / directory / (PREFIX + name)
        if not path.exists():
            return _put_together(blocks, length, (backup / directory / name).read_bytes())
        older = IncrementalFile(path)
        blocks = {number: data for number, data in older.blocks.items() if number < length} | blocks
    raise ValueError(f"no backup has all of {directory / name}")


def _put_together(blocks, length, below):
    """The changed blocks over the old content, which is cut or filled with zeros."""
    length = max([length, *(number + 1 for number in blocks)])
    content = bytearray(below[:length * BLOCK].ljust(length * BLOCK, b"\0"))
    for number, data in blocks.items():
        content[number * BLOCK:(number + 1) * BLOCK] = data
    return bytes(content)


def _make_label_full(label):
    lines = label.read_text().splitlines(keepends=True)
    label.write_text("".join(line for line in lines if not line.startswith("INCREMENTAL FROM")))
