"""WAL receivers through everything that goes wrong: what was acknowledged is never missing.

The counts are small, and one version is enough, for every day. A long run is one by hand with other
counts in the environment: PGSTOW_KILLS (of the receiver), PGSTOW_CRASHES (of the server) and
PGSTOW_FILLS (of the disk). PGSTOW_SEED repeats the random choices of a run.
"""

import contextlib
import os
import random
import re
import signal
import time
import unittest

from harness import (
    Background,
    Proxy,
    ScratchDir,
    Server,
    for_each_major,
    pgstow,
    run,
    small_filesystem,
    wait_until,
    waltest,
)
from harness.filesystem import fill
from harness.run import PLAIN_USER, STOCK_BIN
from harness.wal import MB, WalArchive, keep_wal, lsn_number, lsn_text, receivewal

IS_LONG_RUN = not {"PGSTOW_KILLS", "PGSTOW_CRASHES", "PGSTOW_FILLS"}.isdisjoint(os.environ)
KILLS = int(os.environ.get("PGSTOW_KILLS", 25))
CRASHES = int(os.environ.get("PGSTOW_CRASHES", 8))
FILLS = int(os.environ.get("PGSTOW_FILLS", 1))
SEED = int(os.environ.get("PGSTOW_SEED", random.randrange(10**6)))

SMALL_SEGMENTS_SINCE = 11
SLOT_LIMIT_SINCE = 13
# What depends on the server's version hardly at all.
SINCE = SMALL_SEGMENTS_SINCE if IS_LONG_RUN else 18

GONE, DAMAGED = 3, 4  # exit statuses
GAP = r"does not have WAL from \S+ to \S+ .*\d segments?\b.* any more"
LONGEST_STALL = 2.0

ALL_MODES = [
    ("--synchronous",),
    ("-Z", "gzip"),
    ("-Z", "lz4"),
    ("-Z", "zstd"),
    ("-Z", "zstd", "--synchronous"),
    (),
]


def errors(result):
    """But for that of one who comes back before the server has seen it go."""
    return [error for error in waltest.errors(result)
            if 'replication slot "ours" is active for PID' not in error]


