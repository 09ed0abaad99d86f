"""Connections as they are in earnest: TLS, passwords from wherever libpq finds them, or typed."""

import re
import signal
import unittest

from harness import (
    Background,
    ScratchDir,
    Server,
    Terminal,
    for_each_major,
    pgstow,
    run,
    wait_until,
)
from harness.run import pgstow_path
from harness.servers import PASSWORD

# TLS and libpq's ways to find a password do not depend on the server's version.
MAJOR = 15
CERTIFIED = "certified"  # the role that shows a client certificate


class Authority:
    """A certificate authority for one test run."""

    def __init__(self, directory, name):
        self._directory = directory
        self.certificate = directory / f"{name}.crt"
        self._key = directory / f"{name}.key"
        self._openssl("req", "-x509", *self._new_key(self._key), "-subj", f"/CN={name}",
                      "-days", "2", "-out", self.certificate)

    def issue(self, name, *alternatives):
        """A new key for this common name and its certificate: (certificate, key)."""
        key, request, certificate = (self._directory / f"{self.certificate.stem}-{name}.{suffix}"
                                     for suffix in ("key", "csr", "crt"))
        extension = ["-addext", "subjectAltName=" + ",".join(alternatives)] if alternatives else []
        self._openssl("req", "-new", *self._new_key(key), "-subj", f"/CN={name}", *extension,
                      "-out", request)
        self._openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key,
                      "-CAcreateserial", "-copy_extensions", "copy", "-days", "2",
                      "-out", certificate)
        return certificate, key

    @staticmethod
    def _new_key(path):
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-keyout", path]

    @staticmethod
    def _openssl(*args):
        run(["openssl", *args]).check()


class SecurityTestCase(unittest.TestCase):
    """With a server to be had over TLS only, and with SCRAM passwords or client certificates."""

    @classmethod
    def setUpClass(cls):
        cls.keys = cls.enterClassContext(ScratchDir())
        cls.authority = Authority(cls.keys, "authority")
        certificate, key = cls.authority.issue("server", "IP:127.0.0.1", "DNS:localhost")
        server = Server(cls.major, auth="scram-sha-256", log_connections="on", ssl="on",
                        ssl_cert_file=certificate, ssl_key_file=key,
                        ssl_ca_file=cls.authority.certificate)
        (server.data_dir / "pg_hba.conf").write_text(
            f"hostssl  all  {CERTIFIED}  127.0.0.1/32  cert\n"
            f"hostssl  replication  {CERTIFIED}  127.0.0.1/32  cert\n"
            "hostssl  all  all  127.0.0.1/32  scram-sha-256\n"
            "hostssl  replication  all  127.0.0.1/32  scram-sha-256\n"
        )
        cls.server = cls.enterClassContext(server)
        cls.server.sql(f"CREATE ROLE {CERTIFIED} LOGIN REPLICATION")

    def setUp(self):
        self.scratch = self.enterContext(ScratchDir())
        self.target = self.scratch / "backup"
        self.logged = len(self.server.log())

    def env(self, *, password=True, **more):
        env = self.server.env() | more
        return env if password else {name: env[name] for name in env if name != "PGPASSWORD"}

    def verifying(self, **more):
        return self.env(PGSSLMODE="verify-full", PGSSLROOTCERT=str(self.authority.certificate),
                        **more)

    def backup(self, *args, env):
        return pgstow("basebackup", "-D", self.target, "-c", "fast", *args, env=env)

    def assert_backup(self, *args, env):
        """Both connections of a backup work like this."""
        self.backup(*args, env=env).check()
        self.check_backup()

    def check_backup(self):
        pgstow("verifybackup", self.target).check()
        # The server's log is complete when the next connection has been logged.
        self.server.value("SELECT 1")
        authorized = re.findall(r"replication connection authorized: (.*)",
                                self.server.log()[self.logged:])
        self.assertEqual(len(authorized), 2, authorized)
        for line in authorized:
            self.assertIn("SSL enabled (protocol=TLSv1.3", line)

    def assert_refused(self, pattern, *args, env):
        result = self.backup(*args, env=env)
        self.assertEqual(result.rc, 1, result)
        self.assertEqual(len(re.findall("(?m)^pgstow basebackup: error: ", result.err)), 1, result)
        self.assertRegex(result.err, pattern)
        self.assertNotIn(PASSWORD, result.err)
        self.assertFalse(self.target.exists())

    def private_file(self, name, content, mode=0o600):
        path = self.scratch / name
        run(["sh", "-c", 'cat >"$0" && chmod "$1" "$0"', path, f"{mode:o}"], input=content).check()
        return str(path)


