"""Options of base backups one by one, on the servers where they make a difference."""

import json
import re
import time
import unittest

from harness import (
    Background,
    Proxy,
    ScratchDir,
    Server,
    archives,
    basebackup,
    for_each_major,
    forget_recovery,
    ours_only,
    pgstow,
    read_archive,
    restore_tar,
    run,
    server_compression_methods,
    wait_until,
)
from harness.restore import WAL_SEGMENT
from harness.run import compat_path
from harness.servers import SERVER_COMPRESSION_SINCE

MANIFESTS_SINCE = 13
GROUP_ACCESS_SINCE = 11
TARGETS_SINCE = 15
ANY = 15  # for what happens on our side only, one version


def segments(directory):
    return sorted(path.name for path in directory.iterdir() if WAL_SEGMENT.match(path.name))


def mode(path):
    return oct(path.lstat().st_mode & 0o7777)


class OptionsTestCase(unittest.TestCase):
    settings = {}

    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(cls.major, autovacuum="off", **cls.settings))
        cls.server.sql("CREATE TABLE t AS SELECT g AS id FROM generate_series(1, 1000) g")

    def setUp(self):
        self.scratch = self.enterContext(ScratchDir())
        self.target = self.scratch / "backup"

    def backup(self, *args, **options):
        return basebackup("-D", self.target, *args, env=self.server.env(), **options)

    def verify(self, directory=None):
        if self.major >= MANIFESTS_SINCE:
            pgstow("verifybackup", directory or self.target).check()

    def check_started(self, directory):
        self.verify(directory)
        with self.server.start_copy(directory) as copy:
            self.assertEqual(copy.data_digest(), self.server.data_digest())

    def last_command(self, server=None):
        """The last BASE_BACKUP command that the server has logged."""
        log = (server or self.server).log()
        return re.findall("received replication command: (BASE_BACKUP.*)", log)[-1]

    def background(self, *args, env=None):
        command = [compat_path("pg_basebackup"), "-c", "fast", *args]
        return self.enterContext(Background(command, env=self.server.env() | (env or {})))

    def slots(self, server=None):
        return (server or self.server).sql("SELECT slot_name FROM pg_replication_slots")


@for_each_major()
class WalDirectory(OptionsTestCase):
    """--waldir"""

    def check(self, *args, waldir=None):
        waldir = waldir or self.scratch / "deep/er/wal"
        self.backup("--waldir", waldir, *args).check()
        self.assertEqual((self.target / "pg_wal").readlink(), waldir)
        self.assertEqual(mode(waldir), "0o700")
        self.assertTrue((waldir / "archive_status").is_dir())
        self.assertEqual((waldir / "summaries").is_dir(), self.major >= 17)
        return waldir

    def test_streamed(self):
        waldir = self.check()
        self.assertGreaterEqual(len(segments(waldir)), 1)
        self.assertEqual(list(waldir.glob("*.partial")), [])
        self.check_started(self.target)

    def test_fetched(self):
        self.assertGreaterEqual(len(segments(self.check("-X", "fetch"))), 1)
        self.check_started(self.target)

    def test_none(self):
        self.assertEqual(segments(self.check("-X", "none")), [])

    def test_empty_directory_that_is_there(self):
        run(["mkdir", "-p", self.scratch / "mine"]).check()
        self.check(waldir=self.scratch / "mine")


@for_each_major()
class Mapping(OptionsTestCase):
    """-T beyond the plain case"""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.location = cls.server.create_tablespace("one=two")
        cls.server.sql('CREATE TABLE u TABLESPACE "one=two" AS SELECT * FROM t')

    def escaped(self, path):
        return str(path).replace("=", "\\=")

    def test_escaped_equals_signs_and_superfluous_slashes(self):
        place = self.scratch / "a=b"
        self.backup("-T", f"{self.escaped(self.location)}//={self.escaped(place)}/./").check()
        [link] = (self.target / "pg_tblspc").iterdir()
        self.assertEqual(link.readlink(), place)
        self.check_started(self.target)

    def test_the_first_of_two_wins(self):
        old = self.escaped(self.location)
        places = [f"-T{old}={self.scratch}/{name}" for name in ("first", "second")]
        self.backup(*places).check()
        self.assertEqual({path.name for path in self.scratch.iterdir()}, {"backup", "first"})

    def test_one_that_nothing_needs(self):
        old = self.escaped(self.location)
        result = self.backup("-T", f"/no/such/place={self.scratch}/unused",
                             "-T", f"{old}={self.scratch}/used").check()
        self.assertEqual(result.err, "")
        self.assertFalse((self.scratch / "unused").exists())

    def test_not_in_tar_format(self):
        """The archives are those of the server, and nothing is made where -T points to."""
        self.backup("-F", "tar", "-T", f"{self.escaped(self.location)}={self.scratch}/x").check()
        self.assertEqual([path.name for path in self.scratch.iterdir()], ["backup"])
        content = read_archive((self.target / "base.tar").read_bytes())["tablespace_map"].content
        self.assertIn(str(self.location).encode(), content)


