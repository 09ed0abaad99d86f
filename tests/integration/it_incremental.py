"""-i: incremental backups in every form, put together and started."""

import unittest

from harness import (
    ScratchDir,
    Server,
    basebackup,
    combine,
    for_each_major,
    pgstow,
    redirect_tablespaces,
    restore_tar,
    run,
    server_compression_methods,
    stock_tool,
)

INCREMENTALS_SINCE = 17


def is_empty(directory):
    return list(directory.iterdir()) == []


class IncrementalTestCase(unittest.TestCase):
    def setUp(self):
        self.scratch = self.enterContext(ScratchDir())
        self.target = self.scratch / "backup"

    def backup(self, server, target, *args):
        return basebackup("-D", target, *args, env=server.env())

    def assert_refused(self, server, pattern, *args):
        target = self.enterContext(ScratchDir()) / "refused"
        result = self.backup(server, target, *args)
        self.assertEqual(result.rc, 1, result)
        self.assertRegex(result.err, pattern)
        self.assertTrue(is_empty(target.parent), result)


@for_each_major(since=INCREMENTALS_SINCE)
class Incremental(IncrementalTestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(
            Server(cls.major, summarize_wal="on", autovacuum="off"))
        location = cls.server.create_tablespace("elsewhere")
        cls.oid = cls.server.value("SELECT oid FROM pg_tablespace WHERE spcname = 'elsewhere'")
        cls.server.sql(
            "CREATE TABLE t AS SELECT g AS id, repeat('x', 200) AS v"
            " FROM generate_series(1, 20000) g;"
            "CREATE TABLE shrinks AS SELECT * FROM t;"
            "CREATE TABLE goes AS SELECT 1 AS a;"
            "CREATE TABLE u TABLESPACE elsewhere AS SELECT * FROM t")
        cls.server.sql("VACUUM")  # or the first to read a page changes it
        cls.places = cls.enterClassContext(ScratchDir())
        cls.full = cls.places / "full"
        cls.mapping = f"-T{location}={cls.places / 'full-tablespace'}"
        basebackup("-D", cls.full, cls.mapping, env=cls.server.env()).check()
        cls.location = location
        cls.server.sql(
            "UPDATE t SET v = 'changed' WHERE id % 4000 = 0;"
            "UPDATE u SET v = 'changed' WHERE id % 4000 = 0;"
            "INSERT INTO t SELECT g, repeat('y', 250) FROM generate_series(20001, 25000) g;"
            "DELETE FROM shrinks WHERE id > 100; DROP TABLE goes;"
            "CREATE TABLE comes AS SELECT 2 AS a")
        cls.server.sql("VACUUM (TRUNCATE) shrinks")

    def mapped(self, place):
        return f"-T{self.location}={place}"

    def manifest_of_full(self):
        return self.full / "backup_manifest"

    # --- restoring ---

    def assert_is_incremental(self, directory):
        """It holds what changed, and the verifiers know how to read it."""
        self.assertIn("INCREMENTAL FROM LSN", (directory / "backup_label").read_text())
        names = {path.name for path in directory.glob("base/*/INCREMENTAL.*")}
        self.assertGreater(len(names), 100)
        for table in ("t", "u"):
            path = self.server.value(f"SELECT pg_relation_filepath('{table}')")
            name = directory / path
            self.assertTrue(name.with_name("INCREMENTAL." + name.name).exists(), table)
        pgstow("verifybackup", directory).check()
        tool = stock_tool("pg_verifybackup", self.major)
        if tool:
            run([tool, directory]).check()

    def combine_and_compare(self, *increments):
        """With our own combiner, and with the stock one where it is at hand."""
        chain = [self.full, *increments]
        with self.subTest("combined by the tests"), ScratchDir() as scratch:
            combine(chain, scratch / "combined")
            self.assert_equals_source(scratch / "combined")
        tool = stock_tool("pg_combinebackup", self.major)
        if not tool:
            return
        with self.subTest("combined by the stock tool"), ScratchDir() as scratch:
            link = increments[-1] / "pg_tblspc" / self.oid
            run([tool, *chain, "-o", scratch / "combined",
                 f"-T{link.readlink()}={scratch / 'place'}"]).check()
            self.assert_equals_source(scratch / "combined")

    def assert_equals_source(self, directory):
        if (directory / "tablespace_map").exists():
            place = (directory / "pg_tblspc" / self.oid).readlink()
            redirect_tablespaces(directory, {self.oid: place})
        with self.server.start_copy(directory) as copy:
            self.assertEqual(copy.data_digest(), self.server.data_digest())

    def check(self, *args, form):
        with ScratchDir() as scratch:
            backup, place = scratch / "backup", scratch / "place"
            self.backup(self.server, backup, "-i", self.manifest_of_full(), "-F", form,
                        self.mapped(place), *args).check()
            if form == "tar":
                restore_tar(backup, scratch / "restored", {self.oid: place})
                backup = scratch / "restored"
            self.assert_is_incremental(backup)
            self.combine_and_compare(backup)

    # --- tests ---

    def test_plain(self):
        self.check(form="plain")

    def test_plain_compressed_by_the_server(self):
        for method in server_compression_methods(self.major):
            with self.subTest(method):
                self.check("-Z", f"server-{method}", "-X", "fetch", form="plain")

    def test_tar(self):
        self.check("-X", "fetch", form="tar")

    def test_tar_compressed_by_us(self):
        for method in ("gzip", "lz4", "zstd"):
            with self.subTest(method):
                self.check("-Z", f"client-{method}:1", form="tar")

    def test_tar_compressed_by_the_server(self):
        for method in server_compression_methods(self.major):
            with self.subTest(method):
                self.check("-Z", f"server-{method}", form="tar")

    def test_of_an_incremental(self):
        """The second on the first, whose manifest came with a backup in tar format."""
        first, second = self.scratch / "first", self.scratch / "second"
        self.backup(self.server, first, "-i", self.manifest_of_full(), "-F", "tar").check()
        restore_tar(first, self.scratch / "restored", {self.oid: self.scratch / "first-place"})
        self.server.sql("UPDATE t SET v = 'again' WHERE id IN (7, 24999)")
        self.backup(self.server, second, "-i", first / "backup_manifest",
                    self.mapped(self.scratch / "second-place")).check()
        self.assert_is_incremental(second)
        self.combine_and_compare(self.scratch / "restored", second)

    def test_to_the_server(self):
        target = self.scratch / "there"
        basebackup("-t", f"server:{target}", "-X", "fetch", "-i", self.manifest_of_full(),
                   env=self.server.env()).check()
        restore_tar(target, self.scratch / "restored", {self.oid: self.scratch / "place"})
        self.assert_is_incremental(self.scratch / "restored")

    # --- what cannot be ---

    def test_manifest_that_is_not_there(self):
        self.assert_refused(self.server, "could not open file .*: No such file", "-i", "/nowhere/m")

    def test_manifest_that_is_none(self):
        for name, text in (("empty", ""), ("words", "not a manifest\n"), ("array", "[]\n\n")):
            with self.subTest(name):
                (self.scratch / name).write_text(text)
                self.assert_refused(self.server, "manifest", "-i", self.scratch / name)

    def test_manifest_that_was_altered(self):
        altered = self.scratch / "altered"
        altered.write_text(self.manifest_of_full().read_text().replace("base/1/", "base/2/", 1))
        altered.chmod(0o644)
        self.assert_refused(self.server, "manifest checksum mismatch", "-i", altered)

    def test_manifest_of_another_cluster(self):
        with Server(self.major, summarize_wal="on") as other:
            self.assert_refused(other, "system identifier", "-i", self.manifest_of_full(),
                                "-F", "tar")

    def test_manifest_of_an_old_version(self):
        with Server(15) as old:
            self.backup(old, self.target).check()
        self.assert_refused(self.server, "version 1 does not support incremental backup",
                            "-i", self.target / "backup_manifest")

    def test_without_summaries(self):
        with Server(self.major) as other:
            self.backup(other, self.target).check()
            self.assert_refused(other, "WAL summarization", "-i", self.target / "backup_manifest")


@for_each_major(since=15, until=16)
class TooOld(IncrementalTestCase):
    def test_refused(self):
        with Server(self.major) as server:
            self.backup(server, self.target).check()
            for args in ([], ["-F", "tar"]):
                self.assert_refused(server, "server does not support incremental backup",
                                    "-i", self.target / "backup_manifest", *args)
            self.assertEqual(server.sql("SELECT FROM pg_replication_slots"), [])
