"""Whatever goes wrong: one clear message, exit status 1, and nothing that looks like a backup."""

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
)
from harness.run import pgstow_path

# One server of each wire form is enough for what does not depend on the version.
SINCE, UNTIL = 14, 18
# And for what happens on our side only, one server.
ANY = 15


def errors(result):
    return re.findall(r"^pgstow basebackup: error: (.*)$", result.err, re.MULTILINE)


@for_each_major()
class Refusals(unittest.TestCase):
    """What the server will not do."""

    def setUp(self):
        self.target = self.enterContext(ScratchDir()) / "backup"

    def assert_refused(self, server, pattern, *args, env=None):
        result = pgstow("basebackup", "-D", self.target, "-c", "fast", *args,
                        env=server.env() | (env or {}))
        self.assertEqual(result.rc, 1, result)
        self.assertEqual(len(errors(result)), 1, result)
        self.assertRegex(errors(result)[0], pattern)
        self.assertFalse(self.target.exists(), result)
        return result

    def test_wrong_password(self):
        with Server(self.major, auth="md5" if self.major == 10 else "scram-sha-256") as server:
            self.assert_refused(server, 'password authentication failed for user "postgres"', "-w",
                                env={"PGPASSWORD": "wrong"})
            self.assert_refused(server, "no password supplied", "-w", env={"PGPASSWORD": ""})
            self.assert_refused(server, 'role "nobody_here" does not exist|password authentication',
                                "-w", "-U", "nobody_here")

    def test_right_password(self):
        with Server(self.major, auth="scram-sha-256") as server:
            pgstow("basebackup", "-D", self.target, "-c", "fast", "-w", env=server.env()).check()

    def test_no_wal_senders(self):
        with Server(self.major, max_wal_senders=0, wal_level="replica") as server:
            self.assert_refused(server, "max_wal_senders|replication")

    def test_only_one_wal_sender(self):
        with Server(self.major, max_wal_senders=1) as server:
            self.assert_refused(server, "max_wal_senders|standby connections")
            pgstow("basebackup", "-D", self.target, "-c", "fast", "-X", "fetch",
                   env=server.env()).check()

    def test_minimal_wal_level(self):
        with Server(self.major, max_wal_senders=0, wal_level="minimal") as server:
            self.assert_refused(server, "max_wal_senders|wal_level|replication")

    def test_no_free_slot(self):
        with Server(self.major, max_replication_slots=0) as server:
            self.assert_refused(server, "replication slot")

    def test_no_replication_privilege(self):
        with Server(self.major) as server:
            server.sql("CREATE ROLE mere LOGIN")
            self.assert_refused(server, "must be superuser or replication role|permission denied",
                                "-U", "mere")