@for_each_major(since=GROUP_ACCESS_SINCE)
class GroupAccess(OptionsTestCase):
    settings = {"initdb_args": ["--allow-group-access"]}

    def test_tar(self):
        self.backup("-F", "tar", "-R").check()
        self.assertEqual(mode(self.target), "0o750")
        for path in self.target.iterdir():
            self.assertEqual(mode(path), "0o640", path)
        base = read_archive((self.target / "base.tar").read_bytes())
        self.assertEqual({oct(member.mode) for member in base.members}, {"0o750", "0o640"})
        # This one is made by the client, and stock is not generous there.
        wal = read_archive((self.target / "pg_wal.tar").read_bytes())
        self.assertEqual({oct(member.mode) for member in wal.members}, {"0o600"})

    def test_plain(self):
        self.backup("-R", "--waldir", self.scratch / "wal").check()
        self.assertEqual(mode(self.target), "0o750")
        self.assertEqual(mode(self.scratch / "wal"), "0o750")
        for path in [*self.target.rglob("*"), *(self.scratch / "wal").rglob("*")]:
            if not path.is_symlink():
                self.assertEqual(mode(path), "0o750" if path.is_dir() else "0o640", path)


@for_each_major(since=TARGETS_SINCE)
class Targets(OptionsTestCase):
    """-t: the server keeps the backup, or throws it away."""

    def to(self, target, *args):
        return basebackup("-t", target, *args, env=self.server.env())

    def test_server(self):
        for wal in ("fetch", "none"):
            with self.subTest(wal):
                target = self.scratch / wal
                self.to(f"server:{target}", "-X", wal).check()
                self.assertEqual({path.name for path in target.iterdir()},
                                 {"base.tar", "backup_manifest"})
        restore_tar(self.scratch / "fetch", self.target)
        self.check_started(self.target)

    def test_server_with_compression(self):
        """A target leaves only the server to compress, so one need not say so."""
        for method in server_compression_methods(self.major):
            for word in (method, f"server-{method}"):
                with self.subTest(word):
                    target = self.scratch / word
                    self.to(f"server:{target}", "-X", "fetch", "-Z", word).check()
                    self.assertNotEqual(archives(target)["base"].suffix, ".tar")
                    restore_tar(target, self.scratch / f"restored-{word}")
                    self.verify(self.scratch / f"restored-{word}")

    def test_blackhole(self):
        result = self.to("blackhole", "-X", "fetch", "-P", "-v").check()
        self.assertIn("base backup completed", result.err)
        self.assertEqual(list(self.scratch.iterdir()), [])

    def test_client(self):
        self.backup("-t", "client").check()
        self.verify()

    def test_what_the_server_refuses(self):
        for target, pattern in (
                ("nowhere", 'unrecognized target: "nowhere"'),
                ("server", 'target "server" requires a target detail'),
                ("server:relative", "relative path not allowed"),
                (f"server:{self.scratch}", ".*exists but is not empty"),
                ("blackhole:detail", "does not accept a target detail")):
            with self.subTest(target):
                (self.scratch / "occupied").touch()
                result = self.to(target, "-X", "fetch")
                self.assertEqual(result.rc, 1, result)
                self.assertRegex(result.err, pattern)
        self.assertEqual([path.name for path in self.scratch.iterdir()], ["occupied"])

    def test_without_the_permission(self):
        self.server.sql("CREATE ROLE backup REPLICATION LOGIN")
        self.addCleanup(self.server.sql, "DROP ROLE backup")
        result = self.to(f"server:{self.target}", "-X", "none", "-U", "backup")
        self.assertEqual(result.rc, 1, result)
        self.assertRegex(result.err, "permission denied|must be superuser")
        self.assertFalse(self.target.exists())


@for_each_major(until=TARGETS_SINCE - 1)
class NoTargets(OptionsTestCase):
    def test_refused_by_name(self):
        for target in ("blackhole", f"server:{self.target}"):
            result = basebackup("-t", target, "-X", "fetch", env=self.server.env())
            self.assertEqual(result.rc, 1, result)
            self.assertIn("error: backup targets are not supported by this server version",
                          result.err)
            self.assertFalse(self.target.exists())


