"""WAL archives across timelines: promotions, switchovers, servers that come back, and strangers.

And across segments of every size: from the middle of one to the next log file.
"""

import filecmp
import signal
import unittest

from harness import ScratchDir, Server, for_each_major, pgstow, run, wait_until
from harness.run import STOCK_BIN
from harness.wal import MB, keep_wal, lsn_number, receivewal
from harness.waltest import (
    DirectoryWatch,
    Mark,
    WalArchiveTestCase,
    begin_timeline,
    errors,
)

MAJORS_WITH_SEGMENT_SIZES = 11
STOCK_MAJOR = 15
PRIMARY_SINCE = 14  # older servers cannot tell over a replication connection
# One version compresses what it archives with each of these.
COMPRESSION = {15: ("-Z", "zstd"), 18: ("-Z", "gzip")}
# In MB; each size with some version, to save time.
SEGMENT_SIZES = {10: [16], 13: [64], 15: [1, 16, 64, 1024], 18: [1, 16]}


class TimelineTestCase(WalArchiveTestCase):
    """With a primary and a standby, and a backup to recover from."""

    def setUp(self):
        super().setUp()
        self.scratch = self.enterContext(ScratchDir())
        self.primary = self.enterContext(Server(self.major, **keep_wal(self.major)))
        self.base = self.scratch / "base"
        pgstow("basebackup", "-D", self.base, "-c", "fast", env=self.primary.env()).check()
        run(["cp", "-a", self.base, self.scratch / "standby"]).check()
        self.standby = self.enterContext(
            self.primary.start_standby(self.scratch / "standby", **keep_wal(self.major)))

    def wait_for_replay(self):
        """Waits until the standby has all that its primary has written so far."""
        position = self.primary.value("SELECT pg_current_wal_flush_lsn()")
        self.standby.wait_for(f"pg_last_wal_replay_lsn() >= '{position}'")

    def either_server(self, *args, archive=None):
        """A receiver that streams from whichever of the two is the primary."""
        wanted = "primary" if self.major >= PRIMARY_SINCE else "read-write"
        conninfo = ("host=127.0.0.1,127.0.0.1 user=postgres target_session_attrs=" + wanted +
                    f" port={self.primary.port},{self.standby.port}")
        return receivewal(archive or self.archive, "-d", conninfo, *args, env={})


@for_each_major()
class Promotions(TimelineTestCase):
    """Of the server that is streamed from: the timelines 2, A and B."""

    def test_followed(self):
        """With the receiver there each time, and with one that was away all the time."""
        away = self.new_archive()
        compression = COMPRESSION.get(self.major, ())
        watch = self.enterContext(DirectoryWatch(self.archive.path))
        receiver = self.enterContext(self.streaming(self.standby, *compression))
        with self.streaming(self.standby, archive=away) as short:
            last = self.fill_segment(self.primary)
            self.write(self.primary)
            self.wait_for_replay()
            for archive in (self.archive, away):
                self.wait_for_segment(last, archive)
            self.stop(short)

        self.standby.promote()
        receiver.wait_for_err(r"switched to timeline 2 at [0-9A-F]+/[0-9A-F]+$")
        self.wait_for_segment(self.fill_segment(self.standby))
        self.write(self.standby)
        for timeline in (0xA, 0xB):
            begin_timeline(self.standby, timeline)
            receiver.wait_for_err(f"switched to timeline {timeline} at")
            self.wait_for_segment(self.fill_segment(self.standby))
            self.write(self.standby)
        self.standby.sql("CREATE TABLE last AS SELECT 'on timeline B' AS commit")
        self.catch_up(self.standby, timeline=0xB)
        self.stop(receiver)

        mark = Mark(self.standby)
        away_watch = self.enterContext(DirectoryWatch(away.path))
        with self.streaming(self.standby, archive=away) as late:
            self.catch_up(self.standby, away, timeline=0xB)
            result = self.stop(late)
        self.assertEqual([timeline for _, timeline in mark.starts()], [1, 2, 0xA, 0xB], result)
        self.assertEqual(errors(result), [])

        for archive, names in ((self.archive, watch.names()), (away, away_watch.names())):
            self.assert_same_as_server(self.standby, archive, timelines=(1, 2, 0xA, 0xB))
            self.assert_histories(self.standby, 2, 0xA, 0xB, archive=archive)
            self.assert_histories_first(names)
            self.assertEqual(self.partial_timelines(archive), [1, 2, 0xA, 0xB])
        self.assertEqual(self.assert_recovers(self.base, self.archive, self.standby), 12)

        # Once more: where the archive ends, on timeline B.
        mark = Mark(self.standby)
        with self.streaming(self.standby, *compression) as receiver:
            self.wait_for_segment(self.fill_segment(self.standby))
            self.stop(receiver)
        self.assertEqual([timeline for _, timeline in mark.starts()], [0xB])
        self.assert_same_as_server(self.standby, timelines=(1, 2, 0xA, 0xB))


