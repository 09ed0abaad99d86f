"""Backups in tar format, byte for byte: what the server sent, what the stock tool makes of it."""

import re
import unittest
import zlib

from harness import (
    UNENCRYPTED,
    BaseBackupSent,
    Background,
    Proxy,
    ScratchDir,
    Server,
    archives,
    basebackup,
    for_each_major,
    is_stock_tested,
    ours_only,
    pgstow,
    read_archive,
    run,
    server_compression_methods,
    stock_tool,
    uncompressed,
)
from harness.run import STOCK_BIN, compat_path
from harness.tarfiles import BLOCK, FIELDS

MANIFESTS_SINCE = 13
TERMINATED_SINCE = 15
RECENT_STOCK = 15
ANY = 15  # for what happens on our side only, one version
SUFFIXES = {"gzip": ".gz", "lz4": ".lz4", "zstd": ".zst"}
END = bytes(2 * BLOCK)

# Every checkpoint writes these, and makes and removes files in the directories.
CHANGING_CONTENT = {"backup_label", "global/pg_control"}
CHANGING_TIME = CHANGING_CONTENT | {
    "tablespace_map", "pg_logical/", "pg_logical/replorigin_checkpoint", "pg_wal/", "global/",
    "pg_replslot/", "pg_stat_tmp/", "./pg_wal/archive_status/", "./pg_wal/summaries/",
}


def stock_basebackup(test, *args, **options):
    """The stock tool of this version or of one that knows this server; skips without one."""
    tool = (stock_tool("pg_basebackup", test.major) if test.major > RECENT_STOCK
            else STOCK_BIN / "pg_basebackup")
    if tool is None:
        test.skipTest(f"no stock pg_basebackup for version {test.major}")
    return run([tool, "-c", "fast", *args], **options)


def fields_of(member, *without):
    return {name: member.field(name) for name in FIELDS if name not in without}


def marked(segment):
    return [segment, f"archive_status/{segment}.done"]


class TarTestCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        # Nothing happens on this server by itself.
        cls.server = cls.enterClassContext(Server(cls.major, autovacuum="off"))
        cls.server.sql("CREATE TABLE t AS SELECT g AS id FROM generate_series(1, 1000) g")

    def setUp(self):
        self.scratch = self.enterContext(ScratchDir())
        self.target = self.scratch / "backup"

    def recorded_backup(self, *args, target=None):
        """A backup, and what came from the server while it was taken."""
        with Proxy(self.server.port) as proxy:
            proxy.record(0)
            result = basebackup("-D", target or self.target, "-F", "tar", *args,
                                env=self.server.env() | proxy.env() | UNENCRYPTED).check()
            return BaseBackupSent(proxy.recorded(0), self.major), result

    def terminated(self, archive):
        return bytes(archive) + (b"" if self.major >= TERMINATED_SINCE else END)

    def file_names(self):
        return {path.name for path in self.target.iterdir()}

    def manifest_names(self):
        return {"backup_manifest"} if self.major >= MANIFESTS_SINCE else set()


