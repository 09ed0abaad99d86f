"""`pgstow wal push` as the archive_command of real servers: what they were told is archived is there,
as it was, whatever happened meanwhile.
"""

import contextlib
import os
import signal
import time
import unittest

from harness import (
    Background,
    ScratchDir,
    Server,
    for_each_major,
    pgstow,
    run,
    small_filesystem,
    wait_until,
)
from harness.filesystem import fill
from harness.run import pgstow_path
from harness.wal import keep_wal

PROGRAM = pgstow_path()
KILLS = 20
LONGEST_PUSH = 0.06


def segment_size_args(major):
    return ["--wal-segsize=1"] if major >= 11 else []


class PushTestCase(unittest.TestCase):
    def setUp(self):
        super().setUp()
        self.scratch = self.enterContext(ScratchDir())
        self.archive = self.scratch / "archive"
        run(["mkdir", self.archive]).check()

    def start(self, *options, archive=None, **settings):
        """A server that keeps its WAL, so that the archive can be compared with it."""
        command = " ".join(map(str, [PROGRAM, "wal", "push", *options, "%p",
                                     archive or self.archive]))
        return self.enterContext(Server(
            self.major, initdb_args=segment_size_args(self.major), archive_mode="on",
            archive_command=command, **keep_wal(self.major) | settings))

    @staticmethod
    def write(server, segments=1):
        """Returns the name of the last segment that this has filled."""
        for _ in range(segments):
            server.sql("CREATE TABLE IF NOT EXISTS t (i int, t text); INSERT INTO t"
                       " SELECT g, md5(g::text) FROM generate_series(1, 2000) g")
            last = server.value("SELECT pg_walfile_name(pg_switch_wal())")
        return last

    @staticmethod
    def await_archiver(server, last):
        server.wait_for("EXISTS (SELECT FROM pg_stat_archiver"
                        f" WHERE last_archived_wal >= '{last}')")

    def assert_archived(self, server, archive=None):
        """All that the server has marked as archived is in the archive as it is in pg_wal."""
        wal = server.data_dir / "pg_wal"
        done = [path.name[:-5] for path in (wal / "archive_status").glob("*.done")]
        self.assertTrue(done)
        got = self.scratch / "got"
        for name in done:
            pgstow("wal", "get", "--prefetch=0", archive or self.archive, name, got).check()
            self.assertEqual(got.read_bytes(), (wal / name).read_bytes(), name)
            got.unlink()
        return done

    @staticmethod
    def leftovers(archive):
        return [path.name for path in archive.iterdir() if path.name.endswith(".tmp")]


@for_each_major()
class Archiving(PushTestCase):
    def test_under_load(self):
        """Also the history file and the partial segment of a promotion, and a backup's history."""
        server = self.start("-Z", "zstd" if self.major % 2 else "lz4")
        server.pgbench_init()
        base = self.scratch / "base"
        with server.pgbench_load() as load:
            load.wait_transactions(300)
            pgstow("basebackup", "-D", base, "-c", "fast", env=server.env()).check()
            last = self.write(server, 3)
            load.stop()
        self.await_archiver(server, last)
        done = self.assert_archived(server)
        self.assertTrue([name for name in done if name.endswith(".backup")])
        self.assertEqual(self.leftovers(self.archive), [])
        self.assertEqual(server.value("SELECT failed_count FROM pg_stat_archiver"), "0")

        with server.start_standby(base) as standby:
            position = server.value("SELECT pg_current_wal_flush_lsn()")
            standby.wait_for(f"pg_last_wal_replay_lsn() >= '{position}'")
            server.stop()
            standby.promote()
            self.await_archiver(standby, self.write(standby))
            names = {path.name for path in self.archive.iterdir()}
            self.assertIn("00000002.history", names)
            self.assertTrue([name for name in names if name.endswith(".partial")], names)
            self.assert_archived(standby)


