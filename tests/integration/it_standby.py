"""Base backups from standbys: of every version, under load, and while the standby is promoted."""

import re
import unittest

from harness import (
    Background,
    Proxy,
    ScratchDir,
    Server,
    for_each_major,
    forget_recovery,
    pgstow,
)
from harness.run import pgstow_path

MANIFESTS_SINCE = 13


def errors(result):
    return re.findall(r"^pgstow basebackup: error: (.*)$", result.err, re.MULTILINE)


class StandbyTestCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.places = cls.enterClassContext(ScratchDir())
        cls.primary = cls.enterClassContext(Server(cls.major))
        cls.primary.pgbench_init(scale=2)

    @classmethod
    def make_standby(cls, name, upstream=None):
        """A running standby, which has caught up with its upstream."""
        upstream = upstream or cls.primary
        directory = cls.places / name
        pgstow("basebackup", "-D", directory, "-c", "fast", env=upstream.env()).check()
        return upstream.start_standby(directory)

    def setUp(self):
        self.scratch = self.enterContext(ScratchDir())
        self.target = self.scratch / "backup"

    def verify(self):
        if self.major >= MANIFESTS_SINCE:
            pgstow("verifybackup", self.target).check()

    def history_rows(self, server):
        return int(server.value("SELECT count(*) FROM pgbench_history"))

    def halted_backup(self, server):
        """A backup of which only the first part has come, and its proxy, which holds the rest."""
        proxy = self.enterContext(Proxy(server.port))
        proxy.stall(after=3_000_000)
        command = [pgstow_path(), "basebackup", "-D", self.target, "-c", "fast"]
        backup = self.enterContext(Background(command, env=server.env() | proxy.env()))
        self.assertTrue(proxy.fault_happened())
        return backup, proxy


@for_each_major()
class FromStandby(StandbyTestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.standby = cls.enterClassContext(cls.make_standby("standby"))

    def check_started_alone(self):
        """The backup is complete without its primary."""
        forget_recovery(self.target)
        with self.primary.start_copy(self.target) as copy:
            self.assertEqual(copy.value("SELECT pg_is_in_recovery()"), "f")
            self.assertTrue(copy.pgbench_is_consistent())
            return self.history_rows(copy)

    def backup(self, *args):
        return pgstow("basebackup", "-D", self.target, "-c", "fast", *args,
                      env=self.standby.env()).check()

    def check_backup_under_load(self, *args):
        with self.primary.pgbench_load() as load:
            load.wait_transactions(50)
            before = self.history_rows(self.standby)
            self.backup(*args)
            load.wait_transactions(50)
            load.stop()
        self.verify()
        rows = self.check_started_alone()
        self.assertGreaterEqual(rows, before)
        self.assertLess(rows, self.history_rows(self.primary))

    def test_streamed_wal_under_load(self):
        self.check_backup_under_load("-X", "stream")
        self.assertEqual(self.standby.sql("SELECT FROM pg_replication_slots"), [])

    def test_fetched_wal_under_load(self):
        self.check_backup_under_load("-X", "fetch")

    def test_idle(self):
        """Nothing happens on the primary: the backup ends all the same."""
        self.primary.sql("CHECKPOINT")
        result = self.backup()
        self.assertLess(result.seconds, 30)
        self.verify()
        self.assertEqual(self.check_started_alone(), self.history_rows(self.primary))

    def test_backup_becomes_a_standby(self):
        """Started as it is, it follows the same primary."""
        self.backup()
        with self.primary.start_copy(self.target) as copy:
            self.primary.sql("CREATE TABLE IF NOT EXISTS news AS SELECT 1 AS a")
            copy.wait_for("to_regclass('news') IS NOT NULL")
            self.assertEqual(copy.value("SELECT pg_is_in_recovery()"), "t")


@for_each_major()
class Promotions(StandbyTestCase):
    """What a change of timeline in the middle of a backup does."""

    def test_of_the_standby_itself(self):
        with self.make_standby("promoted") as standby:
            backup, proxy = self.halted_backup(standby)
            standby.promote()
            proxy.release()
            result = backup.wait()
            self.assertEqual(result.rc, 1, result)
            self.assertEqual(len(errors(result)), 1, result)
            # The WAL of the old timeline may be gone before the other connection notices anything.
            self.assertRegex(errors(result)[0], "the standby was promoted during online backup|"
                                                "could not stream write-ahead log: .* removed|"
                                                "promoted in the middle of the stream")
            self.assertEqual(list(self.scratch.iterdir()), [])
            self.assertEqual(standby.sql("SELECT FROM pg_replication_slots"), [])

    def test_of_the_server_above(self):
        """The standby follows to timeline 2 in mid-backup, and so does the WAL of the backup."""
        with self.make_standby("middle") as middle, \
                self.make_standby("below", upstream=middle) as below:
            backup, proxy = self.halted_backup(below)
            middle.promote()
            with middle.pgbench_load() as load:
                load.wait_transactions(50)
                middle.sql("CREATE TABLE on_timeline_2 AS SELECT 1 AS a; CHECKPOINT")
                position = middle.value("SELECT pg_current_wal_flush_lsn()")
                below.wait_for(f"pg_last_wal_replay_lsn() >= '{position}'")
                # A standby's backup ends at its last restartpoint.
                below.sql("CHECKPOINT")
                proxy.release()
                result = backup.wait().check()
                load.stop()
            self.assertEqual(errors(result), [])
            self.assertTrue((self.target / "pg_wal/00000002.history").exists())
            self.verify()
            if self.major >= MANIFESTS_SINCE:
                manifest = (self.target / "backup_manifest").read_text()
                self.assertEqual(re.findall(r'"Timeline": (\d+)', manifest), ["2", "1"])
            forget_recovery(self.target)
            with middle.start_copy(self.target) as copy:
                self.assertEqual(copy.value("SELECT a FROM on_timeline_2"), "1")
                self.assertTrue(copy.pgbench_is_consistent())
