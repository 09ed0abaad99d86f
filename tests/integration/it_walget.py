"""`pgstow wal get` as the restore_command of real servers: recovery ends where WAL ends, and stops
where there is trouble.
"""

import contextlib
import os
import re
import shutil
import signal
import unittest
from pathlib import Path

from harness import (
    Background,
    ScratchDir,
    Server,
    ServerFailed,
    for_each_major,
    pgstow,
    run,
    small_filesystem,
    wait_until,
)
from harness.filesystem import fill
from harness.run import pgstow_path

PROGRAM = pgstow_path()
SEGMENT_SIZES_SINCE = 11
MB = 1 << 20

COMPRESSION = {10: "zstd", 11: "gzip", 12: "lz4", 13: "none", 14: "zstd:9", 15: "gzip:1", 16: "lz4",
               17: "none", 18: "zstd"}

REDO_DONE = re.compile(r"redo done at ([0-9A-F]+/[0-9A-F]+)")
PROMOTED = "archive recovery complete"


def get_command(archive, *options):
    return " ".join(map(str, [PROGRAM, "wal", "get", *options, archive, "%f", "%p"]))


def flip(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        [byte] = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def open_files(pid):
    """The names of the files that a process has open, without their directories."""
    with contextlib.suppress(FileNotFoundError):
        return [os.path.basename(os.readlink(fd)) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    return []


class RecoveryTestCase(unittest.TestCase):
    """With a server that has archived some segments, and a backup from before."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.scratch = cls.enterClassContext(ScratchDir())
        cls.plain = cls.make_directory("plain")
        cls.archive = cls.make_directory("archive")
        small = cls.major >= SEGMENT_SIZES_SINCE and cls.major % 2 == 1
        compression = COMPRESSION[cls.major]
        cls.server = cls.enterClassContext(Server(
            cls.major, initdb_args=["--wal-segsize=1"] if small else [], archive_mode="on",
            archive_command=f"cp %p {cls.plain}/%f && "
                            f"{PROGRAM} wal push -Z {compression} %p {cls.archive}"))
        cls.base = cls.scratch / "base"
        pgstow("basebackup", "-D", cls.base, "-c", "fast", env=cls.server.env()).check()
        for number in range(6):
            cls.server.sql(f"CREATE TABLE t{number} AS SELECT g, repeat(md5(g::text), 20) AS text"
                           " FROM generate_series(1, 1000) g")
            last = cls.server.value("SELECT pg_walfile_name(pg_switch_wal())")
        cls.server.wait_for("EXISTS (SELECT FROM pg_stat_archiver"
                            f" WHERE last_archived_wal >= '{last}')")
        cls.archived = cls.segments()
        cls.server.sql("CREATE TABLE last AS SELECT 'only in the last segment' AS commit")

    @classmethod
    def make_directory(cls, name):
        run(["mkdir", cls.scratch / name]).check()
        return cls.scratch / name

    @classmethod
    def segments(cls):
        """The names of the segments behind the backup, in both archives."""
        names = sorted(path.name for path in cls.plain.iterdir() if len(path.name) == 24)
        assert names == sorted(path.name[:24] for path in cls.archive.iterdir()
                               if re.fullmatch(r"[0-9A-F]{24}(\.(gz|lz4|zst))?", path.name))
        return names[-6:]

    def setUp(self):
        super().setUp()
        self.work = self.enterContext(ScratchDir())
        self.copy = self.work / "archive"
        run(["cp", "-a", self.archive, self.copy]).check()
        self.data = self.work / "data"
        run(["cp", "-a", self.base, self.data]).check()

    def path_of(self, name):
        [path] = [path for path in self.copy.iterdir() if path.name[:24] == name and
                  not path.name.endswith(".backup")]
        return path

    @contextlib.contextmanager
    def recovered(self, *options, archive=None, command=None):
        command = command or get_command(archive or self.copy, *options)
        with self.server.start_recovered(self.data, None, command, archive_mode="off") as copy:
            yield copy

    def assert_stops(self, *says, archive=None, options=()):
        """Recovery ends the server, which does not become a primary."""
        with self.assertRaises(ServerFailed) as failed:
            with self.server.start_recovered(self.data, None,
                                             get_command(archive or self.copy, *options),
                                             archive_mode="off", hot_standby="off"):
                pass
        log = str(failed.exception)
        for text in says:
            self.assertRegex(log, text)
        self.assertIn("could not restore file", log)
        self.assertNotIn(PROMOTED, log)
        self.assertFalse(list((self.data / "pg_wal").glob("*.history")))

    def assert_no_leftovers(self):
        left = [path.name for path in (self.data / "pg_wal").iterdir()
                if "pgstow" in path.name or path.name.startswith("RECOVERY")]
        self.assertEqual(left, [])


@for_each_major()
class Recovery(RecoveryTestCase):
    def test_equals_cp(self):
        """The same end, the same data; with and without segments fetched ahead."""
        ends, digests = [], []
        for command in (f"cp {self.plain}/%f %p", get_command(self.copy),
                        get_command(self.copy, "--prefetch=0")):
            shutil.rmtree(self.data)
            run(["cp", "-a", self.base, self.data]).check()
            with self.recovered(command=command) as copy:
                self.assertIn(PROMOTED, copy.log())
                ends.append(REDO_DONE.search(copy.log())[1])
                digests.append(copy.data_digest())
            self.assert_no_leftovers()
        self.assertEqual(len(set(ends)), 1, ends)
        self.assertEqual(digests[0], digests[1])
        self.assertEqual(digests[0], digests[2])
        self.assertIn("postgres.t5", {name.replace("public.", "") for name in digests[0]})

    def test_partial(self):
        """The commits of the last segment, of which there is but the beginning."""
        current = self.server.value("SELECT pg_walfile_name(pg_current_wal_lsn())")
        data = (self.server.data_dir / "pg_wal" / current).read_bytes()
        offset = int(self.server.value(
            "SELECT (pg_walfile_name_offset(pg_current_wal_flush_lsn())).file_offset"))
        partial = self.copy / f"{current}.partial"
        partial.write_bytes(data[:offset + 100])
        partial.chmod(0o644)
        with self.recovered() as copy:
            self.assertEqual(copy.data_digest(), self.server.data_digest())
            self.assertRegex(copy.log(), rf'{current}.partial" is not complete: its WAL ends at')
        self.assert_no_leftovers()

    def test_missing_segment(self):
        """It is the end of the archive, as for cp."""
        self.path_of(self.archived[3]).unlink()
        with self.recovered() as copy:
            self.assertIn(PROMOTED, copy.log())
            self.assertEqual(copy.value("SELECT count(*) FROM pg_class"
                                        " WHERE relname IN ('t2', 't3')"), "1")
        self.assert_no_leftovers()

    def test_damaged_segment(self):
        path = self.path_of(self.archived[3])
        flip(path, path.stat().st_size // 3)
        self.assert_stops(f'{path.name}" is damaged')

    def test_foreign_segment(self):
        path = self.path_of(self.archived[3])
        data = bytearray((self.plain / self.archived[3]).read_bytes())
        data[24] ^= 0x10  # of the system identifier
        path.unlink()
        (self.copy / self.archived[3]).write_bytes(data)
        (self.copy / self.archived[3]).chmod(0o644)
        self.assert_stops("is of another cluster: system identifier")

    def test_no_archive(self):
        """Not there, empty, or closed to the server."""
        self.assert_stops("could not open directory .*: No such file", archive=self.work / "gone")
        (self.work / "empty").mkdir()
        self.assert_stops("is empty: is it an archive", archive=self.work / "empty")
        self.copy.chmod(0)
        self.assert_stops("Permission denied")
        self.copy.chmod(0o700)

    def test_unreadable_segment(self):
        self.path_of(self.archived[3]).chmod(0)
        self.assert_stops("Permission denied")

    def test_wrong_command_line(self):
        self.assert_stops("unrecognized option|invalid option", options=["--no-such-option"])

    def test_full_disk(self):
        with small_filesystem(self, "40M") as disk:
            wal = self.data / "pg_wal"
            run(["cp", "-a", f"{wal}/.", disk]).check()
            shutil.rmtree(wal)
            wal.symlink_to(disk)
            fill(disk / "filler", leaving=65536)
            (disk / "filler").chmod(0o600)
            self.assert_stops("No space left on device")


@for_each_major(since=15)
class Standby(RecoveryTestCase):
    """A server that stays in recovery, and asks again and again."""

    def test_follows(self):
        self.server._request_recovery(self.data, standby=True,
                                      restore_command=get_command(self.copy))
        last = self.path_of(self.archived[-1])
        run(["mv", last, self.work]).check()
        with self.server.start_copy(self.data, archive_mode="off",
                                    wal_retrieve_retry_interval="100ms") as standby:
            standby.wait_for("EXISTS (SELECT FROM pg_class WHERE relname = 't4')")
            self.assertEqual(standby.value("SELECT count(*) FROM pg_class"
                                           " WHERE relname = 't5'"), "0")
            # The beginning of the segment, more of it, all of it.
            whole = (self.plain / self.archived[-1]).read_bytes()
            partial = self.copy / f"{self.archived[-1]}.partial"
            partial.write_bytes(whole[:200000])
            partial.chmod(0o644)
            wait_until(lambda: f'{partial.name}" is not complete' in standby.log(), "a partial one")
            partial.write_bytes(whole)
            standby.wait_for("EXISTS (SELECT FROM pg_class WHERE relname = 't5')")
            run(["mv", self.work / last.name, self.copy]).check()
            partial.unlink()
            standby.promote()
        self.assert_no_leftovers()


class Signals(unittest.TestCase):
    """How the server ends its commands."""

    def test_terminated(self):
        """It dies of the signal, even in the middle of a file that never ends."""
        with ScratchDir() as scratch:
            run(["mkdir", scratch / "archive"]).check()
            name = "000000010000000000000001"
            run(["truncate", "-s", "1T", scratch / "archive" / f"{name}.zst"]).check()
            magic = bytes.fromhex("502a4d18f0ffffff")  # a skippable frame of 4 GB
            with open(scratch / "archive" / f"{name}.zst", "r+b") as file:
                for frame in range(256):
                    file.seek(frame * (8 + 0xfffffff0))
                    file.write(magic)
            for number in (signal.SIGTERM, signal.SIGINT):
                process = self.enterContext(Background(
                    [PROGRAM, "wal", "get", scratch / "archive", name, scratch / "RECOVERYXLOG"]))
                wait_until(lambda: f"{name}.zst" in open_files(process.pid), "it reads the file")
                result = process.stop(number)
                self.assertEqual(result.rc, -number, result)


if __name__ == "__main__":
    unittest.main()