@for_each_major(since=15)
class Trouble(PushTestCase):
    def test_killed(self):
        """At any moment: there is all of it or nothing, and trying again is enough."""
        server = self.start()
        self.await_archiver(server, self.write(server))
        [name, *_] = sorted(path.name for path in self.archive.iterdir())
        wal = server.data_dir / "pg_wal" / name
        whole = 0
        for number in range(KILLS):
            target = self.scratch / f"archive{number}"
            run(["mkdir", target]).check()
            (target / "stray").touch()
            push = [PROGRAM, "wal", "push", "-Z", "gzip:9", wal, target]
            process = Background(push)
            killed_at = LONGEST_PUSH * number / KILLS
            with contextlib.suppress(TimeoutError):
                wait_until(lambda at=time.monotonic() + killed_at: time.monotonic() > at, "", 1)
            process.stop(signal.SIGKILL)
            got = pgstow("wal", "get", "--prefetch=0", target, name, self.scratch / "got")
            self.assertIn(got.rc, (0, 1), got)
            whole += got.rc == 0
            run(push).check()
            pgstow("wal", "get", target, name, self.scratch / "got").check()
            self.assertEqual((self.scratch / "got").read_bytes(), wal.read_bytes())
            self.assertEqual(self.leftovers(target), [])
        self.assertLess(whole, KILLS)

    def test_full(self):
        with small_filesystem(self, "24M") as disk:
            server = self.start(archive=disk)
            fill(disk / "filler", leaving=300000)
            self.write(server, 2)
            server.wait_for("EXISTS (SELECT FROM pg_stat_archiver WHERE failed_count > 1)")
            self.assertIn("No space left on device", server.log())
            self.assertEqual([path.name for path in disk.iterdir()], ["filler"])
            (disk / "filler").unlink()
            self.await_archiver(server, self.write(server))
            self.assert_archived(server, disk)

    def test_crash(self):
        """A server that has lost its notes archives everything once more."""
        server = self.start("-Z", "lz4")
        self.await_archiver(server, self.write(server, 4))
        server.kill()
        status = server.data_dir / "pg_wal" / "archive_status"
        forgotten = sorted(status.glob("*.done"))
        for path in forgotten:
            run(["mv", path, path.with_suffix(".ready")]).check()
        before = {path.name: path.stat().st_ino for path in self.archive.iterdir()}
        # In another compression than before.
        server.configure(archive_command=f"{PROGRAM} wal push -Z gzip %p {self.archive}")
        server.start()
        wait_until(lambda: all(path.exists() for path in forgotten), "all is archived again")
        after = {path.name: path.stat().st_ino for path in self.archive.iterdir()}
        self.assertEqual({name: after.get(name) for name in before}, before)
        self.assertEqual(len(forgotten), len([name for name in before]))

    def test_other_content(self):
        """Of another server, say: both stay, and the server keeps its own."""
        server = self.start()
        self.await_archiver(server, self.write(server))
        server.sql("CREATE TABLE something_new ()")
        name = server.value("SELECT pg_walfile_name(pg_current_wal_lsn())")
        other = self.archive / name
        other.write_bytes(bytes(1 << 20))
        other.chmod(0o644)
        self.write(server)
        server.wait_for("EXISTS (SELECT FROM pg_stat_archiver WHERE failed_count > 0)")
        self.assertRegex(server.log(), f'could not archive ".*{name}": ".*{name}" has other content')
        self.assertEqual(other.read_bytes(), bytes(1 << 20))
        self.assertTrue((server.data_dir / "pg_wal" / "archive_status" / f"{name}.ready").exists())
        other.unlink()
        self.await_archiver(server, self.write(server))
        self.assert_archived(server)


