"""-R: a backup that becomes a standby when it is started, in plain and tar format and on a pipe."""

import re
import unittest

from harness import (
    ScratchDir,
    Server,
    basebackup,
    for_each_major,
    forget_recovery,
    is_stock_tested,
    ours_only,
    pgstow,
    read_archive,
    restore_tar,
    run,
    stock,
)
from harness.run import STOCK_BIN
from harness.servers import PASSWORD
from harness.tarfiles import FIELDS

MANIFESTS_SINCE = 13
SETTINGS_SINCE = 12  # before, recovery.conf
RECENT_STOCK = 15
WAIT = 20
# Keywords to which the libpq of these tests gives a value, and the version that they came with. An
# older server cannot connect with them; the stock tool writes them all the same.
KEYWORDS_SINCE = {
    "gssencmode": 12, "channel_binding": 13, "ssl_min_protocol_version": 13, "sslsni": 14,
    "sslcertmode": 16, "gssdelegation": 16, "load_balance_hosts": 16, "sslnegotiation": 17,
}
# Names that need every kind of quoting, of libpq and of configuration files.
APPLICATION_NAMES = ["simple_1.x", "it's a \\ \"name\"", "a=b 'c'", "x" * 63]


def parse_setting(line):
    """A line of a configuration file: its name and value."""
    name, quoted = re.fullmatch(r"(\w+) = '(.*)'", line).groups()
    return name, quoted.replace("''", "'").replace("\\\\", "\\")


def parse_conninfo(conninfo):
    """A connection string as {keyword: value}."""
    pairs = re.findall(r"(\w+)=('(?:[^'\\]|\\.)*'|[^' ]\S*)(?: |$)", conninfo)
    text = "".join(f"{key}={value} " for key, value in pairs)
    assert text == conninfo + " ", conninfo
    return {key: re.sub(r"\\(.)", r"\1", value.removeprefix("'").removesuffix("'"))
            for key, value in pairs}


