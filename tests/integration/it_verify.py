"""Our verifier and the stock one: each accepts the other's backups, and they agree about damage."""

import unittest

from harness import (
    DAMAGES,
    ScratchDir,
    Server,
    archives,
    compat,
    damaged_copy,
    extract,
    for_each_major,
    pgstow,
    run,
    stock,
    stock_tool,
)
from harness.run import STOCK_BIN
from harness.tardamage import TAR_DAMAGES, WAL_DAMAGES, damaged_tar_copy

# Where we see more than the stock tool, and why.
WE_SEE_MORE = {
    # Only pg_wal and pg_tblspc/* may be links: nothing outside the backup is read.
    "table_replaced_by_link_to_itself": "bad",
}
RECENT_STOCK = 15
TAR_VERIFIER = 18  # its pg_verifybackup is the first for tar format; it reads older backups as well


@for_each_major(since=15, until=15)
class AgainstStock(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = cls.enterClassContext(ScratchDir())
        cls.server = cls.enterClassContext(Server(cls.major))
        cls.server.pgbench_init(scale=1)
        cls.ours, cls.stocks = cls.scratch / "ours", cls.scratch / "stocks"
        with cls.server.pgbench_load() as load:
            load.wait_transactions(20)
            pgstow("basebackup", "-D", cls.ours, "-c", "fast", env=cls.server.env()).check()
            stock("pg_basebackup", "-D", cls.stocks, "-c", "fast", env=cls.server.env()).check()

    def test_stock_accepts_ours(self):
        stock("pg_verifybackup", self.ours).check()

    def test_ours_accepts_stocks(self):
        self.assertEqual(compat("pg_verifybackup", self.stocks).check().out,
                         "backup successfully verified\n")

    def test_same_verdict_on_damage(self):
        for damage in DAMAGES:
            with self.subTest(damage.name), damaged_copy(self.ours, damage) as directory:
                expected = WE_SEE_MORE.get(damage.name, damage.stock_verdict)
                result = compat("pg_verifybackup", directory)
                self.assertEqual("good" if result.rc == 0 else "bad", expected, result)
                self.assertIn(result.rc, (0, 1), result)
                if expected == "bad":
                    self.assertRegex(result.err, r"(?m)^pg_verifybackup: error: ")
                    self.assertEqual(result.out, "")

    def test_exit_on_error_shows_one(self):
        directory = self.enterContext(ScratchDir()) / "copy"
        stock("pg_basebackup", "-D", directory, "-c", "fast", env=self.server.env()).check()
        for name in ("PG_VERSION", "backup_label", "postgresql.conf"):
            (directory / name).unlink()
        self.assertEqual(pgstow("verifybackup", "-e", directory).err.count("error:"), 1)
        self.assertEqual(pgstow("verifybackup", directory).err.count("error:"), 3)
        ignored = ["-i", "PG_VERSION", "-i", "./backup_label", "--ignore=postgresql.conf"]
        pgstow("verifybackup", *ignored, directory).check()

    def test_progress_and_quiet(self):
        result = pgstow("verifybackup", "-P", self.ours).check()
        self.assertRegex(result.err, r"(\d+)/\1 kB \(100%\) verified\n$")
        result = pgstow("verifybackup", "-q", self.ours).check()
        self.assertEqual((result.out, result.err), ("", ""))

    def test_manifest_and_wal_elsewhere(self):
        with ScratchDir() as scratch:
            copy = scratch / "copy"
            stock("pg_basebackup", "-D", copy, "-c", "fast", env=self.server.env()).check()
            (copy / "backup_manifest").rename(scratch / "m")
            (copy / "pg_wal").rename(scratch / "w")
            self.assertEqual(pgstow("verifybackup", copy).rc, 1)
            self.assertEqual(pgstow("verifybackup", "-m", scratch / "m", copy).rc, 1)
            pgstow("verifybackup", "-m", scratch / "m", "-w", scratch / "w", copy).check()
            pgstow("verifybackup", "-m", scratch / "m", "-n", copy).check()


@for_each_major(since=15)
class TarFormat(unittest.TestCase):
    """Backups that the stock tool took, which reads them from version 18 on, and some of ours."""

    METHODS = ("none", "gzip", "lz4", "zstd")
    # pg_wal.tar is compressed with gzip only.
    WAL_PLACES = (("stream", "none"), ("stream", "gzip"), ("fetch", "none"), ("fetch", "lz4"))

    @classmethod
    def setUpClass(cls):
        tool = (stock_tool("pg_basebackup", cls.major) if cls.major > RECENT_STOCK
                else STOCK_BIN / "pg_basebackup")
        if tool is None:
            raise unittest.SkipTest(f"no stock pg_basebackup for version {cls.major}")
        cls.scratch = cls.enterClassContext(ScratchDir())
        with Server(cls.major) as server:
            server.pgbench_init(scale=1)
            server.create_tablespace("elsewhere")
            server.sql("CREATE TABLE t TABLESPACE elsewhere AS SELECT generate_series(1, 10000)")
            with server.pgbench_load() as load:
                load.wait_transactions(20)
                streamed = [("stream", method) for method in cls.METHODS]
                for wal, method in sorted({*streamed, *cls.WAL_PLACES}):
                    run([tool, *cls.options(wal, method), "-D", cls.backup_of(wal, method)],
                        env=server.env()).check()
                for wal, method in streamed:
                    compat("pg_basebackup", *cls.options(wal, method),
                           "-D", cls.backup_of("ours", method), env=server.env()).check()

    @staticmethod
    def options(wal, method):
        compression = "none" if method == "none" else f"client-{method}:1"
        return ["-c", "fast", "-F", "tar", "-X", wal, "-Z", compression]

    @classmethod
    def backup_of(cls, wal, method):
        return cls.scratch / f"{wal}-{method}"

    def assert_verdict(self, expected, *args):
        result = compat("pg_verifybackup", *args)
        self.assertEqual("good" if result.rc == 0 else "bad", expected, result)
        self.assertIn(result.rc, (0, 1), result)
        if expected == "bad":
            self.assertRegex(result.err, r"(?m)^pg_verifybackup: error: ")
            self.assertEqual(result.out, "")
        return result

    def stock_verdict(self, directory):
        """None without the tool. Damage with which it does not come to an end is bad, too."""
        tool = stock_tool("pg_verifybackup", TAR_VERIFIER)
        if tool is None:
            return None
        try:
            return "bad" if run([tool, "-n", "-F", "tar", directory], timeout=30).rc else "good"
        except TimeoutError:
            return "bad"

    def test_same_verdict_on_damage(self):
        for method in self.METHODS:
            for damage in TAR_DAMAGES:
                with self.subTest(f"{damage.name}, {method}"), damaged_tar_copy(
                        self.backup_of("stream", method), damage) as directory:
                    self.assert_verdict(damage.stock_verdict, "-n", "-F", "t", directory)
                    self.assertIn(self.stock_verdict(directory), (damage.stock_verdict, None))

    def test_wal(self):
        for wal, method in self.WAL_PLACES:
            for damage in WAL_DAMAGES:
                with self.subTest(f"{damage.name}, {wal}, {method}"), damaged_tar_copy(
                        self.backup_of(wal, method), damage) as directory:
                    result = self.assert_verdict(damage.stock_verdict, directory)
                    if damage.stock_verdict == "bad":
                        self.assertRegex(result.err, "WAL parsing failed for timeline 1: .* at LSN")
                        self.assertEqual(result.err.count("\n"), 1)
                    self.assert_verdict("good", "-n", directory)

    def test_good_in_every_compression(self):
        for method in self.METHODS:
            for kind in ("stream", "ours"):
                with self.subTest(f"{method}, {kind}"):
                    pgstow("verifybackup", self.backup_of(kind, method)).check()
                    self.assertIn(self.stock_verdict(self.backup_of(kind, method)), ("good", None))

    def test_wal_elsewhere(self):
        with ScratchDir() as scratch:
            copy = scratch / "copy"
            run(["cp", "-a", self.backup_of("stream", "none"), copy]).check()
            extract(archives(copy)["pg_wal"], scratch / "wal")
            archives(copy)["pg_wal"].unlink()
            self.assert_verdict("bad", copy)
            self.assert_verdict("good", "-w", scratch / "wal", copy)
            self.assert_verdict("good", "-n", copy)

    def test_exit_on_error_shows_one(self):
        with ScratchDir() as scratch:
            copy = scratch / "copy"
            run(["cp", "-a", self.backup_of("stream", "zstd"), copy]).check()
            (copy / "notes").touch()
            archives(copy)["base"].unlink()
            self.assertEqual(self.assert_verdict("bad", "-e", copy).err.count("error:"), 1)
            self.assertGreater(self.assert_verdict("bad", copy).err.count("error:"), 900)

    def test_progress_is_of_the_archives(self):
        backup = self.backup_of("stream", "gzip")
        size = sum(path.stat().st_size for path in archives(backup).values()) // 1024
        result = pgstow("verifybackup", "-P", backup).check()
        self.assertTrue(result.err.endswith(f"{size}/{size} kB (100%) verified\n"), result)
