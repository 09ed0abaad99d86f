"""The harness itself: if these tests fail, what the others say means nothing."""

import io
import os
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import unittest
from contextlib import contextmanager, suppress
from pathlib import Path

from harness import (
    DAMAGES,
    Background,
    BaseBackupSent,
    CommandFailed,
    Proxy,
    ScratchDir,
    Server,
    ServerFailed,
    Terminal,
    combine,
    damaged_copy,
    extract,
    for_each_major,
    majors,
    read_archive,
    run,
    small_filesystem,
    stock,
    uncompressed,
    wait_until,
)
from harness.run import PLAIN_USER
from harness.servers import PASSWORD

STOCK_MAJOR = 15


@for_each_major()
class Servers(unittest.TestCase):
    """Every version starts as an ordinary user, works, survives and stops."""

    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(cls.major, work_mem="3MB"))
        cls.server.pgbench_init(scale=1)

    def setUp(self):
        if not self.server.is_running():
            self.server.start()

    def test_runs_the_right_version_as_an_ordinary_user(self):
        self.assertEqual(int(self.server.value("SHOW server_version_num")) // 10000, self.major)
        self.assertEqual(self.server.data_dir.stat().st_uid, PLAIN_USER.pw_uid)
        self.assertNotEqual(PLAIN_USER.pw_uid, 0)

    def test_has_the_settings_asked_for(self):
        self.assertEqual(self.server.value("SHOW data_checksums"), "on")
        self.assertEqual(self.server.value("SHOW wal_level"), "replica")
        self.assertEqual(self.server.value("SHOW work_mem"), "3MB")
        with Server(self.major, checksums=False) as other:
            self.assertEqual(other.value("SHOW data_checksums"), "off")

    def test_reloads_settings(self):
        self.server.configure(**{"harness.test": "it's\\new"})
        self.server.wait_for("current_setting('harness.test', true) = E'it''s\\\\new'")

    def test_rows_are_exact(self):
        rows = self.server.sql("SELECT 1, E'a,\"b\\nc', NULL; SELECT 'ä'")
        self.assertEqual(rows, [["1", 'a,"b\nc', ""], ["ä"]])

    def test_an_error_in_sql_is_a_failure(self):
        with self.assertRaisesRegex(CommandFailed, "division by zero"):
            self.server.sql("SELECT 1/0; SELECT 1")

    def test_load_survives_a_kill(self):
        with self.server.pgbench_load() as load:
            load.wait_transactions(50)
            committed = load.transactions()
            self.server.kill()
        self.server.start()
        self.assertGreaterEqual(load.transactions(), committed)
        self.assertTrue(self.server.pgbench_is_consistent())

    def test_a_killed_server_leaves_nothing(self):
        with Server(self.major) as server:
            pid, memory = pid_and_shared_memory(server.data_dir)
            server.kill()
            self.assertFalse(is_alive(pid))
            self.assertTrue(has_shared_memory(memory))
        self.assertFalse(has_shared_memory(memory))
        self.assertFalse(server.socket_dir.exists())

    def test_a_load_without_its_server_does_not_hang(self):
        with self.server.pgbench_load() as load:
            load.wait_transactions(1)
            self.server.stop()
            with self.assertRaises((ServerFailed, CommandFailed)):
                load.wait_transactions(1000000)

    def test_digest_sees_a_changed_row(self):
        before = self.server.data_digest()
        self.assertEqual(before["postgres.pgbench_accounts"][0], 100000)
        self.server.sql("UPDATE pgbench_tellers SET filler = 'x' WHERE tid = 1")
        after = self.server.data_digest()
        self.assertEqual([name for name in before if before[name] != after[name]],
                         ["postgres.pgbench_tellers"])
        self.assertEqual(after, self.server.data_digest())

    def test_passwords_are_asked_for(self):
        with Server(self.major, auth="scram-sha-256") as server:
            self.assertEqual(server.value("SELECT 1"), "1")
            psql = ["psql", "-X", "-w", "-c", "SELECT 1"]
            without = stock(*psql, env=server.env() | {"PGPASSWORD": ""})
            self.assertIn("no password supplied", without.err)
            self.assertEqual(stock(*psql, server.conninfo(dbname="postgres")).rc, 0)
            self.assertIn("PGPASSWORD", server.env())
            self.assertIn("\\'", server.conninfo(password=PASSWORD))

    def test_a_bad_setting_fails_with_the_reason(self):
        with self.assertRaisesRegex(ServerFailed, "no_such_setting"):
            with Server(self.major, no_such_setting="1"):
                pass


@for_each_major(until=STOCK_MAJOR)
class StockBackups(unittest.TestCase):
    """Backups by the stock tool (not of servers newer than itself) start and hold the data."""

    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(cls.major))
        cls.server.pgbench_init(scale=1)

    def setUp(self):
        self.target = self.enterContext(ScratchDir()) / "backup"

    def take_backup(self, *args):
        stock("pg_basebackup", "-D", self.target, "-c", "fast", "-X", "stream", "--no-sync", *args,
              env=self.server.env()).check()

    def test_copy_holds_the_same_data(self):
        with self.server.pgbench_load() as load:
            load.wait_transactions(20)
            load.stop()
        self.take_backup()
        with self.server.start_copy(self.target) as copy:
            self.assertEqual(copy.data_digest(), self.server.data_digest())
            self.assertNotEqual(copy.port, self.server.port)
        self.assertTrue(self.target.exists())

    def test_copy_taken_under_load_is_consistent(self):
        with self.server.pgbench_load() as load:
            load.wait_transactions(20)
            self.take_backup()
            load.wait_transactions(20)
        with self.server.start_copy(self.target) as copy:
            self.assertTrue(copy.pgbench_is_consistent())
            self.assertNotEqual(copy.data_digest(), self.server.data_digest())

    def test_tablespace_and_promotion(self):
        location = self.server.create_tablespace("elsewhere")
        self.server.sql("CREATE TABLE there TABLESPACE elsewhere AS SELECT 1 AS a")
        self.take_backup("-R", "-T", f"{location}={self.target.parent / 'elsewhere'}")
        with self.server.start_copy(self.target) as standby:
            self.assertEqual(standby.value("SELECT pg_is_in_recovery()"), "t")
            standby.promote()
            self.assertEqual(standby.value("SELECT timeline_id FROM pg_control_checkpoint()"), "2")
            self.assertEqual(standby.data_digest(), self.server.data_digest())

    def test_a_broken_copy_does_not_start(self):
        self.take_backup()
        (self.target / "global" / "pg_control").unlink()
        with self.assertRaisesRegex(ServerFailed, "could not find the database system"):
            self.server.start_copy(self.target)


