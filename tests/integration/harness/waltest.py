"""What tests of WAL archives share: receivers, servers that write, and archives looked at.

    class Topic(WalArchiveTestCase):
        def test_something(self):
            with self.streaming(self.server) as receiver:
                self.wait_for_segment(self.fill_segment(self.server))
                self.catch_up(self.server)
                self.stop(receiver)
            self.assert_same_as_server(self.server)
"""

import ctypes
import itertools
import os
import re
import signal
import struct
import unittest

from .run import Background, ScratchDir, run, wait_until
from .servers import RECOVERY_PARAMETERS_ARE_SETTINGS
from .wal import HISTORY_FILE, SEGMENT_FILE, WalArchive, lsn_number, receivewal

PAGE_SIZE = 8192
PAGE_HEADER_SIZE = 24
TAIL = 65536  # how much of a segment is looked at to see how far an archive has got


def errors(result):
    return re.findall(r"^pgstow receivewal: error: (.*)$", result.err, re.MULTILINE)


def warnings(result):
    return re.findall(r"^pgstow receivewal: warning: (.*)$", result.err, re.MULTILINE)


def same_segment(received, original):
    """Whether two segments are equal, but for what nobody reads: pages without any record.

    Before version 11, these have headers behind a switch to the next segment. A standby may send
    that part of a segment before it has received it: then an archive gets zeros.
    """
    def no_record(page, header):
        return page.count(0, header) == len(page) - header

    if received == original:
        return True
    pages = [(received[at:at + PAGE_SIZE], original[at:at + PAGE_SIZE])
             for at in range(0, len(original), PAGE_SIZE)]
    return len(received) == len(original) and all(
        ours == theirs or (no_record(ours, 0) and no_record(theirs, PAGE_HEADER_SIZE))
        for ours, theirs in pages)


class Mark:
    """What a server was asked to stream since this mark was made."""

    COMMAND = re.compile(r"received replication command: START_REPLICATION "
                         r"(?:SLOT \S+ )?(?:PHYSICAL )?([0-9A-F]+/[0-9A-F]+) TIMELINE (\d+)")

    def __init__(self, server):
        self.server = server
        self.at = len(server.log())

    def starts(self):
        """[(position, timeline), ...] in the order of the requests."""
        commands = self.COMMAND.findall(self.server.log()[self.at:])
        return [(lsn_number(lsn), int(timeline)) for lsn, timeline in commands]