@for_each_major(since=MAJOR, until=MAJOR)
class Tls(SecurityTestCase):
    def test_verified_by_address(self):
        self.assert_backup(env=self.verifying())

    def test_verified_by_name(self):
        """The name is the second connection's too, though it goes to the same address."""
        self.assert_backup(env=self.verifying(PGHOST="localhost"))

    def test_another_authority(self):
        other = Authority(self.scratch, "other")
        env = self.verifying() | {"PGSSLROOTCERT": str(other.certificate)}
        self.assert_refused("certificate verify failed", env=env)

    def test_another_host(self):
        env = self.verifying(PGHOST="elsewhere.example", PGHOSTADDR="127.0.0.1")
        self.assert_refused('does not match host name "elsewhere.example"', env=env)
        self.assert_backup(env=env | {"PGSSLMODE": "verify-ca"})

    def test_without_tls(self):
        self.assert_refused('no pg_hba.conf entry for replication connection .*no encryption',
                            env=self.env(PGSSLMODE="disable"))

    def test_channel_binding(self):
        self.assert_backup(env=self.verifying(PGCHANNELBINDING="require"))

    def test_channel_binding_without_scram(self):
        env = self.certified(PGCHANNELBINDING="require")
        self.assert_refused("channel binding (is )?required", env=env)

    def certified(self, **more):
        certificate, key = self.authority.issue(CERTIFIED)
        return self.verifying(password=False, PGUSER=CERTIFIED, PGSSLCERT=str(certificate),
                              PGSSLKEY=str(key), **more)

    def test_client_certificate(self):
        env = self.certified()
        self.assert_backup("-w", env=env)
        self.target = self.scratch / "second"
        without = {name: env[name] for name in env if name not in ("PGSSLCERT", "PGSSLKEY")}
        self.assert_refused("client certificate|certificate required", "-w", env=without)

    def test_wal_archive(self):
        """All in the connection string, as in a service unit."""
        directory = self.scratch / "wal"
        run(["mkdir", directory]).check()
        conninfo = self.server.conninfo(sslmode="verify-full", channel_binding="require",
                                        sslrootcert=self.authority.certificate)
        with Background([pgstow_path(), "receivewal", "-D", directory, "-v", "-w",
                         "-d", conninfo]) as receiver:
            receiver.wait_for_err("starting log streaming")
            self.server.sql("CREATE TABLE a AS SELECT 1 AS a; SELECT pg_switch_wal()")
            self.addCleanup(self.server.sql, "DROP TABLE a")
            receiver.wait_for_err("finished segment at")
            self.assertEqual(receiver.stop(signal.SIGTERM).rc, 0)