class CrashTestCase(unittest.TestCase):
    """One archive behind one slot, what the server was told of it, and a look at the bytes."""

    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(
            Server(cls.major, initdb_args=["--wal-segsize=1"], **keep_wal(cls.major, 100_000)))
        cls.server.pgbench_init(scale=1)

    def setUp(self):
        self.random = random.Random(SEED)
        self.archive = WalArchive(self.enterContext(ScratchDir()), MB)
        self.scratch = self.enterContext(ScratchDir())
        if not self.server.is_running():
            self.server.start()
        self.make_slot()

    def make_slot(self):
        self.server.wait_for("NOT EXISTS (SELECT FROM pg_replication_slots WHERE active)")
        self.server.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots;"
                        "SELECT pg_create_physical_replication_slot('ours', true)")
        self.reserved = self.restart_lsn()  # nothing that anybody acknowledged
        self.acknowledged = self.reserved
        self.checked = self.archive.segment_start(self.reserved)

    # --- programs ---

    def receiver(self, *args, env=None):
        return receivewal(self.archive, "-S", "ours", *args, env=self.server.env() | (env or {}))

    @contextlib.contextmanager
    def streaming(self, *args, **options):
        with self.receiver(*args, **options) as receiver:
            receiver.wait_for_err("starting log streaming")
            yield receiver

    def stop(self, receiver):
        result = receiver.stop(signal.SIGINT)
        self.assertEqual(result.rc, 0, result)
        return result

    def backup(self):
        target = self.scratch / "backup"
        pgstow("basebackup", "-D", target, "-c", "fast", "-X", "none",
               env=self.server.env()).check()
        return target

    def write(self, megabytes=2):
        """Has the server write this much WAL, of which little is in small records: between records
        a byte of padding could be anything.
        """
        self.server.sql("CREATE TABLE IF NOT EXISTS filler (v text);"
                        "ALTER TABLE filler ALTER v SET STORAGE plain;"
                        "COPY (SELECT repeat('x', 1900) FROM generate_series(1, 550 * "
                        f"{megabytes})) TO '{self.scratch}/rows';"
                        f"COPY filler FROM '{self.scratch}/rows'")

    # --- positions ---

    def restart_lsn(self):
        return lsn_number(self.server.value("SELECT restart_lsn FROM pg_replication_slots"))

    def slot_is_active(self):
        return self.server.value("SELECT active FROM pg_replication_slots") == "t"

    def flushed(self):
        return lsn_number(self.server.value("SELECT pg_current_wal_flush_lsn()"))

    def note_acknowledged(self):
        """The slot's position is the last one that the receiver has reported as flushed; it stays
        when the receiver is gone.
        """
        self.acknowledged = max(self.acknowledged, self.restart_lsn())
        return self.acknowledged

    def catch_up(self, timeout=60):
        """Waits until all that the server has written so far is acknowledged."""
        position = self.flushed()
        wait_until(lambda: self.note_acknowledged() >= position, "acknowledgement", timeout)
        return position

    # --- what must be true ---

    def assert_nothing_lost(self):
        """Each acknowledged byte is in the archive; those that were checked are not read again."""
        if self.acknowledged == self.reserved:
            return
        self.assert_same(self.checked, self.acknowledged)
        self.checked = self.archive.segment_start(self.acknowledged)

    def assert_same(self, start, end):
        different = self.archive.first_difference(self.server, start, end)
        if different is not None:
            self.fail(f"not the server's WAL at {lsn_text(different)}, up to {lsn_text(end)}; "
                      f"acknowledged {lsn_text(self.acknowledged)}; seed {SEED}; "
                      f"archive ends with {self.archive.names()[-4:]}")

    def assert_whole(self, suffix=""):
        """The archive is the server's WAL from the slot's first position on, and nothing else."""
        complete = self.archive.complete()
        self.assertEqual(self.archive.strays(), [])
        self.assertEqual(self.archive.holes(), [])
        self.assertEqual(self.archive.partials().keys() & complete, set())
        self.assertLessEqual(len(self.archive.partials()), 1)
        self.assert_same(self.archive.segment_start(self.reserved), self.acknowledged)
        if suffix is not None:
            self.assertEqual({path.name[24:] for path in complete.values()}, {suffix})
        for name in complete:
            self.assertEqual(len(self.archive.content(name)), MB, name)

    def assert_recovers(self, backup):
        """To the last byte: the server has written nothing since it was acknowledged."""
        wal = self.scratch / "wal"
        run(["mkdir", wal]).check()
        self.archive.restore_to(wal)
        with self.server.start_recovered(backup, wal, synchronous_standby_names="") as copy:
            self.assertEqual(copy.data_digest(), self.server.data_digest())
            self.assertTrue(copy.pgbench_is_consistent())


def suffix_of(args):
    return {"gzip": ".gz", "lz4": ".lz4", "zstd": ".zst"}.get(args[1] if len(args) > 1 else "", "")