@for_each_major(since=STOCK_MAJOR, until=STOCK_MAJOR)
class Damages(unittest.TestCase):
    """The stock verifier says of each damage what the catalogue says that it says."""

    @classmethod
    def setUpClass(cls):
        cls.backup = cls.enterClassContext(ScratchDir()) / "backup"
        with Server(cls.major, initdb_args=["--wal-segsize=1"]) as server:
            server.pgbench_init(scale=1)
            stock("pg_basebackup", "-D", cls.backup, "-c", "fast", env=server.env()).check()

    def verify(self, directory):
        return stock("pg_verifybackup", directory, timeout=30)

    def test_undamaged(self):
        self.verify(self.backup).check()

    def test_damaged(self):
        for damage in DAMAGES:
            with self.subTest(damage=damage.name), damaged_copy(self.backup, damage) as directory:
                result = self.verify(directory)
                self.assertEqual("bad" if result.rc else "good", damage.stock_verdict, result)
        self.verify(self.backup).check()


class ByteSource:
    """Sends the same bytes to everyone who connects, then closes."""

    DATA = bytes(range(256)) * 4096

    def __init__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, suppress(OSError):
                client.sendall(self.DATA)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def receive(connection, count):
    """Up to `count` bytes: fewer only at the end of the stream."""
    data = b""
    while len(data) < count and (more := connection.recv(count - len(data))):
        data += more
    return data