@for_each_major()
class Switchover(TimelineTestCase):
    """To the other host of the connection string, and what the first one does afterwards."""

    def test_followed(self):
        compression = COMPRESSION.get(self.major, ())
        watch = self.enterContext(DirectoryWatch(self.archive.path))
        receiver = self.enterContext(self.begun(self.either_server(*compression)))
        self.wait_for_segment(self.fill_segment(self.primary))
        self.write(self.primary)
        last_of_first = self.archive.segment_name(self.catch_up(self.primary))
        self.wait_for_replay()
        self.primary.kill()
        receiver.wait_for_err("disconnected; waiting .* to try again")
        self.standby.promote()
        receiver.wait_for_err(r"switched to timeline 2 at [0-9A-F]+/[0-9A-F]+$")
        self.wait_for_segment(self.fill_segment(self.standby))
        self.catch_up(self.standby, timeline=2)
        self.assertIn(last_of_first, self.archive.partials())
        self.assertNotIn(last_of_first, self.archive.complete())
        self.assert_same_as_server(self.standby, timelines=(1, 2))
        self.assert_histories(self.standby, 2)
        self.assert_histories_first(watch.names())

        # The old primary is up again before the other one is lost for a moment: it is first.
        self.primary.start()
        self.fill_segment(self.primary)
        self.fill_segment(self.primary)
        self.write(self.standby)
        position = self.catch_up(self.standby, timeline=2)
        before = self.snapshot(self.archive)
        self.standby.stop()
        tries = "the archive is on timeline 2 already, but the server is on timeline 1"
        receiver.wait_for_err(rf"(?s){tries}.*{tries}")
        after = self.snapshot(self.archive)
        self.assertEqual(after.keys(), before.keys())
        offset = position % self.archive.segment_size
        for name in before:  # the last one has got the record of the shutdown
            self.assertEqual(after[name][:offset], before[name][:offset], name)
        self.standby.start()
        self.primary.stop()
        self.wait_for_segment(self.fill_segment(self.standby))
        self.standby.sql("CREATE TABLE last AS SELECT 'on timeline 2' AS commit")
        self.catch_up(self.standby, timeline=2)
        self.stop(receiver)
        self.primary.start()
        self.assertIn(tries, errors(self.refused(self.primary))[0])
        self.assert_same_as_server(self.standby, timelines=(1, 2))
        self.assertEqual(self.assert_recovers(self.base, self.archive, self.standby), 3)

    def test_foreign_cluster(self):
        """Its WAL has the same names. It is refused, whichever timeline it is on."""
        with self.streaming(self.primary) as receiver:
            self.wait_for_segment(self.fill_segment(self.primary))
            self.catch_up(self.primary)
            self.stop(receiver)
        identifier = "SELECT system_identifier FROM pg_control_system()"
        with Server(self.major) as stranger:
            for _ in range(3):
                self.fill_segment(stranger)
            for timeline in (1, 2):
                if timeline > 1:
                    begin_timeline(stranger, timeline)
                with self.subTest(timeline):
                    result = self.refused(stranger)
                    for server in (self.primary, stranger):
                        self.assertIn(server.value(identifier), errors(result)[0])
        with self.streaming(self.primary) as receiver:
            self.wait_for_segment(self.fill_segment(self.primary))
            self.stop(receiver)
        self.assert_same_as_server(self.primary)