@for_each_major()
class Slots(OptionsTestCase):
    """-C, -S, --no-slot while the WAL goes into an archive."""

    def halted(self, *args):
        """A backup in tar format of which the first part has come, and the proxy that holds it."""
        proxy = self.enterContext(Proxy(self.server.port))
        proxy.stall(after=3_000_000)
        backup = self.background("-D", self.target, "-F", "tar", *args, env=proxy.env())
        self.assertTrue(proxy.fault_happened())
        self.server.wait_for("EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming')")
        return backup, proxy

    def slot_in_use(self, *args):
        backup, proxy = self.halted(*args)
        rows = self.server.sql("SELECT slot_name, temporary, active FROM pg_replication_slots")
        proxy.release()
        backup.wait().check()
        return rows

    def test_temporary(self):
        [[name, temporary, active]] = self.slot_in_use()
        self.assertRegex(name, r"^pg_basebackup_\d+$")
        self.assertEqual((temporary, active), ("t", "t"))
        self.assertEqual(self.slots(), [])

    def test_none(self):
        self.assertEqual(self.slot_in_use("--no-slot"), [])

    def test_created_and_used_again(self):
        self.addCleanup(self.server.sql, "SELECT pg_drop_replication_slot('mine')")
        self.assertEqual(self.slot_in_use("-C", "-S", "mine"), [["mine", "f", "t"]])
        self.assertEqual(self.slots(), [["mine"]])
        self.target = self.scratch / "second"
        self.assertEqual(self.slot_in_use("-S", "mine"), [["mine", "f", "t"]])


@for_each_major()
class WhatTheServerIsTold(OptionsTestCase):
    """Options that the server carries out."""

    def test_rate(self):
        """No more bytes come than the limit allows, however fast or slow this machine is."""
        proxy = self.enterContext(Proxy(self.server.port))
        backup = self.background("-D", self.target, "-X", "none", "-r", "2M", env=proxy.env())
        wait_until(lambda: proxy.connection_count() and proxy.received() > 1_000_000, "data")
        since, bytes_before = time.monotonic(), proxy.received()
        wait_until(lambda: proxy.received() > bytes_before + 3_000_000, "more data")
        elapsed = time.monotonic() - since
        backup.close()
        # The server keeps the rate within eighths of a second.
        self.assertLess(3_000_000, (elapsed + 0.5) * 2 * 1024 * 1024)
        self.assertRegex(self.last_command(), r"MAX_RATE '?2048\b")

    def test_estimate(self):
        self.backup().check()
        self.assertIn("PROGRESS", self.last_command())
        self.target = self.scratch / "second"
        self.backup("--no-estimate-size").check()
        self.assertNotIn("PROGRESS", self.last_command())
        self.verify()

    def test_label_and_checkpoint(self):
        self.backup("-l", "it's a label").check()
        self.assertIn("LABEL 'it''s a label'", self.last_command())
        self.assertRegex(self.last_command(), r"\bFAST\b|CHECKPOINT 'fast'")

    def test_manifests_in_tar_format(self):
        for args, pattern in ((["--manifest-checksums", "sha256"], '"SHA256"'),
                              (["--manifest-checksums=NONE"], '"Size": 3'),
                              (["--manifest-force-encode"], '"Encoded-Path"')):
            with self.subTest(args), ScratchDir() as scratch:
                if self.major < MANIFESTS_SINCE:
                    self.skipTest("no manifests")
                self.target = scratch / "backup"
                self.backup("-F", "tar", *args).check()
                self.assertRegex((self.target / "backup_manifest").read_text(), pattern)
                restore_tar(self.target, scratch / "restored")
                self.verify(scratch / "restored")

    def test_no_manifest_in_tar_format(self):
        self.backup("-F", "tar", "-X", "none", "--no-manifest").check()
        self.assertEqual([path.name for path in self.target.iterdir()], ["base.tar"])

    def test_unknown_manifest_checksums(self):
        if self.major < MANIFESTS_SINCE:
            self.skipTest("no manifests")
        result = self.backup("--manifest-checksums", "md4")
        self.assertEqual(result.rc, 1)
        self.assertIn('unrecognized checksum algorithm: "md4"', result.err)
        self.assertEqual(list(self.scratch.iterdir()), [])

    def test_no_verification_of_checksums(self):
        if self.major < 11:
            self.skipTest("servers verify since 11")
        self.backup("-X", "none").check()
        with_checks = self.last_command()
        self.target = self.scratch / "second"
        self.backup("-X", "none", "--no-verify-checksums").check()
        if self.major >= SERVER_COMPRESSION_SINCE:
            self.assertRegex(self.last_command(), "VERIFY_CHECKSUMS (0|false|'false')")
            self.assertNotRegex(with_checks, "VERIFY_CHECKSUMS (0|false|'false')")
        else:
            self.assertIn("NOVERIFY_CHECKSUMS", self.last_command())
            self.assertNotIn("NOVERIFY_CHECKSUMS", with_checks)


