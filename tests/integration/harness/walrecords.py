"""Where in its segments the WAL of a backup has its pages and records.

    wal = WalRecords({name: content}, start, end)
    wal.records      # [Record(start, end), ...]
    wal.locate(lsn)  # (segment, offset)
"""

import struct
from dataclasses import dataclass

PAGE = 8192
SHORT_HEADER, LONG_HEADER = 24, 40
ALIGNMENT = 8


@dataclass(frozen=True)
class Record:
    start: int
    end: int  # without the bytes that align the next one

    @property
    def crosses_pages(self):
        return self.start // PAGE != (self.end - 1) // PAGE


class WalRecords:
    """The records between two positions on timeline 1."""

    def __init__(self, segments, start, end):
        self.segments = segments
        [self.segment_size] = {len(content) for content in segments.values()}
        self.start, self.end = start, end
        self.records = list(self._walk())

    def segment_name(self, lsn):
        log, segment = divmod(lsn // self.segment_size, 2**32 // self.segment_size)
        return f"{1:08X}{log:08X}{segment:08X}"

    def locate(self, lsn):
        return self.segment_name(lsn), lsn % self.segment_size

    def needed(self):
        """The names of the segments between the positions."""
        first, last = self.start // self.segment_size, (self.end - 1) // self.segment_size
        return [self.segment_name(number * self.segment_size)
                for number in range(first, last + 1)]

    def _header(self, lsn):
        """The length of the page header at this position; 0: none is there."""
        if lsn % PAGE:
            return 0
        return SHORT_HEADER if lsn % self.segment_size else LONG_HEADER

    def _walk(self):
        at = self.start
        while at < self.end:
            at += self._header(at)
            name, offset = self.locate(at)
            [length] = struct.unpack_from("<I", self.segments[name], offset)
            if length == 0:
                raise ValueError(f"no record at {at:X}")
            record = Record(at, self._end(at, length))
            yield record
            at = (record.end + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT

    def _end(self, at, length):
        """Of a record that begins here: there are page headers within it."""
        while (room := PAGE - at % PAGE) < length:
            length -= room
            at += room
            at += self._header(at)
        return at + length