@for_each_major(since=SINCE)
class ReceiverKilled(CrashTestCase):
    """By kill -9 at any moment, under load."""

    def test_plain(self):
        self.check_kills(())

    def test_synchronous(self):
        self.check_kills(("--synchronous",))

    def test_gzip(self):
        self.check_kills(("-Z", "gzip"))

    def test_lz4(self):
        self.check_kills(("-Z", "lz4"))

    def test_zstd(self):
        self.check_kills(("-Z", "zstd"))

    def test_zstd_synchronous(self):
        self.check_kills(("-Z", "zstd", "--synchronous"))

    def test_other_options_each_time(self):
        self.check_kills(*ALL_MODES)

    def test_between_a_name_and_the_removal_of_another(self):
        """A segment got its compressed file, but kept the other one, which nobody needs."""
        with self.streaming("-Z", "zstd") as receiver:
            self.write()
            self.catch_up()
            self.stop(receiver)
        newest = list(self.archive.complete())[-1]
        left_over = self.archive.path / f"{newest}.partial"
        left_over.write_bytes(self.archive.content(newest))
        os.chown(left_over, PLAIN_USER.pw_uid, PLAIN_USER.pw_gid)
        with self.streaming("-Z", "zstd") as receiver:
            self.write()
            self.catch_up()
            self.assertEqual(errors(self.stop(receiver)), [])
        self.assert_whole(".zst")

    def check_kills(self, *modes):
        backup = self.backup()
        with self.server.pgbench_load():
            for number in range(max(1, KILLS // 7)):
                with self.subTest(kill=number, seed=SEED):
                    self.run_and_kill(*self.random.choice(modes))
        mode = modes[0]
        with self.streaming(*mode) as receiver:
            self.write()
            self.catch_up()
            result = self.stop(receiver)
        self.assertEqual(errors(result), [])
        self.assert_whole(suffix_of(mode) if len(modes) == 1 else None)
        self.assertGreater(self.acknowledged, self.reserved + MB)
        if len(modes) > 1:
            self.assert_recovers(backup)

    def run_and_kill(self, *args):
        with self.receiver(*args) as receiver:
            self.random.choice([self.soon, self.later, self.at_a_switch])()
            self.assertTrue(receiver.is_running(), receiver.err())
            result = receiver.stop(signal.SIGKILL)
        self.assertEqual(errors(result), [], result)
        self.assertNotRegex(result.err, "warning|damaged|missing")
        if self.random.random() < 0.7:
            wait_until(lambda: not self.slot_is_active(), "the end of the connection")
        self.note_acknowledged()
        self.assert_nothing_lost()

    def soon(self):
        """While it looks at what there is, connects, goes on with what it has."""
        time.sleep(self.random.uniform(0, 0.12))

    def later(self):
        time.sleep(self.random.uniform(0.1, 1.0))

    def at_a_switch(self):
        before = len(self.archive.complete())
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: len(self.archive.complete()) > before + 1, "a segment", timeout=3)
        time.sleep(self.random.uniform(0, 0.01))


@for_each_major(since=SINCE)
class ServerCrashes(CrashTestCase):
    """Again and again, while one receiver is running on."""

    def test_goes_on_by_itself(self):
        backup = self.backup()
        with self.streaming("-Z", "lz4", "--synchronous") as receiver:
            for number in range(CRASHES):
                with self.subTest(crash=number, seed=SEED), self.server.pgbench_load() as load:
                    load.wait_transactions(self.random.randrange(1, 100))
                    time.sleep(self.random.uniform(0, 0.5))
                    self.note_acknowledged()
                    self.crash()
                    wait_until(self.slot_is_active, "the receiver's return", timeout=7)
            self.write()
            self.catch_up()
            result = self.stop(receiver)
        self.assertEqual(result.err.count("starting log streaming"), CRASHES + 1, result)
        self.assertNotRegex(result.err, "warning|damaged|missing|crc")
        self.assert_whole(".lz4")
        self.assert_recovers(backup)

    def crash(self):
        if self.random.random() < 0.5:
            self.server.stop("immediate")
        else:
            self.server.kill()
        self.server.start()


@for_each_major(since=SINCE)
class DiskFull(CrashTestCase):
    """And free again: a filler file comes and goes."""

    NO_SPACE = "No space left on device"

    def setUp(self):
        super().setUp()
        self.archive.path = self.enterContext(small_filesystem(self, "300M"))
        self.filler = self.archive.path / ".filler"

    def wait_for_full(self, receiver, times=1):
        """Waits until it has said so, and how much it needs: once each time that it happens."""
        wait_until(lambda: receiver.err().count(self.NO_SPACE) >= times, "that the disk is full")
        self.assertTrue(receiver.is_running())
        self.assertRegex(receiver.err(), r"waiting for room in .*: a segment needs 1 MB")

    def wait_for_room(self, receiver, times=1):
        wait_until(lambda: receiver.err().count("room on the disk again") >= times,
                   "that it goes on")

    def check_comes_and_goes(self, *args, times=FILLS, leaving=0):
        """Under load, and one receiver lives through all of it."""
        with self.streaming(*args) as receiver:
            with self.server.pgbench_load() as load:
                for number in range(1, times + 1):
                    fill(self.filler, leaving)
                    self.wait_for_full(receiver, number)
                    self.note_acknowledged()
                    self.assert_nothing_lost()
                    self.filler.unlink()
                    self.catch_up(timeout=20)
                    self.wait_for_room(receiver, number)
                load.stop()
            self.write()
            self.catch_up()
            result = self.stop(receiver)
        self.assertEqual(len(errors(result)), times, result)
        self.assert_whole(suffix_of(args))

    def test_plain(self):
        backup = self.backup()
        self.check_comes_and_goes(times=max(2, FILLS))
        self.assert_recovers(backup)

    def test_synchronous(self):
        self.check_comes_and_goes("--synchronous")

    def test_compressed(self):
        self.check_comes_and_goes("-Z", "gzip")

    def test_room_for_all_but_what_is_compressed(self):
        """The next segment has its place; the copy of the last one ends in the middle."""
        self.check_comes_and_goes("-Z", "zstd", leaving=MB + MB // 4)

    def test_killed_while_it_waits(self):
        with self.streaming() as receiver:
            self.write()
            self.catch_up()
            fill(self.filler)
            self.write()
            self.wait_for_full(receiver)
            receiver.stop(signal.SIGKILL)
            self.note_acknowledged()
            self.assert_nothing_lost()
        self.filler.unlink()
        with self.streaming() as receiver:
            self.catch_up()
            self.stop(receiver)
        self.assert_whole()

    def test_stopped_while_it_waits(self):
        with self.streaming() as receiver:
            fill(self.filler)
            self.write(6)
            self.wait_for_full(receiver)
            started = time.monotonic()
            self.stop(receiver)
            self.assertLess(time.monotonic() - started, 2)
        self.note_acknowledged()
        self.assert_nothing_lost()

    def test_no_loop(self):
        with self.streaming("-n") as receiver:
            fill(self.filler)
            self.write(6)
            result = receiver.wait()
        self.assertEqual(result.rc, 1, result)
        self.assertIn(self.NO_SPACE, result.err)
        self.note_acknowledged()
        self.assert_nothing_lost()
        self.filler.unlink()
        with self.streaming() as receiver:
            self.catch_up()
            self.stop(receiver)
        self.assert_whole()


class LostTestCase(unittest.TestCase):
    """What the server does not keep for a receiver that is away."""

    def make_server(self, **settings):
        size = 1 if self.major >= SMALL_SEGMENTS_SINCE else 16
        initdb_args = ["--wal-segsize=1"] if size == 1 else []
        limits = {"max_wal_size": f"{2 * size}MB", "min_wal_size": f"{2 * size}MB"}
        self.archive = WalArchive(self.enterContext(ScratchDir()), size * MB)
        return self.enterContext(
            Server(self.major, initdb_args=initdb_args, **limits, **settings))

    def fill_segment(self):
        self.server.sql("CREATE TABLE IF NOT EXISTS filler (v text);"
                        "INSERT INTO filler SELECT md5(random()::text)"
                        " FROM generate_series(1, 1000)")
        return self.server.value("SELECT pg_walfile_name(pg_switch_wal())")

    def lose_wal(self):
        """Writes until what follows the archive is gone from the server."""
        gone = self.archive.segment_name(self.next_position())
        path = self.server.data_dir / "pg_wal" / gone
        for _ in range(20):
            self.fill_segment()
            self.server.sql("CHECKPOINT")
            if not path.exists():
                return gone
        self.fail(f"{path} is still there")

    def next_position(self):
        newest = list(self.archive.complete())[-1]
        return (self.archive.segment_number(newest) + 1) * self.archive.segment_size

    def receiver(self, *args):
        return receivewal(self.archive, *args, env=self.server.env())

    def receive_a_little(self, *args):
        with self.receiver(*args) as receiver:
            receiver.wait_for_err("starting log streaming")
            last = self.fill_segment()
            wait_until(lambda: last in self.archive.complete(), "a segment")
            result = receiver.stop(signal.SIGINT)
        self.assertEqual(result.rc, 0, result)
        return result

    def snapshot(self):
        return {path.name: (path.stat().st_mtime_ns, path.read_bytes())
                for path in self.archive.path.iterdir()}

    def assert_gone(self, *args, pattern="."):
        """One message that names what is gone, a status of its own, nothing written."""
        before = self.snapshot()
        result = self.receiver(*args).wait(timeout=30)
        self.assertEqual(self.snapshot(), before)
        self.assertEqual(len(errors(result)), 1, result)
        return self.check_gone(result, pattern)

    def check_gone(self, result, pattern="."):
        self.assertEqual(result.rc, GONE, result)
        self.assertRegex(errors(result)[-1], pattern)
        # From what follows the archive to what the server has, as far as that can be known.
        lsns = [lsn_number(lsn) for lsn in re.findall(r"[0-9A-F]+/[0-9A-F]+", errors(result)[-1])]
        self.assertEqual(self.archive.segment_start(lsns[0]), self.next_position(), result)
        self.assertGreater(lsns[1:] or [lsns[0] + 1], lsns[:1], result)
        return lsns

    def assert_goes_on(self, gone, *args):
        """From the earliest WAL that the server has; the hole is known to the next run."""
        before = self.archive.complete()
        earliest = self.earliest_on_server()
        self.receive_a_little("--accept-gap", *args)
        after = [name for name in self.archive.complete() if name not in before]
        self.assertEqual(after[0], earliest)
        self.assertEqual(self.archive.holes(), [(list(before)[-1], after[0])])
        for name, path in self.archive.complete().items():
            original = self.server.data_dir / "pg_wal" / name
            if name in after and original.exists():
                self.assertEqual(path.read_bytes(), original.read_bytes())
        again = self.receive_a_little(*args)
        self.assertIn(gone, again.err)
        self.assertIn("warning", again.err)

    def earliest_on_server(self):
        """Of its segments, which are behind a hole: those to come have names already."""
        current = self.server.value("SELECT pg_walfile_name(pg_current_wal_lsn())")
        names = [path.name for path in (self.server.data_dir / "pg_wal").iterdir()]
        return min(name for name in names if len(name) == 24 and name <= current)


@for_each_major(since=SLOT_LIMIT_SINCE)
class SlotLost(LostTestCase):
    """The server gave up the slot, because it kept too much."""

    def setUp(self):
        self.server = self.make_server(max_slot_wal_keep_size="2MB")
        self.create_slot()

    def create_slot(self):
        self.server.sql("SELECT pg_create_physical_replication_slot('ours', true)")

    def drop_slot(self):
        self.server.sql("SELECT pg_drop_replication_slot('ours')")

    def wait_for_loss(self):
        self.server.wait_for("(SELECT wal_status = 'lost' FROM pg_replication_slots)")

    def test_while_it_was_away(self):
        self.receive_a_little("-S", "ours")
        gone = self.lose_wal()
        self.wait_for_loss()
        self.assert_gone("-S", "ours")
        self.assert_gone("-S", "ours", "-n")
        # The server gives nothing through such a slot, or at least keeps nothing for it.
        self.drop_slot()
        self.create_slot()
        self.assert_gone("-S", "ours", pattern=GAP)
        self.assert_goes_on(gone, "-S", "ours")

    def test_while_it_hung(self):
        with self.receiver("-S", "ours") as receiver:
            receiver.wait_for_err("starting log streaming")
            last = self.fill_segment()
            wait_until(lambda: last in self.archive.complete(), "a segment")
            receiver.send_signal(signal.SIGSTOP)
            for _ in range(12):
                self.server.sql("CREATE TABLE IF NOT EXISTS flood (v text)")
                self.server.sql("INSERT INTO flood SELECT repeat(md5(g::text), 30)"
                                " FROM generate_series(1, 10000) g; CHECKPOINT")
            self.wait_for_loss()
            receiver.send_signal(signal.SIGCONT)
            self.check_gone(receiver.wait(timeout=30))

    def test_dropped(self):
        self.receive_a_little("-S", "ours")
        self.drop_slot()
        self.lose_wal()
        self.assert_gone("-S", "ours", pattern='replication slot "ours" does not exist')


@for_each_major()
class WalRecycled(LostTestCase):
    """There was no slot."""

    def test_while_it_was_away(self):
        self.server = self.make_server()
        self.receive_a_little()
        gone = self.lose_wal()
        self.assert_gone(pattern=GAP)
        self.assert_gone("-n", pattern=GAP)
        self.assert_goes_on(gone)


@for_each_major(since=SINCE)
class OnlySynchronousStandby(CrashTestCase):
    """Commits wait for the receiver, and for nothing else."""

    BEAT = "INSERT INTO beats VALUES (:client_id, clock_timestamp());\n"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.server.sql("CREATE TABLE beats (client int, at timestamptz);"
                       "CREATE TABLE commits (number int)")

    def setUp(self):
        super().setUp()
        self.server.sql("TRUNCATE beats; TRUNCATE commits")

    def require_standby(self):
        self.server.configure(synchronous_standby_names="*")
        self.addCleanup(self.require_none)
        self.server.wait_for("current_setting('synchronous_standby_names') = '*'")

    def require_none(self):
        self.server.configure(synchronous_standby_names="")

    @contextlib.contextmanager
    def load(self, clients=4):
        """Transactions that note when they began, one in two of them a larger one."""
        script = self.scratch / "beat.sql"
        script.write_text(self.BEAT)
        script.chmod(0o644)
        with Background([STOCK_BIN / "pgbench", "-n", "-c", clients, "-T", 3600, "-f", script,
                         "-b", "tpcb-like", "postgres"], env=self.server.env()) as load:
            yield load

    def longest_gap(self):
        """Between the beats of a client, and between its last one and now, in seconds."""
        return float(self.server.value(
            "WITH all_beats AS (SELECT client, at FROM beats"
            "   UNION ALL SELECT DISTINCT client, clock_timestamp() FROM beats)"
            "SELECT extract(epoch FROM max(gap)) FROM"
            " (SELECT at - lag(at) OVER (PARTITION BY client ORDER BY at) AS gap"
            "  FROM all_beats) AS gaps"))

    def check_never_stalls(self, *args):
        with self.streaming(*args) as receiver:
            self.require_standby()
            with self.load():
                time.sleep(2)
                gap = self.longest_gap()
            self.assertLess(gap, LONGEST_STALL)
            self.require_none()
            self.assertGreater(int(self.server.value("SELECT count(*) FROM beats")), 50)
            self.catch_up()
            self.stop(receiver)
        self.assertGreater(len(self.archive.complete()), 1)
        self.assert_whole(suffix_of(args))

    def test_never_stalls(self):
        self.check_never_stalls("--synchronous")

    def test_never_stalls_while_it_compresses(self):
        self.check_never_stalls("-Z", "zstd", "--synchronous")

    def seconds_to_beat(self, since):
        """How long after this time (of time.time) the first transaction has begun."""
        query = ("SELECT coalesce(extract(epoch FROM min(at)), 0) FROM beats"
                 f" WHERE at > to_timestamp({since})")
        return wait_until(lambda: float(self.server.value(query)), "a transaction") - since

    def test_goes_on_after_a_kill(self):
        """What waits for a commit goes on as soon as the receiver is back."""
        with self.streaming("--synchronous") as receiver:
            self.require_standby()
            with self.load():
                for number in range(max(3, KILLS // 8)):
                    with self.subTest(number):
                        time.sleep(self.random.uniform(0.1, 0.8))
                        receiver.stop(signal.SIGKILL)
                        time.sleep(0.3)
                        restarted = time.time()
                        receiver = self.enterContext(self.receiver("--synchronous"))
                        self.assertLess(self.seconds_to_beat(restarted), LONGEST_STALL)
            self.require_none()
            self.catch_up()
            self.stop(receiver)
        self.assert_whole()

    def check_commits_survive(self, *args):
        """The server and its disk are lost, and so is the receiver's memory."""
        backup = self.backup()
        commits = "".join(f"INSERT INTO commits VALUES ({number}) RETURNING number;\n"
                          for number in range(1, 100_000))
        with self.streaming(*args) as receiver:
            self.require_standby()
            with self.load(), Background([STOCK_BIN / "psql", "-X", "-q", "-A", "-t"],
                                         input=commits, env=self.server.env()) as psql:
                time.sleep(self.random.uniform(1, 2))
                self.server.kill()
                receiver.stop(signal.SIGKILL)
                acknowledged = int(psql.wait().out.split()[-1])
        self.assertGreater(acknowledged, 20)
        wal = self.scratch / "wal"
        run(["mkdir", wal]).check()
        self.archive.restore_to(wal)
        with self.server.start_recovered(backup, wal, synchronous_standby_names="") as copy:
            [[count, last]] = copy.sql("SELECT count(*), max(number) FROM commits")
            self.assertEqual(count, last)
            self.assertGreaterEqual(int(last), acknowledged)
            self.assertTrue(copy.pgbench_is_consistent())

    def test_commits_survive(self):
        self.check_commits_survive("--synchronous")

    def test_commits_survive_compressed(self):
        self.check_commits_survive("-Z", "lz4", "--synchronous")


@for_each_major(since=SINCE)
class NetworkBreaks(CrashTestCase):
    """Between a server and a receiver that are both well."""

    def finish(self, receiver):
        self.write()
        self.catch_up()
        result = self.stop(receiver)
        self.assert_whole()
        return result

    def wait_for_reconnection(self, proxy, timeout):
        """Behind a fault. It takes half a second at least, so that the count is that of before."""
        before = proxy.connection_count()
        wait_until(lambda: proxy.connection_count() > before, "another connection", timeout)

    def test_cut_and_reset(self):
        for after, reset in ((2_000, False), (300_000, True), (3_500_000, False)):
            with self.subTest(after=after, reset=reset), Proxy(self.server.port) as proxy:
                proxy.cut(after=after, reset=reset)
                with self.receiver(env=proxy.env()) as receiver:
                    self.write(6)
                    self.assertTrue(proxy.fault_happened())
                    self.wait_for_reconnection(proxy, timeout=1.2)
                    self.catch_up(timeout=5)
                    self.finish(receiver)

    def test_server_falls_silent(self):
        with Proxy(self.server.port) as proxy:
            proxy.stall(after=1_500_000)
            with self.receiver("--receive-timeout", "2", env=proxy.env()) as receiver:
                self.write(6)
                self.assertTrue(proxy.fault_happened())
                started = time.monotonic()
                self.wait_for_reconnection(proxy, timeout=5)
                self.assertGreater(time.monotonic() - started, 1.5)
                proxy.release()  # too late
                result = self.finish(receiver)
        self.assertEqual(len(errors(result)), 1, result)

    def test_idle_is_not_silent(self):
        """A server without work answers when it is asked."""
        with Proxy(self.server.port) as proxy:
            with self.streaming("--receive-timeout", "1", env=proxy.env()) as receiver:
                before = proxy.connection_count()
                time.sleep(3)
                self.assertEqual(proxy.connection_count(), before)
                result = self.finish(receiver)
        self.assertEqual(errors(result), [])

    def test_damage_on_the_wire(self):
        """It is never stored or acknowledged, but said, with its place, and fetched again."""
        for _ in range(3):
            after = self.random.randrange(100_000, 5_000_000)
            with self.subTest(after=after), Proxy(self.server.port) as proxy:
                self.write(6)
                proxy.flip(after=after)
                with self.receiver("--receive-timeout", "2", env=proxy.env()) as receiver:
                    self.assertTrue(proxy.fault_happened())
                    receiver.wait_for_err("fetching this WAL again|waiting .* to try again")
                    self.note_acknowledged()
                    self.catch_up(timeout=10)
                    result = self.stop(receiver)
                self.assertEqual(len(errors(result)), 1, result)
                self.assertRegex(errors(result)[0], "[0-9A-F]+/[0-9A-F]+")
                self.assert_whole()

    def test_damage_on_the_server(self):
        """Fetching it again does not help: that is for a person to see."""
        self.write()
        self.catch_up_once()
        damaged_at = self.flushed() + 3 * MB // 2
        self.write(6)  # more than the server still has in memory
        name = self.archive.segment_name(damaged_at)
        path = self.server.data_dir / "pg_wal" / name
        self.flip_byte(path, damaged_at % MB)
        started = time.monotonic()
        result = self.receiver().wait(timeout=60)
        self.assertLess(time.monotonic() - started, 20)
        self.assertEqual(result.rc, DAMAGED, result)
        self.assertGreaterEqual(len(errors(result)), 1, result)
        named = [lsn_number(lsn)
                 for lsn in re.findall(r"[0-9A-F]+/[0-9A-F]+", "\n".join(errors(result)))]
        self.assertTrue(any(abs(lsn - damaged_at) <= 2 * 8192 for lsn in named), result)
        self.assertLessEqual(self.note_acknowledged(), damaged_at)
        self.flip_byte(path, damaged_at % MB)
        self.assert_nothing_lost()
        self.catch_up_once()
        self.assert_whole()

    def catch_up_once(self):
        with self.streaming() as receiver:
            self.catch_up()
            self.stop(receiver)

    @staticmethod
    def flip_byte(path, at):
        with open(path, "r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 0xFF]))


if __name__ == "__main__":
    unittest.main()
