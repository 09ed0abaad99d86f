"""--page-digests: backup_pages as docs/formats.md describes it, read by somebody else."""

import functools
import json
import re
import struct
import unittest

from harness import (
    ScratchDir,
    Server,
    basebackup,
    for_each_major,
    pgstow,
    restore_tar,
    run,
    server_compression_methods,
    stock_tool,
)

MANIFESTS_SINCE = 13
INCREMENTALS_SINCE = 17
TAR_VERIFIED_SINCE = 18  # by the stock tool
PAGE = 8192
NAME = "backup_pages"
RELATION_FILE = re.compile(
    r"^(base/\d+|global|pg_tblspc/\d+/PG_[^/]+/\d+)/(INCREMENTAL\.)?[1-9]\d*(_(fsm|vm|init))?"
    r"(\.[1-9]\d*)?$")


def crc_table():
    for crc in range(256):
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
        yield crc


TABLE = list(crc_table())


@functools.cache  # databases have most of their pages in common
def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def read_digests(path):
    """A file of page digests as {path: (size, [CRC of each page])}."""
    data = path.read_bytes()
    magic, version, page = struct.unpack_from("<8sII", data)
    if (magic, version, page) != (b"PGSTOWPD", 1, PAGE):
        raise ValueError(f"{magic}, version {version}, pages of {page}")
    files, at = {}, 16
    while (length := struct.unpack_from("<I", data, at)[0]) != 0:
        name = data[at + 4:at + 4 + length].decode()
        at += 4 + length
        size, = struct.unpack_from("<Q", data, at)
        count = -(-size // PAGE)
        if name in files:
            raise ValueError(f"{name} comes twice")
        files[name] = size, list(struct.unpack_from(f"<{count}I", data, at + 8))
        at += 8 + 4 * count
    count, = struct.unpack_from("<Q", data, at + 4)
    if count != len(files) or at + 16 != len(data):
        raise ValueError(f"{len(files)} files and not {count}, ends at {at + 16} of {len(data)}")
    return files, data


def pages_of(content):
    return [content[at:at + PAGE] for at in range(0, len(content), PAGE)]


class PageDigestsTestCase(unittest.TestCase):
    def setUp(self):
        self.scratch = self.enterContext(ScratchDir())
        self.target = self.scratch / "backup"

    def backup(self, *args, server=None, target=None):
        return basebackup("-D", target or self.target, "-v", *args,
                          env=(server or self.server).env())

    def assert_digests_of(self, directory, backup=None):
        """The file of this backup tells of all relation files in the directory, and truly."""
        backup = backup or directory
        files, data = read_digests(backup / NAME)
        self.assertEqual(struct.unpack_from("<I", data, len(data) - 4)[0], crc32c(data[:-4]))
        manifest = json.loads((backup / "backup_manifest").read_text())
        listed = {file["Path"] for file in manifest["Files"]}
        self.assertNotIn(NAME, listed)
        self.assertEqual(set(files), {path for path in listed if RELATION_FILE.match(path)})
        self.assertGreater(len(files), 500)
        for path, (size, crcs) in files.items():
            content = (directory / path).read_bytes()
            self.assertEqual(size, len(content), path)
            self.assertEqual(crcs, [crc32c(page) for page in pages_of(content)], path)
        return files

    def assert_stock_verifier_wants_it_ignored(self, complaint):
        tool = stock_tool("pg_verifybackup", self.major)
        if tool is None:
            return
        # WAL in tar format is what it does not know
        result = run([tool, "-n", self.target])
        self.assertEqual(result.rc, 1, result)
        self.assertRegex(result.err, complaint)
        run([tool, "-n", "-i", NAME, self.target]).check()


@for_each_major(since=MANIFESTS_SINCE)
class Written(PageDigestsTestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(
            cls.major, autovacuum="off",
            **({"summarize_wal": "on"} if cls.major >= INCREMENTALS_SINCE else {})))
        cls.location = cls.server.create_tablespace("elsewhere")
        cls.server.sql(
            "CREATE TABLE t AS SELECT g AS id, repeat('x', 200) AS v"
            " FROM generate_series(1, 5000) g; CREATE TABLE empty (a int);"
            "CREATE UNLOGGED TABLE unlogged AS SELECT 1 AS a;"
            "CREATE TABLE u TABLESPACE elsewhere AS SELECT * FROM t")
        cls.server.sql("VACUUM")
        cls.oid = cls.server.value("SELECT oid FROM pg_tablespace WHERE spcname = 'elsewhere'")

    def mapped(self):
        return f"-T{self.location}={self.scratch / 'place'}"

    def assert_starts(self, directory):
        (directory / "tablespace_map").unlink(missing_ok=True)
        with self.server.start_copy(directory) as copy:
            self.assertEqual(copy.data_digest(), self.server.data_digest())

    def test_plain(self):
        result = self.backup("--page-digests", self.mapped()).check()
        self.assertRegex(result.err, "(?s)renaming backup_pages.tmp to backup_pages\n"
                                     ".*renaming backup_manifest.tmp to backup_manifest\n")
        self.assertFalse((self.target / (NAME + ".tmp")).exists())
        self.assertEqual((self.target / NAME).stat().st_mode & 0o7777, 0o600)
        files = self.assert_digests_of(self.target)
        self.assertEqual(files[self.server.value("SELECT pg_relation_filepath('empty')")], (0, []))
        self.assert_stock_verifier_wants_it_ignored(
            '"backup_pages" is present on disk but not in the manifest')
        self.assert_starts(self.target)

    def test_tar(self):
        self.backup("--page-digests", "-F", "tar").check()
        restored = self.scratch / "restored"
        restore_tar(self.target, restored, {self.oid: self.scratch / "place"})
        self.assertFalse((restored / NAME).exists())
        self.assert_digests_of(restored, self.target)
        if self.major >= TAR_VERIFIED_SINCE:
            self.assert_stock_verifier_wants_it_ignored('"backup_pages" is not expected')
        run(["cp", "-p", self.target / NAME, restored]).check()
        self.assert_starts(restored)

    def test_compressed_and_rewritten(self):
        for method in [*server_compression_methods(self.major), None]:
            with self.subTest(method), ScratchDir() as scratch:
                compression = ["-Z", f"server-{method}:1"] if method else ["-Z", "gzip:1"]
                self.backup("--page-digests", "-F", "tar", "-R", *compression,
                            target=scratch / "backup").check()
                restore_tar(scratch / "backup", scratch / "restored",
                            {self.oid: scratch / "place"})
                self.assert_digests_of(scratch / "restored", scratch / "backup")

    def test_with_every_kind_of_manifest(self):
        for algorithm in ["SHA256", "NONE"]:
            with self.subTest(algorithm), ScratchDir() as scratch:
                self.backup("--page-digests", f"--manifest-checksums={algorithm}",
                            f"-T{self.location}={scratch / 'place'}",
                            target=scratch / "backup").check()
                self.assert_digests_of(scratch / "backup")

    def test_incremental(self):
        if self.major < INCREMENTALS_SINCE:
            self.skipTest("no incremental backups")
        full = self.scratch / "full"
        self.backup(f"-T{self.location}={self.scratch / 'full-place'}", target=full).check()
        self.server.sql("UPDATE t SET v = 'changed' WHERE id % 1000 = 0")
        self.backup("--page-digests", self.mapped(), "-i", full / "backup_manifest").check()
        files = self.assert_digests_of(self.target)
        incremental = {path for path in files if "/INCREMENTAL." in path}
        self.assertGreater(len(incremental), 100)
        # those without blocks are a header and nothing else
        self.assertIn(12, {files[path][0] for path in incremental})

    def test_of_a_restored_cluster(self):
        """The file of the backup that it was made of lies where that of the next would."""
        self.backup("--page-digests", self.mapped()).check()
        (self.target / "tablespace_map").unlink(missing_ok=True)
        with self.server.start_copy(self.target) as copy:
            copy.sql("CREATE TABLE more AS SELECT g FROM generate_series(1, 1000) g; CHECKPOINT")
            again = self.scratch / "again"
            more = f"-T{self.scratch / 'place'}={self.scratch / 'again-place'}"
            result = self.backup("--page-digests", more, server=copy, target=again)
            self.assertEqual(result.rc, 1, result)
            self.assertIn('the server\'s data directory has a file "backup_pages"', result.err)
            self.assertFalse(again.exists())

            # without the option it is a file of the server's like any other
            self.backup(more, server=copy, target=again).check()
            pgstow("verifybackup", again).check()
            self.assertIn(NAME, (again / "backup_manifest").read_text())
            run(["rm", "-r", again, self.scratch / "again-place"]).check()

            (self.target / NAME).unlink()
            self.backup("--page-digests", more, server=copy, target=again).check()
            self.assert_digests_of(again)
            pgstow("verifybackup", again).check()

    def test_without_the_option(self):
        self.backup(self.mapped()).check()
        self.assertEqual(list(self.target.glob(NAME + "*")), [])


@for_each_major(since=MANIFESTS_SINCE)
class WithoutDataChecksums(PageDigestsTestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(
            Server(cls.major, checksums=False, autovacuum="off"))

    def test_plain(self):
        self.server.sql("CREATE TABLE t AS SELECT g AS id FROM generate_series(1, 5000) g")
        path = self.server.value("SELECT pg_relation_filepath('t')")
        self.backup("--page-digests").check()
        self.assert_digests_of(self.target)
        pgstow("verifybackup", self.target).check()
        pgstow("verifybackup", "-i", NAME, self.target).check()
        self.damage_and_verify(self.target / path, 3 * PAGE + 4000, path)

    def test_tar(self):
        self.backup("--page-digests", "-F", "tar", "-X", "none").check()
        archive = (self.target / "base.tar").read_bytes()
        path = self.server.value("SELECT pg_relation_filepath('pg_proc')")
        content = self.server.data_dir / path
        at = archive.index(content.read_bytes()[5 * PAGE:6 * PAGE])
        pgstow("verifybackup", "-n", self.target).check()
        self.damage_and_verify(self.target / "base.tar", at + 17, path, page=5)

    def damage_and_verify(self, file, offset, path, page=3):
        """One byte is enough, and nothing else tells where it is."""
        with open(file, "r+b") as stream:
            stream.seek(offset)
            byte = stream.read(1)[0]
            stream.seek(offset)
            stream.write(bytes([byte ^ 0x40]))
        result = pgstow("verifybackup", "-n", self.target)
        self.assertEqual(result.rc, 1, result)
        begin, end = page * PAGE, page * PAGE + PAGE - 1
        self.assertIn(f'file "{path}": page {page} (bytes {begin} to {end}) has changed',
                      result.err)
        self.assertEqual(result.err.count("has changed"), 1, result)
        # without it only the file is known
        result = pgstow("verifybackup", "-n", "-i", NAME, self.target)
        self.assertEqual(result.rc, 1, result)
        self.assertNotIn("has changed", result.err)

    def test_nobody_verifies(self):
        self.backup("--page-digests", "--no-verify-checksums").check()
        self.assert_digests_of(self.target)