@for_each_major(since=ANY, until=ANY)
class OnOurSide(OptionsTestCase):
    @ours_only("came with 17", before=17)
    def test_sync_methods(self):
        for method in ("fsync", "syncfs"):
            for form in ("plain", "tar"):
                with self.subTest(method=method, form=form):
                    self.target = self.scratch / f"{method}-{form}"
                    self.backup("--sync-method", method, "-F", form).check()
                    self.assertTrue((self.target / "backup_manifest").exists())

    @ours_only("came with 17", before=17)
    def test_unknown_sync_method(self):
        result = self.backup("--sync-method", "prayer")
        self.assertEqual(result.rc, 1)
        self.assertIn('unrecognized sync method: prayer', result.err)
        self.assertFalse(self.target.exists())

    @ours_only("no such option")
    def test_progress_for_programs(self):
        """Whatever becomes of the data: a beginning, progress and an end (see docs/progress.md)."""
        for args in (["-F", "tar", "-Z", "lz4"], ["-Z", "server-gzip"], ["-F", "tar", "-R", "-v"]):
            with self.subTest(args), ScratchDir() as scratch:
                self.target = scratch / "backup"
                lines = self.backup("--progress=json", *args).check().err.splitlines()
                events = [json.loads(line)["event"] for line in lines if line.startswith("{")]
                self.assertEqual([events[0], events[1], events[-1]], ["waiting", "begin", "end"])
                self.assertEqual(set(events[2:-1]), {"progress"})
                if "-v" not in args:
                    self.assertEqual(len(events), len(lines))

    @ours_only("no such line")
    def test_verbose_ends_with_a_summary(self):
        for form in ("plain", "tar"):
            with self.subTest(form):
                self.target = self.scratch / form
                lines = self.backup("-v", "-F", form).check().err.splitlines()
                self.assertRegex(lines[-1], "base backup completed$")
                summary = " ".join(lines[-4:-1])
                self.assertRegex(summary, "verified|checked")
                self.assertRegex(summary, r"\d+ files?")

    def test_progress_of_tar(self):
        err = self.backup("-F", "tar", "-P", "-Z", "gzip:1").check().err
        self.assertRegex(err, r"(?m)^ *(\d+)/\1 kB \(100%\), 1/1 tablespace")


@for_each_major()
class FromStandby(OptionsTestCase):
    """Tar format from a standby, and from one that stops being one."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.places = cls.enterClassContext(ScratchDir())

    def make_standby(self):
        directory = self.scratch / "standby"
        basebackup("-D", directory, env=self.server.env()).check()
        return self.enterContext(self.server.start_standby(directory))

    def test_in_tar_format(self):
        standby = self.make_standby()
        for args in (["-X", "stream", "-z"], ["-X", "fetch"]):
            with self.subTest(args), ScratchDir() as scratch:
                basebackup("-D", scratch / "b", "-F", "tar", *args, env=standby.env()).check()
                restore_tar(scratch / "b", scratch / "restored")
                self.verify(scratch / "restored")
                forget_recovery(scratch / "restored")
                with self.server.start_copy(scratch / "restored") as copy:
                    self.assertEqual(copy.data_digest(), self.server.data_digest())

    def test_promoted_meanwhile(self):
        standby = self.make_standby()
        proxy = self.enterContext(Proxy(standby.port))
        proxy.stall(after=3_000_000)
        backup = self.background("-D", self.target, "-F", "tar", env=standby.env() | proxy.env())
        self.assertTrue(proxy.fault_happened())
        standby.promote()
        proxy.release()
        result = backup.wait()
        self.assertEqual(result.rc, 1, result)
        # The end of the old timeline can be noticed first over the other connection.
        self.assertRegex(result.err, "the standby was promoted during online backup|"
                                     "could not stream write-ahead log: ")
        self.assertEqual([path.name for path in self.scratch.iterdir()], ["standby"])
        self.assertEqual(self.slots(standby), [])
