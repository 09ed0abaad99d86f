"""Base backups of a busy server, with every server version: taken, verified, started, compared."""

import re
import unittest
from contextlib import contextmanager

from harness import ScratchDir, Server, compat, for_each_major, pgstow, stock

MANIFESTS_SINCE = 13
STOCK_MAJOR = 15
STREAMED_WAL = re.compile(r"^[0-9A-F]{24}$")


def wal_files(backup):
    return sorted(path.name for path in (backup / "pg_wal").iterdir() if STREAMED_WAL.match(path.name))


def done_files(backup):
    return sorted(path.stem for path in (backup / "pg_wal/archive_status").glob("*.done"))


def tree(directory):
    """Every path below a directory with its permissions."""
    return {
        str(path.relative_to(directory)): oct(path.lstat().st_mode)
        for path in directory.rglob("*")
    }


@for_each_major()
class Backups(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(cls.major))
        cls.server.pgbench_init(scale=2)
        # What the load leaves alone must come out equal to the last row.
        cls.server.sql(
            "CREATE TABLE still AS SELECT g AS id, md5(g::text) AS v FROM generate_series(1, 20000) g;"
            "CREATE TABLE empty (id int);"
            "CREATE UNLOGGED TABLE unlogged AS SELECT 1 AS id;"
            "CREATE DATABASE other"
        )
        cls.server.sql("CREATE TABLE wide AS SELECT repeat(md5(g::text), 500) AS v"
                       " FROM generate_series(1, 500) g", "other")

    def setUp(self):
        self.scratch = self.enterContext(ScratchDir())
        self.target = self.scratch / "backup"

    def backup(self, *args, **options):
        return pgstow("basebackup", "-D", self.target, "-c", "fast", *args,
                      env=self.server.env(), **options).check()

    def verify(self, *args):
        if self.major >= MANIFESTS_SINCE:
            result = pgstow("verifybackup", *args, self.target).check()
            self.assertEqual(result.out, "backup successfully verified\n")

    @contextmanager
    def started(self, **settings):
        with self.server.start_copy(self.target, **settings) as copy:
            yield copy

    def assert_still_tables_are_equal(self, copy):
        still = ("postgres.still", "postgres.empty", "other.wide")
        source, restored = self.server.data_digest(), copy.data_digest()
        self.assertEqual({name: source[name] for name in still}, {name: restored[name] for name in still})

    # --- under load ---

    def check_backup_under_load(self, *args):
        with self.server.pgbench_load() as load:
            load.wait_transactions(50)
            before = int(self.server.value("SELECT count(*) FROM pgbench_history"))
            self.backup(*args)
            load.wait_transactions(50)
            load.stop()
        after = int(self.server.value("SELECT count(*) FROM pgbench_history"))
        self.verify()
        with self.started() as copy:
            self.assertTrue(copy.pgbench_is_consistent())
            rows = int(copy.value("SELECT count(*) FROM pgbench_history"))
            self.assertGreaterEqual(rows, before)
            self.assertLessEqual(rows, after)
            self.assert_still_tables_are_equal(copy)

    def test_streamed_wal_under_load(self):
        self.check_backup_under_load("-X", "stream")
        self.assertEqual(self.server.sql("SELECT slot_name FROM pg_replication_slots"), [])

    def test_fetched_wal_under_load(self):
        self.check_backup_under_load("-X", "fetch")

    def test_spread_checkpoint_and_rate_limit(self):
        self.server.configure(checkpoint_completion_target="0.01", checkpoint_timeout="30s")
        result = pgstow("basebackup", "-D", self.target, "-r", "200M", "-X", "stream",
                        env=self.server.env()).check()
        self.assertEqual(result.err, "")
        self.verify()

    # --- what is in the directory ---

    def test_no_wal(self):
        self.backup("-X", "none")
        self.assertEqual(wal_files(self.target), [])
        self.verify("-n")

    def test_streamed_wal_is_full_segments_with_marks(self):
        self.backup()
        names = wal_files(self.target)
        self.assertGreaterEqual(len(names), 1)
        for name in names:
            self.assertEqual((self.target / "pg_wal" / name).stat().st_size, 16 * 1024 * 1024)
        # The last one is marked only when it was filled before the backup's end was known.
        self.assertIn(done_files(self.target), (names[:-1], names))
        self.assertEqual([path.name for path in (self.target / "pg_wal").glob("*.partial")], [])
        if self.major >= 17:
            self.assertTrue((self.target / "pg_wal/summaries").is_dir())

    def test_directory_is_as_stock_makes_it(self):
        if self.major > STOCK_MAJOR:
            self.skipTest("the stock tool here is older than the server")
        theirs = self.scratch / "theirs"
        self.backup("-X", "fetch")
        stock("pg_basebackup", "-D", theirs, "-c", "fast", "-X", "fetch",
              env=self.server.env()).check()
        ours, stocks = tree(self.target), tree(theirs)
        # WAL moves on between the two backups; each brings its own.
        without_wal = {
            name: {path: mode for path, mode in files.items() if not path.startswith("pg_wal/")}
            for name, files in (("ours", ours), ("stock", stocks))
        }
        self.assertEqual(without_wal["ours"], without_wal["stock"])
        self.assertEqual(oct(self.target.stat().st_mode), oct(theirs.stat().st_mode))

    def test_manifest(self):
        self.backup("-l", "it's a \"label\"")
        self.assertIn("LABEL: it's a \"label\"\n", (self.target / "backup_label").read_text())
        self.assertEqual((self.target / "backup_manifest").exists(), self.major >= MANIFESTS_SINCE)
        self.assertFalse((self.target / "backup_manifest.tmp").exists())

    def test_no_manifest(self):
        self.backup("--no-manifest", "-N")
        self.assertFalse((self.target / "backup_manifest").exists())
        with self.started() as copy:
            self.assert_still_tables_are_equal(copy)

    def test_manifest_checksums(self):
        if self.major < MANIFESTS_SINCE:
            self.skipTest("no manifests")
        for algorithm in ("none", "CRC32C", "sha224", "SHA256", "SHA384", "SHA512"):
            with self.subTest(algorithm), ScratchDir() as scratch:
                self.target = scratch / "backup"
                self.backup("--manifest-checksums", algorithm, "-v")
                manifest = (self.target / "backup_manifest").read_text()
                name = f'"Checksum-Algorithm": "{algorithm.upper()}"'
                self.assertEqual(name in manifest, algorithm != "none")
                self.verify()

    def test_encoded_manifest(self):
        if self.major < MANIFESTS_SINCE:
            self.skipTest("no manifests")
        self.backup("--manifest-force-encode")
        self.assertNotIn('"Path"', (self.target / "backup_manifest").read_text())
        self.verify()

    def test_verbose_tells_the_story(self):
        err = self.backup("-v", "-P").err
        story = [
            "initiating base backup, waiting for checkpoint to complete",
            "checkpoint completed",
            "write-ahead log start point: ",
            "starting background WAL receiver",
            "created temporary replication slot \"pg_basebackup_",
            "write-ahead log end point: ",
            "waiting for background process to finish streaming ...",
            "syncing data to disk ...",
        ]
        if self.major >= MANIFESTS_SINCE:
            story += ["verified ", "renaming backup_manifest.tmp to backup_manifest"]
        story += ["received ", "base backup completed"]
        places = [err.find("pgstow basebackup: " + line) for line in story]
        self.assertNotIn(-1, places, err)
        self.assertEqual(places, sorted(places), err)
        self.assertRegex(err, r"(?m)^ *(\d+)/\1 kB \(100%\), 1/1 tablespace")

    def test_group_access(self):
        if self.major < 11:
            self.skipTest("group access came with 11")
        with Server(self.major, initdb_args=["--allow-group-access"]) as server:
            pgstow("basebackup", "-D", self.target, "-c", "fast", env=server.env()).check()
        self.assertEqual(oct(self.target.stat().st_mode & 0o7777), "0o750")
        self.assertEqual(oct((self.target / "PG_VERSION").stat().st_mode & 0o7777), "0o640")
        for path, mode in tree(self.target).items():
            self.assertIn(mode, ("0o40750", "0o100640"), path)

    def test_small_segments(self):
        if self.major < 11:
            self.skipTest("initdb --wal-segsize came with 11")
        with Server(self.major, initdb_args=["--wal-segsize=1"]) as server:
            server.pgbench_init(scale=1)
            with server.pgbench_load() as load:
                load.wait_transactions(20)
                pgstow("basebackup", "-D", self.target, "-c", "fast", "-r", "16M",
                       env=server.env()).check()
                load.stop()
            names = wal_files(self.target)
            self.assertEqual((self.target / "pg_wal" / names[0]).stat().st_size, 1024 * 1024)
            self.verify()
            with server.start_copy(self.target) as copy:
                self.assertTrue(copy.pgbench_is_consistent())

    # --- slots ---

    def slots(self):
        return self.server.sql("SELECT slot_name, active::text FROM pg_replication_slots")

    def test_created_slot_stays(self):
        self.backup("-C", "-S", "ours_forever")
        self.addCleanup(self.server.sql, "SELECT pg_drop_replication_slot('ours_forever')")
        self.assertEqual(self.slots(), [["ours_forever", "false"]])
        self.verify()
        result = pgstow("basebackup", "-D", self.scratch / "second", "-C", "-S", "ours_forever",
                        "-c", "fast", env=self.server.env())
        self.assertEqual(result.rc, 1)
        self.assertIn("replication slot \"ours_forever\" already exists", result.err)
        self.assertFalse((self.scratch / "second").exists())

    def test_existing_slot(self):
        self.server.sql("SELECT pg_create_physical_replication_slot('theirs')")
        self.addCleanup(self.server.sql, "SELECT pg_drop_replication_slot('theirs')")
        self.backup("-S", "theirs")
        self.verify()

    def test_no_slot(self):
        err = self.backup("--no-slot", "-v").err
        self.assertNotIn("slot", err)
        self.verify()

    # --- connections ---

    def test_under_the_stock_name_over_a_socket(self):
        compat("pg_basebackup", "-D", self.target, "-h", self.server.socket_dir,
               "-p", self.server.port, "-U", "postgres", "-cfast", "--no-password").check()
        if self.major >= MANIFESTS_SINCE:
            out = compat("pg_verifybackup", self.target).check().out
            self.assertEqual(out, "backup successfully verified\n")

    def test_connection_string(self):
        pgstow("basebackup", "-D", self.target, "-c", "fast",
               "-d", self.server.conninfo(application_name="ours", connect_timeout="10")).check()
        self.verify()

    def test_several_hosts(self):
        hosts = f"postgresql://postgres@127.0.0.1:1,127.0.0.1:{self.server.port}/"
        pgstow("basebackup", "-D", self.target, "-c", "fast", "-d", hosts).check()
        self.verify()


