"""Where the stock tools are known to fail, and we must not."""

import re
import unittest

from harness import (
    UNENCRYPTED,
    Background,
    BaseBackupSent,
    Proxy,
    ScratchDir,
    Server,
    archives,
    basebackup,
    for_each_major,
    ours_only,
    pgstow,
    read_archive,
    restore_tar,
    run,
    server_compression_methods,
    small_filesystem,
)
from harness.filesystem import BLOCK, resize, used_bytes
from harness.run import compat_path

MANIFESTS_SINCE = 13
PAGE = 8192
ANY = 15  # for what happens on our side only, one version


def break_page(path, block):
    """Changes a byte in a page of a relation file."""
    with open(path, "r+b") as file:
        file.seek(block * PAGE + 4000)
        byte = file.read(1)[0]
        file.seek(block * PAGE + 4000)
        file.write(bytes([byte ^ 0x10]))


class DefectsTestCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(cls.major, autovacuum="off"))
        cls.server.sql("CREATE TABLE t AS SELECT g AS id FROM generate_series(1, 20000) g;"
                       "CREATE TABLE still AS SELECT g AS id FROM generate_series(1, 20000) g")

    def setUp(self):
        self.scratch = self.enterContext(ScratchDir())
        self.target = self.scratch / "backup"

    def verify(self, *args):
        if self.major >= MANIFESTS_SINCE:
            pgstow("verifybackup", *args).check()


@for_each_major(since=MANIFESTS_SINCE)
class NamesWithPercentSigns(DefectsTestCase):
    """The stock tool takes a manifest for a format when it writes to standard output."""

    NAMES = ["pct%s%s%n-file", "%d", "100%", "%%", "%5000000d"]

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        for name in cls.NAMES:
            run(["bash", "-c", 'echo content > "$0"', cls.server.data_dir / name]).check()

    @ours_only("crashes, or writes a manifest that is not the server's")
    def test_standard_output(self):
        with Proxy(self.server.port) as proxy, open(self.scratch / "base.tar", "w+b") as out:
            proxy.record(0)
            basebackup("-D", "-", "-F", "tar", "-X", "none", stdout=out,
                       env=self.server.env() | proxy.env() | UNENCRYPTED).check()
            sent = BaseBackupSent(proxy.recorded(0), self.major)
            out.seek(0)
            archive = read_archive(out.read())
        self.assertEqual(archive["backup_manifest"].content, sent.manifest)
        self.assertLessEqual(set(self.NAMES), set(archive.names))

    def test_directories(self):
        for form in ("plain", "tar"):
            with self.subTest(form):
                self.target = self.scratch / form
                basebackup("-D", self.target, "-F", form, env=self.server.env()).check()
                if form == "tar":
                    restore_tar(self.target, self.scratch / "restored")
                    self.target = self.scratch / "restored"
                self.verify(self.target)
                for name in self.NAMES:
                    self.assertEqual((self.target / name).read_text(), "content\n")


@for_each_major(since=ANY, until=ANY)
class OnOurSide(DefectsTestCase):
    @ours_only("the result of closing it is not looked at")
    def test_last_byte_of_the_manifest_has_no_room(self):
        """Stock publishes a manifest without its end."""
        args = ["-X", "none", "--no-sync"]
        with small_filesystem(self, "100M") as directory:
            target = directory / "backup"
            basebackup("-D", target, *args, env=self.server.env()).check()
            size = used_bytes(directory)
            run(["rm", "-r", target]).check()
            resize(directory, size - BLOCK)
            result = basebackup("-D", target, *args, env=self.server.env())
            self.assertEqual(result.rc, 1, result)
            # The files before it are written meanwhile: any may be the one without room.
            self.assertIn("No space left on device", result.err)
            self.assertEqual(list(directory.iterdir()), [])

    @ours_only("uses select(), which ends there")
    def test_more_than_1024_descriptors(self):
        """As whoever starts us may have left them open."""
        for args in ([], ["-F", "tar", "-z"], ["-Z", "server-lz4"]):
            with self.subTest(args), ScratchDir() as scratch:
                command = [compat_path("pg_basebackup"), "-c", "fast", "-D", scratch / "b", *args]
                run(["bash", "-c", WITH_DESCRIPTORS, "bash", *command],
                    env=self.server.env()).check()

    @ours_only("cuts off what is over 1023 bytes, and says nothing")
    def test_long_path(self):
        for form in ("plain", "tar"):
            with self.subTest(form):
                target = self.scratch.joinpath(form, *["d" * 200] * 8, "backup")
                basebackup("-D", target, "-F", form, env=self.server.env()).check()
                self.assertTrue((target / "backup_manifest").exists())
                if form == "plain":
                    self.verify(target)