@for_each_major()
class LostWal(TimelineTestCase):
    """The archive has WAL of the old primary that the promoted standby never got."""

    def setUp(self):
        """Brings one archive beyond the fork in its segment, another by two segments more."""
        super().setUp()
        self.far = self.new_archive()
        self.write(self.primary)
        self.wait_for_replay()
        self.standby.stop()
        self.fork = self.flushed(self.primary)
        with self.streaming(self.primary) as near, \
                self.streaming(self.primary, archive=self.far) as far:
            self.write(self.primary)
            self.lost = self.catch_up(self.primary)
            self.stop(near)
            self.fill_segment(self.primary)
            self.wait_for_segment(self.fill_segment(self.primary), self.far)
            self.write(self.primary)
            self.catch_up(self.primary, self.far)
            self.stop(far)
        self.primary.kill()
        self.standby.start()
        self.standby.promote()
        self.segment = self.archive.segment_name(self.fork)
        self.assertEqual(self.archive.segment_name(self.lost), self.segment)

    def goes_on(self, archive):
        """It says so, fetches the fork's segment on the new timeline and leaves the old one."""
        old = {name: content for name, content in self.snapshot(archive).items()
               if name.startswith("00000001")}
        mark = Mark(self.standby)
        with self.either_server(archive=archive) as receiver:
            self.wait_for_segment(self.fill_segment(self.standby), archive)
            self.write(self.standby)
            self.catch_up(self.standby, archive, timeline=2)
            result = self.stop(receiver)
        self.assertEqual(mark.starts(), [(archive.segment_start(self.fork), 2)])
        fork = (self.standby.data_dir / "pg_wal/00000002.history").read_text().split()[1]
        self.assertRegex(result.err, rf"warning: .*\b{fork}\b")
        self.assertRegex(result.err, rf"warning: .*\btimeline 2\b")
        self.assertEqual(errors(result), [])
        self.assertEqual(self.snapshot(archive) | old, self.snapshot(archive))
        self.assert_histories(self.standby, 2, archive=archive)
        self.assert_new_timeline(archive)

    def assert_new_timeline(self, archive):
        """From the fork's segment on, it is the server's."""
        names = [name for name in archive.complete() if name.startswith("00000002")]
        self.assertEqual(archive.segment_number(names[0]), self.fork // archive.segment_size)
        for name in names:
            self.assertEqual(archive.content(name),
                             (self.standby.data_dir / "pg_wal" / name).read_bytes(), name)
        self.assertEqual(archive.holes(), [])

    def goes_on_again(self, archive):
        """The next run begins where the new timeline ends here, not at the fork again."""
        self.standby.sql("CREATE TABLE IF NOT EXISTS last AS SELECT 'on timeline 2' AS commit")
        reached = self.flushed(self.standby)
        mark = Mark(self.standby)
        with self.either_server(archive=archive) as receiver:
            receiver.wait_for_err("starting log streaming")
            self.catch_up(self.standby, archive, timeline=2)
            self.stop(receiver)
        [(start, timeline)] = mark.starts()
        self.assertEqual(timeline, 2)
        self.assertGreater(start, archive.segment_start(reached))
        self.assert_new_timeline(archive)

    def test_followed(self):
        # First: the new timeline is not beyond what this one has of the old one.
        with self.subTest("by segments"):
            self.goes_on(self.far)
            self.assertIn(self.segment, self.far.complete())
            self.goes_on_again(self.far)
            self.assertEqual(self.assert_recovers(self.base, self.far, self.standby), 3)
        with self.subTest("within a segment"):
            self.goes_on(self.archive)
            self.goes_on_again(self.archive)
            self.assertIn(self.segment, self.archive.partials())
            self.assertEqual(self.assert_recovers(self.base, self.archive, self.standby), 3)


@for_each_major()
class SegmentSizes(WalArchiveTestCase):
    """Stopped and killed in mid-segment; from one log file to the next."""

    def test_from_1_mb_to_1_gb(self):
        for size in SEGMENT_SIZES.get(self.major, []):
            with self.subTest(size), ScratchDir() as copies:
                self.archive = self.new_archive(segment_size=size * MB)
                with self.make_server(size, copies) as server:
                    if self.major != STOCK_MAJOR:
                        # A record that begins before the archive does could not be checked.
                        server.sql("SELECT pg_switch_wal()")
                    self.check_stopped_and_killed(server)
                    self.check_next_log_file(server)
                    self.check_copies(server, copies)

    def make_server(self, size, copies):
        settings = {
            "archive_mode": "on",
            "archive_command": f'cp --sparse=always "%p" "{copies}/tmp"'
                               f' && mv "{copies}/tmp" "{copies}/%f"',
            **keep_wal(self.major, 5000),
        }
        if self.major >= 12:
            settings["wal_init_zero"] = "off"
        segsize = [f"--wal-segsize={size}"] if self.major >= MAJORS_WITH_SEGMENT_SIZES else []
        server = Server(self.major, initdb_args=segsize, **settings)
        if self.major == STOCK_MAJOR:
            last = f"{1:08X}{0:08X}{self.archive.segments_per_log - 1:08X}"
            run([STOCK_BIN / "pg_resetwal", "-l", last, server.data_dir]).check()
        return server

    def check_stopped_and_killed(self, server):
        """Each run goes on in mid-segment, where the one before had got to."""
        reached = None
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
            mark = Mark(server)
            with self.streaming(server) as receiver:
                self.write(server, 100)
                position = self.catch_up(server)
                receiver.stop(number)
            [(start, _)] = mark.starts()
            if reached:
                self.assertGreaterEqual(start, reached)
                self.assertNotEqual(start % self.archive.segment_size, 0)
            reached = position

    def check_next_log_file(self, server):
        """Behind the last segment of a log file comes the first one of the next."""
        with self.streaming(server) as receiver:
            last = self.fill_segment(server, 100)
            self.wait_for_segment(last)
            self.write(server, 100)
            position = self.catch_up(server)
            self.stop(receiver)
        if self.major == STOCK_MAJOR:
            self.assertEqual(int(last[8:], 16), self.archive.segments_per_log - 1)
            self.assertEqual(list(self.archive.partials()), ["000000010000000100000000"])
        [(_, partial)] = self.archive.partials().items()
        partial.unlink()
        mark = Mark(server)
        with self.streaming(server) as receiver:
            self.catch_up(server)
            self.stop(receiver)
        self.assertEqual(mark.starts(), [(self.archive.segment_start(position), 1)])
        self.assert_whole()

    def check_copies(self, server, copies):
        for name, path in self.archive.complete().items():
            self.assertEqual(path.name, name)
            wait_until((copies / name).exists, f"{name} to be archived")
            self.assertTrue(filecmp.cmp(path, copies / name, shallow=False), name)
        [(name, path)] = self.archive.partials().items()
        self.assertEqual(path.stat().st_size, self.archive.segment_size)
        end = self.flushed(server)
        start = self.archive.segment_start(end)
        self.assertTrue(start < end < lsn_number("1/F0000000"))
        self.assertIsNone(self.archive.first_difference(server, start, end))


if __name__ == "__main__":
    unittest.main()
