"""What a backup shows: progress as text and as JSON, the last words of -v, and nobody to show it to."""

import json
import re
import signal
import unittest
from pathlib import Path

from harness import (
    Background,
    ScratchDir,
    Server,
    Terminal,
    for_each_major,
    pgstow,
    run,
)
from harness.run import pgstow_path

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "progress.md"
MANIFESTS_SINCE = 13
TARGETS_SINCE = 15
OWN_PAGE_CHECKS_SINCE = 11
LSN = r"[0-9A-F]+/[0-9A-F]+"


def documented_keys():
    """{event: its keys}, from the tables of the page that describes them."""
    events = {}
    for event, text in re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", DOCUMENT.read_text(),
                                  re.MULTILINE | re.DOTALL):
        cells = re.findall(r"^\| (`[^|]*`) \|", text, re.MULTILINE)
        events[event] = {key for cell in cells for key in re.findall(r"`(\w+)`", cell)}
    return events


def objects(err):
    """The objects among the lines of standard error."""
    return [json.loads(line) for line in err.splitlines() if line.startswith("{")]


@for_each_major()
class ProgressAsJson(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(cls.major, autovacuum="off"))
        cls.server.pgbench_init(scale=1)
        cls.keys = documented_keys()

    def setUp(self):
        self.target = self.enterContext(ScratchDir()) / "backup"

    def backup(self, *args, **options):
        return pgstow("basebackup", "-c", "fast", "--progress=json", *args,
                      env=self.server.env(), **options)

    def check_objects(self, events):
        """Each is as the page says."""
        for event in events:
            self.assertEqual(event.pop("version"), 1, event)
            name = event["event"]
            wanted = set(self.keys[name])
            if name == "problem":
                wanted -= {"lsn"} if event["kind"] != "wal" else set()
                wanted -= {"block", "expected", "found"} if event["kind"] != "page" else set()
            self.assertEqual(event.keys() - {"event"}, wanted, event)

    def test_a_backup(self):
        result = self.backup("-D", self.target).check()
        events = objects(result.err)
        self.assertEqual(len(events), len(result.err.splitlines()), result.err)
        self.check_objects(events)
        waiting, begin, *progress, end = events
        self.assertEqual(waiting, {"event": "waiting"})
        self.assertEqual(begin["event"], "begin")
        self.assertEqual(begin["server_version"] // 10000, self.major)
        self.assertEqual((begin["timeline"], begin["tablespaces"]), (1, 1))
        self.assertGreater(begin["total_bytes"], 20_000_000)
        self.assertRegex(begin["start_lsn"], f"^{LSN}$")
        self.check_progress(progress)
        self.check_end(end, begin, progress[-1])

    def check_progress(self, progress):
        self.assertEqual({event["event"] for event in progress}, {"progress"})
        done = [event["done_bytes"] for event in progress]
        self.assertEqual(done, sorted(done))
        self.assertEqual([event["finished"] for event in progress],
                         [False] * (len(progress) - 1) + [True])
        self.assertEqual(progress[0]["current"], str(self.target))
        self.assertEqual(progress[0]["tablespaces_done"], 0)
        self.assertEqual(progress[-1]["tablespaces_done"], 1)
        self.assertEqual(progress[-1]["percent"], 100)
        self.assertIsNone(progress[-1]["seconds_left"])

    def check_end(self, end, begin, last):
        self.assertEqual(end["event"], "end")
        self.assertEqual(end["start_lsn"], begin["start_lsn"])
        self.assertRegex(end["end_lsn"], f"^{LSN}$")
        self.assertGreaterEqual(end["received_bytes"], last["done_bytes"])
        self.assertGreater(end["wal_received_bytes"], 0)
        self.assertGreaterEqual(end["elapsed_ms"], last["elapsed_ms"])
        self.assertTrue(end["wal_checked"])
        self.assertTrue(end["durable"])
        if self.major >= MANIFESTS_SINCE:
            self.assertGreater(end["files_checked"], 500)
            self.assertGreater(end["bytes_checked"], 20_000_000)
        else:
            self.assertIsNone(end["files_checked"])
            self.assertIsNone(end["bytes_checked"])
        if self.major >= OWN_PAGE_CHECKS_SINCE:
            self.assertGreater(end["pages_checked"], 1000)
            self.assertEqual(end["pages_bad"], 0)
        else:
            self.assertIsNone(end["pages_checked"])

    def test_nothing_is_verified(self):
        result = self.backup("-D", self.target, "-X", "none", "--no-manifest", "-N",
                             "--no-verify-checksums").check()
        end = objects(result.err)[-1]
        self.check_objects([dict(end)])
        self.assertEqual(
            {key: end[key] for key in ("files_checked", "pages_checked", "wal_checked", "durable",
                                       "wal_received_bytes")},
            {"files_checked": None, "pages_checked": None, "wal_checked": False, "durable": False,
             "wal_received_bytes": 0})

    def test_beside_an_archive_on_standard_output(self):
        with open(self.target, "wb") as archive:
            result = self.backup("-D", "-", "-F", "tar", "-X", "fetch", stdout=archive).check()
        self.assertIn(b"base/1/", self.target.read_bytes())
        events = objects(result.err)
        self.assertEqual(len(events), len(result.err.splitlines()), result.err)
        self.check_objects(events)
        self.assertFalse(events[-1]["durable"])

    def test_a_target_on_the_server(self):
        if self.major < TARGETS_SINCE:
            self.skipTest("no targets")
        result = self.backup("-t", "blackhole", "-X", "none").check()
        events = objects(result.err)
        self.check_objects(events)
        last, end = events[-2:]
        self.assertGreater(last["done_bytes"], 20_000_000)
        self.assertIsNone(end["files_checked"])
        self.assertFalse(end["durable"])

    def test_messages_stand_between(self):
        result = self.backup("-D", self.target, "-v").check()
        self.check_objects(objects(result.err))
        others = [line for line in result.err.splitlines() if not line.startswith("{")]
        self.assertEqual([line for line in others if not line.startswith("pgstow basebackup: ")],
                         [])
        self.assertEqual(others[-1], "pgstow basebackup: base backup completed")

    def test_an_error_of_the_server(self):
        result = self.backup("-D", self.target, "-l", "x" * 2000)
        self.assertEqual(result.rc, 1)
        waiting, error = objects(result.err)
        self.assertEqual(waiting["event"], "waiting")
        self.assertIn(f"pgstow basebackup: error: {error['message']}\n", result.err)
        self.check_objects([error])
        self.assertEqual((error["event"], error["code"]), ("error", "server"))
        self.assertRegex(error["sqlstate"], "^[0-9A-Z]{5}$")

    def test_a_signal(self):
        with Background([pgstow_path(), "basebackup", "-c", "fast", "--progress=json", "-r", "1M",
                         "-D", self.target], env=self.server.env()) as process:
            process.wait_for_err('"event":"progress"')
            result = process.stop()
        self.assertEqual(result.rc, -signal.SIGTERM)
        events = objects(result.err)
        self.check_objects(events)
        self.assertEqual(events[-1], {
            "event": "error", "code": "stopped", "hint": None, "sqlstate": None,
            "message": "interrupted by signal 15: Terminated", "signal": signal.SIGTERM})
        self.assertNotIn("end", [event["event"] for event in events])


@for_each_major(since=OWN_PAGE_CHECKS_SINCE)
class DamagedPages(unittest.TestCase):
    def test_each_is_an_object(self):
        target = self.enterContext(ScratchDir()) / "backup"
        with Server(self.major, autovacuum="off") as server:
            server.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 10000) g; CHECKPOINT")
            path = server.value("SELECT pg_relation_filepath('t')")
            with open(server.data_dir / path, "r+b") as file:
                for block in (3, 7):
                    file.seek(block * 8192 + 8000)
                    file.write(b"damage")
            result = pgstow("basebackup", "-c", "fast", "--progress=json", "-D", target,
                            env=server.env())
        self.assertEqual(result.rc, 1, result)
        events = objects(result.err)
        problems = [event for event in events if event["event"] == "problem"]
        self.assertEqual([(event["kind"], event["path"]) for event in problems[:2]],
                         [("page", path)] * 2)
        self.assertEqual([event["block"] for event in problems if event["block"] is not None],
                         [3, 7])
        for event in problems:
            self.assertIn(f"pgstow basebackup: error: {event['message']}\n", result.err)
            self.assertTrue(event["block"] is None or event["expected"] != event["found"])
        end, error = events[-2:]
        self.assertEqual((end["event"], end["pages_bad"]), ("end", 2))
        self.assertEqual((error["event"], error["code"]), ("error", "mismatch"))