@for_each_major(since=MAJOR, until=MAJOR)
class Passwords(SecurityTestCase):
    def password_file(self, *, database="replication", password=PASSWORD, mode=0o600):
        escaped = password.replace("\\", "\\\\").replace(":", "\\:")
        return self.private_file(
            "pgpass", f"# ours\n127.0.0.1:{self.server.port}:{database}:postgres:{escaped}\n", mode)

    def test_password_file(self):
        self.assert_backup("-w", env=self.env(password=False, PGPASSFILE=self.password_file()))

    def test_password_file_for_the_database_given(self):
        env = self.env(password=False, PGPASSFILE=self.password_file(database="mydb"))
        self.assert_refused("no password supplied", "-w", env=env)
        self.assert_backup("-w", "-d", "dbname=mydb", env=env)

    def test_password_file_that_others_can_read(self):
        env = self.env(password=False, PGPASSFILE=self.password_file(mode=0o644))
        self.assert_refused("has group or world access(.|\n)*no password supplied", "-w", env=env)

    def test_wrong_password_in_file(self):
        path = self.password_file(password="wrong: \\ one")
        self.assert_refused("password authentication failed", "-w",
                            env=self.env(password=False, PGPASSFILE=path))

    def service(self):
        path = self.private_file("services", (
            "[theirs]\nhost=127.0.0.1\nport=1\n"
            f"[ours]\nhost=localhost\nport={self.server.port}\nuser=postgres\n"
            f"password={PASSWORD}\nsslmode=verify-full\nsslrootcert={self.authority.certificate}\n"
        ))
        return {"PGSERVICEFILE": path}

    def test_service_file(self):
        self.assert_backup("-w", env=self.service() | {"PGSERVICE": "ours"})

    def test_service_in_the_connection_string(self):
        self.assert_backup("-w", "-d", "service=ours", env=self.service())

    def test_unknown_service(self):
        self.assert_refused('definition of service "nobodys" not found', "-d", "service=nobodys",
                            env=self.service())

    # --- typed ---

    def at_terminal(self, *args):
        command = [pgstow_path(), "basebackup", "-D", self.target, "-c", "fast", *args]
        terminal = self.enterContext(Terminal(command, env=self.env(password=False)))
        terminal.wait_for("Password: ")
        return terminal

    def test_typed(self):
        """Asked for once, for both connections, with and without -W; never shown."""
        for number, args in enumerate([["-W"], [], ["-W", "-v"]]):
            with self.subTest(args):
                self.target = self.scratch / str(number)
                self.logged = len(self.server.log())
                terminal = self.at_terminal(*args)
                self.assertFalse(terminal.echoes())
                terminal.type(PASSWORD + "\n")
                self.assertEqual(terminal.wait(), 0, terminal.shown())
                self.assertTrue(terminal.echoes())
                self.assertEqual(terminal.shown().count("Password"), 1)
                self.assertNotIn(PASSWORD[:5], terminal.shown())
                self.check_backup()

    def test_wrong_one_typed(self):
        terminal = self.at_terminal("-W")
        terminal.type("wrong\n")
        self.assertEqual(terminal.wait(), 1)
        self.assertIn("password authentication failed", terminal.shown())
        self.assertEqual(terminal.shown().count("Password: "), 1)
        self.assertFalse(self.target.exists())

    def test_interrupted_at_the_prompt(self):
        """The terminal is as before."""
        terminal = self.at_terminal("-W")
        terminal.type("\x03")
        self.assertEqual(terminal.wait(), -signal.SIGINT, terminal.shown())
        self.assertTrue(terminal.echoes())
        self.assertFalse(self.target.exists())

    def test_end_of_input_at_the_prompt(self):
        terminal = self.at_terminal("-W")
        terminal.type("\x04")
        self.assertEqual(terminal.wait(), 1, terminal.shown())
        self.assertTrue(terminal.echoes())
        self.assertFalse(self.target.exists())

    def test_from_a_pipe(self):
        """Without a terminal the password is the first line of the input."""
        result = pgstow("basebackup", "-D", self.target, "-c", "fast", "-W", input=PASSWORD + "\n",
                        env=self.env(password=False))
        self.assertEqual(result.rc, 0, result)
        self.check_backup()

    def test_typed_for_a_wal_archive(self):
        """Once, also when the connection has to be made again."""
        directory = self.scratch / "wal"
        run(["mkdir", directory]).check()
        command = [pgstow_path(), "receivewal", "-D", directory, "-v", "-W"]
        with Terminal(command, env=self.env(password=False)) as terminal:
            terminal.wait_for("Password: ")
            terminal.type(PASSWORD + "\n")
            terminal.wait_for("starting log streaming")
            self.server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
            terminal.wait_for("terminating connection due to administrator command")
            wait_until(lambda: terminal.shown().count("starting log streaming") == 2, "new stream")
            terminal.type("\x03")
            self.assertEqual(terminal.wait(), 0, terminal.shown())
            self.assertEqual(terminal.shown().count("Password"), 1)


if __name__ == "__main__":
    unittest.main()
