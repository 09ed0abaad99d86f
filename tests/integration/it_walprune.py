"""wal prune: after any sequence of backups, writes, promotions, returns to the past and prunes, every
backup that is kept still recovers to everything it could.

The sequences are random but the same in each run: see SEEDS. A failure names its seed and tells the
sequence.
"""

import json
import random
import re
import shutil
import unittest

from harness.majors import for_each_major
from harness.run import PLAIN_USER, ScratchDir, pgstow, run, wait_until
from harness.servers import Server
from harness.wal import lsn_number

SEEDS = (1, 2)
STEPS = 18
CHECKS = 3  # recoveries after each prune
SEGMENT = re.compile(r"[0-9A-F]{24}")


class Backup:
    def __init__(self, path, alone=False):
        manifest = json.loads((path / "backup_manifest").read_text())
        self.path = path
        self.timeline = manifest["WAL-Ranges"][0]["Timeline"]
        self.end = lsn_number(manifest["WAL-Ranges"][-1]["End-LSN"])
        self.rows = None  # when it was taken
        self.alone = alone  # kept for itself


class World:
    """A server, its archive, its backups, and what is to be found on each timeline."""

    def __init__(self, major, scratch, seed):
        self.major = major
        self.scratch = scratch
        self.chosen = random.Random(seed)
        self.archive = scratch / "archive"
        self.archive.mkdir()
        shutil.chown(self.archive, PLAIN_USER.pw_uid, PLAIN_USER.pw_gid)
        self.count = 0
        self.backups = []  # the oldest first
        self.rows = {}  # {timeline: those at its end}
        self.forks = {}  # {timeline: [(ancestor, where it was left), ...]}
        self.told = []
        self.server = Server(major, initdb_args=["--wal-segsize=1"], archive_mode="on",
                             archive_command=self.archive_command(), max_wal_size="64MB",
                             wal_keep_size=0, shared_buffers="1MB", autovacuum="off")
        self.server.start()
        self.server.sql("CREATE TABLE t (n int)")
        self.timeline = 1
        self.rows[1] = []
        self.write()

    def close(self):
        self.server.close()

    def archive_command(self):
        place = f"{self.archive}/%f"
        return f'test -f "{place}" || cp "%p" "{place}.tmp" && mv "{place}.tmp" "{place}" || true'

    def restore_command(self):
        place = f"{self.archive}/%f"
        return (f'if [ -f "{place}" ]; then cp "{place}" "%p"; '
                f'else [ -f "{place}.gz" ] && gzip -dc "{place}.gz" > "%p"; fi')

    def has(self, name):
        return (self.archive / name).exists() or (self.archive / f"{name}.gz").exists()

    # --- what happens ---

    def tell(self, text):
        self.told.append(text)

    def write(self):
        """Some rows, over some segments, all of which are archived."""
        for _ in range(self.chosen.randint(1, 4)):
            self.count += 1
            [[_, name]] = self.server.sql(
                f"INSERT INTO t VALUES ({self.count}); SELECT 1, "
                "pg_walfile_name(pg_current_wal_insert_lsn())")
            self.server.sql("SELECT pg_switch_wal()")
            self.rows[self.timeline].append(self.count)
        wait_until(lambda: self.has(name), f"{name} in the archive")
        self.tell(f"wrote up to {self.count} in {name}")

    def take_backup(self):
        path = self.scratch / f"backup{len(self.told)}"
        pgstow("basebackup", "-D", path, "-c", "fast", "-X", "none", "-N",
               env=self.server.env()).check()
        backup = Backup(path)
        backup.rows = list(self.rows[self.timeline])
        self.backups.append(backup)
        self.tell(f"took {path.name} on timeline {backup.timeline}, "
                  f"{backup.end >> 20:X} MB, rows {backup.rows}")
        self.write()

    def drop_backup(self):
        if len(self.open_backups()) > 1:
            backup = self.chosen.choice(self.open_backups())
            if self.chosen.random() < 0.3:
                backup.alone = True
                self.tell(f"{backup.path.name} is kept for itself")
            else:
                self.backups.remove(backup)
                shutil.rmtree(backup.path)
                self.tell(f"dropped {backup.path.name}")

    def compress(self):
        for path in list(self.archive.iterdir()):
            if SEGMENT.fullmatch(path.name) and self.chosen.random() < 0.5:
                run(["gzip", path]).check()
        self.tell("compressed some segments")

    def promote(self):
        """On with a new timeline, where the present one ends."""
        self.server.stop()
        data_dir = self.server.data_dir
        self.request_recovery(data_dir, recovery_target_timeline="latest")
        self.server.start()
        self.begin_timeline(list(self.rows[self.timeline]))

    def return_to_the_past(self, backup=None):
        """On with a new timeline from the end of a backup, as after a mistake of a user."""
        backup = backup or self.chosen.choice(self.backups)
        data_dir = self.scratch / f"data{len(self.told)}"
        run(["cp", "-a", backup.path, data_dir]).check()
        self.request_recovery(data_dir, recovery_target_timeline=str(backup.timeline),
                              recovery_target="immediate", recovery_target_action="promote")
        self.server.close()
        self.server = Server(self.major, data_dir=data_dir).__enter__()
        self.begin_timeline(list(backup.rows))

    def begin_timeline(self, rows):
        self.server.wait_for("NOT pg_is_in_recovery()")
        name = self.server.value("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
        self.timeline = int(name[:8], 16)
        self.rows[self.timeline] = rows
        history = f"{self.timeline:08X}.history"
        wait_until((self.archive / history).exists, f"{history} in the archive")
        lines = [line.split() for line in (self.archive / history).read_text().splitlines()]
        self.forks[self.timeline] = [(int(line[0]), lsn_number(line[1])) for line in lines if line]
        self.tell(f"timeline {self.timeline} begins in {name}, rows {rows}")
        self.write()

    # --- recovering ---

    def request_recovery(self, data_dir, **parameters):
        parameters = {"recovery_target": "", "recovery_target_action": "promote",
                      "restore_command": self.restore_command()} | parameters
        run(["touch", data_dir / "recovery.signal"]).check()
        with open(data_dir / "postgresql.auto.conf", "a") as conf:
            for name, value in parameters.items():
                conf.write("{} = '{}'\n".format(name, value.replace("'", "''")))

    def open_backups(self):
        return [backup for backup in self.backups if not backup.alone]

    def reachable(self, backup):
        """The timelines to which it can be recovered."""
        return [timeline for timeline in self.rows
                if timeline == backup.timeline or any(
                    ancestor == backup.timeline and left >= backup.end
                    for ancestor, left in self.forks.get(timeline, []))]

    def possibilities(self):
        """Every (backup, timeline) that must be possible; None: the backup's own end."""
        pairs = [(backup, None) for backup in self.backups if backup.alone]
        for backup in self.open_backups():
            pairs += [(backup, timeline) for timeline in self.reachable(backup)]
        return pairs

    def recovered(self, backup, timeline):
        """The rows there are after the recovery."""
        data_dir = self.scratch / "recovered"
        run(["cp", "-a", backup.path, data_dir]).check()
        target = {"recovery_target_timeline": str(timeline or backup.timeline)}
        if timeline == max(self.rows):
            target = {"recovery_target_timeline": "latest"}
        if timeline is None:
            target["recovery_target"] = "immediate"
        self.request_recovery(data_dir, **target)
        try:
            with Server(self.major, data_dir=data_dir, archive_mode="off") as server:
                server.wait_for("NOT pg_is_in_recovery()")
                return [int(row) for [row] in server.sql("SELECT n FROM t ORDER BY n")]
        finally:
            shutil.rmtree(data_dir)

    def expected(self, backup, timeline):
        return sorted(backup.rows if timeline is None else self.rows[timeline])

    # --- pruning ---

    def prune(self, named=None):
        """With these backups named, or all, or that one which is the oldest; returns what it said."""
        if named is None:
            named = self.open_backups()
            named = named[:1] if self.chosen.random() < 0.5 else named
        options = [f"--oldest-backup={backup.path}" for backup in named]
        options += [f"--keep-backup={backup.path}" for backup in self.backups if backup.alone]
        self.tell(f"pruning with {options}")
        planned = pgstow("wal", "prune", *options, self.archive).check()
        result = pgstow("wal", "prune", "--yes", *options, self.archive).check()
        self.tell(result.out)
        return planned, result

    def archived(self):
        return len(list(self.archive.iterdir()))

    def removed_by_prune(self, named):
        before = self.archived()
        self.prune(named)
        return before - self.archived()

    def step(self):
        """One of the things that happen, mostly what happens often."""
        happen = [self.write] * 2 + [self.take_backup] * 4 + [self.drop_backup] * 3
        happen += [self.promote] * 2 + [self.return_to_the_past] * 2 + [self.compress]
        self.chosen.choice(happen)()


@for_each_major()
class Property(unittest.TestCase):
    def test_every_kept_backup_recovers_to_everything_it_could(self):
        for seed in SEEDS:
            with self.subTest(seed=seed), ScratchDir() as scratch:
                world = World(self.major, scratch, seed)
                try:
                    removed = self.run_sequence(world)
                finally:
                    world.close()
                self.assertGreater(removed, 0, "nothing was ever pruned")

    def test_younger_backup_on_another_branch(self):
        """It begins before the oldest backup, on a timeline that branched off before that one."""
        with ScratchDir() as scratch:
            world = World(self.major, scratch, 0)
            try:
                world.take_backup()
                for _ in range(3):
                    world.write()
                world.take_backup()
                first, oldest = world.backups
                world.return_to_the_past(first)
                world.take_backup()
                world.backups.remove(first)
                removed = world.removed_by_prune([oldest])
                self.check(world, None)
                world.backups.remove(oldest)
                removed_later = world.removed_by_prune(world.backups)
                self.check(world, None)
            finally:
                world.close()
        self.assertGreater(removed, 0)
        self.assertGreater(removed_later, 0)

    def run_sequence(self, world):
        removed = 0
        world.take_backup()
        for number in range(STEPS):
            world.step()
            if number % 6 == 5:
                before = world.archived()
                planned, result = world.prune()
                self.assertEqual(planned.out.splitlines()[:-1], result.out.splitlines()[:-1])
                removed += before - world.archived()
                self.check(world, CHECKS)
        self.check(world, None)
        return removed

    def check(self, world, limit):
        pairs = world.possibilities()
        if limit is not None and limit < len(pairs):
            pairs = world.chosen.sample(pairs, limit)
        for backup, timeline in pairs:
            told = "\n".join([*world.told, f"{backup.path.name} to timeline {timeline}"])
            try:
                self.assertEqual(world.recovered(backup, timeline),
                                 world.expected(backup, timeline), told)
            except Exception as failure:
                raise AssertionError(told) from failure


if __name__ == "__main__":
    unittest.main()