@for_each_major(since=STOCK_MAJOR, until=STOCK_MAJOR)
class Proxies(unittest.TestCase):
    """A proxy breaks exactly the connection it was told to, at exactly the byte it was told to."""

    @contextmanager
    def connected(self, proxy):
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=30) as connection:
            yield connection

    def setUp(self):
        self.source = self.enterContext(ByteSource())
        self.proxy = self.enterContext(Proxy(self.source.port))
        self.data = ByteSource.DATA

    def test_forwards_everything(self):
        with self.connected(self.proxy) as connection:
            self.assertEqual(receive(connection, len(self.data) + 1), self.data)
        self.assertEqual(self.proxy.received(), len(self.data))
        self.assertFalse(self.proxy.fault_happened(timeout=0))

    def test_cuts_at_the_byte(self):
        for number, after in enumerate([0, 1, 65535, 65536, 65537, len(self.data)]):
            with self.subTest(after=after):
                self.proxy.cut(after, connection=number)
                with self.connected(self.proxy) as connection:
                    self.assertEqual(receive(connection, len(self.data)), self.data[:after])
                self.assertEqual(self.proxy.received(number), after)
                self.assertTrue(self.proxy.fault_happened())

    def test_cuts_only_the_connection_named(self):
        self.proxy.cut(1000, connection=1)
        lengths = []
        for _ in range(3):
            with self.connected(self.proxy) as connection:
                lengths.append(len(receive(connection, len(self.data))))
        self.assertEqual(lengths, [len(self.data), 1000, len(self.data)])
        self.assertEqual(self.proxy.connection_count(), 3)

    def test_resets(self):
        self.proxy.cut(1000, reset=True)
        with self.connected(self.proxy) as connection, self.assertRaises(ConnectionResetError):
            while connection.recv(65536):
                pass
        self.assertTrue(self.proxy.fault_happened())

    def test_flips_one_byte(self):
        for number, after in enumerate([0, 1, 65535, 65536, 65537, len(self.data) - 1]):
            with self.subTest(after=after):
                self.proxy.flip(after, connection=number)
                with self.connected(self.proxy) as connection:
                    data = receive(connection, len(self.data) + 1)
                self.assertEqual(len(data), len(self.data))
                wrong = [at for at, byte in enumerate(data) if byte != self.data[at]]
                self.assertEqual(wrong, [after])

    def test_stalls_and_goes_on(self):
        self.proxy.stall(1000)
        with self.connected(self.proxy) as connection:
            self.assertEqual(receive(connection, 1000), self.data[:1000])
            self.assertTrue(self.proxy.fault_happened())
            connection.settimeout(0.2)
            with self.assertRaises(TimeoutError):
                connection.recv(1)
            connection.settimeout(30)
            self.proxy.release()
            self.assertEqual(receive(connection, len(self.data)), self.data[1000:])

    def test_breaks_a_stock_backup(self):
        target = self.enterContext(ScratchDir()) / "backup"
        with Server(self.major) as server, Proxy(server.port) as proxy:
            proxy.cut(after=1_000_000)
            env = server.env() | proxy.env()
            backup = stock("pg_basebackup", "-D", target, "-c", "fast", env=env)
        self.assertEqual(backup.rc, 1, backup)
        self.assertTrue(proxy.fault_happened(timeout=0))
        self.assertFalse(target.exists())


