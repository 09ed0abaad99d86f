"""What cannot be done, and runs that are cut short: a message, a status, nothing left behind."""

import os
import re
import select
import signal
import unittest
from contextlib import contextmanager
from pathlib import Path

from harness import (
    Background,
    Proxy,
    ScratchDir,
    Server,
    basebackup,
    for_each_major,
    ours_only,
    run,
    server_compression_methods,
    small_filesystem,
    wait_until,
)
from harness.filesystem import resize, used_bytes
from harness.run import compat_path

MANIFESTS_SINCE = 13
SERVER_COMPRESSION_SINCE = 15
ANY = 15  # for what happens on our side only, one version


def processes_of_session(pid):
    """The processes that a program, started with a session of its own, has left."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            session = int(stat.read_text().rsplit(") ", 1)[1].split()[3])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if session == pid:
            found.append(stat.parent.name)
    return found


class BadInputTestCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(cls.major))
        cls.server.sql("CREATE TABLE t AS SELECT g AS id FROM generate_series(1, 1000) g")

    def setUp(self):
        self.scratch = self.enterContext(ScratchDir())
        self.target = self.scratch / "backup"

    def slots(self):
        return self.server.sql("SELECT slot_name FROM pg_replication_slots")

    def left(self):
        return sorted(path.name for path in self.scratch.iterdir())

    def assert_nothing_left(self, *but):
        self.assertEqual(self.left(), sorted(but))
        self.server.wait_for("NOT EXISTS (SELECT FROM pg_replication_slots)", timeout=20)

    def assert_fails(self, pattern, *args, left=()):
        result = basebackup(*args, env=self.server.env())
        self.assertEqual(result.rc, 1, result)
        errors = re.findall(r"(?m)^pg_basebackup: error: (.*)", result.err)
        self.assertEqual(len(errors), 1, result)
        self.assertRegex(errors[0], pattern)
        self.assertEqual(result.out, "")
        self.assert_nothing_left(*left)
        return result

    def assert_backup_fails(self, pattern, *args, left=()):
        return self.assert_fails(pattern, "-D", self.target, *args, left=left)


@for_each_major(since=ANY, until=ANY)
class Refused(BadInputTestCase):
    """Before anything has come."""

    def test_compression(self):
        for args, pattern in (
                (["-Ft", "-Z", "foo"], 'unrecognized compression algorithm: "foo"'),
                (["-Ft", "-Z", "client-foo:3"], 'unrecognized compression algorithm: "foo"'),
                (["-Z", "server-foo"], 'unrecognized compression algorithm:? "foo"'),
                (["-Ft", "-Z", "gzip:99"], "invalid compression specification: .* between 1 and 9"),
                (["-Ft", "-Z", "lz4:13"], "invalid compression specification: .* between 1 and 12"),
                (["-Z", "server-gzip:99"], "invalid compression specification: .* between 1 and 9"),
                (["-Ft", "-Z", "zstd:level=x"], '"level" must be an integer'),
                (["-Ft", "-Z", "gzip:workers=2"], "does not accept a worker count"),
                (["-Z", "client-gzip"], "only tar mode backups can be compressed"),
                (["-z"], "only tar mode backups can be compressed")):
            with self.subTest(args):
                self.assert_backup_fails(pattern, *args)

    def test_options_that_exclude_each_other(self):
        target = ["-t", "blackhole", "-X", "none"]
        for args, pattern in (
                ([*target, "-D", self.target], "cannot specify both output directory and backup"),
                ([*target, "-F", "tar"], "cannot specify both format and backup target"),
                (["-t", "blackhole"], "cannot be streamed when a backup target is specified"),
                ([*target, "-Z", "client-gzip"], "client-side compression is not possible"),
                ([*target, "-R"], "recovery configuration cannot be written"),
                ([*target, "--waldir", "/w"], "along with a backup target"),
                (["-D", "-", "-Ft"], "cannot stream write-ahead logs in tar mode to stdout"),
                (["-D", self.target, "-Ft", "--waldir", "/w"], "only be specified in plain mode"),
                (["-D", self.target, "--waldir", "w"], "must be an absolute path"),
                (["-D", "-", "-Ft", "-Xnone", "-Z", "server-gzip"],
                 "cannot inject manifest into a compressed tar file")):
            with self.subTest(args):
                self.assert_fails(pattern, *args)

    def test_directory_that_is_not_empty(self):
        self.target.mkdir()
        (self.target / "mine").touch()
        for args in (["-F", "plain"], ["-F", "tar"], ["-F", "tar", "-C", "-S", "new"]):
            with self.subTest(args):
                self.assert_backup_fails("exists but is not empty", *args, left=["backup"])
                self.assertEqual([path.name for path in self.target.iterdir()], ["mine"])

    def test_directory_that_is_a_file(self):
        self.target.touch()
        for form in ("plain", "tar"):
            self.assert_backup_fails('backup": Not a directory|exists', "-F", form,
                                     left=["backup"])

    def test_wal_directory_that_is_not_empty(self):
        (self.scratch / "wal").mkdir()
        (self.scratch / "wal/mine").touch()
        self.assert_backup_fails("exists but is not empty", "--waldir", self.scratch / "wal",
                                 left=["wal"])
        self.assertTrue((self.scratch / "wal/mine").exists())

    def test_wal_directory_that_cannot_be_made(self):
        (self.scratch / "closed").mkdir(mode=0o555)
        self.assert_backup_fails("could not create directory", "--waldir",
                                 self.scratch / "closed/wal", left=["closed"])

    @ours_only("some of them work, some make a directory that leads to itself")
    def test_wal_directory_that_is_part_of_the_backup(self):
        for place in ("backup", "backup/wal", "backup/pg_wal", "x/../backup/base"):
            with self.subTest(place):
                self.assert_backup_fails("overlaps directory .*, which is part of the same backup",
                                         "--waldir", self.scratch / place)

    def test_wal_directory_that_is_empty_is_emptied_again(self):
        run(["mkdir", self.scratch / "wal"]).check()
        self.assert_backup_fails('unrecognized checksum algorithm: "md4"', "--waldir",
                                 self.scratch / "wal", "--manifest-checksums=md4", left=["wal"])
        self.assertEqual(list((self.scratch / "wal").iterdir()), [])

    def test_slot_that_is_there_already(self):
        self.server.sql("SELECT pg_create_physical_replication_slot('taken')")
        self.addCleanup(self.server.sql, "SELECT pg_drop_replication_slot('taken')")
        for form in ("plain", "tar"):
            result = basebackup("-D", self.target, "-F", form, "-C", "-S", "taken",
                                env=self.server.env())
            self.assertEqual(result.rc, 1, result)
            self.assertIn('replication slot "taken" already exists', result.err)
            self.assertEqual((self.left(), self.slots()), ([], [["taken"]]))

    def test_slot_that_is_not_there(self):
        for form in ("plain", "tar"):
            result = basebackup("-D", self.target, "-F", form, "-S", "absent",
                                env=self.server.env())
            self.assertEqual(result.rc, 1, result)
            self.assertIn('replication slot "absent" does not exist', result.err)
            self.assert_nothing_left()


@for_each_major(since=ANY, until=ANY)
class SeveralTablespaces(BadInputTestCase):
    def test_standard_output_has_room_for_one(self):
        self.server.create_tablespace("elsewhere")
        self.assert_fails("can only write single tablespace to stdout, database has 2",
                          "-D", "-", "-Ft", "-X", "none")


@for_each_major()
class TooOld(BadInputTestCase):
    """What this server does not know."""

    def test_compression(self):
        known = server_compression_methods(self.major)
        for method in {"gzip", "lz4", "zstd"} - set(known):
            pattern = (f"build does not support compression with {method}"
                       if self.major >= SERVER_COMPRESSION_SINCE
                       else "server does not support server-side compression")
            for form in ("plain", "tar"):
                with self.subTest(method=method, form=form):
                    self.assert_backup_fails(f"(?i){pattern}", "-F", form, "-Z", f"server-{method}")

    def test_manifests(self):
        """An older server is asked for none, whatever was said."""
        if self.major >= MANIFESTS_SINCE:
            self.skipTest("it has them")
        for args in ([], ["--manifest-checksums=sha256"], ["--manifest-force-encode"]):
            with self.subTest(args), ScratchDir() as scratch:
                basebackup("-D", scratch / "b", "-F", "tar", "-X", "none", *args,
                           env=self.server.env()).check()
                self.assertEqual([path.name for path in (scratch / "b").iterdir()], ["base.tar"])


def is_full(pipe):
    """Whether nobody could write to the pipe now."""
    return not select.select([], [pipe], [], 0)[1]


@for_each_major()
class CutShort(BadInputTestCase):
    """In the middle of it."""

    def command(self, *args):
        return [compat_path("pg_basebackup"), "-c", "fast", *args]

    @contextmanager
    def slow_backup(self, *args, stdout=None):
        """A backup of which the first part has come."""
        with Proxy(self.server.port) as proxy:
            with Background(self.command("-r", "2M", *args), stdout=stdout,
                            env=self.server.env() | proxy.env()) as backup:
                wait_until(lambda: proxy.connection_count() and proxy.received() > 300_000, "data")
                yield backup

    def forms(self):
        """The ways to take a backup, as arguments."""
        return {
            "plain": ["-D", self.target],
            "waldir": ["-D", self.target, "--waldir", self.scratch / "deep/wal"],
            "tar": ["-D", self.target, "-F", "tar"],
            "compressed": ["-D", self.target, "-F", "tar", "-z", "-R"],
            "stdout": ["-D", "-", "-F", "tar", "-X", "fetch"],
        }

    @ours_only("leaves the directory, the WAL receiver and its slot")
    def test_signals(self):
        for form, args in self.forms().items():
            for number in (signal.SIGTERM, signal.SIGINT):
                with self.subTest(form=form, signal=number), open(os.devnull, "wb") as out, \
                        self.slow_backup(*args, stdout=out) as backup:
                    result = backup.stop(number)
                    self.assertEqual(result.rc, -number, result)
                    self.assertEqual(processes_of_session(backup.pid), [])
                    self.assert_nothing_left()

    @ours_only("is ended by the signal itself")
    def test_reader_that_stops_reading(self):
        """Its pipe belongs to another user where the tests run as root."""
        ends = os.pipe()
        with open(ends[0], "rb"), open(ends[1], "wb") as out:
            command = self.command("-D", "-", "-F", "tar", "-X", "fetch", "-v")
            with Background(command, stdout=out, env=self.server.env()) as backup:
                backup.wait_for_err("write-ahead log start point")
                wait_until(lambda: is_full(out), "a full pipe")
                result = backup.stop(signal.SIGTERM)
        self.assertEqual(result.rc, -signal.SIGTERM, result)

    @ours_only("the slot stays")
    def test_slot_that_was_created_goes_again(self):
        for form in ("plain", "tar"):
            with self.subTest(form):
                with self.slow_backup("-D", self.target, "-F", form, "-C", "-S", "mine") as backup:
                    self.server.wait_for("EXISTS (SELECT FROM pg_replication_slots WHERE active)")
                    backup.stop()
                self.assert_nothing_left()

    @ours_only("the slot stays")
    def test_slot_that_was_created_goes_when_the_connection_is_lost(self):
        with Proxy(self.server.port) as proxy:
            proxy.cut(after=4_000_000)
            result = basebackup("-D", self.target, "-F", "tar", "-C", "-S", "mine", "-r", "10M",
                                env=self.server.env() | proxy.env())
        self.assertEqual(result.rc, 1, result)
        self.assert_nothing_left()

    def test_slot_of_somebody_else_stays(self):
        self.server.sql("SELECT pg_create_physical_replication_slot('theirs')")
        self.addCleanup(self.server.sql, "SELECT pg_drop_replication_slot('theirs')")
        with Proxy(self.server.port) as proxy:
            proxy.cut(after=4_000_000)
            result = basebackup("-D", self.target, "-F", "tar", "-S", "theirs",
                                env=self.server.env() | proxy.env())
        self.assertEqual(result.rc, 1, result)
        self.assertEqual((self.left(), self.slots()), ([], [["theirs"]]))

    def test_connection_cut(self):
        for form, args in self.forms().items():
            if form == "stdout":
                continue
            with self.subTest(form), Proxy(self.server.port) as proxy:
                proxy.cut(after=4_000_000)
                result = basebackup(*args, env=self.server.env() | proxy.env())
                self.assertEqual(result.rc, 1, result)
                left = ["deep"] if (self.scratch / "deep").exists() else []
                self.assertEqual([path.name for path in self.scratch.rglob("*")], left)
                for path in left:
                    (self.scratch / path).rmdir()
                self.assert_nothing_left()

    def test_reader_of_standard_output_goes_away(self):
        for args in ([], ["-z"], ["-R"]):
            with self.subTest(args):
                command = self.command("-D", "-", "-Ft", "-Xfetch", *args)
                result = run(["bash", "-c", '"$@" | head -c 1000 | wc -c; exit ${PIPESTATUS[0]}',
                              "bash", *command], env=self.server.env())
                self.assertEqual(result.out, "1000\n")
                self.assertIn(result.rc, (1, 128 + signal.SIGPIPE), result)
                self.assert_nothing_left()

    @ours_only("dies of SIGPIPE")
    def test_reader_that_goes_away_is_told_of(self):
        command = self.command("-D", "-", "-Ft", "-Xfetch")
        result = run(["bash", "-c", '"$@" | head -c 1000 >/dev/null; exit ${PIPESTATUS[0]}', "bash",
                      *command], env=self.server.env())
        self.assertEqual(result.rc, 1, result)
        self.assertRegex(result.err, "error: could not write .*standard output.*: Broken pipe")

    def test_standard_output_on_a_full_disk(self):
        with open("/dev/full", "wb") as full:
            result = basebackup("-D", "-", "-Ft", "-Xfetch", env=self.server.env(), stdout=full)
        self.assertEqual(result.rc, 1, result)
        self.assertIn("No space left on device", result.err)
        self.assert_nothing_left()

    def check_disk_full(self, size, *args):
        with small_filesystem(self, size) as directory:
            result = basebackup("-D", directory / "deep/backup", "-F", "tar", *args,
                                env=self.server.env())
            self.assertEqual(result.rc, 1, result)
            self.assertIn("No space left on device", result.err)
            left = [path for path in directory.rglob("*") if path.name != "deep"]
            self.assertEqual(left, [])
        self.assert_nothing_left()
        return result

    def test_disk_full(self):
        self.check_disk_full("8M")
        self.check_disk_full("1M", "-z")
        self.check_disk_full("1M", "-Z", "client-zstd")
        self.check_disk_full("8M", "-X", "none")

    @ours_only("reserves the space first, so that it is the archives that do not fit")
    def test_disk_full_of_wal(self):
        """The archives fit, but not the segment that follows."""
        with small_filesystem(self, "200M") as directory:
            target = directory / "backup"
            basebackup("-D", target, "-Ft", "-X", "none", env=self.server.env()).check()
            size = used_bytes(directory)
            run(["rm", "-r", target]).check()
            resize(directory, size + 8 * 1024 * 1024)
            result = basebackup("-D", target, "-F", "tar", env=self.server.env())
            self.assertEqual(result.rc, 1, result)
            # Whoever is slow comes second: the writer of the archives, or that of the manifest.
            self.assertRegex(result.err, r'(pg_wal\.tar|base\.tar|backup_manifest\.tmp)": '
                                         'No space left on device')
            self.assertEqual(list(directory.iterdir()), [])
        self.assert_nothing_left()