@for_each_major(since=18)
class Ahead(PushTestCase):
    """With --spool: what the server is told is in the archive, and it is told no sooner."""

    def setUp(self):
        super().setUp()
        self.spool = self.scratch / "spool"
        run(["mkdir", self.spool]).check()

    @staticmethod
    def hold(server):
        """The server goes on writing, but archives nothing."""
        server.configure(archive_command="false")
        server.wait_for("current_setting('archive_command') = 'false'")

    def start_held(self, segments):
        server = self.start()
        self.hold(server)
        self.write(server, segments)
        status = server.data_dir / "pg_wal" / "archive_status"
        return server, sorted(path.name[:-6] for path in status.glob("*.ready"))

    def push(self, server, name, *options, archive=None):
        return pgstow("wal", "push", f"--spool={self.spool}", *options,
                      server.data_dir / "pg_wal" / name, archive or self.archive)

    def notes(self):
        return sorted(path.name.partition("-")[2]
                      for path in (self.spool / "pgstow_pushed").iterdir()
                      if path.stat().st_size > 0)

    def archived(self):
        return sorted(path.name for path in self.archive.iterdir())

    def await_notes(self, names):
        wait_until(lambda: self.notes() == names, f"there are notes about {names}")

    def test_burst(self):
        """Real servers ask in their order, and never wait in vain."""
        server = self.start("-Z", "zstd", f"--spool={self.spool}")
        command = server.value("SHOW archive_command")
        for _ in range(2):
            self.hold(server)
            last = self.write(server, 25)
            server.configure(archive_command=command)
            self.await_archiver(server, last)
        self.assertGreaterEqual(len(self.assert_archived(server)), 50)
        self.assertNotIn("pgstow wal push:", server.log())
        self.assertEqual(self.leftovers(self.archive), [])

    def test_before_it_is_asked_for(self):
        server, names = self.start_held(6)
        self.push(server, names[0], "--ahead=3").check()
        self.await_notes(names[1:4])
        self.assertEqual(self.archived(), names[:4])
        inodes = {path.name: path.stat().st_ino for path in self.archive.iterdir()}
        self.push(server, names[1], "--ahead=3").check()
        for name in names[:4]:
            content = (server.data_dir / "pg_wal" / name).read_bytes()
            self.assertEqual((self.archive / name).read_bytes(), content)
            self.assertEqual((self.archive / name).stat().st_ino, inodes[name])

    def test_killed(self):
        """At any moment: what there is a note about is whole, and trying again is enough."""
        server, names = self.start_held(6)
        for number in range(KILLS):
            target = self.scratch / f"archive{number}"
            run(["mkdir", target]).check()
            process = Background([PROGRAM, "wal", "push", "-Z", "gzip:9", f"--spool={self.spool}",
                                  server.data_dir / "pg_wal" / names[0], target])
            until = time.monotonic() + 3 * LONGEST_PUSH * number / KILLS
            with contextlib.suppress(TimeoutError):
                wait_until(lambda at=until: time.monotonic() > at, "", 1)
            with contextlib.suppress(ProcessLookupError):  # all has been done
                os.killpg(process.pid, signal.SIGKILL)  # the process in the background, too
            process.wait()
            for name in names:
                self.push(server, name, archive=target).check()
                got = self.scratch / "got"
                pgstow("wal", "get", "--prefetch=0", target, name, got).check()
                self.assertEqual(got.read_bytes(), (server.data_dir / "pg_wal" / name).read_bytes())

    def test_full_spool(self):
        with small_filesystem(self, "1M") as disk:
            self.spool = disk
            server, names = self.start_held(4)
            self.push(server, names[0]).check()
            self.await_notes(names[1:])
            for note in (disk / "pgstow_pushed").iterdir():
                note.unlink()
            fill(disk / "filler", leaving=0)
            for name in names:
                (self.archive / name).unlink()
                self.push(server, name).check()
                content = (server.data_dir / "pg_wal" / name).read_bytes()
                self.assertEqual((self.archive / name).read_bytes(), content)
            self.assertEqual(self.notes(), [])

    def test_restored(self):
        """The same names in the same place, other content: refused, whatever the notes say."""
        server, names = self.start_held(4)
        self.push(server, names[0]).check()
        self.await_notes(names[1:])
        for name in names[1:]:
            path = server.data_dir / "pg_wal" / name
            times = path.stat()
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
            refused = self.push(server, name)
            self.assertEqual(refused.rc, 1)
            self.assertIn("has other content", refused.err)

    def test_two_clusters(self):
        """A spool that two share, each with an archive of its own, tells them apart."""
        other_archive = self.scratch / "other"
        run(["mkdir", other_archive]).check()
        servers = [self.start(f"--spool={self.spool}", archive=archive)
                   for archive in (self.archive, other_archive)]
        lasts = [self.write(server, 8) for server in servers]
        for server, last, archive in zip(servers, lasts, (self.archive, other_archive)):
            self.await_archiver(server, last)
            self.assert_archived(server, archive)
            self.assertEqual(server.value("SELECT failed_count FROM pg_stat_archiver"), "0")


if __name__ == "__main__":
    unittest.main()