@for_each_major()
class AsSent(TarTestCase):
    """The archives are those of the server."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server.create_tablespace("elsewhere")
        cls.server.sql("CREATE TABLE u TABLESPACE elsewhere AS SELECT * FROM t")
        cls.oid = cls.server.value("SELECT oid FROM pg_tablespace WHERE spcname = 'elsewhere'")

    def check_as_sent(self, *args, suffix="", more=()):
        sent, result = self.recorded_backup(*args)
        self.assertEqual(len(sent.archives), 2)
        self.assertEqual({name.removesuffix(suffix) for name in sent.archives},
                         {"base.tar", f"{self.oid}.tar"})
        self.assertEqual(self.file_names(), {*sent.archives, *more} | self.manifest_names())
        for name, data in sent.archives.items():
            # not assertEqual, which would show both
            self.assertTrue((self.target / name).read_bytes() == self.terminated(data), name)
        if self.major >= MANIFESTS_SINCE:
            self.assertEqual((self.target / "backup_manifest").read_bytes(), sent.manifest)
        return result

    def test_without_wal(self):
        self.check_as_sent("-X", "none")

    def test_fetched_wal(self):
        self.check_as_sent("-X", "fetch")

    def test_streamed_wal(self):
        self.check_as_sent("-X", "stream", more=["pg_wal.tar"])

    def test_compressed_by_the_server(self):
        for method in server_compression_methods(self.major):
            with self.subTest(method):
                self.target = self.scratch / method
                self.check_as_sent("-X", "stream", "-Z", f"server-{method}", more=["pg_wal.tar"],
                                   suffix=SUFFIXES[method])

    def test_compressed_by_us(self):
        for method, suffix in SUFFIXES.items():
            with self.subTest(method):
                self.target = self.scratch / method
                sent, _ = self.recorded_backup("-X", "none", "-Z", f"client-{method}:1")
                self.assertEqual(self.file_names(),
                                 {name + suffix for name in sent.archives} | self.manifest_names())
                for name, data in sent.archives.items():
                    ours = uncompressed(self.target / (name + suffix))
                    self.assertTrue(ours == self.terminated(data), name)

    def test_modes_of_the_files(self):
        basebackup("-D", self.target, "-F", "tar", "-X", "stream", env=self.server.env()).check()
        self.assertEqual(self.target.stat().st_mode & 0o7777, 0o700)
        for path in self.target.iterdir():
            self.assertEqual(path.stat().st_mode & 0o7777, 0o600, path)


@for_each_major()
class AsStock(TarTestCase):
    """What the stock tool and we make of the same server, one after the other."""

    def backup_pair(self, *args):
        ours, theirs = self.scratch / "ours", self.scratch / "theirs"
        stock_basebackup(self, "-D", theirs, "-F", "tar", *args, env=self.server.env()).check()
        basebackup("-D", ours, "-F", "tar", *args, env=self.server.env()).check()
        self.assertEqual({path.name for path in ours.iterdir()},
                         {path.name for path in theirs.iterdir()})
        return ours, theirs

    def assert_members_equal(self, ours, theirs):
        self.assertEqual(ours.names, theirs.names)
        for mine, other in zip(ours.members, theirs.members):
            self.assertTrue(mine.has_right_checksum(), mine.name)
            unequal = ("mtime", "checksum") if mine.name in CHANGING_TIME else ()
            self.assertEqual(fields_of(mine, *unequal), fields_of(other, *unequal), mine.name)
            if mine.name not in CHANGING_CONTENT:
                self.assertTrue(mine.content == other.content, mine.name)
        self.assertEqual(ours.tail, theirs.tail)
        self.assertEqual(ours.tail, END)

    def test_members(self):
        self.server.create_tablespace("elsewhere")
        self.server.sql("CREATE TABLE u TABLESPACE elsewhere AS SELECT * FROM t; CHECKPOINT")
        self.addCleanup(self.server.sql, "DROP TABLE u; DROP TABLESPACE elsewhere")
        ours, theirs = self.backup_pair("-X", "none")
        self.assertEqual(len(archives(ours)), 2)
        for name, path in archives(ours).items():
            with self.subTest(name):
                self.assert_members_equal(read_archive(path.read_bytes()),
                                          read_archive((theirs / path.name).read_bytes()))

    def wal_members(self, backup, suffix):
        """The members of pg_wal.tar, named by what they are."""
        archive = read_archive(uncompressed(backup / f"pg_wal.tar{suffix}"))
        self.assertEqual(archive.tail, END)
        members = []
        for member in archive.members:
            self.assertTrue(member.has_right_checksum(), member.name)
            kind = re.sub("[0-9A-F]{24}", "SEGMENT", member.name)
            members.append((kind, len(member.content),
                            fields_of(member, "name", "mtime", "checksum")))
        # The last segment is marked only when it was filled before the backup's end was known.
        return members[:-1] if archive.names[-2:] == marked(archive.names[-2]) else members

    def halted_backup(self, command, target, *args):
        """A backup during which three segments are filled."""
        with Proxy(self.server.port) as proxy:
            proxy.stall(after=3_000_000)
            with Background([*command, "-c", "fast", "-D", target, "-F", "tar", *args],
                            env=self.server.env() | proxy.env()) as backup:
                self.assertTrue(proxy.fault_happened())
                for _ in range(3):
                    self.server.sql("INSERT INTO t SELECT 1; SELECT pg_switch_wal()")
                proxy.release()
                backup.wait().check()

    def stock_command(self):
        tool = stock_tool("pg_basebackup", max(self.major, RECENT_STOCK))
        if tool is None:
            self.skipTest(f"no stock pg_basebackup for version {self.major}")
        return [tool]

    def assert_made_by_us(self, member, uid, gid):
        """The fields that need no stock tool to know."""
        self.assertEqual((oct(member.mode), member.number("uid"), member.number("gid")),
                         ("0o600", uid, gid), member.name)
        for name in ("uname", "gname"):
            self.assertEqual(member.field(name).rstrip(b"\0"), b"postgres")

    def test_pg_wal_tar(self):
        for compression, suffix in (("none", ""), ("gzip", ".gz")):
            with self.subTest(compression):
                ours, theirs = self.scratch / f"ours{suffix}", self.scratch / f"theirs{suffix}"
                args = [] if compression == "none" else ["-z"]
                self.halted_backup([compat_path("pg_basebackup")], ours, *args)
                members = self.wal_members(ours, suffix)
                kinds = [kind for kind, _, _ in members]
                self.assertEqual(kinds.count("archive_status/SEGMENT.done"), 3)
                self.assertEqual(kinds.count("SEGMENT"), 4)
                for member in read_archive(uncompressed(ours / f"pg_wal.tar{suffix}")).members:
                    self.assert_made_by_us(member, uid=0, gid=0)
                self.halted_backup(self.stock_command(), theirs, *args)
                self.assertEqual(members, self.wal_members(theirs, suffix))

    def test_standard_output(self):
        """A manifest becomes the last member."""
        ours = read_archive(self.to_stdout([compat_path("pg_basebackup")]))
        self.assertEqual(ours.tail, END)
        self.assertEqual("backup_manifest" == ours.names[-1], self.major >= MANIFESTS_SINCE)
        if self.major >= MANIFESTS_SINCE:
            self.assert_made_by_us(ours["backup_manifest"], uid=0o4000, gid=0o2000)
        self.assert_stdout_equal(ours, read_archive(self.to_stdout(self.stock_command())))

    def to_stdout(self, command):
        with open(self.scratch / "stdout", "w+b") as out:
            run([*command, "-c", "fast", "-D", "-", "-F", "tar", "-X", "none"],
                env=self.server.env(), stdout=out).check()
            out.seek(0)
            return out.read()

    def assert_stdout_equal(self, ours, theirs):
        self.assertEqual(ours.names, theirs.names)
        for mine, other in zip(ours.members, theirs.members):
            changing = CHANGING_TIME | {"backup_manifest"}
            without = ["mtime", "checksum"] if mine.name in changing else []
            self.assertEqual(fields_of(mine, *without), fields_of(other, *without), mine.name)
        self.assertEqual(ours.tail, theirs.tail)


@for_each_major()
class StandardOutput(TarTestCase):
    """`-D -`: one archive, which can be unpacked while it comes."""

    def test_unpacked_while_it_comes(self):
        run(["mkdir", "-m", "700", self.target]).check()
        command = [compat_path("pg_basebackup"), "-c", "fast", "-D", "-", "-Ft", "-Xfetch"]
        run(["bash", "-o", "pipefail", "-c", '"${@:2}" | tar -x -p -C "$1"', "bash", self.target,
             *command], env=self.server.env()).check()
        if self.major >= MANIFESTS_SINCE:
            pgstow("verifybackup", self.target).check()
        with self.server.start_copy(self.target) as copy:
            self.assertEqual(copy.data_digest(), self.server.data_digest())


@for_each_major(since=ANY, until=ANY)
class OurCompression(TarTestCase):
    """What does not depend on the server."""

    def test_gzip_is_one_member(self):
        """The stock verifier reads no more than the first."""
        basebackup("-D", self.target, "-Ft", "-Xnone", "-z", env=self.server.env()).check()
        for path in self.target.glob("*.gz"):
            decompressor = zlib.decompressobj(wbits=31)
            decompressor.decompress(path.read_bytes())
            self.assertTrue(decompressor.eof)
            self.assertEqual(decompressor.unused_data, b"")

    def test_server_may_recycle_wal_meanwhile(self):
        """It is told what is on disk, so that the slot does not hold all WAL of a long backup."""
        for more in ([], ["-z"], ["-Z", "zstd:19"]):
            command = [compat_path("pg_basebackup"), "-c", "fast", "-D", self.target, "-F", "tar",
                       "-r", "64", "-s", "1", *more]
            with self.subTest(more), Background(command, env=self.server.env()) as backup:
                self.server.wait_for("EXISTS (SELECT FROM pg_replication_slots WHERE active)")
                for _ in range(3):
                    self.server.sql("INSERT INTO t SELECT 1; SELECT pg_switch_wal()")
                self.server.wait_for("(SELECT pg_current_wal_lsn() - restart_lsn < 16 * 1024 * 1024"
                                     " FROM pg_replication_slots)")
                backup.stop()
                self.server.wait_for("NOT EXISTS (SELECT FROM pg_replication_slots)")

    def test_which_of_several_compressions(self):
        """The last of -z and -Z; a number is a level of gzip; none is none."""
        for args, suffix in ((["-z"], ".gz"), (["-Z", "3"], ".gz"), (["-Z", "lz4", "-z"], ".gz"),
                             (["-z", "-Z", "zstd:2"], ".zst"), (["-z", "-Z", "none"], ""),
                             (["-Z", "client-lz4:level=4"], ".lz4"),
                             (["-Z", "client-zstd:level=1,workers=2"], ".zst")):
            with self.subTest(args):
                self.check_suffix(suffix, *args)

    @ours_only("came with 16", before=16)
    def test_long_distance_matching(self):
        self.check_suffix(".zst", "-Z", "client-zstd:level=1,long=on")

    def check_suffix(self, suffix, *args):
        with ScratchDir() as scratch:
            basebackup("-D", scratch / "b", "-Ft", "-Xnone", *args, env=self.server.env()).check()
            path = archives(scratch / "b")["base"]
            self.assertEqual(path.name, "base.tar" + suffix)
            self.assertIn("PG_VERSION", read_archive(uncompressed(path)))

    def test_compression_where_it_is_not_said(self):
        """On our side, the streamed WAL too."""
        basebackup("-D", self.target, "-Ft", "-Z", "gzip", env=self.server.env()).check()
        self.assertEqual(archives(self.target)["pg_wal"].name, "pg_wal.tar.gz")

    def test_streamed_wal_is_compressed_too(self):
        """Stock does so with gzip only."""
        for method, suffix in SUFFIXES.items():
            with self.subTest(method), ScratchDir() as scratch:
                self.target = scratch / "backup"
                basebackup("-D", self.target, "-F", "t", "-Z", f"client-{method}",
                           env=self.server.env()).check()
                path = archives(self.target)["pg_wal"]
                if is_stock_tested() and method != "gzip":
                    suffix = ""
                self.assertEqual(path.name, "pg_wal.tar" + suffix)
                self.assertRegex(read_archive(uncompressed(path)).names[0], "^[0-9A-F]{24}$")

    def test_to_standard_output(self):
        for method, suffix in SUFFIXES.items():
            with self.subTest(method):
                path = self.scratch / f"base.tar{suffix}"
                args = ["-D", "-", "-F", "tar", "-X", "none", "-Z", f"client-{method}"]
                with open(path, "wb") as out:
                    basebackup(*args, env=self.server.env(), stdout=out).check()
                archive = read_archive(uncompressed(path))
                self.assertEqual(archive.tail, END)
                last = {"backup_manifest"} if self.major >= MANIFESTS_SINCE else set()
                self.assertLessEqual({"backup_label", "PG_VERSION", "global/pg_control"} | last,
                                     set(archive.names))
