"""What the stock receiver gets wrong, in directories that it left behind and in such made by hand.

And how a receiver is watched: its status file, and what it tells the service manager.
"""

import contextlib
import json
import os
import re
import signal
import socket
import struct
import threading
import unittest

from harness import (
    Proxy,
    ScratchDir,
    Server,
    for_each_major,
    run,
    stock,
    wait_until,
)
from harness.run import PLAIN_USER, STOCK_BIN
from harness.servers import REPOSITORY
from harness.wal import MB, keep_wal, lsn_text
from harness.waltest import (
    DirectoryWatch,
    Mark,
    WalArchiveTestCase,
    begin_timeline,
    errors,
    warnings,
)
from harness.wire import UNENCRYPTED

STOCK_MAJOR = 15
PAGE_SIZE = 8192
STOCK_COMPRESSIONS = {"gzip": ".gz", "lz4": ".lz4"}
COMPRESSIONS = STOCK_COMPRESSIONS | {"zstd": ".zst"}
TESTERS = {".gz": "gzip", ".lz4": "lz4", ".zst": "zstd"}


def documented_keys():
    """Those of the status file, from the first column of the table in its section."""
    text = (REPOSITORY / "docs/formats.md").read_text()
    [section] = re.findall(r"^## The status file (.*?)(?:^## |\Z)", text, re.MULTILINE | re.DOTALL)
    [table] = re.findall(r"^\| key \|.*\n((?:\|.*\n)*)", section, re.MULTILINE)
    return set(re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in table.splitlines())))


def is_intact(path):
    return run([TESTERS[path.suffix], "-t", "-q", path]).rc == 0


class DefectsTestCase(WalArchiveTestCase):
    """With a server that all tests of the class share."""

    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(cls.major, **keep_wal(cls.major)))

    def stock(self, *args, server=None, archive=None):
        """Has the stock receiver fetch what the server has so far, and returns where that ends; it
        leaves a partial segment.
        """
        server, archive = server or self.server, archive or self.archive
        self.write(server)
        end = self.flushed(server)
        stock("pg_receivewal", "-D", archive.path, "-s", "1", *args,
              "-E", lsn_text(end - 8), env=server.env()).check()
        return end

    def ours(self, *args, server=None, archive=None):
        """Has ours go on to the end of the segment and a bit further, self.reached: its Result."""
        server, archive = server or self.server, archive or self.archive
        with self.streaming(server, *args, archive=archive) as receiver:
            self.wait_for_segment(self.fill_segment(server), archive)
            self.write(server)
            self.reached = self.catch_up(server, archive)
            result = self.stop(receiver)
        self.assertEqual(errors(result), [])
        return result

    def assert_good(self, *, damaged=(), archive=None, server=None):
        """What is complete is the server's; of other files, only these were set aside."""
        archive = archive or self.archive
        self.assertEqual(archive.strays(), sorted(f"{path.name}.damaged" for path in damaged))
        for path in damaged:
            path.with_name(f"{path.name}.damaged").unlink()
        self.assert_same_as_server(server or self.server, archive)
        for path in archive.complete().values():
            if path.suffix:
                self.assertTrue(is_intact(path), path)
        leftovers = set(archive.partials()) & set(archive.complete())
        self.assertEqual(leftovers, set())


