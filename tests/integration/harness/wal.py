"""WAL archives: what a directory of WAL holds, compared with the server's own files.

    archive = WalArchive(directory, segment_size=MB)
    with receivewal(archive, "-S", "ours", env=server.env()):
        ...
    assert archive.first_difference(server, start, end) is None
"""

import itertools
import re

from .run import Background, pgstow_path
from .tarfiles import uncompressed

MB = 1024 * 1024
SEGMENT_FILE = re.compile(r"(?P<segment>[0-9A-F]{24})(\.gz|\.lz4|\.zst)?(?P<partial>\.partial)?")
HISTORY_FILE = re.compile(r"[0-9A-F]{8}\.history")
WAL_KEEP_SIZE_SINCE = 13


def keep_wal(major, megabytes=3200):
    """Settings with which a server recycles no WAL while the tests compare it."""
    if major < WAL_KEEP_SIZE_SINCE:
        return {"wal_keep_segments": megabytes // 16}
    return {"wal_keep_size": f"{megabytes}MB"}


def lsn_number(lsn):
    high, low = lsn.split("/")
    return int(high, 16) << 32 | int(low, 16)


def lsn_text(number):
    return f"{number >> 32:X}/{number & 0xFFFFFFFF:X}"


def receivewal(archive, *args, env):
    """The receiver in the background; env is the server's, or a proxy's over it."""
    return Background([pgstow_path(), "receivewal", "-D", archive.path, "-v", "-s", "1", *args],
                      env=env)


class WalArchive:
    """A directory of WAL, compressed or not. Positions are LSNs as numbers."""

    def __init__(self, path, segment_size=16 * MB):
        self.path = path
        self.segment_size = segment_size
        self.segments_per_log = 2**32 // segment_size

    # --- names ---

    def names(self):
        return sorted(path.name for path in self.path.iterdir())

    def complete(self):
        """The files of complete segments by the names of these, oldest first."""
        return self._segment_files(partial=False)

    def partials(self):
        """The same of the segments that are under way."""
        return self._segment_files(partial=True)

    def _segment_files(self, partial):
        matches = filter(None, map(SEGMENT_FILE.fullmatch, self.names()))
        return {match["segment"]: self.path / match[0]
                for match in matches if bool(match["partial"]) == partial}

    def strays(self):
        """The names of what has no place in an archive."""
        return [name for name in self.names()
                if not SEGMENT_FILE.fullmatch(name) and not HISTORY_FILE.fullmatch(name)]

    def segment_number(self, name):
        return int(name[8:16], 16) * self.segments_per_log + int(name[16:24], 16)

    def segment_name(self, position, timeline=1):
        """The name of the segment that the byte at this position is in."""
        number = position // self.segment_size
        log, segment = divmod(number, self.segments_per_log)
        return f"{timeline:08X}{log:08X}{segment:08X}"

    def segment_start(self, position):
        return position // self.segment_size * self.segment_size

    def holes(self):
        """The pairs of complete segments of one timeline between which some are missing."""
        return [(one, other) for one, other in itertools.pairwise(self.complete())
                if one[:8] == other[:8]
                and self.segment_number(other) != self.segment_number(one) + 1]

    # --- bytes ---

    def content(self, name):
        """What there is of a segment: of the complete one if it is there, else of the partial."""
        path = self.complete().get(name) or self.partials().get(name)
        return uncompressed_segment(path) if path else b""

    def first_difference(self, server, start, end, timeline=1):
        """The position of the first byte from `start` up to `end` that is not here as the server
        has it in its own files, or None.
        """
        for base in range(self.segment_start(start), end, self.segment_size):
            name = self.segment_name(base, timeline)
            part = slice(max(start - base, 0), min(end - base, self.segment_size))
            ours = self.content(name)[part]
            theirs = (server.data_dir / "pg_wal" / name).read_bytes()[part]
            if ours != theirs:
                pairs = itertools.zip_longest(ours, theirs)
                return base + part.start + next(
                    at for at, (our, their) in enumerate(pairs) if our != their)
        return None

    def restore_to(self, directory):
        """Puts the archive there as recovery wants it: without compression, and with the partial
        segment under the name of a complete one.
        """
        for name, path in (self.partials() | self.complete()).items():
            (directory / name).write_bytes(uncompressed_segment(path))
            (directory / name).chmod(0o644)
        for path in self.path.glob("*.history"):
            (directory / path.name).write_bytes(path.read_bytes())
            (directory / path.name).chmod(0o644)


def uncompressed_segment(path):
    """A partial segment is never compressed by us, whatever its name is."""
    return path.read_bytes() if path.suffix == ".partial" else uncompressed(path)
