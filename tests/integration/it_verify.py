"""Our verifier and the stock one: each accepts the other's backups, and they agree about damage."""

import gzip
import json
import re
import struct
import unittest
from pathlib import Path

from harness import (
    DAMAGES,
    ScratchDir,
    Server,
    Terminal,
    archives,
    compat,
    damaged_copy,
    extract,
    for_each_major,
    pgstow,
    run,
    stock,
    stock_tool,
)
from harness.run import STOCK_BIN, pgstow_path
from harness.tardamage import TAR_DAMAGES, WAL_DAMAGES, damaged_tar_copy

# Where we see more than the stock tool, and why.
WE_SEE_MORE = {
    # Only pg_wal and pg_tblspc/* may be links: nothing outside the backup is read.
    "table_replaced_by_link_to_itself": "bad",
    # Manifests do not list directories, but no server starts without some of them.
    "empty_directory_removed": "bad",
    "directory_removed": "bad",
}
# It is not of the cluster that pg_control says. (The manifest, up to 16, says of none.)
WAL_TELLS = {"control_file_of_another_cluster": "bad"}
FORMATS = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
PAGE_SIZE = 8192
CHECKSUM_AT = 8  # in a page's header
RECENT_STOCK = 15
TAR_VERIFIER = 18  # its pg_verifybackup is the first for tar format; it reads older backups as well