@for_each_major(since=STOCK_MAJOR, until=STOCK_MAJOR)
class LeftByStock(DefectsTestCase):
    """A directory that the stock receiver has worked in."""

    def leave_long_partial(self, method, extension):
        """A compressed partial segment that is longer than what the next attempt makes of it."""
        self.fill_segment(self.server)
        self.write(self.server, 30_000)
        self.stock("-Z", f"{method}:1", "--synchronous")
        [path] = self.archive.path.glob(f"*{extension}.partial")
        return path

    def test_stale_tail_in_partial(self):
        for method, extension in STOCK_COMPRESSIONS.items():
            with self.subTest(method):
                self.archive = self.new_archive()
                partial = self.leave_long_partial(method, extension)
                mark = Mark(self.server)
                self.ours("-Z", method)
                [(start, _)] = mark.starts()
                self.assertNotEqual(start % self.archive.segment_size, 0)
                self.assertEqual(list(self.archive.path.glob(f"*{extension}.partial")), [])
                self.assertIn(partial.with_suffix("").name, self.archive.names())
                self.assert_good()

    def test_stale_tail_in_complete_segment(self):
        for method, extension in STOCK_COMPRESSIONS.items():
            with self.subTest(method):
                self.archive = self.new_archive()
                damaged = self.leave_long_partial(method, extension).with_suffix("")
                self.server.sql("SELECT pg_switch_wal()")
                self.stock("-Z", f"{method}:9")
                self.assertFalse(is_intact(damaged))
                result = self.ours("-Z", method)
                self.assertIn(str(damaged), "\n".join(warnings(result)))
                self.assert_good(damaged=[damaged])

    def test_damaged_newest_segment(self):
        """Of whichever compression: it is fetched again, and what was there is kept aside."""
        def cut(size):
            return lambda data: data[:size]

        def half(data):
            return data[:len(data) // 2]

        damages = {
            "gzip": {
                "3 bytes": cut(3),
                "nothing": cut(0),
                "half": half,
                "without its last byte": cut(-1),
            },
            "lz4": {
                "something else": lambda data: b"garbage" * 1000,
                "with a changed byte": lambda data: data[:1000] + bytes([data[1000] ^ 1])
                                       + data[1001:],
                "without its end mark": cut(-4),
            },
            "zstd": {"nothing": cut(0), "half": half},
        }
        for method in damages:
            archive = self.make_archive(method)
            for name, damage in damages[method].items():
                with self.subTest(f"{method}: {name}"):
                    self.check_damaged_newest(method, archive, damage)

    def check_damaged_newest(self, method, archive, damage):
        path = self.damaged_newest(archive, damage)
        mark = Mark(self.server)
        with self.streaming(self.server, "-Z", method) as receiver:
            self.wait_for_segment(path.name[:24])
            self.catch_up(self.server)
            result = self.stop(receiver)
        number = self.archive.segment_number(path.name)
        self.assertEqual([start for start, _ in mark.starts()],
                         [number * self.archive.segment_size])
        self.assertEqual(len(warnings(result)), 2, result)  # as it begins, and when set aside
        self.assertIn(f'"{path}"', warnings(result)[0])
        self.assertIn(f'"{path}.damaged"', warnings(result)[1])
        self.assert_good(damaged=[path])

    def make_archive(self, method):
        """Of a few segments, by stock if it can."""
        archive = self.new_archive()
        for _ in range(2):
            if method in STOCK_COMPRESSIONS:
                self.stock("-Z", method, archive=archive)
                self.fill_segment(self.server)
            else:
                self.ours("-Z", method, archive=archive)
        return archive

    def damaged_newest(self, archive, damage):
        """Takes a copy that has no partial segment, so that only the newest complete one says
        where to go on, and damages that.
        """
        self.archive = self.new_archive()
        run(["cp", "-a", f"{archive.path}/.", self.archive.path]).check()
        for partial in self.archive.path.glob("*.partial"):
            partial.unlink()
        path = list(self.archive.complete().values())[-1]
        path.write_bytes(damage(path.read_bytes()))
        return path

    def test_odd_sizes_of_partial(self):
        """As a crash leaves them: zeros, or the beginning of the segment and then nothing."""
        segment = self.fill_segment(self.server)
        whole = (self.server.data_dir / "pg_wal" / segment).read_bytes()
        for content in (b"", bytes(PAGE_SIZE), whole[:PAGE_SIZE], whole[:PAGE_SIZE + 100],
                        whole[:3 * PAGE_SIZE] + bytes(1000), whole[:-1], whole):
            with self.subTest(len(content)):
                self.archive = self.new_archive()
                partial = self.archive.path / f"{segment}.partial"
                partial.write_bytes(content)
                os.chown(partial, PLAIN_USER.pw_uid, PLAIN_USER.pw_gid)
                result = self.ours()
                self.assertEqual(warnings(result), [])
                self.assertEqual(list(self.archive.complete())[0], segment)
                self.assert_good()

    def test_segments_of_8_mb(self):
        with Server(self.major, initdb_args=["--wal-segsize=8"], **keep_wal(self.major)) as server:
            self.archive = self.new_archive(8 * MB)
            self.stock("-Z", "gzip", server=server)
            last = self.fill_segment(server)
            self.stock("-Z", "gzip", server=server)
            # Without a partial segment only the complete one says where to go on.
            for partial in self.archive.path.glob("*.partial"):
                partial.unlink()
            self.assertIn(last, self.archive.complete())
            self.fill_segment(server)
            mark = Mark(server)
            result = self.ours("-Z", "gzip", server=server)
            self.assertEqual(warnings(result), [])
            self.assertEqual([start for start, _ in mark.starts()],
                             [(self.archive.segment_number(last) + 1) * 8 * MB])
            self.assert_good(server=server)

    def test_compressed_history_file(self):
        with Server(self.major, **keep_wal(self.major)) as server:
            begin_timeline(server)
            self.fill_segment(server)
            self.stock("-Z", "gzip", server=server)
            self.assertIn("00000002.history.gz", self.archive.names())
            self.assertNotIn("00000002.history", self.archive.names())
            with self.streaming(server, "-Z", "gzip") as receiver:
                self.wait_for_segment(self.fill_segment(server))
                self.stop(receiver)
            history = "00000002.history"
            self.assertEqual((self.archive.path / history).read_bytes(),
                             (server.data_dir / "pg_wal" / history).read_bytes())
            (self.archive.path / f"{history}.gz").unlink()
            self.assert_same_as_server(server, timelines=(2,))

    def test_taking_turns(self):
        """Each goes on where the other has stopped, whether compressed or not."""
        for args in ((), ("-Z", "gzip"), ("-Z", "lz4")):
            with self.subTest(args):
                self.archive = self.new_archive()
                for _ in range(2):
                    self.fill_segment(self.server)
                    reached = self.stock(*args)
                    mark = Mark(self.server)
                    self.ours(*args)
                    [(start, _)] = mark.starts()
                    self.assertGreaterEqual(start, reached)  # nothing is fetched again
                self.assert_same_as_server(self.server)
                endings = {path.suffix for path in self.archive.complete().values()}
                self.assertEqual(endings, {STOCK_COMPRESSIONS[args[1]] if args else ""})
                # What ours has left is good for stock.
                last = self.fill_segment(self.server)
                self.stock(*args)
                self.assertIn(last, self.archive.complete())
                self.assert_same_as_server(self.server)


@for_each_major(since=STOCK_MAJOR, until=STOCK_MAJOR)
class Directories(DefectsTestCase):
    """What is in the directory, and who else."""

    def test_compression_that_changes(self):
        """From run to run, with levels: each goes on in mid-segment with what the others left."""
        values = ["none", "5", "gzip:level=9", "lz4", "zstd:3", "0", "zstd"]
        endings, self.reached = [], 0
        for value in values:
            mark, reached = Mark(self.server), self.reached
            before = len(self.archive.complete())
            self.ours("-Z", value)
            [(start, _)] = mark.starts()
            self.assertGreaterEqual(start, reached)
            endings += [path.suffix for path in self.archive.complete().values()][before:]
            self.assertEqual(list(self.archive.partials().values()),
                             list(self.archive.path.glob("*.partial")))
        self.assertEqual(endings, ["", ".gz", ".gz", ".lz4", ".zst", "", ".zst"])
        self.assert_good()

    def test_partial_is_never_compressed(self):
        for method in COMPRESSIONS:
            with self.subTest(method):
                self.archive = self.new_archive()
                watch = self.enterContext(DirectoryWatch(self.archive.path))
                with self.streaming(self.server, "-Z", method) as receiver:
                    self.write(self.server)
                    position = self.catch_up(self.server)
                    partial = f"{self.archive.segment_name(position)}.partial"
                    self.assertEqual(self.archive.names(), [partial])
                    last = self.fill_segment(self.server)
                    self.wait_for_segment(last)
                    self.write(self.server)
                    self.catch_up(self.server)
                    self.stop(receiver)
                self.assertNotIn(last, watch.names())
                self.assertIn(f"{last}{COMPRESSIONS[method]}", watch.names())
                self.assertNotIn(f"{last}.partial", self.archive.names())
                self.assert_good()

    def test_two_at_once(self):
        with self.streaming(self.server) as first:
            self.wait_for_segment(self.fill_segment(self.server))
            for _ in range(2):
                second = self.receiver(self.server).wait(timeout=10)
                self.assertEqual(second.rc, 1, second)
                self.assertEqual(len(errors(second)), 1, second)
                self.assertIn(f'directory "{self.archive.path}"', errors(second)[0])
            self.wait_for_segment(self.fill_segment(self.server))
            self.assertEqual(errors(self.stop(first)), [])
        with self.streaming(self.server) as first:
            first.stop(signal.SIGKILL)
        self.ours()
        self.assert_good()

    def test_holes(self):
        """They are told as the program begins; nothing is changed."""
        names = []
        with self.streaming(self.server) as receiver:
            for _ in range(6):
                names.append(self.fill_segment(self.server))
            self.wait_for_segment(names[-1])
            self.stop(receiver)
        for missing in (1, 3, 4):
            (self.archive.path / names[missing]).unlink()
        result = self.ours()
        self.assertEqual(len(warnings(result)), 2, result)
        one, two = warnings(result)
        self.assertIn(names[1], one)
        self.assertNotIn(names[2], one)
        self.assertRegex(two, f"{names[3]}.*{names[4]}")
        for missing in (1, 3, 4):
            original = self.server.data_dir / "pg_wal" / names[missing]
            self.assertNotIn(names[missing], self.archive.complete())
            (self.archive.path / names[missing]).write_bytes(original.read_bytes())
        self.assert_good()

    def test_stray_files(self):
        """Names that look like ours or like those of others, newer than any segment."""
        self.ours()
        newest = list(self.archive.complete())[-1]
        later = f"{newest[:16]}000000FE"
        strays = [
            f"{later}.damaged", f"{later}.partial.damaged", f"{later}.gz.damaged",
            f"{newest}.damaged", f"{later}.gz.tmp", f"{later}.tmp", f"{later}.zst.partial.tmp",
            f"{later}.GZ", f"{later}.gz.gz", f"{later}.partial.gz", f"{later}.bz2",
            f"{later.lower()[:-2]}fe", f"{later.lower()[:-2]}fe.partial", f"{later[:-1]}G.partial",
            "backup_label", "x.tmp", "0000000a.history", "00000002.history.tmp", "archive_status",
        ]
        for name in strays:
            (self.archive.path / name).write_text(f"this is {name}")
        for _ in range(2):
            result = self.ours("-Z", "zstd")
            self.assertEqual(warnings(result), [])
        for name in strays:
            path = self.archive.path / name
            self.assertEqual(path.read_text(), f"this is {name}")
            path.unlink()
        self.assert_good()

    def test_many_files(self):
        """Of 100,000 older segments nothing but the names is wanted."""
        with Server(self.major, **keep_wal(self.major)) as server:
            server.stop()
            run([STOCK_BIN / "pg_resetwal", "-l", "000000010000019000000000",
                 server.data_dir]).check()
            server.start()
            self.ours(server=server)
            number = self.archive.segment_number(list(self.archive.complete())[0])
            older = [self.archive.segment_name(each * self.archive.segment_size)
                     for each in range(number - 100_000, number)]
            for name in older:
                os.close(os.open(self.archive.path / name, os.O_CREAT, mode=0))
            self.fill_segment(server)
            self.write(server)
            mark = Mark(server)
            result = self.receiver(server, "-E", lsn_text(self.flushed(server) - 8)).wait()
            self.assertEqual(result.rc, 0, result)
            self.assertEqual(warnings(result), [])
            [(start, _)] = mark.starts()
            self.assertGreaterEqual(start, self.reached)
            for name in older:
                (self.archive.path / name).unlink()
            self.assert_good(server=server)


@for_each_major(since=STOCK_MAJOR, until=STOCK_MAJOR)
class Running(DefectsTestCase):
    """Signals, positions, and connections that break at a bad moment."""

    def replication_row(self, receiver):
        """What the server knows of this receiver."""
        [row] = self.server.sql("SELECT state, write_lsn, flush_lsn, replay_lsn"
                                " FROM pg_stat_replication")
        self.assertTrue(receiver.is_running())
        return row

    def test_positions_without_sync(self):
        """Nothing is called flushed: not to synchronous commits, and not to a slot."""
        self.server.sql("SELECT pg_create_physical_replication_slot('ours', true)")
        self.addCleanup(self.server.sql, "SELECT pg_drop_replication_slot('ours')")
        restart_lsn = "SELECT restart_lsn FROM pg_replication_slots"
        kept = self.server.value(restart_lsn)
        with self.streaming(self.server, "--no-sync", "-S", "ours") as receiver:
            self.wait_for_segment(self.fill_segment(self.server))
            self.write(self.server)
            position = self.server.value("SELECT pg_current_wal_flush_lsn()")
            self.server.wait_for("EXISTS (SELECT FROM pg_stat_replication"
                                 f" WHERE write_lsn >= '{position}')")
            self.assertEqual(self.replication_row(receiver)[2:], ["", ""])
            self.stop(receiver)
        self.assertEqual(self.server.value(restart_lsn), kept)
        with self.streaming(self.server, "-S", "ours") as receiver:
            self.server.wait_for("EXISTS (SELECT FROM pg_stat_replication"
                                 f" WHERE flush_lsn >= '{position}')")
            self.assertEqual(self.replication_row(receiver)[3], "")
            self.stop(receiver)
        self.assertNotEqual(self.server.value(restart_lsn), kept)
        self.assert_good()

    def test_ends_at_once(self):
        """Without any status interval, on a server that says nothing, at whichever moment."""
        self.write(self.server)
        for number in (signal.SIGTERM, signal.SIGINT):
            for moment in ("starting log streaming", None):
                with self.subTest(number), self.receiver(self.server, "-s", "0") as receiver:
                    receiver.wait_for_err("starting log streaming")
                    if moment is None:
                        self.catch_up(self.server)
                    self.assertEqual(receiver.stop(number, timeout=10).rc, 0)

    def test_refused_after_connecting(self):
        """As by a server that is about to shut down: it is tried again."""
        answers = [("FATAL", "57P01"), ("ERROR", "55000")]
        with Proxy(self.server.port) as proxy:
            port, env = proxy.port, proxy.env() | UNENCRYPTED
            receiver = self.enterContext(self.streaming(self.server, env=env))
            self.catch_up(self.server)
        receiver.wait_for_err("disconnected; waiting")
        with RefusingServer(port, answers) as refusing:
            wait_until(lambda: refusing.refused == len(answers), "connections")
        with Proxy(self.server.port, listen_port=port):
            wait_until(lambda: receiver.err().count("starting log streaming") == 2, "a connection")
            self.wait_for_segment(self.fill_segment(self.server))
            result = self.stop(receiver)
        for _, code in answers:
            self.assertIn(f"no, says {code}", result.err)
        self.assert_good()

    def test_cut_after_connecting(self):
        """Wherever the answers to the first commands break off, it is tried again."""
        with Proxy(self.server.port) as proxy:
            for connection, after in enumerate((500, 600), start=1):
                proxy.cut(after=after, connection=connection, reset=after == 600)
            with self.streaming(self.server, env=proxy.env() | UNENCRYPTED) as receiver:
                self.catch_up(self.server)
                self.server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
                wait_until(lambda: proxy.connection_count() == 4, "the fourth connection")
                self.wait_for_segment(self.fill_segment(self.server))
                result = self.stop(receiver)
        for command in ("SHOW data_directory_mode", "IDENTIFY_SYSTEM"):
            self.assertIn(f'could not send replication command "{command}"', result.err)
        self.assert_good()


@for_each_major(since=STOCK_MAJOR, until=STOCK_MAJOR)
class Watched(DefectsTestCase):
    """By whoever reads the status file, and by the service manager."""

    KEYS = documented_keys()

    def setUp(self):
        super().setUp()
        self.scratch = self.enterContext(ScratchDir())
        self.file = self.scratch / "status"
        if not self.server.is_running():
            self.server.start()

    def status(self):
        """What the file says; whenever it is looked at, it is whole."""
        status = json.loads(self.file.read_text())
        self.assertEqual(set(status), self.KEYS)
        return status

    def wait_for_status(self, **expected):
        def reached():
            status = self.status()
            return all(status[key] == value for key, value in expected.items()) and status

        return wait_until(reached, f"status {expected}")

    def wait_for_refusal(self):
        """Of a server that has gone, the first error is that of the stream that ended."""
        def refused():
            status = self.wait_for_status(state="waiting")
            return "Connection refused" in status["last_error"]["message"] and status

        return wait_until(refused, "an error that says that nobody is there")

    def current_lsn(self):
        return self.server.value("SELECT pg_current_wal_flush_lsn()")

    def test_status_file(self):
        self.server.sql("SELECT pg_create_physical_replication_slot('ours')")
        self.addCleanup(self.server.sql, "SELECT pg_drop_replication_slot('ours')")
        with self.streaming(self.server, "-S", "ours", "--status-file", self.file) as receiver:
            self.wait_for_segment(self.fill_segment(self.server))
            self.write(self.server)
            lsn = self.current_lsn()
            status = self.wait_for_status(flushed_lsn=lsn, state="streaming", lag_bytes=0)
            for key in ("received_lsn", "written_lsn", "server_lsn"):
                self.assertEqual(status[key], lsn)
            self.assertEqual(status["pid"], receiver.pid)
            self.assertEqual(status["directory"], str(self.archive.path))
            self.assertEqual((status["slot"], status["timeline"]), ("ours", 1))
            self.assertEqual(status["server_version"] // 10_000, self.major)
            self.assertEqual(status["system_identifier"], self.server.value(
                "SELECT system_identifier FROM pg_control_system()"))
            self.assertEqual((status["reconnects"], status["last_error"]), (0, None))
            self.assertLess(status["lag_seconds"], 10)

            self.server.kill()
            receiver.wait_for_err("disconnected; waiting 1 second ")
            status = self.wait_for_refusal()
            self.assertEqual(status["flushed_lsn"], lsn)
            for time in (status["last_error"]["time"], status["started_at"], status["updated_at"]):
                self.assertRegex(time, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
            self.assertEqual(sorted([status["started_at"], status["last_error"]["time"],
                                     status["updated_at"]])[0], status["started_at"])

            self.server.start()
            self.write(self.server)
            status = self.wait_for_status(state="streaming", flushed_lsn=self.current_lsn())
            self.assertEqual(status["reconnects"], 1)
            self.assertIn("Connection refused", status["last_error"]["message"])
            self.stop(receiver)
        self.assertEqual(self.status()["state"], "stopped")
        self.assertEqual([path.name for path in self.scratch.iterdir()], ["status"])
        self.assert_good()

    def test_status_of_a_run_that_fails(self):
        with self.streaming(self.server, "-n", "--no-sync", "--status-file",
                            self.file) as receiver:
            self.write(self.server)
            lsn = self.current_lsn()
            status = self.wait_for_status(written_lsn=lsn)
            self.assertIsNone(status["flushed_lsn"])
            self.assertIsNone(status["slot"])
            self.server.kill()
            self.assertEqual(receiver.wait().rc, 1)
        status = self.status()
        self.assertEqual(status["state"], "failed")
        self.assertIsNotNone(status["last_error"])

    def test_status_file_that_cannot_be_written(self):
        """It is a warning: WAL matters more."""
        with self.streaming(self.server, "--status-file", self.scratch / "no/such") as receiver:
            receiver.wait_for_err("warning: .*/no/such")
            self.wait_for_segment(self.fill_segment(self.server))
            result = self.stop(receiver)
        self.assertEqual(len(warnings(result)), 1, result)

    def test_service_manager(self):
        """It hears that we are ready, how we are, and that we are alive, also without a server."""
        with Proxy(self.server.port) as proxy, ServiceManager(self.scratch / "socket") as manager:
            proxy.stall(after=450)
            receiver = self.enterContext(self.receiver(
                self.server, env=proxy.env() | UNENCRYPTED | manager.env()))
            self.assertTrue(proxy.fault_happened())
            wait_until(lambda: manager.count("WATCHDOG=1") >= 2, "signs of life")
            self.assertEqual(manager.count("READY=1"), 0)
            proxy.release()
            wait_until(lambda: manager.count("READY=1"), "READY=1")
            self.assertIn("starting log streaming", receiver.err())
            wait_until(lambda: re.search(r"STATUS=streaming timeline 1 from \S+ on",
                                         manager.said()), "STATUS")
            self.server.kill()
            wait_until(lambda: "STATUS=waiting to try again: " in manager.said(), "STATUS")
            alive = manager.count("WATCHDOG=1")
            wait_until(lambda: manager.count("WATCHDOG=1") >= alive + 3, "signs of life")
            self.assertEqual(manager.count("READY=1"), 1)
            self.assertEqual(manager.count("STOPPING=1"), 0)
            self.stop(receiver)
            self.assertEqual(manager.count("STOPPING=1"), 1)

    def test_service_manager_in_abstract_space(self):
        with ServiceManager(f"\0{self.scratch}") as manager:
            with self.streaming(self.server, env=manager.env()) as receiver:
                wait_until(lambda: manager.count("READY=1"), "READY=1")
                self.stop(receiver)


class ServiceManager:
    """What systemd is to a service: a socket that it reports to. A context manager."""

    def __init__(self, address):
        self._address = str(address)
        self._said = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self._address)
        self._socket.setblocking(False)
        if not self._address.startswith("\0"):
            os.chown(self._address, PLAIN_USER.pw_uid, PLAIN_USER.pw_gid)

    def env(self):
        """Wants to hear of it five times a second."""
        return {"NOTIFY_SOCKET": self._address.replace("\0", "@"), "WATCHDOG_USEC": "200000"}

    def said(self):
        """All assignments so far, one on a line."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._said.append(self._socket.recv(4096).decode())
        return "\n".join(self._said)

    def count(self, assignment):
        return self.said().splitlines().count(assignment)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._socket.close()


class RefusingServer:
    """Lets everybody in and then answers the first command of each with an error."""

    def __init__(self, port, answers):
        self.refused = 0
        self._answers = answers
        self._listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._serve, daemon=True).start()

    @staticmethod
    def _message(kind, body):
        return kind + struct.pack(">I", len(body) + 4) + body

    def _serve(self):
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                with client, contextlib.suppress(OSError):
                    self._refuse(client, *self._answers[self.refused % len(self._answers)])

    def _refuse(self, client, severity, code):
        client.recv(10_000)  # the startup message
        ready = self._message(b"Z", b"I")
        client.sendall(self._message(b"R", struct.pack(">I", 0)) +
                       self._message(b"S", b"server_version\x0015.0\0") +
                       self._message(b"S", b"integer_datetimes\0on\0") + ready)
        client.recv(10_000)  # the command
        fields = f"S{severity}\0V{severity}\0C{code}\0Mno, says {code}\0\0"
        client.sendall(self._message(b"E", fields.encode()) + ready)
        self.refused += 1

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


if __name__ == "__main__":
    unittest.main()