@for_each_major(since=STOCK_MAJOR, until=STOCK_MAJOR)
class Programs(unittest.TestCase):
    """Programs run as the plain user and in its environment; nothing of them stays."""

    def test_result(self):
        result = run(["sh", "-c", "cat; echo problem >&2; exit 3"], input="text")
        self.assertEqual((result.rc, result.out, result.err), (3, "text", "problem\n"))
        with self.assertRaisesRegex(CommandFailed, "problem"):
            result.check()

    def test_user_and_environment(self):
        os.environ["PGHOST"] = "elsewhere"
        self.addCleanup(os.environ.pop, "PGHOST")
        shown = run(["sh", "-c", 'id -u; echo "${PGHOST-none} $PGUSER"'], env={"PGUSER": "someone"})
        self.assertEqual(shown.out, f"{PLAIN_USER.pw_uid}\nnone someone\n")

    def test_timeout_kills(self):
        with self.assertRaisesRegex(TimeoutError, "half a sentence"):
            run(["sh", "-c", "echo half a sentence; sleep 600"], timeout=0.5)

    def test_waiting_for_output(self):
        with Background(["sh", "-c", "echo ready >&2; exec sleep 600"]) as process:
            self.assertEqual(process.wait_for_err("^re(ad)y$").group(1), "ad")
            self.assertEqual(process.stop(signal.SIGINT).rc, -signal.SIGINT)
        with Background(["sh", "-c", "echo no >&2"]) as process, self.assertRaises(CommandFailed):
            process.wait_for_err("ready")

    def test_terminal(self):
        script = "printf 'Who? ' >/dev/tty; read who </dev/tty; stty -echo; read it; echo [$who]"
        with Terminal(["sh", "-c", script + "; kill -TERM $$"]) as terminal:
            terminal.wait_for("Who[?] ")
            self.assertTrue(terminal.echoes())
            terminal.type("me\n")
            wait_until(lambda: not terminal.echoes(), "silence")
            terminal.type("secret\n")
            self.assertEqual(terminal.wait(), -signal.SIGTERM)
            self.assertEqual(terminal.shown(), "Who? me\n[me]\n")
        with Terminal(["sh", "-c", "echo ready; exec sleep 600"]) as terminal:
            terminal.wait_for("ready")
            terminal.type("\x03")
            self.assertEqual(terminal.wait(timeout=10), -signal.SIGINT)

    def test_small_filesystem_gets_full(self):
        with small_filesystem(self, "1M") as directory:
            self.assertEqual(directory.stat().st_uid, PLAIN_USER.pw_uid)
            fill = run(["dd", "if=/dev/zero", f"of={directory / 'file'}", "bs=64k"])
            self.assertIn("No space left on device", fill.err)
            self.assertEqual((directory / "file").stat().st_size, 2**20)
        self.assertFalse(directory.exists())

    def test_a_dying_test_takes_everything_along(self):
        for death in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL):
            with self.subTest(death=death.name):
                pid, memory, directory = self.start_and_die(death)
                wait_until(lambda: not is_alive(pid), "end of the server", 30)
                self.assertFalse(has_shared_memory(memory))
                if death == signal.SIGKILL:
                    run(["rm", "-r", directory]).check()  # nobody was left to do it
                self.assertFalse(directory.exists())

    def start_and_die(self, death):
        """Starts a server in another interpreter, ends that by a signal, returns what it left."""
        script = (
            "import harness, signal\n"
            f"server = harness.Server({self.major}).start()\n"
            "print(server.data_dir, flush=True)\n"
            "signal.pause()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=Path(__file__).parent, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        ) as other:
            data_dir = Path(other.stdout.readline().strip())
            pid, memory = pid_and_shared_memory(data_dir)
            self.assertTrue(is_alive(pid))
            self.assertTrue(has_shared_memory(memory))
            other.send_signal(death)
        return pid, memory, data_dir.parent


def pid_and_shared_memory(data_dir):
    """What the lock file of a running server tells: its process and its memory segment."""
    lines = (data_dir / "postmaster.pid").read_text().splitlines()
    return int(lines[0]), lines[6].split()[1]


def has_shared_memory(identifier):
    segments = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return any(segment.split()[1] == identifier for segment in segments)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@for_each_major(since=STOCK_MAJOR, until=STOCK_MAJOR)
class Formats(unittest.TestCase):
    """What the tests know of formats themselves."""

    def setUp(self):
        self.scratch = self.enterContext(ScratchDir())

    def tar_of(self, contents):
        with tarfile.open(self.scratch / "base.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            for name, content in contents.items():
                member = tarfile.TarInfo(name)
                member.size, member.mode, member.uid = len(content), 0o640, 7
                archive.addfile(member, io.BytesIO(content))
        return (self.scratch / "base.tar").read_bytes()

    def test_archives(self):
        contents = {"empty": b"", "short": b"x", "block": b"y" * 512, "long": b"z" * 1300}
        data = self.tar_of(contents)
        archive = read_archive(data)
        self.assertEqual({each.name: each.content for each in archive.members}, contents)
        self.assertEqual((archive["short"].mode, archive["short"].number("uid")), (0o640, 7))
        self.assertTrue(all(member.has_right_checksum() for member in archive.members))
        self.assertEqual(set(archive.tail), {0})
        altered = read_archive(data.replace(b"short", b"shirt"))
        self.assertFalse(altered["shirt"].has_right_checksum())
        self.assertRaises(ValueError, read_archive, data[:512 * 3 + 1000])

    def test_compressed_archives(self):
        data = self.tar_of({"file": bytes(range(256)) * 1000})
        for program, suffix in (("gzip", ".gz"), ("lz4", ".lz4"), ("zstd", ".zst")):
            path = self.scratch / f"1.tar{suffix}"
            with open(path, "wb") as out:
                run([program, "-c", self.scratch / "base.tar"], stdout=out).check()
            self.assertEqual(uncompressed(path), data)
            extract(path, self.scratch / program)
            self.assertEqual((self.scratch / program / "file").stat().st_mode & 0o777, 0o640)

    def incremental(self, directory, truncation_length, blocks):
        """A backup of one file, of which these blocks have changed: {number: byte}."""
        (directory / "pg_tblspc").mkdir(parents=True)
        (directory / "backup_label").write_text("LABEL: x\nINCREMENTAL FROM LSN: 0/1\n")
        numbers = [0xD3AE1F0D, len(blocks), truncation_length, *blocks]
        head = struct.pack(f"<{len(numbers)}I", *numbers)
        data = b"".join(bytes([value]) * 8192 for value in blocks.values())
        (directory / "INCREMENTAL.1").write_bytes(head.ljust(8192 if blocks else 0, b"\0") + data)
        return directory

    def combined(self, *increments):
        full = self.scratch / "full"
        full.mkdir()
        (full / "1").write_bytes(b"".join(bytes([value]) * 8192 for value in (1, 2, 3)))
        combine([full, *increments], self.scratch / "combined")
        self.assertEqual((self.scratch / "combined/backup_label").read_text(), "LABEL: x\n")
        content = (self.scratch / "combined/1").read_bytes()
        return [content[at] for at in range(0, len(content), 8192)]

    def test_incremental_backups(self):
        first = self.incremental(self.scratch / "a", 5, {1: 22, 4: 55})
        second = self.incremental(self.scratch / "b", 4, {0: 111})
        self.assertEqual(self.combined(first, second), [111, 22, 3, 0])

    def test_incremental_backup_without_a_change(self):
        self.assertEqual(self.combined(self.incremental(self.scratch / "a", 2, {})), [1, 2])

    def test_messages_of_a_server(self):
        def message(kind, body):
            return kind + struct.pack(">I", len(body) + 4) + body

        rows = [struct.pack(">hi", 1, 2) + b"42", struct.pack(">hi", 1, -1)]
        old = [message(b"T", b""), message(b"D", struct.pack(">hi", 1, 3) + b"0/1"),
               message(b"T", b""), *(message(b"D", row) for row in rows),
               message(b"H", b""), message(b"d", b"ab"), message(b"d", b"c"), message(b"c", b""),
               message(b"H", b""), message(b"d", b"x"), message(b"c", b""),
               message(b"H", b""), message(b"d", b"{}")]
        sent = BaseBackupSent(b"".join(old), 14)
        self.assertEqual(sent.archives, {"42.tar": b"abc", "base.tar": b"x"})
        self.assertEqual(sent.manifest, b"{}")
        new = [b"n42.tar\0/place\0", b"dab", b"p12345678", b"dc", b"nbase.tar\0\0", b"dx", b"m",
               b"d{}"]
        sent = BaseBackupSent(b"".join(message(b"d", body) for body in new), 15)
        self.assertEqual(sent.archives, {"42.tar": b"abc", "base.tar": b"x"})
        self.assertEqual(sent.manifest, b"{}")


class Majors(unittest.TestCase):
    def test_selection(self):
        chosen = os.environ.get("PG_MAJORS")
        self.addCleanup(os.environ.__setitem__, "PG_MAJORS", chosen or "")
        os.environ["PG_MAJORS"] = "18 11"
        self.assertEqual(majors(), [11, 18])
        self.assertEqual(majors(since=13), [18])
        os.environ["PG_MAJORS"] = ""
        self.assertEqual(majors(until=12), [10, 11, 12])
        os.environ["PG_MAJORS"] = "9"
        self.assertRaises(ValueError, majors)


if __name__ == "__main__":
    unittest.main()
