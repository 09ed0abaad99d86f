"""pg_archivecleanup: the same files go as with the stock tool, and a standby can use it."""

import random
import shutil
import unittest
from pathlib import Path

from harness.majors import for_each_major
from harness.run import ScratchDir, basebackup, compat, compat_path, ours_only, stock
from harness.run import PLAIN_USER, wait_until
from harness.servers import Server
from harness.wal import SEGMENT_FILE, keep_wal

SUFFIXES = ("", "", "", ".partial", ".gz", ".lz4", ".00000028.backup", ".00A1B2C0.backup.gz",
            ".partial.gz", ".tmp")
STRAYS = ("00000002.history", "0000000A.history.gz", "notes", "archive_status", "backup_label",
          "00000001000000000000000a", "0000000100000000000000", "RECOVERYHISTORY", ".hidden")


def segment(chosen):
    """A segment's name among few, so that a directory has several of a position."""
    return f"{chosen.choice((1, 2, 10)):08X}{chosen.randrange(3):08X}{chosen.randrange(6):08X}"


def make_archive(path, chosen):
    path.mkdir(mode=0o755)
    shutil.chown(path, PLAIN_USER.pw_uid, PLAIN_USER.pw_gid)
    names = {segment(chosen) + chosen.choice(SUFFIXES) for _ in range(40)}
    for name in [*names, *STRAYS]:
        (path / name).touch()


def what_it_does(tool, *args):
    """The outcome of a run on args[-2], without the order in which it goes through a directory."""
    result = tool("pg_archivecleanup", *args)
    lines = sorted(result.out.splitlines()), sorted(result.err.splitlines())
    return result.rc, *lines, sorted(path.name for path in Path(args[-2]).iterdir())


class AgainstStock(unittest.TestCase):
    def test_same_files_go(self):
        for seed in range(40):
            chosen = random.Random(seed)
            options = [word for word in ("-d", "-n") if chosen.random() < 0.4]
            options += chosen.choice(([], [], ["-x", ".gz"], ["-x", ".lz4"], ["-x", ".partial"]))
            kept = segment(chosen) + chosen.choice(("", "", ".partial", ".00000028.backup", ".gz"))
            with ScratchDir() as scratch, self.subTest(seed=seed, options=options, kept=kept):
                outcomes = []
                for tool in (stock, compat):
                    make_archive(scratch / "archive", random.Random(seed))
                    outcomes.append(what_it_does(tool, *options, scratch / "archive", kept))
                    shutil.rmtree(scratch / "archive")
                self.assertEqual(*outcomes)


@ours_only("the stock tool's own tests are for that")
@for_each_major()
class OnAStandby(unittest.TestCase):
    def test_archive_cleanup_command(self):
        """It keeps what the standby would begin with, and everything behind."""
        with ScratchDir() as scratch:
            archive = scratch / "archive"
            archive.mkdir()
            shutil.chown(archive, PLAIN_USER.pw_uid, PLAIN_USER.pw_gid)
            with Server(self.major, archive_mode="on", archive_command=f'cp "%p" "{archive}/%f"',
                        **keep_wal(self.major)) as server:
                basebackup("-D", scratch / "standby", env=server.env()).check()
                command = f'{compat_path("pg_archivecleanup")} "{archive}" %r'
                self.configure_cleanup(scratch / "standby", command)
                with server.start_standby(scratch / "standby") as standby:
                    self.watch(server, standby, archive)

    def configure_cleanup(self, data_dir, command):
        name = "recovery.conf" if self.major < 12 else "postgresql.auto.conf"
        with open(data_dir / name, "a") as conf:
            conf.write(f"archive_cleanup_command = '{command}'\n")
        shutil.chown(data_dir / name, PLAIN_USER.pw_uid, PLAIN_USER.pw_gid)

    def watch(self, server, standby, archive):
        for number in range(3):
            server.sql(f"CREATE TABLE t{number} (); CHECKPOINT; SELECT pg_switch_wal()")
        kept = server.value("SELECT pg_walfile_name(redo_lsn) FROM pg_control_checkpoint()")
        end = server.value("SELECT pg_current_wal_lsn()")
        standby.wait_for(f"pg_last_wal_replay_lsn() >= '{end}'::pg_lsn")
        wait_until(lambda: (archive / kept).exists(), f"{kept} in the archive")
        standby.sql("CHECKPOINT")
        segments = [path.name for path in archive.iterdir() if SEGMENT_FILE.fullmatch(path.name)]
        self.assertEqual(min(segments), kept, standby.log())


if __name__ == "__main__":
    unittest.main()