@for_each_major()
class Tablespaces(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(cls.major))
        cls.locations = {name: cls.server.create_tablespace(name) for name in ("one", "two")}
        cls.server.sql(
            "CREATE TABLE in_one TABLESPACE one AS SELECT generate_series(1, 10000) AS id;"
            "CREATE TABLE in_two TABLESPACE two AS SELECT generate_series(1, 20000) AS id;"
            "CREATE TABLE at_home AS SELECT generate_series(1, 500) AS id"
        )
        cls.server.sql("CREATE DATABASE inside TABLESPACE two")

    def setUp(self):
        self.scratch = self.enterContext(ScratchDir())
        self.target = self.scratch / "backup"

    def mappings(self, **places):
        return [f"--tablespace-mapping={self.locations[name]}={place}" for name, place in places.items()]

    def test_mapped(self):
        places = {"one": self.scratch / "first", "two": self.scratch / "deep/er/second"}
        pgstow("basebackup", "-D", self.target, "-c", "fast", *self.mappings(**places),
               env=self.server.env()).check()
        links = {path.readlink() for path in (self.target / "pg_tblspc").iterdir()}
        self.assertEqual(links, set(places.values()))
        if self.major >= MANIFESTS_SINCE:
            pgstow("verifybackup", self.target).check()
        with self.server.start_copy(self.target, allow_in_place_tablespaces="on") as copy:
            self.assertEqual(copy.data_digest(), self.server.data_digest())

    def test_unmapped_is_refused_and_nothing_is_left(self):
        """On the same machine, the original place is taken: by the server itself."""
        result = pgstow("basebackup", "-D", self.target, "-c", "fast",
                        *self.mappings(one=self.scratch / "first"), env=self.server.env())
        self.assertEqual(result.rc, 1)
        self.assertIn(f"directory \"{self.locations['two']}\" exists but is not empty", result.err)
        self.assertIn("--tablespace-mapping", result.err)
        self.assertEqual(list(self.scratch.iterdir()), [])
        self.assertEqual(self.server.value("SELECT count(*) FROM in_two"), "20000")

    def test_in_place(self):
        if self.major < 15:
            self.skipTest("in-place tablespaces came with 15")
        self.server.sql("SET allow_in_place_tablespaces = on; CREATE TABLESPACE here LOCATION ''")
        self.addCleanup(self.server.sql, "DROP TABLE in_here; DROP TABLESPACE here")
        self.server.sql("CREATE TABLE in_here TABLESPACE here AS SELECT 1 AS id")
        places = {"one": self.scratch / "first", "two": self.scratch / "second"}
        pgstow("basebackup", "-D", self.target, "-c", "fast", *self.mappings(**places),
               env=self.server.env()).check()
        pgstow("verifybackup", self.target).check()
        with self.server.start_copy(self.target, allow_in_place_tablespaces="on") as copy:
            self.assertEqual(copy.data_digest(), self.server.data_digest())