@for_each_major()
class RecoverySettings(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        auth = "md5" if cls.major == 10 else "scram-sha-256"
        cls.server = cls.enterClassContext(Server(cls.major, auth=auth, autovacuum="off"))
        cls.server.sql("CREATE TABLE t AS SELECT g AS id FROM generate_series(1, 1000) g;"
                       "ALTER SYSTEM SET work_mem = '5MB'")

    def setUp(self):
        self.scratch = self.enterContext(ScratchDir())
        self.target = self.scratch / "backup"

    # --- the files ---

    def settings_file(self):
        return "postgresql.auto.conf" if self.major >= SETTINGS_SINCE else "recovery.conf"

    def connection(self, name):
        """The options to connect with, as this application."""
        return ["-w", "-d", self.server.conninfo(application_name=name)]

    def settings_of(self, text):
        """What we were to write, from a configuration file."""
        lines = [line for line in text.splitlines()
                 if line.startswith(("primary_", "standby_mode"))]
        return dict(map(parse_setting, lines))

    def known_here(self, text):
        """A text of the stock tool without the keywords that this server does not know."""
        for keyword, since in KEYWORDS_SINCE.items():
            if self.major < since and not is_stock_tested():
                text = re.sub(rf" {keyword}=[\w.]+", "", text)
        return text

    def stock_text(self, name, *more):
        """What the stock tool writes for the same options.

        Which keywords there are depends on the libpq that it uses: here the one that we use too.
        """
        if self.major > RECENT_STOCK:
            self.skipTest("the stock tool here is older than the server")
        with ScratchDir() as scratch:
            stock("pg_basebackup", "-D", scratch / "b", "-cfast", "-R", *more,
                  *self.connection(name)).check()
            return self.known_here((scratch / "b" / self.settings_file()).read_text())

    def test_as_stock_writes_them(self):
        for name in APPLICATION_NAMES:
            with self.subTest(name), ScratchDir() as scratch:
                basebackup("-D", scratch / "b", "-R", *self.connection(name)).check()
                self.assertEqual((scratch / "b" / self.settings_file()).read_text(),
                                 self.stock_text(name))

    def test_content(self):
        for name in APPLICATION_NAMES:
            with self.subTest(name), ScratchDir() as scratch:
                basebackup("-D", scratch / "b", "-R", *self.connection(name)).check()
                text = (scratch / "b" / self.settings_file()).read_text()
                settings = self.settings_of(text)
                conninfo = parse_conninfo(settings["primary_conninfo"])
                expected = {"application_name": name, "password": PASSWORD, "user": "postgres",
                            "host": "127.0.0.1", "port": str(self.server.port)}
                self.assertLessEqual(expected.items(), conninfo.items())
                self.assertFalse({"replication", "fallback_application_name"} & conninfo.keys())
                if self.major >= SETTINGS_SINCE:
                    self.assertIn("work_mem = '5MB'\n", text)
                    self.assertEqual((scratch / "b/standby.signal").read_bytes(), b"")
                else:
                    self.assertEqual(settings["standby_mode"], "on")

    @ours_only("came with 17", before=17)
    def test_the_database_that_was_named(self):
        """And none that was not."""
        basebackup("-D", self.target, "-R", "-w",
                   "-d", self.server.conninfo(dbname="some db")).check()
        [conninfo] = [parse_conninfo(value) for name, value in
                      self.settings_of((self.target / self.settings_file()).read_text()).items()
                      if name == "primary_conninfo"]
        self.assertEqual(conninfo["dbname"], "some db")
        self.assertEqual(list(conninfo)[-1], "dbname")
        basebackup("-D", self.scratch / "second", "-R", "-w", env=self.server.env()).check()
        self.assertNotIn("dbname", (self.scratch / "second" / self.settings_file()).read_text())

    def test_slot(self):
        basebackup("-D", self.target, "-R", "-C", "-S", "its_slot", *self.connection("a")).check()
        self.addCleanup(self.server.sql, "SELECT pg_drop_replication_slot('its_slot')")
        settings = self.settings_of((self.target / self.settings_file()).read_text())
        self.assertEqual(settings["primary_slot_name"], "its_slot")

    def test_temporary_slot_is_not_named(self):
        basebackup("-D", self.target, "-R", *self.connection("a")).check()
        self.assertNotIn("slot", (self.target / self.settings_file()).read_text())

    def test_modes(self):
        basebackup("-D", self.target, "-R", *self.connection("a")).check()
        for name in ("standby.signal", self.settings_file()):
            if self.major >= SETTINGS_SINCE or name == self.settings_file():
                self.assertEqual((self.target / name).stat().st_mode & 0o7777, 0o600, name)

    # --- in an archive ---

    def injected(self):
        both = ["postgresql.auto.conf", "standby.signal"]
        return both if self.major >= SETTINGS_SINCE else ["recovery.conf"]

    def assert_archive_as_stock(self, ours, theirs):
        """The same members in the same order with the same fields, and the same settings.

        A manifest comes last; stock puts the settings behind it.
        """
        names, stocks = ([name for name in archive.names if name != "backup_manifest"]
                         for archive in (ours, theirs))
        self.assertEqual(names, stocks)
        for name in self.injected():
            for field in set(FIELDS) - {"mtime", "checksum", "size"}:
                self.assertEqual(ours[name].field(field), theirs[name].field(field), (name, field))
            self.assertTrue(ours[name].has_right_checksum())
            self.assertEqual(ours[name].content.decode(),
                             self.known_here(theirs[name].content.decode()))
        self.assertEqual(ours.tail, theirs.tail)

    def test_tar_as_stock_writes_it(self):
        if self.major > RECENT_STOCK:
            self.skipTest("the stock tool here is older than the server")
        args = ["-F", "tar", "-X", "none", "-R", *self.connection("it's a name")]
        basebackup("-D", self.target, *args).check()
        stock("pg_basebackup", "-D", self.scratch / "theirs", "-cfast", *args).check()
        ours, theirs = (read_archive((directory / "base.tar").read_bytes())
                        for directory in (self.target, self.scratch / "theirs"))
        self.assert_archive_as_stock(ours, theirs)

    def test_standard_output_as_stock_writes_it(self):
        if self.major > RECENT_STOCK:
            self.skipTest("the stock tool here is older than the server")
        args = ["-D", "-", "-F", "tar", "-X", "none", "-R", *self.connection("it's a name")]
        archives = []
        for tool in (basebackup, lambda *rest, **options: run(
                [STOCK_BIN / "pg_basebackup", "-cfast", *rest], **options)):
            with open(self.scratch / "out", "w+b") as out:
                tool(*args, stdout=out).check()
                out.seek(0)
                archives.append(read_archive(out.read()))
        self.assert_archive_as_stock(*archives)
        if self.major >= MANIFESTS_SINCE:
            self.assertIn("backup_manifest", archives[0].names[-1 - is_stock_tested():])

    # --- the standby ---

    def check_standby(self, directory, name):
        """Started as it is, it follows."""
        self.skip_where_stock_fails()
        with self.server.start_copy(directory) as standby:
            self.assertEqual(standby.value("SELECT pg_is_in_recovery()"), "t")
            self.server.wait_for(
                f"EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming'"
                f" AND application_name = $${name}$$)", timeout=WAIT)
            self.server.sql("INSERT INTO t SELECT max(id) + 1 FROM t")
            rows = self.server.value("SELECT max(id) FROM t")
            standby.wait_for(f"(SELECT max(id) FROM t) = {rows}")

    def skip_where_stock_fails(self):
        if is_stock_tested() and self.major < RECENT_STOCK:
            self.skipTest("the stock tool names keywords that this server does not know")

    def verify(self, directory):
        if self.major >= MANIFESTS_SINCE:
            pgstow("verifybackup", directory).check()

    def test_plain_becomes_a_standby(self):
        basebackup("-D", self.target, "-R", *self.connection(APPLICATION_NAMES[1])).check()
        self.verify(self.target)
        self.check_standby(self.target, APPLICATION_NAMES[1])

    def test_tar_becomes_a_standby(self):
        for args in ([], ["-X", "fetch", "-z"], ["-Z", "client-zstd"]):
            with self.subTest(args), ScratchDir() as scratch:
                basebackup("-D", scratch / "b", "-F", "tar", "-R", *args,
                           *self.connection(APPLICATION_NAMES[2])).check()
                restore_tar(scratch / "b", scratch / "r")
                self.verify(scratch / "r")
                self.check_standby(scratch / "r", APPLICATION_NAMES[2])

    def test_standard_output_becomes_a_standby(self):
        with open(self.scratch / "base.tar", "wb") as out:
            basebackup("-D", "-", "-F", "tar", "-X", "fetch", "-R", *self.connection("piped"),
                       stdout=out).check()
        self.target.mkdir()
        (self.scratch / "base.tar").rename(self.target / "base.tar")
        restored = self.scratch / "restored"
        restore_tar(self.target, restored)
        self.verify(restored)
        self.check_standby(restored, "piped")

    def test_from_a_standby(self):
        """What that one has of the kind is replaced, not doubled."""
        middle = self.scratch / "middle"
        basebackup("-D", middle, "-R", *self.connection("middle")).check()
        with self.server.start_copy(middle) as standby:
            connection = ["-w", "-d", standby.conninfo(application_name="below")]
            basebackup("-D", self.target, "-R", *connection).check()
            basebackup("-D", self.scratch / "tar", "-F", "tar", "-X", "none", "-R",
                       *connection).check()
            archive = read_archive((self.scratch / "tar/base.tar").read_bytes())
            for name in self.injected():
                self.assertEqual(archive.names.count(name), 1)
                self.assertEqual(archive[name].content, (self.target / name).read_bytes())
            text = (self.target / self.settings_file()).read_text()
            # appended, so that it comes last and wins; a recovery.conf is replaced
            self.assertEqual(text.count("primary_conninfo"), 1 + (self.major >= SETTINGS_SINCE))
            conninfo = parse_conninfo(self.settings_of(text)["primary_conninfo"])
            self.assertEqual(conninfo["port"], str(standby.port))
            self.skip_where_stock_fails()
            with self.server.start_copy(self.target) as below:
                standby.wait_for("EXISTS (SELECT FROM pg_stat_replication"
                                 " WHERE application_name = 'below' AND state = 'streaming')",
                                 timeout=WAIT)
                self.assertEqual(below.value("SELECT pg_is_in_recovery()"), "t")

    def test_without_it_nothing_is_written(self):
        basebackup("-D", self.target, *self.connection("a")).check()
        forget_recovery(self.target)  # there is none, so nothing changes
        self.assertFalse((self.target / "standby.signal").exists())
        self.assertFalse((self.target / "recovery.conf").exists())
        self.assertNotIn("primary_conninfo", (self.target / "postgresql.auto.conf").read_text())