class DirectoryWatch:
    """The names that appear in a directory, in their order. A context manager."""

    CREATE, MOVED_TO = 0x100, 0x80
    EVENT = struct.Struct("iIII")

    def __init__(self, directory):
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._check(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._check(self._libc.inotify_add_watch(self._fd, os.fsencode(directory),
                                                 self.CREATE | self.MOVED_TO))
        self._names = []

    @staticmethod
    def _check(result):
        if result < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result

    def names(self):
        while True:
            try:
                events = os.read(self._fd, 65536)
            except BlockingIOError:
                return self._names
            at = 0
            while at < len(events):
                length = self.EVENT.unpack_from(events, at)[3]
                at += self.EVENT.size
                self._names.append(os.fsdecode(events[at:at + length].rstrip(b"\0")))
                at += length

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        os.close(self._fd)


def begin_timeline(server, number=None):
    """Restarts a server that is no standby on a timeline of its own: the next, or this one.

    A server takes the first number for which it has no history file.
    """
    server.stop()
    pg_wal = server.data_dir / "pg_wal"
    if number:
        newest = max(int(path.name[:8], 16) for path in pg_wal.glob("*[0-9A-F]"))
        for skipped in range(newest + 1, number):
            run(["touch", pg_wal / f"{skipped:08X}.history"]).check()
    if server.major < RECOVERY_PARAMETERS_ARE_SETTINGS:
        run(["touch", server.data_dir / "recovery.conf"]).check()
        (server.data_dir / "recovery.conf").write_text("restore_command = 'false'\n")
    else:
        run(["touch", server.data_dir / "recovery.signal"]).check()
        with open(server.data_dir / "postgresql.auto.conf", "a") as conf:
            conf.write("restore_command = 'false'\nrecovery_target_timeline = 'current'\n")
    server.start()
    server.wait_for("NOT pg_is_in_recovery()")


class WalArchiveTestCase(unittest.TestCase):
    """One archive, in self.archive, and whatever happens to it."""

    def setUp(self):
        self.archive = self.new_archive()

    def new_archive(self, *args, **options):
        return WalArchive(self.enterContext(ScratchDir()), *args, **options)

    # --- receivers ---

    def receiver(self, server, *args, archive=None, env=None):
        return receivewal(archive or self.archive, *args, env=(server.env() | (env or {})))

    def streaming(self, server, *args, **options):
        """A receiver that has begun to stream. A context manager."""
        return self.begun(self.receiver(server, *args, **options))

    @staticmethod
    def begun(receiver):
        try:
            receiver.wait_for_err("starting log streaming")
        except BaseException:
            receiver.close()
            raise
        return receiver

    def stop(self, receiver, number=signal.SIGTERM):
        """Ends a receiver as a user does, which is a success."""
        result = receiver.stop(number)
        self.assertEqual(result.rc, 0, result)
        return result

    def refused(self, server, *args, archive=None):
        """A run without a loop that fails and leaves the archive as it is: its Result."""
        archive = archive or self.archive
        before = self.snapshot(archive)
        result = self.receiver(server, "-n", *args, archive=archive).wait()
        self.assertEqual(result.rc, 1, result)
        self.assertEqual(self.snapshot(archive), before)
        return result

    @staticmethod
    def snapshot(archive):
        return {name: (archive.path / name).read_bytes() for name in archive.names()}

    # --- servers ---

    @staticmethod
    def flushed(server):
        return lsn_number(server.value("SELECT pg_current_wal_flush_lsn()"))

    @staticmethod
    def write(server, rows=1000):
        """Has the server write some WAL."""
        server.sql("CREATE TABLE IF NOT EXISTS filler (v text);"
                   "INSERT INTO filler SELECT md5(random()::text)"
                   f" FROM generate_series(1, {rows})")

    def fill_segment(self, server, rows=1000):
        """Ends the server's current segment, but not where it began, and returns its name."""
        self.write(server, rows)
        return server.value("SELECT pg_walfile_name(pg_switch_wal())")

    # --- how far the archive has got ---

    def wait_for_segment(self, name, archive=None):
        archive = archive or self.archive
        wait_until(lambda: name in archive.complete(), f"segment {name}")

    def catch_up(self, server, archive=None, timeline=1):
        """Waits until all that the server has written so far is in the archive's files, and
        returns where that ends.
        """
        archive = archive or self.archive
        position = self.flushed(server)
        wait_until(lambda: self.reaches(archive, server, position, timeline),
                   f"the server's WAL up to {position:X}")
        return position

    def reaches(self, archive, server, position, timeline=1):
        """Whether what is before this position is in the archive as the server has it."""
        name = archive.segment_name(position - 1, timeline)
        end = (position - 1) % archive.segment_size + 1
        start = max(0, end - TAIL)
        with open(server.data_dir / "pg_wal" / name, "rb") as file:
            theirs = os.pread(file.fileno(), end - start, start)
        return self.part(archive, name, start, end) == theirs

    @staticmethod
    def part(archive, name, start, end):
        partial = archive.partials().get(name)
        if name in archive.complete() or partial is None:
            return archive.content(name)[start:end]
        try:
            with open(partial, "rb") as file:
                return os.pread(file.fileno(), end - start, start)
        except FileNotFoundError:  # it has just got its name
            return archive.content(name)[start:end]

    # --- whether it is right ---

    def assert_whole(self, archive=None, timelines=(1,)):
        """Nothing is missing in the middle of a timeline, and nothing is there that should not."""
        archive = archive or self.archive
        self.assertEqual(archive.holes(), [])
        self.assertEqual(archive.strays(), [])
        self.assertEqual({int(name[:8], 16) for name in archive.complete()}, set(timelines))

    def assert_same_as_server(self, server, archive=None, timelines=(1,)):
        """Each complete segment is the server's, byte for byte, and none is missing."""
        archive = archive or self.archive
        self.assert_whole(archive, timelines)
        for name in archive.complete():
            original = (server.data_dir / "pg_wal" / name).read_bytes()
            self.assertTrue(same_segment(archive.content(name), original), name)

    def assert_histories(self, server, *timelines, archive=None):
        """These history files are there and no others, as the server has them: plain."""
        archive = archive or self.archive
        names = [f"{timeline:08X}.history" for timeline in timelines]
        self.assertEqual([name for name in archive.names() if "history" in name.lower()], names)
        for name in names:
            self.assertEqual((archive.path / name).read_bytes(),
                             (server.data_dir / "pg_wal" / name).read_bytes(), name)

    def assert_histories_first(self, names):
        """Each history file appeared before any segment of its timeline."""
        for timeline in {name[:8] for name in names if HISTORY_FILE.fullmatch(name)}:
            segments = [at for at, name in enumerate(names)
                        if SEGMENT_FILE.match(name) and name.startswith(timeline)]
            history = names.index(f"{timeline}.history")
            self.assertTrue(segments and history < min(segments), names)

    def assert_recovers(self, base, archive, server):
        """A base backup and the archive make all that the server has. Returns the timeline that
        the recovered one is on, which is its own.
        """
        with ScratchDir() as wal, ScratchDir() as directory:
            archive.restore_to(wal)
            for number in range(2, max(int(name[:8], 16) for name in archive.complete())):
                (wal / f"{number:08X}.history").touch()  # "latest" is where the first one misses
            run(["cp", "-a", base, directory / "data"]).check()
            with server.start_recovered(directory / "data", wal) as copy:
                self.assertEqual(copy.data_digest(), server.data_digest())
                return int(copy.value("SELECT timeline_id FROM pg_control_checkpoint()"))

    @staticmethod
    def partial_timelines(archive):
        return sorted({int(name[:8], 16) for name in archive.partials()})