# Opens more than a thousand descriptors and becomes the program.
WITH_DESCRIPTORS = """
ulimit -n 4096
for ((i = 3; i < 1100; i++)); do eval "exec $i</dev/null"; done
exec "$@"
"""


@for_each_major()
class Progress(DefectsTestCase):
    def test_counts_all_tablespaces(self):
        """Stock never counts to two on servers before 15."""
        locations = [self.server.create_tablespace(name) for name in ("one", "two")]
        args = [f"-T{location}={self.scratch / location.name}" for location in locations]
        for form in ("plain", "tar"):
            with self.subTest(form):
                result = basebackup("-D", self.scratch / form, "-F", form, "-P", *args,
                                    env=self.server.env()).check()
                self.assertRegex(result.err.splitlines()[-1], r"\(100%\), 3/3 tablespaces")


@for_each_major()
class DamagedOnTheWay(DefectsTestCase):
    """A byte that changes between the server and us."""

    def check(self, after, *args, pattern):
        with Proxy(self.server.port) as proxy:
            proxy.flip(after=after)
            result = basebackup("-D", self.target, *args,
                                env=self.server.env() | proxy.env() | UNENCRYPTED)
            self.assertTrue(proxy.fault_happened(timeout=0))
        self.assertEqual(result.rc, 1, result)
        self.assertRegex(result.err, pattern)
        self.assertEqual(list(self.scratch.iterdir()), [], result)

    @ours_only("does not look")
    def test_found_by_the_manifest(self):
        if self.major < MANIFESTS_SINCE:
            self.skipTest("no manifests")
        for args in (["-F", "plain"], ["-F", "tar"], ["-F", "tar", "-z"], ["-F", "tar", "-R"]):
            for after in (2_000_000, 9_000_000):
                with self.subTest(args=args, after=after):
                    self.check(after, *args, pattern='checksum mismatch for file "base/')

    @ours_only("does not look")
    def test_found_in_compressed_data(self):
        for method in server_compression_methods(self.major):
            for args in (["-F", "plain"], ["-F", "tar"]):
                with self.subTest(method=method, args=args):
                    self.check(700_000, "-Z", f"server-{method}:1", *args,
                               pattern="checksum mismatch|could not decompress|archive|invalid")