@for_each_major(since=SINCE, until=UNTIL)
class Troubles(unittest.TestCase):
    """What happens on the way."""

    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(cls.major))
        cls.server.pgbench_init(scale=3)

    def setUp(self):
        if not self.server.is_running():
            self.server.start()
        self.scratch = self.enterContext(ScratchDir())
        self.target = self.scratch / "backup"

    def command(self, *args, target=None):
        return [pgstow_path(), "basebackup", "-D", target or self.target, "-c", "fast", *args]

    def background(self, *args, env=None):
        return Background(self.command(*args), env=self.server.env() | (env or {}))

    def assert_one_error(self, result, pattern):
        self.assertEqual(result.rc, 1, result)
        self.assertEqual(len(errors(result)), 1, result)
        self.assertRegex(errors(result)[0], pattern)

    def wait_for_data(self):
        """Until files of the cluster have begun to arrive."""
        wait_until(lambda: (self.target / "base").is_dir(), "first files")

    def slots(self):
        return self.server.sql("SELECT slot_name FROM pg_replication_slots")

    def test_unreachable_host(self):
        result = pgstow("basebackup", "-D", self.target, "-h", "127.0.0.1", "-p", "1")
        self.assert_one_error(result, r'connection to server at "127.0.0.1", port 1 failed: '
                                      "Connection refused")
        self.assertFalse(self.target.exists())

    def test_target_not_empty(self):
        self.target.mkdir()
        (self.target / ".hidden").write_text("mine")
        result = pgstow("basebackup", "-D", self.target, env=self.server.env())
        self.assert_one_error(result, f'directory "{self.target}" exists but is not empty')
        self.assertEqual((self.target / ".hidden").read_text(), "mine")

    def test_leftovers_of_a_killed_run_say_how_to_go_on(self):
        with self.background("-r", "1M") as backup:
            self.wait_for_data()
            killed = backup.stop(signal.SIGKILL)
        self.assertEqual(killed.rc, -signal.SIGKILL)
        self.assertFalse((self.target / "backup_manifest").exists())
        result = pgstow("basebackup", "-D", self.target, env=self.server.env())
        self.assert_one_error(result, "exists but is not empty")
        self.assertRegex(result.err, "hint: .*never finished.*remove")

    def test_empty_target_is_emptied_again(self):
        self.scratch.joinpath("mine").mkdir(mode=0o711)
        self.target = self.scratch / "mine"
        self.target.chmod(0o777)
        with self.background("-r", "1M") as backup:
            self.wait_for_data()
            result = backup.stop(signal.SIGTERM)
        self.assertEqual(result.rc, -signal.SIGTERM, result)
        self.assertEqual(list(self.target.iterdir()), [])

    def test_interrupted(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with self.subTest(number), self.background("-r", "1M") as backup:
                self.wait_for_data()
                result = backup.stop(number)
                self.assertEqual(result.rc, -number, result)
                self.assertRegex(errors(result)[0], f"interrupted by signal {number:d}: ")
                self.assertIn(f'removing directory "{self.target}"', result.err)
                self.assertFalse(self.target.exists())
                self.server.wait_for("NOT EXISTS (SELECT FROM pg_replication_slots)")

    def test_interrupted_while_waiting_for_the_checkpoint(self):
        self.server.sql("CREATE TABLE dirty AS SELECT generate_series(1, 100000) AS id")
        self.addCleanup(self.server.sql, "DROP TABLE dirty")
        with Background([pgstow_path(), "basebackup", "-D", self.target, "-P"],
                        env=self.server.env()) as backup:
            backup.wait_for_err("waiting for checkpoint")
            result = backup.stop(signal.SIGINT)
        self.assertEqual(result.rc, -signal.SIGINT, result)
        self.assertFalse(self.target.exists())

    def test_no_clean_keeps_what_there_is(self):
        with self.background("-r", "1M", "-n") as backup:
            self.wait_for_data()
            result = backup.stop(signal.SIGTERM)
        self.assertIn(f'directory "{self.target}" not removed at user\'s request', result.err)
        self.assertTrue((self.target / "base").is_dir())
        self.assertFalse((self.target / "backup_manifest").exists())

    def test_server_killed(self):
        with self.background("-r", "1M") as backup:
            self.wait_for_data()
            self.server.kill()
            result = backup.wait()
        self.assert_one_error(result, "server closed the connection unexpectedly|Connection reset")
        self.assertFalse(self.target.exists())

    def test_server_shut_down(self):
        with self.background("-r", "1M") as backup:
            self.wait_for_data()
            self.server.stop("fast")
            result = backup.wait()
        self.assert_one_error(result, "terminating connection|closed the connection|terminated")
        self.assertFalse(self.target.exists())

    def test_connection_cut(self):
        for connection, after in ((0, 200), (0, 100_000), (0, 5_000_000), (1, 1_000), (1, 5_000)):
            for reset in (False, True):
                with self.subTest(connection=connection, after=after, reset=reset), \
                        Proxy(self.server.port) as proxy:
                    proxy.cut(after=after, connection=connection, reset=reset)
                    result = pgstow("basebackup", "-D", self.target, "-c", "fast", "-r", "30M",
                                    env=self.server.env() | proxy.env())
                    self.assertTrue(proxy.fault_happened(timeout=0))
                    self.assert_one_error(result, ".")
                    self.assertFalse(self.target.exists())

    def test_interrupted_while_the_server_is_silent(self):
        with Proxy(self.server.port) as proxy:
            proxy.stall(after=1_000_000)
            with self.background(env=proxy.env()) as backup:
                self.assertTrue(proxy.fault_happened())
                result = backup.stop(signal.SIGINT)
        self.assertEqual(result.rc, -signal.SIGINT, result)
        self.assertFalse(self.target.exists())

    def test_bytes_altered_on_the_way(self):
        """A byte of a file that changes between the server and us is found and named."""
        with Proxy(self.server.port) as proxy:
            proxy.flip(after=8_000_000)
            result = pgstow("basebackup", "-D", self.target, "-c", "fast", "--no-verify-checksums",
                            env=self.server.env() | proxy.env())
            self.assertTrue(proxy.fault_happened(timeout=0))
        self.assertEqual(result.rc, 1, result)
        self.assertRegex(errors(result)[0], r'^checksum mismatch for file "\S+"$')
        self.assertRegex(errors(result)[-1], "does not agree with the server's manifest")
        self.assertFalse(self.target.exists())

    def test_disk_full(self):
        with small_filesystem(self, "20M") as directory:
            target = directory / "backup"
            result = pgstow("basebackup", "-D", target, "-c", "fast", env=self.server.env())
            self.assert_one_error(result, 'could not write to file ".*": No space left on device')
            self.assertEqual(list(directory.iterdir()), [])

    def test_disk_full_of_wal(self):
        """The files fit but the WAL does not."""
        with small_filesystem(self, "20M") as directory:
            target = directory / "backup"
            with self.server.pgbench_load():
                result = pgstow("basebackup", "-D", target, "-c", "fast", "-r", "2M",
                                env=self.server.env())
            self.assert_one_error(result, "No space left on device")
            self.assertEqual(list(directory.iterdir()), [])

    def test_target_cannot_be_made(self):
        result = pgstow("basebackup", "-D", "/proc/nowhere/backup", env=self.server.env())
        self.assert_one_error(result, 'could not create directory "/proc/nowhere"')

    def test_damaged_pages_on_the_server(self):
        """The server reports what is broken; the copy stays, under no name that says it is well."""
        path = self.server.value("SELECT pg_relation_filepath('pgbench_accounts')")
        self.server.sql("CHECKPOINT")
        self.server.stop()
        with open(self.server.data_dir / path, "r+b") as file:
            file.seek(5 * 8192 + 4000)
            before = file.read(4)
            file.seek(5 * 8192 + 4000)
            file.write(b"\xff\xee\xdd\xcc")
        self.server.start()
        try:
            result = pgstow("basebackup", "-D", self.target, "-c", "fast", env=self.server.env())
            unchecked = pgstow("basebackup", "-D", self.scratch / "unchecked", "-c", "fast",
                               "--no-verify-checksums", env=self.server.env())
        finally:
            with open(self.server.data_dir / path, "r+b") as file:
                file.seek(5 * 8192 + 4000)
                file.write(before)
        self.assertEqual(result.rc, 1, result)
        self.assertEqual(len(errors(result)), 2, result)
        self.assertRegex(errors(result)[0], f"^page verification failed: {path} block 5: ")
        self.assertEqual(errors(result)[1], "checksum error occurred")
        self.assertIn(f"{path} block 5: ", (self.target / "backup_bad_pages").read_text())
        self.assertIn("WARNING:  checksum verification failed in file", result.err)
        self.assertTrue((self.target / "backup_manifest.tmp").exists())
        self.assertFalse((self.target / "backup_manifest").exists())
        self.assertEqual(unchecked.rc, 0, unchecked)


@for_each_major(since=ANY, until=ANY)
class Surroundings(unittest.TestCase):
    """Directories that lie in each other, standard error that goes away, impatience."""

    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(cls.major))
        cls.server.pgbench_init(scale=3)
        cls.one, cls.two = (cls.server.create_tablespace(name) for name in ("one", "two"))

    def setUp(self):
        self.scratch = self.enterContext(ScratchDir())
        self.target = self.scratch / "backup"

    def places(self, one, two):
        return ["-T", f"{self.one}={one}", "-T", f"{self.two}={two}"]

    def apart(self):
        """Both tablespaces where they are in nobody's way."""
        return self.places(self.scratch / "one", self.scratch / "two")

    def command(self, *args):
        return [pgstow_path(), "basebackup", "-c", "fast", *args]

    def make_directory(self, name):
        run(["mkdir", self.scratch / name]).check()
        return self.scratch / name

    def assert_overlap(self, directory, *args, left=()):
        result = run(self.command("-D", directory, *args), cwd=self.scratch, env=self.server.env())
        self.assertEqual(result.rc, 1, result)
        self.assertEqual(len(errors(result)), 1, result)
        self.assertRegex(errors(result)[0], 'overlaps directory "|exists but is not empty')
        self.assertEqual(sorted(path.name for path in self.scratch.rglob("*")), sorted(left))
        return errors(result)[0]

    def test_tablespace_in_the_data_directory(self):
        q, elsewhere = self.scratch / "q", self.scratch / "elsewhere"
        for inside in (q, q / "inside", q / "base", self.scratch / "x/.." / "q"):
            with self.subTest(inside):
                message = self.assert_overlap("q", *self.places(inside, elsewhere))
                self.assertIn('overlaps directory "q", which is part of the same backup', message)

    def test_data_directory_in_a_tablespace(self):
        self.assert_overlap("q/data", *self.places(self.scratch / "q", self.scratch / "elsewhere"))

    def test_two_tablespaces_in_one_place(self):
        shared = self.scratch / "shared"
        for second in (shared, shared / "inside"):
            with self.subTest(second):
                # The server's order of tablespaces decides which of the two is refused.
                self.assertIn(str(shared), self.assert_overlap("q", *self.places(shared, second)))

    def test_one_directory_under_two_names(self):
        self.make_directory("real")
        (self.scratch / "link").symlink_to("real")
        (self.scratch / "around").symlink_to(".")
        left = ["real", "link", "around"]
        for first, second in (("real", "link"), ("link", "real"), ("real", "around/real"),
                              ("around/link", "link")):
            with self.subTest(first=first, second=second):
                self.assert_overlap(
                    first, *self.places(self.scratch / second, self.scratch / "two"), left=left)

    def test_the_reason_comes_before_the_cleaning(self):
        with Background(self.command("-D", self.target, "-r", "1M", *self.apart()),
                        env=self.server.env()) as backup:
            wait_until(lambda: (self.target / "base").is_dir(), "first files")
            lines = backup.stop(signal.SIGTERM).err.splitlines()
        lines = [line.removeprefix("pgstow basebackup: ") for line in lines]
        self.assertEqual(lines[0], "error: interrupted by signal 15: Terminated")
        self.assertEqual(sorted(lines[1:]), sorted(
            f'removing directory "{self.scratch / name}"' for name in ("two", "one", "backup")))
        self.assertEqual(list(self.scratch.iterdir()), [])

    def test_more_signals_while_cleaning_up(self):
        """Each of them is too late or too much, none of them does harm."""
        for pause in (0, 0.001, 0.01):
            with self.subTest(pause), Background(
                    self.command("-D", self.target, "-r", "4M", *self.apart()),
                    env=self.server.env()) as backup:
                wait_until(lambda: (self.target / "base").is_dir(), "first files")
                while backup.is_running():
                    backup.send_signal(signal.SIGINT)
                    time.sleep(pause)
                result = backup.wait()
                self.assertEqual(result.rc, -signal.SIGINT, result)
                self.assertEqual(len(errors(result)), 1, result)
                self.assertEqual(list(self.scratch.iterdir()), [])
        self.server.wait_for("NOT EXISTS (SELECT FROM pg_replication_slots)")

    def test_signals_that_are_ignored(self):
        """As a shell sets them for a job in the background: it goes on."""
        command = ["sh", "-c", 'trap "" INT TERM HUP; exec "$@"', "sh",
                   *self.command("-D", self.target, "-r", "16M", *self.apart())]
        with Background(command, env=self.server.env()) as backup:
            wait_until(lambda: (self.target / "base").is_dir(), "first files")
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                backup.send_signal(number)
            backup.wait().check()
        pgstow("verifybackup", self.target).check()

    def in_shell(self, script):
        """Runs a script with "$@", a verbose backup, in it."""
        command = self.command("-D", self.target, "-v", "-P", *self.apart())
        return run(["sh", "-c", script, "sh", *command], env=self.server.env()).check()

    def test_reader_of_standard_error_goes_away(self):
        result = self.in_shell('{ "$@" 2>&1; echo $? >&3; } 3>&2 | head -n 1')
        self.assertEqual(result.err, "0\n")
        self.assertEqual(result.out.count("\n"), 1)
        pgstow("verifybackup", self.target).check()

    def test_nothing_to_write_to(self):
        """Closed standard streams: no file of the backup takes their place."""
        self.in_shell('"$@" <&- >&- 2>&-')
        pgstow("verifybackup", self.target).check()

    def test_standard_error_on_a_full_disk(self):
        self.in_shell('"$@" 2>/dev/full')
        pgstow("verifybackup", self.target).check()

    def test_on_another_file_system(self):
        with small_filesystem(self, "200M") as directory:
            target = directory / "deep/er/backup"
            pgstow("basebackup", "-D", target, "-c", "fast",
                   *self.places(directory / "one", self.scratch / "two"),
                   env=self.server.env()).check()
            pgstow("verifybackup", target).check()
            with self.server.start_copy(target) as copy:
                self.assertEqual(copy.data_digest(), self.server.data_digest())
