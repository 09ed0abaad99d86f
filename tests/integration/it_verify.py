"""Our verifier and the stock one: each accepts the other's backups, and they agree about damage."""

import unittest

from harness import DAMAGES, ScratchDir, Server, compat, damaged_copy, for_each_major, pgstow, stock

# Where we see more than the stock tool, and why.
WE_SEE_MORE = {
    # Only pg_wal and pg_tblspc/* may be links: nothing outside the backup is read.
    "table_replaced_by_link_to_itself": "bad",
}


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
