"""Archives down to their bytes: headers and contents of the members, and what follows the last one.

    archive = read_archive(path.read_bytes())
    archive.names, archive["backup_label"].content, archive["base/"].mode, archive.tail
"""

import tempfile
from dataclasses import dataclass

from .run import run

BLOCK = 512
# Where the fields of a header are (POSIX ustar).
FIELDS = {
    "name": (0, 100), "mode": (100, 8), "uid": (108, 8), "gid": (116, 8), "size": (124, 12),
    "mtime": (136, 12), "checksum": (148, 8), "type": (156, 1), "link": (157, 100),
    "magic": (257, 6), "version": (263, 2), "uname": (265, 32), "gname": (297, 32),
    "devmajor": (329, 8), "devminor": (337, 8), "prefix": (345, 155), "rest": (500, 12),
}


@dataclass(frozen=True)
class Member:
    header: bytes
    content: bytes

    def field(self, name):
        """The bytes of a field of the header."""
        start, length = FIELDS[name]
        return self.header[start:start + length]

    def number(self, name):
        return int(self.field(name).rstrip(b"\0 ") or b"0", 8)

    @property
    def name(self):
        return self.field("name").rstrip(b"\0").decode()

    @property
    def mode(self):
        return self.number("mode")

    def has_right_checksum(self):
        start, length = FIELDS["checksum"]
        blank = self.header[:start] + b" " * length + self.header[start + length:]
        return sum(blank) == self.number("checksum")


@dataclass(frozen=True)
class Archive:
    members: list
    tail: bytes  # from the first block of zeros to the end

    @property
    def names(self):
        return [member.name for member in self.members]

    def __contains__(self, name):
        return name in self.names

    def __getitem__(self, name):
        [member] = [member for member in self.members if member.name == name]
        return member


def read_archive(data):
    members, at = [], 0
    while at < len(data) and data[at:at + BLOCK].strip(b"\0"):
        header = data[at:at + BLOCK]
        size = Member(header, b"").number("size")
        content = data[at + BLOCK:at + BLOCK + size]
        if len(content) < size:
            raise ValueError(f"the archive ends within {Member(header, b'').name}")
        members.append(Member(header, content))
        at += BLOCK + (size + BLOCK - 1) // BLOCK * BLOCK
    return Archive(members, data[at:])


def uncompressed(path):
    """The bytes of a file whose name says how it is compressed."""
    program = {".gz": "gzip", ".lz4": "lz4", ".zst": "zstd"}.get(path.suffix)
    if program is None:
        return path.read_bytes()
    with tempfile.TemporaryFile() as out:
        run([program, "-d", "-c", path], stdout=out).check()
        out.seek(0)
        return out.read()
