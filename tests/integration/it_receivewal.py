"""WAL archives: streamed without a gap, whatever happens on the way, and good for a recovery."""

import os
import re
import shutil
import signal
import time
import unittest
from pathlib import Path

from harness import (
    Background,
    Proxy,
    ScratchDir,
    Server,
    for_each_major,
    pgstow,
    run,
    small_filesystem,
    stock,
    wait_until,
)
from harness.run import PLAIN_USER, STOCK_BIN, pgstow_path
from harness.wal import MB, keep_wal, lsn_number
from harness.waltest import errors, same_segment

SEGMENT_SIZE = 16 * MB
LAST_BYTES = 64  # WAL that ends somewhere is not all zeros in that many bytes before
STOCK_MAJOR = 15
SLOT_POSITIONS_SINCE = 15  # READ_REPLICATION_SLOT
SEGMENT = re.compile(r"[0-9A-F]{24}")


class Archive:
    """A directory of WAL."""

    def __init__(self, path, segment_size=SEGMENT_SIZE):
        self.path = path
        self.segment_size = segment_size

    def names(self):
        return sorted(path.name for path in self.path.iterdir())

    def complete(self):
        """The names of complete segments: those that the server could have given them."""
        return [name for name in self.names()
                if SEGMENT.fullmatch(name) and int(name[16:], 16) < 2**32 // self.segment_size]

    def partial(self):
        """The segment that is under way; there is one."""
        [path] = self.path.glob("*.partial")
        return path

    def segment_name(self, timeline, position):
        number = position // self.segment_size
        per_file = 2**32 // self.segment_size
        return f"{timeline:08X}{number // per_file:08X}{number % per_file:08X}"

    def has(self, position, timeline=1):
        """Whether the byte before this position is here."""
        name = self.segment_name(timeline, position - 1)
        if (self.path / name).exists():
            return True
        end = (position - 1) % self.segment_size + 1
        start = max(0, end - LAST_BYTES)
        try:
            with (self.path / f"{name}.partial").open("rb") as partial:
                return any(os.pread(partial.fileno(), end - start, start))
        except FileNotFoundError:
            return (self.path / name).exists()  # it was renamed between the two looks

    def received_of_partial(self):
        """What there is of the segment that is under way: behind that there are zeros."""
        return self.partial().read_bytes().rstrip(b"\0")

    def make_usable(self):
        """What the manual page says: the partial segment becomes one."""
        for partial in self.path.glob("*.partial"):
            complete = partial.with_suffix("")
            if not complete.exists():
                shutil.copy(partial, complete)
                complete.chmod(0o644)


class WalTestCase(unittest.TestCase):
    """What every test here needs: an archive, a program that fills it, and a look at the result."""

    def setUp(self):
        self.archive = Archive(self.enterContext(ScratchDir()))

    def receiver(self, *args, server=None, archive=None, env=None):
        archive = archive or self.archive
        return Background([pgstow_path(), "receivewal", "-D", archive.path, "-v", "-s", "1", *args],
                          env=(server or self.server).env() | (env or {}))

    def streaming(self, *args, **options):
        """A receiver that has begun to stream. A context manager."""
        receiver = self.receiver(*args, **options)
        try:
            receiver.wait_for_err("starting log streaming")
        except BaseException:
            receiver.close()
            raise
        return receiver

    def stop(self, receiver, number=signal.SIGINT):
        """Ends a receiver as a user does: a success, and all that it has received is there."""
        result = receiver.stop(number)
        self.assertEqual(result.rc, 0, result)
        stopped = re.search(r"stopped log streaming at (\S+) \(timeline (\d+)\)", result.err)
        if stopped and f"starting log streaming at {stopped[1]} " not in result.err:
            directory = Path(result.cmd[result.cmd.index("-D") + 1])
            archive = Archive(directory, self.archive.segment_size)
            self.assertTrue(archive.has(lsn_number(stopped[1]), int(stopped[2])), result)
        return result

    @staticmethod
    def flushed(server):
        return lsn_number(server.value("SELECT pg_current_wal_flush_lsn()"))

    def catch_up(self, server=None, archive=None, timeline=1):
        """Waits until all that the server has written so far is in the archive's files."""
        position = self.flushed(server or self.server)
        wait_until(lambda: (archive or self.archive).has(position, timeline), "the server's WAL")
        return position

    def write(self, server=None):
        """Has the server write some WAL."""
        (server or self.server).sql("CREATE TABLE IF NOT EXISTS filler (v text);"
                                    "INSERT INTO filler SELECT md5(random()::text)"
                                    " FROM generate_series(1, 1000)")

    def write_much(self):
        """Has the server write ten megabytes of WAL that is not zeros."""
        self.server.sql("CREATE TABLE much AS SELECT repeat('x', 1000)"
                        " FROM generate_series(1, 10000); DROP TABLE much")

    def fill_segment(self, server=None):
        """Ends the server's current segment, but not where it began, and returns its name."""
        self.write(server)
        return (server or self.server).value("SELECT pg_walfile_name(pg_switch_wal())")

    def wait_for_segment(self, name, archive=None):
        path = (archive or self.archive).path / name
        wait_until(path.exists, f"segment {name}")

    def assert_same_as_server(self, archive=None, server=None, timelines=(1,)):
        """Each segment is the server's, byte for byte; on each timeline none is missing."""
        archive = archive or self.archive
        pg_wal = (server or self.server).data_dir / "pg_wal"
        names = archive.complete()
        for name in names:
            self.assertEqual((archive.path / name).stat().st_size, archive.segment_size, name)
            same = same_segment((archive.path / name).read_bytes(), (pg_wal / name).read_bytes())
            self.assertTrue(same, f"{archive.path / name} and {pg_wal / name}")
        for partial in archive.path.glob("*.partial"):
            # It is empty where the disk had no room for it.
            self.assertIn(partial.stat().st_size, (0, archive.segment_size), partial)
            received = partial.read_bytes().rstrip(b"\0")
            original = pg_wal / partial.stem
            if not original.exists():  # a timeline's last segment, after a promotion
                original = pg_wal / partial.name
            if original.exists():
                self.assertTrue(original.read_bytes().startswith(received), partial)
        self.assertEqual({int(name[:8], 16) for name in names}, set(timelines), names)
        for timeline in timelines:
            numbers = [int(name[8:16], 16) * (2**32 // archive.segment_size) + int(name[16:], 16)
                       for name in names if int(name[:8], 16) == timeline]
            self.assertEqual(numbers, list(range(numbers[0], numbers[0] + len(numbers))))

    def assert_partial_is_the_servers(self):
        original = self.server.data_dir / "pg_wal" / self.archive.partial().stem
        self.assertTrue(original.read_bytes().startswith(self.archive.received_of_partial()))


class StreamingTestCase(WalTestCase):
    """With a server that all tests of the class share."""

    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(cls.major, **keep_wal(cls.major)))
        cls.server.pgbench_init(scale=1)

    def setUp(self):
        super().setUp()
        if not self.server.is_running():
            self.server.start()


@for_each_major()
class Streaming(StreamingTestCase):
    """From the first byte to the last, stopped and started again."""

    def test_under_load(self):
        with self.streaming() as receiver:
            with self.server.pgbench_load() as load:
                for _ in range(3):
                    load.wait_transactions(30)
                    last = self.fill_segment()
                load.stop()
            self.wait_for_segment(last)
            self.catch_up()
            result = self.stop(receiver)
        self.assertEqual(errors(result), [])
        self.assert_same_as_server()
        self.assertEqual(self.archive.complete()[-1], last)
        for name in self.archive.complete():
            self.assertEqual((self.archive.path / name).stat().st_uid, PLAIN_USER.pw_uid)
            self.assertEqual(oct((self.archive.path / name).stat().st_mode), "0o100600")

        position = r"[0-9A-F]+/[0-9A-F]+"
        self.assertRegex(result.err, rf"\Apgstow receivewal: starting log streaming at {position} "
                              r"\(timeline 1\)\n")
        finished = re.findall(rf"finished segment at {position} \(timeline 1\)", result.err)
        self.assertEqual(len(finished), len(self.archive.complete()))
        self.assertRegex(result.err, rf"stopped log streaming at {position} \(timeline 1\)\n"
                              r"pgstow receivewal: received interrupt signal, exiting\n\Z")

    def test_stopped_in_the_background_of_a_script(self):
        """A shell starts such jobs with SIGINT ignored: it ends them all the same, as in stock."""
        ignoring = ["sh", "-c", "trap '' INT TERM HUP; exec \"$@\"", "sh"]
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(number):
                command = [*ignoring, pgstow_path(), "receivewal", "-D", self.archive.path, "-v"]
                with Background(command, env=self.server.env()) as receiver:
                    receiver.wait_for_err("starting log streaming")
                    receiver.send_signal(signal.SIGHUP)
                    result = receiver.stop(number)
                    self.assertEqual(result.rc, 0, result)
                    self.assertIn("stopped log streaming", result.err)

    def test_stopped_and_started_again(self):
        """Each stop keeps all that was received; each start goes on without a gap."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL):
            with self.subTest(number), self.streaming() as receiver:
                with self.server.pgbench_load() as load:
                    load.wait_transactions(20)
                    last = self.fill_segment()
                    load.wait_transactions(20)
                    load.stop()
                self.wait_for_segment(last)
                position = self.catch_up()
                before = {name: self.archive.path.joinpath(name).stat().st_mtime_ns
                          for name in self.archive.complete()}
                result = receiver.stop(number)
                self.assertEqual(result.rc, -number if number == signal.SIGKILL else 0, result)
                self.assertLess(result.seconds, 30)
                self.assertTrue(self.archive.has(position))
                self.assertTrue(self.archive.partial().exists())
                self.fill_segment()
                self.fill_segment()
        with self.streaming() as receiver:
            self.wait_for_segment(self.fill_segment())
            self.stop(receiver)
        self.assert_same_as_server()
        after = {name: self.archive.path.joinpath(name).stat().st_mtime_ns for name in before}
        self.assertEqual(before, after)

    def test_stopped_in_a_flood(self):
        """More comes than can be written at once: what is on its way to the disk gets there."""
        self.server.sql("CREATE TABLE flood (v text)")
        self.addCleanup(self.server.sql, "DROP TABLE flood")
        psql = [STOCK_BIN / "psql", "-X", "-q", "-c",
                "INSERT INTO flood SELECT repeat('x', 1000) FROM generate_series(1, 100000)"]
        for _ in range(3):
            with self.streaming() as receiver, Background(psql, env=self.server.env()) as flood:
                wait_until(self.archive.complete, "a segment")
                self.assertIn("stopped log streaming at", self.stop(receiver).err)
                flood.wait()
        with self.streaming() as receiver:
            self.wait_for_segment(self.fill_segment())
            self.stop(receiver)
        self.assert_same_as_server()

    def test_stops_at_once(self):
        """On an idle server, before anything has come, and twice."""
        self.fill_segment()
        with self.streaming() as receiver:
            started = time.monotonic()
            receiver.send_signal(signal.SIGINT)
            self.stop(receiver, signal.SIGTERM)
            self.assertLess(time.monotonic() - started, 4)

    def test_end_position(self):
        start = self.flushed(self.server)
        segments = [self.fill_segment() for _ in range(2)]
        with self.server.pgbench_load() as load:
            load.wait_transactions(10)
            load.stop()
        middle = self.flushed(self.server) - 100
        with self.subTest("in the future"), self.receiver("-E", "F/0") as receiver:
            receiver.wait_for_err("starting log streaming")
            self.catch_up()
            self.assertTrue(receiver.is_running())
            self.stop(receiver)
        with self.subTest("reached already"):
            result = self.receive_until(middle)
            self.assertIn("stopped log streaming at", result.err)
            self.assertNotIn("interrupt", result.err)
            self.assertTrue(self.archive.has(middle + 1))
        with self.subTest("reached later"), self.receiver("-E", self.lsn(middle + 8 * MB)) as later:
            later.wait_for_err("starting log streaming")
            self.assertTrue(later.is_running())
            self.fill_segment()
            self.assertEqual(later.wait().rc, 0)
        with self.subTest("before the first segment"), ScratchDir() as directory:
            self.archive = Archive(directory)
            self.receive_until(start)
            self.assertEqual(self.archive.complete(), [])
        self.assertEqual(len(segments), 2)

    @staticmethod
    def lsn(number):
        return f"{number >> 32:X}/{number & 0xFFFFFFFF:X}"

    def receive_until(self, position):
        return pgstow("receivewal", "-D", self.archive.path, "-v", "-E", self.lsn(position),
                      env=self.server.env()).check()

    def test_exactly_at_the_end(self):
        """The end position itself is wanted too: it takes one more byte."""
        self.fill_segment()
        self.server.sql("CHECKPOINT")
        end = self.flushed(self.server)
        with self.receiver("-E", self.lsn(end)) as receiver:
            receiver.wait_for_err("starting log streaming")
            wait_until(lambda: self.archive.has(end), "the WAL so far")
            self.fill_segment()
            self.assertEqual(receiver.wait().rc, 0)
        self.assertTrue(self.archive.has(end + 1))

    def test_without_sync(self):
        with self.streaming("--no-sync") as receiver:
            last = self.fill_segment()
            self.wait_for_segment(last)
            self.stop(receiver)
        self.assert_same_as_server()

    def test_small_segments(self):
        if self.major < 11:
            self.skipTest("initdb --wal-segsize came with 11")
        self.archive.segment_size = MB
        with Server(self.major, initdb_args=["--wal-segsize=1"], **keep_wal(self.major)) as server:
            with self.streaming(server=server) as receiver:
                server.pgbench_init(scale=2)
                last = self.fill_segment(server)
                self.wait_for_segment(last)
                self.stop(receiver)
            self.assertGreater(len(self.archive.complete()), 20)
            self.assert_same_as_server(server=server)

    def test_group_access(self):
        if self.major < 11:
            self.skipTest("group access came with 11")
        with Server(self.major, initdb_args=["--allow-group-access"]) as server:
            with self.streaming(server=server) as receiver:
                self.wait_for_segment(self.fill_segment(server))
                self.catch_up(server)
                self.stop(receiver)
        for name in self.archive.names():
            self.assertEqual(oct((self.archive.path / name).stat().st_mode), "0o100640", name)

    def test_takes_over_from_stock_and_back(self):
        if self.major > STOCK_MAJOR:
            self.skipTest("the stock tool here is older than the server")
        command = ["pg_receivewal", "-D", self.archive.path]
        for _ in range(2):
            last = self.fill_segment()
            stock(*command, "-E", self.lsn(self.flushed(self.server) - 10),
                  env=self.server.env()).check()
            with self.streaming() as receiver:
                last = self.fill_segment()
                self.wait_for_segment(last)
                self.catch_up()
                self.stop(receiver)
        self.assert_same_as_server()


@for_each_major(since=STOCK_MAJOR, until=STOCK_MAJOR)
class Directories(StreamingTestCase):
    """What may be in the directory, and what it may be."""

    def refused(self, *args, directory=None, env=None):
        result = pgstow("receivewal", "-D", directory or self.archive.path, *args, timeout=20,
                        env=self.server.env() | (env or {}))
        self.assertEqual(result.rc, 1, result)
        self.assertEqual(len(errors(result)), 1, result)
        return errors(result)[0]

    def test_wrong_directory(self):
        nowhere = self.archive.path / "nowhere"
        self.assertEqual(self.refused(directory=nowhere),
                         f'could not open directory "{nowhere}": No such file or directory')
        self.assertFalse(nowhere.exists())
        nowhere.write_text("a file")
        self.assertEqual(self.refused(directory=nowhere),
                         f'could not open directory "{nowhere}": Not a directory')

    def test_directory_that_cannot_be_written(self):
        self.archive.path.chmod(0o500)
        self.write()
        self.assertRegex(self.refused(), "could not (open|create) file .*: Permission denied")

    def test_foreign_files_do_not_confuse(self):
        """Names that sort behind segments, look like them, or are almost right."""
        self.fill_segment()
        timeline_and_log = self.server.value("SELECT pg_walfile_name(pg_current_wal_lsn())")[:16]
        strays = [
            "backup_label", "x.tmp", "zzz", ".hidden", "00000009.history", "RECOVERYHISTORY",
            f"{timeline_and_log}000000ff",  # lower case
            f"{timeline_and_log}00000100",  # beyond the last segment of a log file
            f"{timeline_and_log}000000FF.tmp",
            f"{timeline_and_log}000000FF.partial.tmp",
            f"{timeline_and_log}000000FF.00000028.backup",
            f"{timeline_and_log}000000FFF",
            f"{timeline_and_log}000000F",
            f" {timeline_and_log}000000F",
            f"ffffffff{timeline_and_log[8:]}000000ff",
            "Z" * 24,
        ]
        for name in strays:
            path = self.archive.path / name
            path.write_text(f"this is {name}")
            run(["truncate", "-s", SEGMENT_SIZE, path], user="root").check()
        (self.archive.path / f"{timeline_and_log}000000FE.dir").mkdir()
        with self.streaming() as receiver:
            self.wait_for_segment(self.fill_segment())
            self.stop(receiver)
        with self.streaming() as receiver:
            self.wait_for_segment(self.fill_segment())
            self.catch_up()
            self.assertNotIn("warning", self.stop(receiver).err)
        self.assert_same_as_server()
        self.assertEqual(len(self.archive.complete()), 2)
        for name in strays:
            with (self.archive.path / name).open() as file:
                self.assertEqual(file.read(len(name) + 8), f"this is {name}")

    def test_wrong_size(self):
        """A complete name with a wrong size is no segment, but nothing to overwrite either."""
        with self.streaming() as receiver:
            first = self.fill_segment()
            second = self.fill_segment()
            self.wait_for_segment(second)
            self.stop(receiver)
        for partial in self.archive.path.glob("*.partial"):
            partial.unlink()
        broken = self.archive.path / second
        run(["truncate", "-s", "1000", broken], user="root").check()
        aside = broken.with_name(f"{second}.damaged")
        with self.streaming() as receiver:
            wait_until(aside.exists, "the broken segment to be set aside")
            self.wait_for_segment(second)
            result = self.stop(receiver)
        reason = "size is 1000, expected 16777216"
        self.assertIn(f'warning: segment file "{broken}" is damaged, skipping: {reason}\n',
                      result.err)
        self.assertIn(f'warning: file "{broken}" is not the segment that its name says: '
                      f'renamed it to "{aside}": {reason}\n', result.err)
        self.assertEqual(aside.stat().st_size, 1000)
        self.assertIn(first, self.archive.complete())
        self.assert_same_as_server()

    def test_spelled_in_another_way(self):
        """A relative path, with a slash behind it, through a link."""
        run(["mkdir", self.archive.path / "real"]).check()
        (self.archive.path / "link").symlink_to("real")
        self.write()
        position = self.flushed(self.server)
        with Background([pgstow_path(), "receivewal", "-D", "link/"], cwd=self.archive.path,
                        env=self.server.env()) as receiver:
            self.archive = Archive(self.archive.path / "real")
            wait_until(lambda: self.archive.has(position), "the WAL so far")
            self.assertEqual(self.stop(receiver).err, "")

    def test_ahead_of_the_server(self):
        """As when the server was restored from a backup: this is not its archive any more."""
        (self.archive.path / "00000001000000AA00000011").write_bytes(bytes(SEGMENT_SIZE))
        self.write()
        result = self.receiver("-n").wait()
        self.assertEqual(result.rc, 1, result)
        self.assertRegex(errors(result)[0], "the archive ends at AA/11000000 on timeline 1, but the "
                                            r"server has WAL up to 0/\S+ only")
        self.assertEqual(self.archive.names(), ["00000001000000AA00000011"])

    def test_compressed(self):
        """By another program, and perhaps damaged: what is good is kept, and gone on behind."""
        with self.streaming() as receiver:
            first, second = self.fill_segment(), self.fill_segment()
            self.wait_for_segment(second)
            self.stop(receiver)
        run(["gzip", self.archive.path / first, self.archive.path / second], user="root").check()
        with self.streaming() as receiver:
            third = self.fill_segment()
            self.wait_for_segment(third)
            self.assertNotIn("warning", self.stop(receiver).err)
        self.assertEqual(self.archive.complete(), [third])

        (self.archive.path / third).unlink()
        broken = self.archive.path / f"{second}.gz"
        broken.write_text("by another program")
        with self.streaming() as receiver:
            self.wait_for_segment(third)
            result = self.stop(receiver)
        self.assertIn(f'warning: segment file "{broken}" is damaged, skipping: ', result.err)
        self.assertEqual(self.archive.complete(), [second, third])
        self.assertTrue((self.archive.path / f"{first}.gz").exists())
        self.assert_same_as_server()

    def test_longer_partial_than_the_new_one(self):
        """A .partial that somebody filled up is written over, and comes out at the right size."""
        with self.streaming() as receiver:
            self.wait_for_segment(self.fill_segment())
            self.write()
            self.catch_up()
            self.stop(receiver)
        run(["truncate", "-s", SEGMENT_SIZE + 5, self.archive.partial()], user="root").check()
        with self.streaming() as receiver:
            self.wait_for_segment(self.fill_segment())
            self.stop(receiver)
        self.assert_same_as_server()

    def test_disk_full(self):
        """It keeps what there is, waits, and goes on when there is room again."""
        with small_filesystem(self, "20M") as directory:
            self.archive = Archive(directory)
            with self.streaming() as receiver:
                first, second = self.fill_segment(), self.fill_segment()
                receiver.wait_for_err("waiting for room")
                self.assert_same_as_server()
                (directory / first).unlink()
                self.wait_for_segment(second)
                receiver.wait_for_err("there is room on the disk again")
                result = self.stop(receiver)
            self.assertEqual(len(errors(result)), 1, result)
            self.assertRegex(errors(result)[0], rf'".*{second}.partial": No space left on device')
            self.assertEqual(result.err.count("waiting for room"), 1, result)
            self.assertEqual(result.err.count("there is room"), 1, result)
            self.assert_same_as_server()

    def test_directory_taken_away(self):
        directory = self.archive.path / "inner"
        run(["mkdir", directory]).check()
        self.archive = Archive(directory)
        with self.streaming() as receiver:
            self.write()
            self.catch_up()
            shutil.rmtree(directory)
            self.fill_segment()
            result = receiver.wait()
        self.assertEqual(result.rc, 1, result)
        self.assertEqual(len(errors(result)), 1, result)
        self.assertIn("No such file or directory", errors(result)[0])


@for_each_major()
class ServerGoes(StreamingTestCase):
    """And comes back; the archive stays whole."""

    def test_shut_down(self):
        """A server that shuts down is not held up, and has given us its last record."""
        for args in ([], ["-s", "0"], ["--no-sync"]):
            with self.subTest(args):
                self.check_shut_down(*args)

    def check_shut_down(self, *args):
        with self.streaming("-n", *args) as receiver:
            self.wait_for_segment(self.fill_segment())
            with self.server.pgbench_load() as load:
                load.wait_transactions(20)
                started = time.monotonic()
                self.server.stop("fast")
            self.assertLess(time.monotonic() - started, 5)
            result = receiver.wait()
        self.assertEqual(result.rc, 1, result)
        self.assertEqual(errors(result)[-1], "disconnected")
        self.assertEqual(len(errors(result)), 2, result)
        self.server.start()
        shutdown = self.server.value("SELECT checkpoint_lsn FROM pg_control_checkpoint()")
        self.assertTrue(self.archive.has(lsn_number(shutdown) + 1), result)
        self.assert_partial_is_the_servers()

    def test_server_killed_and_shut_down(self):
        with self.streaming() as receiver:
            with self.server.pgbench_load() as load:
                load.wait_transactions(20)
                self.server.kill()
            receiver.wait_for_err("disconnected; waiting 0.5 seconds to try again")
            self.assertRegex(receiver.err(), "error: .*(closed the connection unexpectedly|reset)")
            self.server.start()
            self.wait_for_segment(self.fill_segment())
            self.server.stop()
            receiver.wait_for_err("disconnected; waiting 5 seconds to try again")
            started = time.monotonic()
            result = self.stop(receiver, signal.SIGTERM)
            self.assertLess(time.monotonic() - started, 2)
        self.assertEqual(result.err.count("starting log streaming"), 2, result)
        self.server.start()
        with self.streaming() as receiver:
            self.wait_for_segment(self.fill_segment())
            self.stop(receiver)
        self.assert_same_as_server()


@for_each_major(since=STOCK_MAJOR, until=STOCK_MAJOR)
class NetworkGoes(StreamingTestCase):
    """At any byte."""

    def test_no_server_at_first(self):
        """Rather a mistake in the options than a server that is away: it ends."""
        for args in ([], ["-n"]):
            result = pgstow("receivewal", "-D", self.archive.path, "-h", "127.0.0.1", "-p", "1",
                            *args, timeout=20)
            self.assertEqual(result.rc, 1, result)
            self.assertEqual(len(errors(result)), 1, result)
            self.assertIn("Connection refused", errors(result)[0])

    def test_connection_cut(self):
        """Anywhere: the next run goes on from there."""
        cuts = [50, 400, 450, 500, 700, 1_000, 70_000, 5_000_000, 16_777_300, 20_000_000]
        with self.server.pgbench_load() as load:
            load.wait_transactions(10)
            for number, after in enumerate(cuts):
                self.fill_segment()
                self.fill_segment()
                with self.subTest(after=after), Proxy(self.server.port) as proxy:
                    proxy.cut(after=after, reset=number % 2 == 1)
                    result = self.receiver("-n", env=proxy.env()).wait()
                    self.assertTrue(proxy.fault_happened(timeout=0))
                    self.assertEqual(result.rc, 1, result)
                    self.assertIn(len(errors(result)), (1, 2), result)
            load.stop()
        with self.streaming() as receiver:
            self.wait_for_segment(self.fill_segment())
            self.catch_up()
            self.stop(receiver)
        self.assert_same_as_server()
        self.assertGreaterEqual(len(self.archive.complete()), 3)

    def test_what_came_before_a_cut_is_kept(self):
        """It may be the only copy: the server may never come back."""
        for after in (1_000_000, 3_000_000, 9_000_000):
            with self.subTest(after), ScratchDir() as directory, Proxy(self.server.port) as proxy:
                self.archive = Archive(directory)
                proxy.cut(after=after)
                self.fill_segment()
                with self.streaming("-n", env=proxy.env()) as receiver:
                    # What is sent to a connection that is closed takes what was not read with it:
                    # the first status must be under way before the cut.
                    self.write()
                    self.catch_up()
                    self.write_much()
                    self.assertEqual(receiver.wait().rc, 1)
                # The last message may be incomplete.
                self.assertGreater(len(self.archive.received_of_partial()), after - 150_000)
                self.assert_partial_is_the_servers()

    def test_reconnects_through_a_broken_network(self):
        with Proxy(self.server.port) as proxy:
            proxy.cut(after=3_000_000, connection=0)
            with self.streaming(env=proxy.env()) as receiver:
                last = self.fill_segment()
                receiver.wait_for_err("disconnected; waiting 0.5 seconds to try again")
                self.wait_for_segment(last)
                self.stop(receiver)
            self.assertEqual(proxy.connection_count(), 2)
        self.assert_same_as_server()

    def test_stopped_while_connecting(self):
        """The server accepts the connection and says nothing."""
        with Proxy(self.server.port) as proxy:
            proxy.stall(after=0)
            with self.receiver(env=proxy.env()) as receiver:
                self.assertTrue(proxy.fault_happened())
                started = time.monotonic()
                self.stop(receiver)
                self.assertLess(time.monotonic() - started, 2)
        self.assertEqual(self.archive.names(), [])

    def test_impatient_server(self):
        """One that wants to hear from us often, but hears of nothing but its own questions."""
        self.server.configure(wal_sender_timeout="1s")
        self.addCleanup(self.server.configure, wal_sender_timeout="60s")
        self.server.wait_for("current_setting('wal_sender_timeout') = '1s'")
        for args in (["-s", "10"], ["-s", "0"]):
            with self.subTest(args), self.streaming(*args) as receiver:
                time.sleep(2.5)
                self.wait_for_segment(self.fill_segment())
                self.assertNotIn("disconnected", self.stop(receiver).err)
        self.assert_same_as_server()

    def test_stopped_while_the_server_is_silent(self):
        with Proxy(self.server.port) as proxy:
            proxy.stall(after=3_000_000)
            with self.streaming(env=proxy.env()) as receiver:
                self.write_much()
                self.assertTrue(proxy.fault_happened())
                # What has come is written, although the stream stands still.
                wait_until(lambda: len(self.archive.received_of_partial()) > 2_500_000, "its data")
                started = time.monotonic()
                self.stop(receiver)
                self.assertLess(time.monotonic() - started, 10)
        self.assert_partial_is_the_servers()


@for_each_major()
class Slots(StreamingTestCase):
    """A slot makes the server keep what is not on our disk yet, and no more."""

    def slot(self, *args):
        return pgstow("receivewal", "-S", "ours", *args, env=self.server.env())

    def tearDown(self):
        self.server.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                        " WHERE NOT active")

    def restart_lsn(self):
        return lsn_number(
            self.server.value("SELECT coalesce(restart_lsn, '0/0') FROM pg_replication_slots"))

    def test_created_and_dropped(self):
        self.assertEqual(self.slot("--create-slot").check().err, "")
        self.assertEqual(self.server.sql("SELECT slot_name, slot_type, restart_lsn"
                                         " FROM pg_replication_slots"),
                         [["ours", "physical", ""]])
        again = self.slot("--create-slot")
        self.assertEqual(again.rc, 1)
        self.assertRegex(errors(again)[0], 'replication slot "ours" already exists')
        self.slot("--create-slot", "--if-not-exists").check()
        self.slot("--drop-slot").check()
        self.assertEqual(self.server.sql("SELECT FROM pg_replication_slots"), [])
        gone = self.slot("--drop-slot")
        self.assertEqual(gone.rc, 1)
        self.assertRegex(errors(gone)[0], 'replication slot "ours" does not exist')

    def test_bad_name(self):
        result = pgstow("receivewal", "-S", "No good; name", "--create-slot",
                        env=self.server.env())
        self.assertEqual(result.rc, 1)
        self.assertRegex(errors(result)[0], "replication slot name .* contains invalid character")

    def test_slot_that_does_not_exist(self):
        result = self.receiver("-n", "-S", "nowhere").wait()
        self.assertEqual(result.rc, 3)
        self.assertRegex(errors(result)[0], 'replication slot "nowhere" does not exist')

    def test_in_use(self):
        self.slot("--create-slot").check()
        with self.streaming("-S", "ours") as receiver, ScratchDir() as directory:
            self.server.wait_for("(SELECT active FROM pg_replication_slots)")
            second = self.receiver("-n", "-S", "ours", archive=Archive(directory)).wait()
            self.assertEqual(second.rc, 1, second)
            self.assertRegex(errors(second)[0], 'replication slot "ours" is active for PID')
            self.stop(receiver)

    def test_never_ahead_of_the_disk(self):
        self.slot("--create-slot").check()
        with self.streaming("-S", "ours") as receiver, self.server.pgbench_load() as load:
            seen = set()
            for _ in range(6):
                load.wait_transactions(5)
                last = self.fill_segment()
                for _ in range(4):
                    position = self.restart_lsn()
                    self.assertTrue(position == 0 or self.has_up_to(position), position)
                    seen.add(position)
            self.wait_for_segment(last)
            end = self.server.value("SELECT pg_current_wal_insert_lsn()")
            end = lsn_number(end) // SEGMENT_SIZE * SEGMENT_SIZE
            # What is complete is synced, and what is synced is told.
            wait_until(lambda: self.restart_lsn() >= end, "the slot to move on")
            load.stop()
            self.stop(receiver)
        self.assertGreater(len(seen), 2)
        self.assertTrue(self.has_up_to(self.restart_lsn()))
        self.assert_same_as_server()

    def has_up_to(self, position):
        """Behind a switch, all the rest of a segment is zeros."""
        if self.archive.has(position):
            return True
        name = self.archive.segment_name(1, position - 1)
        end = (position - 1) % SEGMENT_SIZE + 1
        original = (self.server.data_dir / "pg_wal" / name).read_bytes()
        partial = self.archive.path / f"{name}.partial"
        return not any(original[max(0, end - LAST_BYTES):end]) and partial.exists()

    def test_without_sync_it_stays(self):
        self.slot("--create-slot").check()
        with self.streaming("-S", "ours", "--no-sync") as receiver:
            self.wait_for_segment(self.fill_segment())
            self.wait_for_segment(self.fill_segment())
            self.stop(receiver)
        first = self.archive.complete()[0]
        position = self.restart_lsn()
        if position:  # since 15 or so a slot reserves WAL when it is first used
            self.assertEqual(self.archive.segment_name(1, position), first)

    def test_begins_where_the_slot_is(self):
        if self.major < SLOT_POSITIONS_SINCE:
            self.skipTest("the server cannot tell the slot's position")
        self.server.sql("SELECT pg_create_physical_replication_slot('ours', true)")
        kept = self.archive.segment_name(1, self.restart_lsn())
        self.fill_segment()
        last = self.fill_segment()
        with self.streaming("-S", "ours") as receiver:
            self.wait_for_segment(last)
            self.stop(receiver)
        self.assertEqual(self.archive.complete()[0], kept)
        self.assert_same_as_server()

    def test_wal_that_is_gone(self):
        """What the server has removed it says; this ends it, loop or not."""
        with Server(self.major, max_wal_size="32MB", min_wal_size="32MB") as server:
            with self.streaming(server=server) as receiver:
                self.wait_for_segment(self.fill_segment(server))
                self.stop(receiver)
            for _ in range(3):
                self.fill_segment(server)
                server.sql("CHECKPOINT")
            result = self.receiver(server=server).wait()
        self.assertEqual(result.rc, 3, result)
        self.assertRegex(errors(result)[-1], r"the server does not have WAL from \S+ to \S+ "
                         r"\(timeline 1, \d+ segments?\) any more: .*"
                         "requested WAL segment .* has already been removed")


class BackupTestCase(StreamingTestCase):
    """With backups and standbys of the server."""

    def setUp(self):
        super().setUp()
        self.scratch = self.enterContext(ScratchDir())

    def backup(self, name, *args):
        target = self.scratch / name
        pgstow("basebackup", "-D", target, "-c", "fast", *args, env=self.server.env()).check()
        return target

    def start_standby(self):
        return self.enterContext(
            self.server.start_standby(self.backup("standby"), **keep_wal(self.major)))

    def wait_for_replay(self, standby):
        """Waits until a standby has replayed all that its primary has written so far."""
        position = self.server.value("SELECT pg_current_wal_flush_lsn()")
        standby.wait_for(f"pg_last_wal_replay_lsn() >= '{position}'")

    def assert_histories(self, standby, *timelines, archive=None):
        archive = archive or self.archive
        for timeline in timelines:
            name = f"{timeline:08X}.history"
            self.assertEqual((archive.path / name).read_bytes(),
                             (standby.data_dir / "pg_wal" / name).read_bytes())
        self.assertEqual(len(list(archive.path.glob("*.history"))), len(timelines))
        self.assertEqual(list(archive.path.glob("*.tmp")), [])

    def partial_timelines(self, archive=None):
        return sorted(int(path.name[:8], 16)
                      for path in (archive or self.archive).path.glob("*.partial"))


@for_each_major()
class Recovery(BackupTestCase):
    """An archive is there to be recovered from."""

    def test_to_the_last_commit(self):
        with self.streaming() as receiver:
            with self.server.pgbench_load() as load:
                load.wait_transactions(20)
                target = self.backup("backup", "-X", "none")
                self.fill_segment()
                load.wait_transactions(20)
                load.stop()
            self.server.sql("CREATE TABLE last AS SELECT 'last' AS commit")
            self.catch_up()
            self.stop(receiver)
        self.archive.make_usable()
        with self.server.start_recovered(target, self.archive.path) as copy:
            self.assertEqual(copy.data_digest(), self.server.data_digest())
            self.assertEqual(copy.value("SELECT commit FROM last"), "last")
            self.assertTrue(copy.pgbench_is_consistent())

    def test_promotion_is_followed(self):
        """By a receiver that streams from the standby, and by one that was away meanwhile."""
        standby = self.start_standby()
        away = Archive(self.enterContext(ScratchDir()))
        before = Archive(self.enterContext(ScratchDir()))

        with self.streaming(archive=before) as first, \
                self.streaming(server=standby, archive=away) as second:
            receiver = self.enterContext(self.streaming(server=standby))
            with self.server.pgbench_load() as load:
                base = self.backup("base", "-X", "none")
                self.wait_for_segment(self.fill_segment())
                load.wait_transactions(20)
                load.stop()
            position = self.catch_up(archive=before)
            for archive in (self.archive, away):
                wait_until(lambda: archive.has(position), "WAL from the standby")
            self.stop(first)
            self.stop(second)

        standby.promote()
        receiver.wait_for_err(r"switched to timeline 2 at [0-9A-F]+/[0-9A-F]+$")
        with standby.pgbench_load() as load:
            load.wait_transactions(20)
            last = self.fill_segment(standby)
            load.wait_transactions(20)
            load.stop()
        standby.sql("CREATE TABLE last AS SELECT 'on timeline 2' AS commit")
        self.assertEqual(last[:8], "00000002")

        with self.streaming(server=standby, archive=away) as second:
            for archive, program in ((self.archive, receiver), (away, second)):
                self.wait_for_segment(last, archive)
                self.catch_up(standby, archive, timeline=2)
                self.stop(program)
                self.assert_followed(archive, standby)

        # Once more: it goes on where the archive ends, on timeline 2.
        with self.streaming(server=standby) as receiver:
            last = self.fill_segment(standby)
            self.wait_for_segment(last)
            self.write(standby)
            self.catch_up(standby, timeline=2)
            self.assertRegex(receiver.err(), r"starting log streaming at \S+ \(timeline 2\)")
            self.stop(receiver)
        self.assert_followed(self.archive, standby)

        self.archive.make_usable()
        with standby.start_recovered(base, self.archive.path) as copy:
            self.assertEqual(copy.data_digest(), standby.data_digest())
            self.assertEqual(copy.value("SELECT commit FROM last"), "on timeline 2")

    def assert_followed(self, archive, standby):
        self.assert_same_as_server(archive, standby, timelines=(1, 2))
        self.assert_histories(standby, 2, archive=archive)
        self.assertEqual(self.partial_timelines(archive), [1, 2])


@for_each_major(since=STOCK_MAJOR)
class Timelines(BackupTestCase):
    """Switches that are harder to follow."""

    def test_at_the_end_of_a_segment(self):
        """Nothing of the next segment is on timeline 1."""
        standby = self.start_standby()
        away = Archive(self.enterContext(ScratchDir()))
        with self.streaming(server=standby) as receiver:
            with self.streaming(server=standby, archive=away) as second:
                last = self.fill_segment()
                self.wait_for_replay(standby)
                for archive in (self.archive, away):
                    self.wait_for_segment(last, archive)
                self.stop(second)
            self.server.kill()
            standby.promote()
            last = self.fill_segment(standby)
            self.wait_for_segment(last)
            self.stop(receiver)
        with self.streaming(server=standby, archive=away) as second:
            self.wait_for_segment(last, away)
            self.stop(second)
        for archive in (self.archive, away):
            self.assert_same_as_server(archive, standby, timelines=(1, 2))
            self.assert_histories(standby, 2, archive=archive)
            self.assertNotIn(1, self.partial_timelines(archive))

    def test_several_at_once(self):
        """A receiver that was away for two promotions follows them one after the other."""
        standby = self.start_standby()
        with self.streaming(server=standby) as receiver:
            self.wait_for_segment(self.fill_segment())
            self.write()
            self.wait_for_replay(standby)
            self.catch_up()
            self.stop(receiver)
        standby.promote()
        self.fill_segment(standby)
        self.write(standby)
        standby.stop()
        run(["touch", standby.data_dir / "standby.signal"]).check()
        standby.start()
        standby.promote()
        last = self.fill_segment(standby)
        self.write(standby)
        with self.streaming(server=standby) as receiver:
            self.wait_for_segment(last)
            self.catch_up(standby, timeline=3)
            result = self.stop(receiver)
        self.assertEqual(re.findall(r"switched to timeline (\d+)", result.err), ["2", "3"])
        self.assert_same_as_server(server=standby, timelines=(1, 2, 3))
        self.assert_histories(standby, 2, 3)
        self.assertEqual(self.partial_timelines(), [1, 2, 3])

    def test_failover_that_lost_wal(self):
        """The archive has more of timeline 1 than the standby that became the primary."""
        standby = self.start_standby()
        self.fill_segment()
        self.write()
        self.wait_for_replay(standby)
        standby.stop()
        ahead = Archive(self.enterContext(ScratchDir()))
        with self.streaming() as receiver, self.streaming(archive=ahead) as second:
            self.write()
            lost = self.catch_up()
            self.stop(receiver)
            beyond = self.fill_segment()
            self.wait_for_segment(beyond, ahead)
            self.stop(second)
        self.server.kill()
        standby.start()
        standby.promote()
        last = self.fill_segment(standby)

        # Within one segment it is followed; what was lost stays, as a partial segment.
        with self.streaming(server=standby) as receiver:
            self.wait_for_segment(last)
            self.stop(receiver)
        self.assert_histories(standby, 2)
        self.assertTrue(self.archive.has(lost))
        self.assertEqual([name[:8] for name in self.archive.complete()], ["00000002"])
        self.assertIn(1, self.partial_timelines())

        # Beyond that too: what was lost keeps its name.
        before = {name: (ahead.path / name).read_bytes() for name in ahead.complete()}
        with self.streaming(server=standby, archive=ahead) as receiver:
            last = self.fill_segment(standby)
            self.wait_for_segment(last, ahead)
            result = self.stop(receiver)
        self.assertRegex(result.err, r"warning: the archive ends at \S+ on timeline 1, but timeline "
                                     r"2 begins at \S+ already: following timeline 2 from there\n")
        self.assert_histories(standby, 2, archive=ahead)
        self.assertEqual([name[:8] for name in ahead.complete()],
                         ["00000001"] * len(before) + ["00000002"] * 2)
        for name, content in before.items():
            self.assertEqual((ahead.path / name).read_bytes(), content)


if __name__ == "__main__":
    unittest.main()