@for_each_major(since=15, until=15)
class AgainstStock(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = cls.enterClassContext(ScratchDir())
        cls.server = cls.enterClassContext(Server(cls.major))
        cls.server.pgbench_init(scale=1)
        cls.ours, cls.stocks = cls.scratch / "ours", cls.scratch / "stocks"
        with cls.server.pgbench_load() as load:
            load.wait_transactions(20)
            pgstow("basebackup", "-D", cls.ours, "-c", "fast", env=cls.server.env()).check()
            stock("pg_basebackup", "-D", cls.stocks, "-c", "fast", env=cls.server.env()).check()

    def test_stock_accepts_ours(self):
        stock("pg_verifybackup", self.ours).check()

    def test_ours_accepts_stocks(self):
        self.assertEqual(compat("pg_verifybackup", self.stocks).check().out,
                         "backup successfully verified\n")

    def test_same_verdict_on_damage(self):
        for damage in DAMAGES:
            with self.subTest(damage.name), damaged_copy(self.ours, damage) as directory:
                expected = (WE_SEE_MORE | WAL_TELLS).get(damage.name, damage.stock_verdict)
                # Under load, some pages are too new to be checked, and one cannot know which.
                result = compat("pg_verifybackup", "--skip-pages", directory)
                self.assertEqual("good" if result.rc == 0 else "bad", expected, result)
                self.assertIn(result.rc, (0, 1), result)
                if expected == "bad":
                    self.assertRegex(result.err, r"(?m)^pg_verifybackup: error: ")
                    self.assertEqual(result.out, "")

    def test_exit_on_error_shows_one(self):
        directory = self.enterContext(ScratchDir()) / "copy"
        stock("pg_basebackup", "-D", directory, "-c", "fast", env=self.server.env()).check()
        for name in ("PG_VERSION", "backup_label", "postgresql.conf"):
            (directory / name).unlink()
        self.assertEqual(pgstow("verifybackup", "-e", directory).err.count("error:"), 1)
        self.assertEqual(pgstow("verifybackup", directory).err.count("error:"), 3)
        ignored = ["-i", "PG_VERSION", "-i", "./backup_label", "--ignore=postgresql.conf"]
        pgstow("verifybackup", *ignored, directory).check()

    def test_progress_and_quiet(self):
        result = pgstow("verifybackup", "-P", self.ours).check()
        self.assertRegex(result.err, r"(?m)^(\d+)/\1 kB \(100%\) verified$")
        result = pgstow("verifybackup", "-q", self.ours).check()
        self.assertEqual((result.out, result.err), ("", ""))

    def test_manifest_and_wal_elsewhere(self):
        with ScratchDir() as scratch:
            copy = scratch / "copy"
            stock("pg_basebackup", "-D", copy, "-c", "fast", env=self.server.env()).check()
            (copy / "backup_manifest").rename(scratch / "m")
            (copy / "pg_wal").rename(scratch / "w")
            self.assertEqual(pgstow("verifybackup", copy).rc, 1)
            self.assertEqual(pgstow("verifybackup", "-m", scratch / "m", copy).rc, 1)
            pgstow("verifybackup", "-m", scratch / "m", "-w", scratch / "w", copy).check()
            pgstow("verifybackup", "-m", scratch / "m", "-n", copy).check()

    def test_wal_in_an_archive(self):
        """Of a receiver, which compresses it: no tool of stock's can look at that."""
        env = self.server.env()
        receivers = {"gzip": (stock, "pg_receivewal"), "lz4": (pgstow, "receivewal"),
                     "zstd": (pgstow, "receivewal")}
        with ScratchDir() as scratch:
            for method in receivers:
                self.server.sql(f"SELECT pg_create_physical_replication_slot('{method}', true)")
            pgstow("basebackup", "-X", "none", "-D", scratch / "b", "-c", "fast", env=env).check()
            self.server.sql("CHECKPOINT; SELECT pg_switch_wal(); CHECKPOINT")
            end = self.server.value("SELECT pg_current_wal_lsn()")
            self.server.sql("CHECKPOINT")  # receivers end with what comes behind `end`
            label = (scratch / "b" / "backup_label").read_text()
            begin = re.search(r"\(file (\w+)\)", label)[1]
            self.assertEqual(pgstow("verifybackup", scratch / "b").rc, 1)
            for method, (tool, name) in receivers.items():
                with self.subTest(method):
                    archive = scratch / method
                    archive.mkdir()
                    archive.chmod(0o777)
                    tool(name, "-D", archive, "-S", method, "-Z", method, "-E", end, "-n",
                         env=env).check()
                    pgstow("verifybackup", "-w", archive, scratch / "b").check()
                    [first] = archive.glob(f"{begin}.??*")
                    first.unlink()
                    result = pgstow("verifybackup", "-w", archive, scratch / "b")
                    self.assertEqual(result.rc, 1)
                    self.assertIn(f'in segment "{begin}": file is missing', result.err)


@for_each_major(since=15)
class TarFormat(unittest.TestCase):
    """Backups that the stock tool took, which reads them from version 18 on, and some of ours."""

    METHODS = ("none", "gzip", "lz4", "zstd")
    # pg_wal.tar is compressed with gzip only.
    WAL_PLACES = (("stream", "none"), ("stream", "gzip"), ("fetch", "none"), ("fetch", "lz4"))

    @classmethod
    def setUpClass(cls):
        tool = (stock_tool("pg_basebackup", cls.major) if cls.major > RECENT_STOCK
                else STOCK_BIN / "pg_basebackup")
        if tool is None:
            raise unittest.SkipTest(f"no stock pg_basebackup for version {cls.major}")
        cls.scratch = cls.enterClassContext(ScratchDir())
        with Server(cls.major) as server:
            server.pgbench_init(scale=1)
            server.create_tablespace("elsewhere")
            server.sql("CREATE TABLE t TABLESPACE elsewhere AS SELECT generate_series(1, 10000)")
            with server.pgbench_load() as load:
                load.wait_transactions(20)
                streamed = [("stream", method) for method in cls.METHODS]
                for wal, method in sorted({*streamed, *cls.WAL_PLACES}):
                    run([tool, *cls.options(wal, method), "-D", cls.backup_of(wal, method)],
                        env=server.env()).check()
                for wal, method in streamed:
                    compat("pg_basebackup", *cls.options(wal, method),
                           "-D", cls.backup_of("ours", method), env=server.env()).check()

    @staticmethod
    def options(wal, method):
        compression = "none" if method == "none" else f"client-{method}:1"
        return ["-c", "fast", "-F", "tar", "-X", wal, "-Z", compression]

    @classmethod
    def backup_of(cls, wal, method):
        return cls.scratch / f"{wal}-{method}"

    def assert_verdict(self, expected, *args):
        result = compat("pg_verifybackup", *args)
        self.assertEqual("good" if result.rc == 0 else "bad", expected, result)
        self.assertIn(result.rc, (0, 1), result)
        if expected == "bad":
            self.assertRegex(result.err, r"(?m)^pg_verifybackup: error: ")
            self.assertEqual(result.out, "")
        return result

    def stock_verdict(self, directory):
        """None without the tool. Damage with which it does not come to an end is bad, too."""
        tool = stock_tool("pg_verifybackup", TAR_VERIFIER)
        if tool is None:
            return None
        try:
            return "bad" if run([tool, "-n", "-F", "tar", directory], timeout=30).rc else "good"
        except TimeoutError:
            return "bad"

    def test_same_verdict_on_damage(self):
        for method in self.METHODS:
            for damage in TAR_DAMAGES:
                with self.subTest(f"{damage.name}, {method}"), damaged_tar_copy(
                        self.backup_of("stream", method), damage) as directory:
                    expected = WE_SEE_MORE.get(damage.name, damage.stock_verdict)
                    self.assert_verdict(expected, "-n", "-F", "t", directory)
                    self.assertIn(self.stock_verdict(directory), (damage.stock_verdict, None))

    def test_wal(self):
        for wal, method in self.WAL_PLACES:
            for damage in WAL_DAMAGES:
                with self.subTest(f"{damage.name}, {wal}, {method}"), damaged_tar_copy(
                        self.backup_of(wal, method), damage) as directory:
                    result = self.assert_verdict(damage.stock_verdict, directory)
                    if damage.stock_verdict == "bad":
                        self.assertRegex(result.err, "WAL parsing failed for timeline 1: .* at LSN")
                        self.assertEqual(result.err.count("\n"), 1)
                    self.assert_verdict("good", "-n", directory)

    def test_good_in_every_compression(self):
        for method in self.METHODS:
            for kind in ("stream", "ours"):
                with self.subTest(f"{method}, {kind}"):
                    pgstow("verifybackup", self.backup_of(kind, method)).check()
                    self.assertIn(self.stock_verdict(self.backup_of(kind, method)), ("good", None))

    def test_wal_elsewhere(self):
        with ScratchDir() as scratch:
            copy = scratch / "copy"
            run(["cp", "-a", self.backup_of("stream", "none"), copy]).check()
            extract(archives(copy)["pg_wal"], scratch / "wal")
            archives(copy)["pg_wal"].unlink()
            self.assert_verdict("bad", copy)
            self.assert_verdict("good", "-w", scratch / "wal", copy)
            self.assert_verdict("good", "-n", copy)

    def test_exit_on_error_shows_one(self):
        with ScratchDir() as scratch:
            copy = scratch / "copy"
            run(["cp", "-a", self.backup_of("stream", "zstd"), copy]).check()
            (copy / "notes").touch()
            archives(copy)["base"].unlink()
            self.assertEqual(self.assert_verdict("bad", "-e", copy).err.count("error:"), 1)
            self.assertGreater(self.assert_verdict("bad", copy).err.count("error:"), 900)

    def test_several_members(self):
        """As parallel compressors write them: the stock tool spins for ever on those of gzip."""
        for method in ("gzip", "lz4", "zstd"):
            with self.subTest(method), ScratchDir() as scratch:
                copy = scratch / "copy"
                run(["cp", "-a", self.backup_of("stream", method), copy]).check()
                base = archives(copy)["base"]
                run(["sh", "-c", '"$0" -dc "$1" | split -b 1000000 -a 4 - "$2/part." && '
                     'for part in "$2"/part.*; do "$0" -c "$part"; done > "$1"',
                     method, base, scratch]).check()
                self.assert_verdict("good", copy)
                with open(base, "ab") as file:
                    file.write(b"\0")
                self.assertIn('"base.tar', self.assert_verdict("bad", copy).err)

    def test_names_for_a_shell(self):
        """There is none: the stock tool gives the directory's name to one."""
        with ScratchDir() as scratch:
            directory = scratch / "it's $(touch made) `touch made` \"; touch made; x"
            run(["cp", "-a", self.backup_of("stream", "none"), directory]).check()
            wal = directory / "wal $(touch made)"
            extract(archives(directory)["pg_wal"], wal)
            ignored = ["-i", wal.name]
            for args in ([], ["-w", wal]):
                result = compat("pg_verifybackup", *ignored, *args, directory, cwd=scratch)
                self.assertEqual(result.check().out, "backup successfully verified\n")
            self.assertEqual([path for path in scratch.rglob("made")], [])

    def test_progress_is_of_the_archives(self):
        backup = self.backup_of("stream", "gzip")
        size = sum(path.stat().st_size for path in archives(backup).values()) // 1024
        result = pgstow("verifybackup", "-P", backup).check()
        self.assertIn(f"{size}/{size} kB (100%) verified\n", result.err)


def flip(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def stored_checksum(path, block):
    with open(path, "rb") as file:
        file.seek(block * PAGE_SIZE + CHECKSUM_AT)
        return struct.unpack("<H", file.read(2))[0]


def documented_keys(heading):
    """The keys in the tables below a heading of the page that describes formats."""
    text = re.search(rf"^### {heading}\n(.*?)(?=^##|\Z)", FORMATS.read_text(),
                     re.MULTILINE | re.DOTALL)[1]
    cells = re.findall(r"^\| (`[^|]*`) \|", text, re.MULTILINE)
    return {key for cell in cells for key in re.findall(r"`(\w+)`", cell)}


@for_each_major(since=15)
class Reports(unittest.TestCase):
    """--report=json and -P, of real backups, sound and damaged, with one thread and with several."""

    @classmethod
    def setUpClass(cls):
        cls.scratch = cls.enterClassContext(ScratchDir())
        with Server(cls.major) as server:
            server.pgbench_init(scale=2)
            server.sql("CHECKPOINT")
            cls.table = server.value("SELECT pg_relation_filepath('pgbench_accounts')")
            for name, options in (("plain", []), ("tar", ["-F", "tar"])):
                pgstow("basebackup", "-c", "fast", *options, "-D", cls.scratch / name,
                       env=server.env()).check()
            (cls.scratch / "stdout").mkdir(mode=0o755)
            with open(cls.scratch / "stdout/base.tar", "wb") as archive:
                pgstow("basebackup", "-c", "fast", "-F", "tar", "-X", "fetch", "-D", "-",
                       env=server.env(), stdout=archive).check()
        cls.damaged = cls.scratch / "damaged"
        run(["cp", "-a", cls.scratch / "plain", cls.damaged]).check()
        flip(cls.damaged / cls.table, 3 * PAGE_SIZE + 5000)
        (cls.damaged / "PG_VERSION").unlink()
        (cls.damaged / "notes").write_text("x")
        (cls.damaged / "backup_label").write_text("short")

    def report(self, *args):
        """The document, of which the keys and what it says of itself are right, and the result."""
        result = pgstow("verifybackup", "--report=json", *args)
        report = json.loads(result.out)
        self.assertEqual(report.keys(), documented_keys("The document"))
        self.assertEqual((report["version"], report["directory"]), (1, str(args[-1])))
        self.assertEqual(report["problem_count"], len(report["problems"]))
        self.assertEqual(result.rc, 0 if report["result"] == "verified" else 1)
        for problem in report["problems"]:
            self.assertEqual(problem.keys(), documented_keys("Problems"))
            self.assertIn(problem["kind"], documented_keys("Kinds of problems"))
            self.assertIn(f"error: {problem['message']}\n", result.err)
        if report["summary"] is not None:
            self.assertEqual(report["summary"].keys(), documented_keys("The summary"))
        return report, result

    def test_sound(self):
        for kind in ("plain", "tar"):
            for jobs in ("1", "3"):
                with self.subTest(kind, jobs=jobs):
                    report, result = self.report("-j", jobs, self.scratch / kind)
                    self.assertEqual((report["format"], report["result"]), (kind, "verified"))
                    self.assertEqual((report["problems"], report["error"], result.err),
                                     ([], None, ""))
                    summary = report["summary"]
                    self.assertGreater(summary["files"], 900)
                    self.assertGreater(summary["bytes"], 40_000_000)
                    self.assertTrue(summary["has_pages"])
                    self.assertGreater(summary["pages"], 4000)
                    self.assertEqual(summary["bad_pages"], 0)
                    self.assertGreater(summary["wal_bytes"], 0)

    def test_both_formats_count_the_same(self):
        counted = [self.report(self.scratch / kind)[0]["summary"] for kind in ("plain", "tar")]
        for key in ("files", "pages", "wal_bytes"):
            with self.subTest(key):
                # backup_label tells when the backup was taken, and there are two of it.
                self.assertAlmostEqual(counted[0][key], counted[1][key], delta=1000)

    def test_damaged(self):
        report, _ = self.report(self.damaged)
        self.assertEqual((report["format"], report["result"]), ("plain", "damaged"))
        found = {(problem["kind"], problem["path"]): problem for problem in report["problems"]}
        self.assertEqual(set(found), {("missing", "PG_VERSION"), ("extra", "notes"),
                                      ("size", "backup_label"), ("checksum", self.table),
                                      ("page", self.table)})
        size = found["size", "backup_label"]
        self.assertEqual(size["found"], 5)
        self.assertGreater(size["expected"], 100)
        checksum = found["checksum", self.table]
        self.assertRegex(checksum["expected"], r"^[0-9a-f]{8}$")
        self.assertRegex(checksum["found"], r"^[0-9a-f]{8}$")
        self.assertNotEqual(checksum["expected"], checksum["found"])
        page = found["page", self.table]
        self.assertEqual(page["block"], 3)
        self.assertEqual(page["found"], stored_checksum(self.damaged / self.table, 3))
        self.assertNotEqual(page["expected"], page["found"])
        self.assertEqual(report["summary"]["bad_pages"], 1)

    def test_pages_are_not_looked_at(self):
        for option in ("--skip-pages", "-s"):
            with self.subTest(option):
                report, _ = self.report(option, self.damaged)
                self.assertNotIn("page", [problem["kind"] for problem in report["problems"]])
                self.assertFalse(report["summary"]["has_pages"])
                self.assertEqual(report["summary"]["pages"], 0)

    def test_same_with_every_number_of_threads(self):
        reports = []
        for jobs in ("1", "2", "7"):
            report, _ = self.report("-j", jobs, self.damaged)
            report["summary"].pop("elapsed_ms")
            reports.append(report)
        self.assertEqual(reports[0], reports[1])
        self.assertEqual(reports[0], reports[2])

    def test_first_problem_only(self):
        report, _ = self.report("-e", self.damaged)
        self.assertEqual(report["problem_count"], 1)

    def test_wal(self):
        with ScratchDir() as scratch:
            run(["cp", "-a", self.scratch / "plain", scratch / "backup"]).check()
            for segment in (scratch / "backup/pg_wal").glob("0000*"):
                segment.unlink()
            report, _ = self.report(scratch / "backup")
            self.assertEqual([problem["kind"] for problem in report["problems"]], ["wal"])
            self.assertRegex(report["problems"][0]["lsn"], r"^[0-9A-F]+/[0-9A-F]+$")

    def test_written_to_standard_output(self):
        """The manifest is the last member of the archive."""
        report, _ = self.report(self.scratch / "stdout")
        self.assertEqual((report["format"], report["result"]), ("tar", "verified"))
        self.assertGreater(report["summary"]["pages"], 4000)
        archive = (self.scratch / "stdout/base.tar").read_bytes()
        with ScratchDir() as scratch:
            (scratch / "base.tar.gz").write_bytes(gzip.compress(archive, 1))
            self.assertEqual(self.report(scratch)[0]["result"], "verified")
            (scratch / "base.tar.gz").unlink()
            (scratch / "base.tar").write_bytes(archive[:len(archive) // 2])
            report, _ = self.report(scratch)
            self.assertEqual(report["result"], "error")
            self.assertIn("base.tar", report["hint"])

    def test_no_check(self):
        with ScratchDir() as scratch:
            run(["cp", "-a", self.scratch / "plain", scratch / "backup"]).check()
            flip(scratch / "backup/backup_manifest", 100)
            report, result = self.report(scratch / "backup")
            self.assertEqual((report["result"], report["summary"]), ("error", None))
            self.assertIn(f"error: {report['error']}\n", result.err)

    def test_progress(self):
        err = pgstow("verifybackup", "-P", self.scratch / "plain").check().err
        *progress, last = err.splitlines()
        for line in progress:
            self.assertRegex(line, r"^ *\d+/\d+ kB \(\d+%\) verified(, [0-9.]+ [kM]B/s.*)?$")
        self.assertRegex(progress[-1], r"^(\d+)/\1 kB \(100%\) verified")
        self.assertRegex(last, r"^pgstow verifybackup: checked \d+ files \(\d+ kB\), \d+ data "
                               r"pages, \d+ kB of WAL in [0-9.:]+( s)?( \([0-9.]+ [kM]B/s\))?$")
        err = pgstow("verifybackup", "-P", self.damaged).err
        self.assertRegex(err.splitlines()[-1], r"data pages \(1 bad\)")

    def test_progress_at_a_terminal(self):
        command = [pgstow_path(), "verifybackup", "-P", self.scratch / "tar"]
        with Terminal(command) as terminal:
            self.assertEqual(terminal.wait(), 0)
            shown = terminal.shown()
        progress, summary, result = shown[:-1].split("\n")
        self.assertRegex(progress.split("\r")[-1], r"^(\d+)/\1 kB \(100%\) verified")
        self.assertIn("checked ", summary)
        self.assertEqual(result, "backup successfully verified")


@for_each_major(since=13)
class ClusterPages(unittest.TestCase):
    """--pages, beside pg_checksums of the version that is there."""

    @classmethod
    def setUpClass(cls):
        cls.scratch = cls.enterClassContext(ScratchDir())
        cls.cluster = cls.scratch / "cluster"
        with Server(cls.major) as server:
            server.pgbench_init(scale=1)
            server.create_tablespace("elsewhere")
            server.sql("CREATE TABLE t TABLESPACE elsewhere AS SELECT generate_series(1, 10000);"
                       "CREATE UNLOGGED TABLE u AS SELECT 1 AS n")
            cls.table = server.value("SELECT pg_relation_filepath('pgbench_accounts')")
            cls.other = server.value("SELECT pg_relation_filepath('t')")
            cls.running = pgstow("verifybackup", "--pages", server.data_dir)
            server.stop()
            # Followed, so that the copy has tablespaces of its own.
            run(["cp", "-aL", server.data_dir, cls.cluster]).check()

    def setUp(self):
        self.copy = self.enterContext(ScratchDir()) / "cluster"
        run(["cp", "-a", self.cluster, self.copy]).check()

    def pages(self, *args):
        return pgstow("verifybackup", "--pages", *args, self.copy)

    def checksums(self):
        """What the stock tool says, without its name; None when there is none of this version."""
        tool = (STOCK_BIN / "pg_checksums" if self.major == RECENT_STOCK
                else stock_tool("pg_checksums", self.major))
        return tool and run([tool, "--check", "-D", self.copy])

    def assert_as_stock(self, result):
        stocks = self.checksums()
        if stocks is None:
            return
        self.assertEqual((result.rc, result.out), (stocks.rc, stocks.out))
        ours = [line.split(": ", 1)[1] for line in result.err.splitlines()]
        theirs = [line.split(": ", 1)[1] for line in stocks.err.splitlines()]
        self.assertEqual(sorted(ours), sorted(theirs))

    def test_sound(self):
        result = self.pages().check()
        self.assertRegex(result.out, r"^Checksum operation completed\nFiles scanned:   \d+\n"
                                     r"Blocks scanned:  \d+\nBad checksums:  0\n"
                                     r"Data checksum version: 1\n$")
        self.assertEqual(result.err, "")
        self.assert_as_stock(result)
        self.assertEqual(self.pages("-q").check().out, "")

    def test_pages_without_content(self):
        checked = self.checked(self.pages().check())
        with open(self.copy / self.table, "ab") as file:
            file.truncate(file.tell() + 3 * PAGE_SIZE)
        result = self.pages().check()
        self.assertEqual(self.checked(result), checked + 3)
        self.assert_as_stock(result)

    @staticmethod
    def checked(result):
        return int(re.search(r"Blocks scanned:  (\d+)", result.out)[1])

    def test_bad_pages(self):
        flip(self.copy / self.table, 7 * PAGE_SIZE + 5000)
        flip(self.copy / self.table, 9 * PAGE_SIZE + 100)
        flip(self.copy / self.other, PAGE_SIZE + 8000)
        for jobs in ("1", "2", "7"):
            with self.subTest(jobs=jobs):
                result = self.pages("-j", jobs)
                self.assertEqual(result.rc, 1)
                self.assertRegex(result.err, rf'failed in file "[^"]*{self.table}", block 7: ')
                self.assertRegex(result.err, rf'failed in file "[^"]*{self.table}", block 9: ')
                self.assertRegex(result.err, rf'failed in file "[^"]*{self.other}", block 1: ')
                self.assertIn("Bad checksums:  3\n", result.out)
                self.assert_as_stock(result)
        self.assertEqual(self.pages("-e").err.count("\n"), 1)

    def test_report_and_progress(self):
        flip(self.copy / self.other, PAGE_SIZE + 8000)
        result = self.pages("-P", "--report=json")
        report = json.loads(result.out)
        self.assertEqual((report["format"], report["result"]), ("cluster", "damaged"))
        [problem] = report["problems"]
        self.assertEqual((problem["kind"], problem["block"]), ("page", 1))
        self.assertEqual(problem["path"], self.other)
        self.assertEqual(problem["found"], stored_checksum(self.copy / self.other, 1))
        self.assertGreater(report["summary"]["pages"], 1000)
        self.assertEqual(report["summary"]["bad_pages"], 1)
        self.assertRegex(result.err, r"(?m)^(\d+)/\1 kB \(100%\) verified")

    def test_of_a_server_that_runs(self):
        self.assertEqual((self.running.rc, self.running.out), (1, ""))
        self.assertIn("error: cluster must be shut down\n", self.running.err)

    def test_without_checksums(self):
        with Server(self.major, checksums=False) as server:
            server.stop()
            result = pgstow("verifybackup", "--pages", server.data_dir)
        self.assertEqual((result.rc, result.out), (1, ""))
        self.assertIn("error: data checksums are not enabled in cluster\n", result.err)

    def test_not_a_cluster(self):
        result = pgstow("verifybackup", "--pages", self.copy.parent)
        self.assertEqual((result.rc, result.out), (1, ""))
        self.assertIn("pg_control", result.err)