@for_each_major(since=18)
class ProgressAsText(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(Server(cls.major, autovacuum="off"))
        cls.server.pgbench_init(scale=1)

    def setUp(self):
        self.target = self.enterContext(ScratchDir()) / "backup"

    def command(self, *args):
        return [pgstow_path(), "basebackup", "-c", "fast", "-D", self.target, *args]

    def test_rate_and_time_left(self):
        err = run(self.command("-P", "-r", "8M"), env=self.server.env()).check().err
        first, *lines, last = err.splitlines()
        self.assertEqual(first, "waiting for checkpoint")
        amount = r"^ *\d+/\d+ kB \(\d+%\), [01]/1 tablespace"
        for line in lines:
            self.assertRegex(line, amount + r"(, (\d+ kB/s|\d+\.\d MB/s)(, \d+:\d\d left)?)?$")
        self.assertRegex(lines[-1], r", [5-9]\.\d MB/s")
        self.assertTrue(any(line.endswith(" left") for line in lines), err)
        self.assertRegex(last, r"^(\d+)/\1 kB \(100%\), 1/1 tablespace, [5-9]\.\d MB/s$")

    def test_at_a_terminal(self):
        with Terminal(self.command("-P", "-r", "16M"), env=self.server.env()) as terminal:
            self.assertEqual(terminal.wait(), 0)
            shown = terminal.shown()
        self.assertEqual(shown.count("\n"), 1, shown)
        self.assertTrue(shown.endswith("\n"), shown)
        *over, last = shown[:-1].split("\r")
        self.assertEqual(over[0], "waiting for checkpoint")
        self.assertRegex(last, r"^(\d+)/\1 kB \(100%\), 1/1 tablespace.* *$")
        widths = [len(line.rstrip()) for line in over]
        self.assertTrue(all(len(line) >= width for line, width in zip(over[1:] + [last], widths)))

    def test_json_at_a_terminal(self):
        with Terminal(self.command("--progress=json"), env=self.server.env()) as terminal:
            self.assertEqual(terminal.wait(), 0)
            shown = terminal.shown()
        self.assertNotIn("\r", shown)
        self.assertEqual([json.loads(line)["version"] for line in shown.splitlines()],
                         [1] * shown.count("\n"))

    def test_last_words(self):
        err = run(self.command("-v"), env=self.server.env()).check().err
        *_, summary, last = err.splitlines()
        self.assertEqual(last, "pgstow basebackup: base backup completed")
        self.assertRegex(
            summary,
            r"^pgstow basebackup: received \d+ kB and \d+ kB of WAL in \d+\.\d s( \(.*B/s\))?, "
            rf"write-ahead log {LSN} to {LSN} on timeline 1; verified: \d+ files against the "
            r"manifest, \d+ data pages, WAL; on disk$")

    def test_nobody_to_be_told(self):
        for redirection in ("2>/dev/full", "2>&-", "2>&- >&- <&-"):
            for args in (["-P"], ["-P", "-v"], ["--progress=json", "-v"]):
                with self.subTest(redirection=redirection, args=args), ScratchDir() as scratch:
                    self.target = scratch / "backup"
                    run(["sh", "-c", f'exec "$@" {redirection}', "sh", *self.command(*args)],
                        env=self.server.env()).check()
                    pgstow("verifybackup", self.target).check()