@for_each_major(since=11)
class BadPages(DefectsTestCase):
    """Pages that were broken before the backup: it is kept, complete, but under no good name."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.location = cls.server.create_tablespace("elsewhere")
        cls.server.sql("CREATE TABLE u TABLESPACE elsewhere AS SELECT * FROM t; CHECKPOINT")
        cls.paths = [cls.server.value(f"SELECT pg_relation_filepath('{name}')") for name in "tu"]
        cls.server.stop()
        for path, block in zip(cls.paths, (0, 7)):
            break_page(cls.server.data_dir / path, block)
        cls.server.start()
        cls.bad = [f"{cls.paths[0]} block 0", f"{cls.paths[1]} block 7"]

    def in_both_forms(self, check):
        """Calls check(form) twice, with an empty scratch directory."""
        for form in ("plain", "tar"):
            with self.subTest(form), ScratchDir() as scratch:
                self.scratch, self.target = scratch, scratch / "backup"
                check(form)

    def command(self, *args):
        return [compat_path("pg_basebackup"), "-c", "fast", "-D", self.target, *args,
                f"-T{self.location}={self.scratch / 'elsewhere'}"]

    def backup(self, *args):
        return run(self.command(*args), env=self.server.env())

    def assert_marked_bad(self, result):
        self.assertEqual(result.rc, 1, result)
        self.assertRegex(result.err, "error: checksum error occurred")
        self.assertEqual((self.target / "backup_manifest.tmp").exists(),
                         self.major >= MANIFESTS_SINCE)
        self.assertFalse((self.target / "backup_manifest").exists())
        self.server.wait_for("NOT EXISTS (SELECT FROM pg_replication_slots)", timeout=20)

    def assert_pages_named(self):
        text = (self.target / "backup_bad_pages").read_text()
        named = re.findall(r"(?m)^page verification failed: (\S+ block \d+): ", text)
        self.assertEqual(sorted(named), sorted(self.bad))

    def check_kept(self, directory):
        """Everything but the pages is as it should be, the WAL included."""
        if self.major >= MANIFESTS_SINCE:
            pgstow("verifybackup", "--skip-pages", "-m", self.target / "backup_manifest.tmp",
                   "-i", "backup_manifest.tmp", "-i", "backup_bad_pages", directory).check()
        if (directory / "tablespace_map").exists():
            (directory / "tablespace_map").unlink()  # its links are in place
        with self.server.start_copy(directory) as copy:
            self.assertEqual(copy.value("SELECT count(*) FROM still"), "20000")

    def test_plain(self):
        self.assert_marked_bad(self.backup("-X", "fetch"))
        self.check_kept(self.target)

    def test_tar(self):
        self.assert_marked_bad(self.backup("-X", "fetch", "-F", "tar", "-Z", "gzip:1"))
        oid = self.server.value("SELECT oid FROM pg_tablespace WHERE spcname = 'elsewhere'")
        self.assertEqual(archives(self.target).keys(), {"base", oid})
        self.check_kept(self.restored("tar"))

    @ours_only("does not name them")
    def test_pages_are_named(self):
        def check(form):
            self.assert_marked_bad(self.backup("-F", form))
            self.assert_pages_named()

        self.in_both_forms(check)

    @ours_only("ends the WAL receiver as it is, and the backup cannot be started")
    def test_wal_is_complete(self):
        """Also when much of it has still to come after the server has told of the bad pages."""
        def check(form):
            with Proxy(self.server.port) as proxy:
                proxy.stall(after=1000, connection=1)
                with Background(self.command("-F", form),
                                env=self.server.env() | proxy.env()) as backup:
                    self.assertTrue(proxy.fault_happened())
                    self.server.wait_for("NOT EXISTS (SELECT FROM pg_stat_replication"
                                         " WHERE state = 'backup')")
                    proxy.release()
                    self.assert_marked_bad(backup.wait())
            self.check_kept(self.restored(form))

        self.in_both_forms(check)

    def restored(self, form):
        if form == "plain":
            return self.target
        oid = self.server.value("SELECT oid FROM pg_tablespace WHERE spcname = 'elsewhere'")
        restore_tar(self.target, self.scratch / "restored", {oid: self.scratch / "elsewhere"})
        return self.scratch / "restored"

    def test_unchecked(self):
        def check(form):
            self.backup("-F", form, "--no-verify-checksums").check()
            self.assertFalse((self.target / "backup_bad_pages").exists())
            self.assertEqual((self.target / "backup_manifest").exists(),
                             self.major >= MANIFESTS_SINCE)

        self.in_both_forms(check)


@for_each_major(since=ANY, until=ANY)
class BadPagesOnStandardOutput(DefectsTestCase):
    """What has gone out cannot be marked; the status tells."""

    def test_status(self):
        path = self.server.value("SELECT pg_relation_filepath('t')")
        self.server.stop()
        break_page(self.server.data_dir / path, 3)
        self.server.start()
        with open(self.scratch / "base.tar", "w+b") as out:
            result = basebackup("-D", "-", "-Ft", "-Xfetch", env=self.server.env(), stdout=out)
            out.seek(0)
            archive = read_archive(out.read())
        self.assertEqual(result.rc, 1, result)
        self.assertRegex(result.err, "error: checksum error occurred")
        self.assertEqual(len(archive[path].content), (self.server.data_dir / path).stat().st_size)
