"""Archives of WAL that real servers made: "wal list" and "wal check" are right about them.

An archive with promotions, of all compressions, partly received by stock tools, is whole; each of
some seventy single damages to it is found, by its name and at its file, and nothing else is.
"""

import json
import os
import shutil
import subprocess
import unittest

from harness import ScratchDir, Server, for_each_major, pgstow, run, wait_until
from harness.run import STOCK_BIN, Background, compat_path
from harness.wal import MB, SEGMENT_FILE, keep_wal, lsn_number, lsn_text
from harness.waltest import begin_timeline

MAJORS_WITH_SEGMENT_SIZES = 11
STOCK_MAJOR = 15
PAGE = 8192
COMPRESSORS = {".gz": ["gzip"], ".lz4": ["lz4", "-q", "-m", "--rm"], ".zst": ["zstd", "-q", "--rm"]}
OLD = 1_600_000_000


def check(archive, *args):
    """The status and the report of a check, which tells the same with any number of threads."""
    one, two = (pgstow("wal", "check", "--json", "-j", jobs, archive, *args) for jobs in (1, 4))
    report, other = json.loads(one.out), json.loads(two.out)
    for each in (report, other):
        if each["summary"]:
            del each["summary"]["elapsed_ms"]
    assert (one.rc, report) == (two.rc, other), f"{one}\n{two}"
    report["said"] = str(one)
    return one.rc, report


def counted(report):
    return [(each["kind"], each["file"]) for each in report["findings"] if each["counts"]]


def compress(path, suffix):
    subprocess.run([*COMPRESSORS[suffix], path], check=True)
    return path.with_name(path.name + suffix)


def archiving(directory):
    return {"archive_mode": "on",
            "archive_command": f'test ! -f "{directory}/%f" && cp "%p" "{directory}/%f"'}


def segment_size_args(major, megabytes):
    if major < MAJORS_WITH_SEGMENT_SIZES:
        return ()
    return (f"--wal-segsize={megabytes}",)


class Archived:
    """A directory with an archive: its segments by timeline, as paths that end without suffix."""

    def __init__(self, path, size):
        self.path = path
        self.size = size

    def segments(self, timeline):
        names = {match["segment"] for match in map(SEGMENT_FILE.fullmatch, os.listdir(self.path))
                 if match and not match["partial"]}
        return [self.path / name for name in sorted(names) if int(name[:8], 16) == timeline]

    def start(self, segment):
        log, number = int(segment.name[8:16], 16), int(segment.name[16:24], 16)
        return (log << 32) + number * self.size

    def history(self, timeline):
        return self.path / f"{timeline:08X}.history"


def fill(server, segments, rows=1500):
    """Some that are full, and some that a switch ended."""
    for _ in range(segments):
        server.sql("CREATE TABLE IF NOT EXISTS filler (v text);"
                   f"INSERT INTO filler SELECT md5(random()::text) FROM generate_series(1, {rows})")
        last = server.value("SELECT pg_walfile_name(pg_switch_wal())")
    return last


def is_archived(server, segment):
    """And not only begun to be."""
    return segment <= server.value("SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver")


def make_archive(enter, major, megabytes, rows):
    """On the timelines 1, 2, 3 and A. Also another end of the last one, which the same server could
    have written."""
    directory = enter(ScratchDir())
    other = enter(ScratchDir())
    scratch = enter(ScratchDir())
    server = Server(major, initdb_args=segment_size_args(major, megabytes), **archiving(directory))
    with server:
        fill(server, 5, rows)
        for timeline in (2, 3, 0xA):
            begin_timeline(server, timeline)
            fill(server, 3, rows)
        pgstow("basebackup", "-D", scratch / "backup", "-c", "fast", "-X", "none",
               env=server.env()).check()
        fill(server, 1, rows)
        server.stop()
        run(["cp", "-a", server.data_dir, scratch / "copy"]).check()
        with Server(major, data_dir=scratch / "copy", **archiving(other)) as copy:
            fill(copy, 4, rows // 2)
        server.start()
        last = fill(server, 3, rows)
        wait_until(lambda: is_archived(server, last), f"archiving of {last}")
    return Archived(directory, megabytes * MB), Archived(other, megabytes * MB), scratch / "backup"


@for_each_major()
class Sound(unittest.TestCase):
    """What is whole is called whole."""

    def assert_whole(self, archive, *args):
        status, report = check(archive, *args)
        self.assertEqual((counted(report), report["result"], status), ([], "whole", 0),
                         report["said"])
        return report

    def test_timelines_and_compressions(self):
        megabytes = 1 if self.major >= MAJORS_WITH_SEGMENT_SIZES else 16
        archive, _, backup = make_archive(self.enterContext, self.major, megabytes, 1500 * megabytes)
        self.assert_whole(archive.path)
        for timeline in (1, 2, 3, 0xA):
            for path, suffix in zip(archive.segments(timeline), COMPRESSORS):
                compress(path, suffix)
        compress(archive.history(3), ".gz")
        self.assert_whole(archive.path)
        self.assert_whole(archive.path, "--quick")
        report = self.assert_whole(archive.path, "--since", backup)
        self.assertLess(report["summary"]["segments"], len(archive.segments(0xA)) + 1)
        self.assert_listed(archive)

    def assert_listed(self, archive):
        listed = json.loads(pgstow("wal", "list", "--json", "--times", archive.path).check().out)
        self.assertEqual(listed["segment_size"], archive.size)
        self.assertEqual([each["timeline"] for each in listed["timelines"]], [1, 2, 3, 0xA])
        for each in listed["timelines"]:
            segments = archive.segments(each["timeline"])
            self.assertEqual(each["segments"], len(segments))
            self.assertEqual([(each["ranges"][0]["start"])], [lsn_text(archive.start(segments[0]))])
            self.assertEqual(each["holes"], [])
            self.assertLessEqual(each["first_commit"], each["last_commit"])
        for each, parent in zip(listed["timelines"][1:], (1, 2, 3)):
            self.assertEqual(each["parent"], parent)
            history = archive.history(each["timeline"])
            text = history.read_text() if history.exists() else None
            if text:
                self.assertEqual(each["fork"], text.splitlines()[-1].split("\t")[1])

    def test_received_by_others(self):
        """By the stock receiver while a server is promoted, partial segments and all."""
        archive = self.enterContext(ScratchDir())
        scratch = self.enterContext(ScratchDir())
        with Server(self.major, **keep_wal(self.major, 320)) as server:
            pgstow("basebackup", "-D", scratch / "base", "-c", "fast", env=server.env()).check()
            with server.start_standby(scratch / "base", **keep_wal(self.major, 320)) as standby:
                # The stock receiver streams from no server that is newer than itself.
                tool = STOCK_BIN / "pg_receivewal" if self.major <= STOCK_MAJOR else compat_path(
                    "pg_receivewal")
                command = [tool, "-D", archive, "-s", "1", "-Z", "1"]
                with Background(command, env=standby.env()) as receiver:
                    wait_until(lambda: any(archive.iterdir()) or not receiver.is_running(), "WAL")
                    for each in (server, standby):
                        last = fill(each, 2)
                        wait_until(lambda: (archive / f"{last}.gz").exists()
                                   or not receiver.is_running(), last)
                        if each is server:
                            standby.promote()
                    self.assertTrue(receiver.is_running(), receiver.err())
                    receiver.stop()
        if self.major <= STOCK_MAJOR:
            self.assertIn("00000002.history.gz", os.listdir(archive))
        self.assert_whole(archive)


class LargeSegments(unittest.TestCase):
    """Of 64 MB, of which the archive has but a few."""

    def test_sound_and_with_a_hole(self):
        with ScratchDir() as archive:
            with Server(18, initdb_args=["--wal-segsize=64"], **archiving(archive)) as server:
                last = fill(server, 4)
                wait_until(lambda: is_archived(server, last), last)
            status, report = check(archive)
            self.assertEqual((status, counted(report)), (0, []), report["said"])
            first, second = Archived(archive, 64 * MB).segments(1)[:2]
            second.unlink()
            status, report = check(archive)
            self.assertEqual((status, counted(report)), (1, [("missing", second.name)]))
            start = Archived(archive, 64 * MB).start(second)
            self.assertEqual((report["findings"][0]["lsn"], report["findings"][0]["end"]),
                             (lsn_text(start), lsn_text(start + 64 * MB)))
            self.assertLess(first.name, second.name)


# --- damages: each takes an archive, and returns the findings that there must be ---


def edit(path, change):
    data = path.read_bytes()
    path.write_bytes(change(data))
    return path


def flip_at(offset, mask=0x10):
    return lambda data: data[:offset] + bytes([data[offset] ^ mask]) + data[offset + 1:]


def first_record(data):
    """The offset of the first record that begins in this segment's second page, or later."""
    at = PAGE
    while True:
        rest = int.from_bytes(data[at + 16:at + 20], "little")
        if rest < PAGE - 1000:
            return at + 24 + (rest + 7) // 8 * 8
        at += PAGE


def in_record(offset, mask=0x10):
    return lambda data: flip_at(first_record(data) + offset, mask)(data)


def content_end(data):
    return len(data.rstrip(b"\0"))


def single(timeline, index, kind, change):
    def damage(archive, _):
        path = edit(archive.segments(timeline)[index], change)
        return [(kind, path.name)]
    return damage


def compressed(suffix, kind, change):
    def damage(archive, _):
        path = edit(compress(archive.segments(1)[1], suffix), change)
        return [(kind, path.name)]
    return damage


def removed(timeline, first, last=None):
    def damage(archive, _):
        paths = archive.segments(timeline)[first:last]
        paths = paths if last is not None else paths[:1]
        for path in paths:
            path.unlink()
        return [("missing", paths[0].name)]
    return damage


def removed_all(timeline):
    return lambda archive, other: removed(timeline, 0, 99)(archive, other)


def history_damage(timeline, kind, change):
    def damage(archive, _):
        path = archive.history(timeline)
        if change is None:
            path.unlink()
        else:
            edit(path, change)
        return [(kind, path.name)]
    return damage


def replaced(make):
    def damage(archive, _):
        path = archive.segments(1)[2]
        path.unlink()
        make(path)
        return [("file_type", path.name)]
    return damage


def swapped(archive, _):
    first, second = archive.segments(1)[1:3]
    spare = first.with_name("spare")
    first.rename(spare)
    second.rename(first)
    spare.rename(second)
    return [("misnamed", first.name), ("misnamed", second.name)]


def copied_over(archive, _):
    first, second = archive.segments(1)[1:3]
    shutil.copy(first, second)
    return [("misnamed", second.name)]


def of_other_timeline(archive, _):
    """A segment of timeline 1 that lies where one of timeline A is."""
    target = archive.segments(0xA)[-1]
    data = bytearray(target.read_bytes())
    for at in range(0, len(data), PAGE):
        if data[at:at + 2] != b"\0\0":
            data[at + 4:at + 8] = (3).to_bytes(4, "little")
    target.write_bytes(data)
    return [("misnamed", target.name)]


def foreign(change_size=False):
    def damage(archive, _):
        path = archive.segments(1)[2]
        data = bytearray(path.read_bytes())
        if change_size:
            data[32:36] = (2 * archive.size).to_bytes(4, "little")
            data[8:16] = (2 * archive.size * 2).to_bytes(8, "little")
            data[PAGE + 8:PAGE + 16] = (2 * archive.size * 2 + PAGE).to_bytes(8, "little")
        else:
            data[24:32] = (0x0123456789ABCDEF).to_bytes(8, "little")
        path.write_bytes(data)
        return [("foreign", path.name)]
    return damage


def forked(archive, other):
    """The last segments are those that the server's copy wrote."""
    ours = archive.segments(0xA)
    theirs = {path.name: path for path in other.segments(0xA)}
    path = next(path for path in ours if path.name in theirs
                and path.read_bytes() != theirs[path.name].read_bytes())
    later = [each for each in ours if each.name > path.name and each.name in theirs]
    for each in later:
        shutil.copyfile(theirs[each.name], each)
    return [("forked", later[0].name)]


def two_forms(archive, _):
    path = archive.segments(1)[1]
    spare = path.with_name("spare")
    shutil.copy(archive.segments(1)[1], spare)
    data = bytearray(spare.read_bytes())
    end = content_end(bytes(data))
    packed = compress(spare, ".gz")
    packed.rename(path.with_name(path.name + ".gz"))
    assert end < len(data)
    edit(path, lambda content: content[:-1] + b"\1")
    return [("forked", path.name + ".gz")]


def old_partial(archive, _):
    path = archive.segments(1)[2]
    partial = path.with_name(path.name + ".partial")
    path.rename(partial)
    os.utime(partial, (OLD, OLD))
    return [("missing", path.name)]


def other_history(archive, _):
    """History 3 has another opinion about where timeline 2 began."""
    def change(text):
        lines = text.decode().splitlines()
        fields = lines[0].split("\t")
        fields[1] = lsn_text(lsn_number(fields[1]) - 8)
        return "\n".join(["\t".join(fields), *lines[1:], ""]).encode()
    path = edit(archive.history(3), change)
    return [("forked", path.name)]


def earlier_fork(text):
    """The last line of a history says another LSN, where no record ends."""
    lines = text.decode().splitlines()
    fields = lines[-1].split("\t")
    fields[1] = lsn_text(lsn_number(fields[1]) - 8)
    return "\n".join([*lines[:-1], "\t".join(fields), ""]).encode()


def hole_at_fork(archive, _):
    return removed(1, -1)(archive, None)


DAMAGES = {
    # what is not there
    "second of timeline 1": removed(1, 1),
    "in the middle": removed(1, 2),
    "two in a row": removed(1, 2, 4),
    "last before timeline 2": hole_at_fork,
    "first of timeline 2": removed(2, 0),
    "second of timeline 2": removed(2, 1),
    "last before timeline 3": removed(2, -1),
    "all of timeline 2": removed_all(2),
    "first of timeline A": removed(0xA, 0),
    "last but one of timeline A": removed(0xA, -2),
    "old partial in the middle": old_partial,
    "history 2": history_damage(2, "missing", None),
    "history 3": history_damage(3, "missing", None),
    "history A": history_damage(0xA, "missing", None),
    # history files
    "empty history": history_damage(2, "history", lambda data: b""),
    "zeros for a history": history_damage(2, "history", lambda data: bytes(len(data))),
    "garbage for a history": history_damage(0xA, "history", lambda data: b"no history\n"),
    "history without LSN": history_damage(0xA, "history", lambda data: b"1\tx\ty\n"),
    "history out of order": history_damage(0xA, "history",
                                           lambda data: b"".join(reversed(data.splitlines(True)))),
    "histories that differ": other_history,
    # the header of a segment
    "magic": single(1, 2, "damaged", flip_at(0)),
    "flags": single(1, 2, "damaged", flip_at(3)),
    "timeline": single(1, 2, "damaged", flip_at(4)),
    "address": single(1, 2, "damaged", flip_at(8)),
    "address, high": single(1, 2, "damaged", flip_at(14)),
    "address, another segment": single(1, 2, "damaged", flip_at(11, 0x01)),
    "system identifier": single(1, 2, "damaged", flip_at(24)),
    "system identifier, high": single(1, 2, "damaged", flip_at(31)),
    "segment size": single(1, 2, "damaged", flip_at(34)),
    "block size": single(1, 2, "damaged", flip_at(37)),
    "in the first segment": single(1, 0, "damaged", flip_at(8)),
    "in the last segment": single(0xA, -1, "damaged", flip_at(8)),
    # pages
    "magic of a page": single(1, 2, "damaged", flip_at(2 * PAGE)),
    "flags of a page": single(1, 2, "damaged", flip_at(2 * PAGE + 2, 0x02)),
    "timeline of a page": single(2, 1, "damaged", flip_at(2 * PAGE + 4)),
    "address of a page": single(1, 2, "damaged", flip_at(2 * PAGE + 9)),
    "rest of a page": single(1, 2, "damaged", flip_at(3 * PAGE + 16, 0x08)),
    "a page of zeros": single(1, 2, "damaged",
                              lambda data: data[:3 * PAGE] + bytes(PAGE) + data[4 * PAGE:]),
    "a page twice": single(1, 2, "damaged", lambda data: data[:3 * PAGE]
                           + data[2 * PAGE:3 * PAGE] + data[4 * PAGE:]),
    # records
    "length of a record": single(1, 2, "damaged", in_record(0)),
    "long record": single(1, 2, "damaged", in_record(3, 0x40)),
    "transaction of a record": single(1, 2, "damaged", in_record(4)),
    "link of a record": single(1, 2, "damaged", in_record(8)),
    "resource manager": single(1, 2, "damaged", in_record(17, 0x40)),
    "checksum of a record": single(1, 2, "damaged", in_record(20)),
    "body of a record": single(1, 2, "damaged", in_record(28)),
    "body on timeline 3": single(3, 1, "damaged", in_record(28)),
    "body on timeline A": single(0xA, 2, "damaged", in_record(28)),
    "last record": single(1, 2, "damaged", lambda data: flip_at(content_end(data) - 1)(data)),
    # sizes
    "empty": single(1, 2, "truncated", lambda data: b""),
    "half": single(1, 2, "truncated", lambda data: data[:len(data) // 2]),
    "one byte less": single(1, 2, "truncated", lambda data: data[:-1]),
    "one page less": single(1, 2, "truncated", lambda data: data[:-PAGE]),
    "one byte more": single(1, 2, "damaged", lambda data: data + b"\0"),
    "twice": single(1, 2, "damaged", lambda data: data + data),
    "zeros at the end": single(1, 2, "truncated", lambda data: data[:4 * PAGE]
                               + bytes(len(data) - 4 * PAGE)),
    "all zeros": single(1, 2, "truncated", lambda data: bytes(len(data))),
    "text": single(1, 2, "damaged", lambda data: (b"no WAL " * len(data))[:len(data)]),
    # compressed
    "gzip cut": compressed(".gz", "truncated", lambda data: data[:len(data) // 2]),
    "gzip without its end": compressed(".gz", "truncated", lambda data: data[:-4]),
    "gzip checksum": compressed(".gz", "damaged", lambda data: flip_at(len(data) - 7)(data)),
    "gzip header": compressed(".gz", "damaged", flip_at(0)),
    "gzip and more": compressed(".gz", "damaged", lambda data: data + b"more"),
    "gzip empty": compressed(".gz", "truncated", lambda data: b""),
    "lz4 cut": compressed(".lz4", "truncated", lambda data: data[:len(data) // 2]),
    "lz4 header": compressed(".lz4", "damaged", flip_at(0)),
    "zstd cut": compressed(".zst", "truncated", lambda data: data[:len(data) // 2]),
    "zstd header": compressed(".zst", "damaged", flip_at(0)),
    "zstd checksum": compressed(".zst", "damaged", lambda data: flip_at(len(data) - 1)(data)),
    # what is another one
    "two swapped": swapped,
    "one copied over another": copied_over,
    "of another timeline": of_other_timeline,
    "of another cluster": foreign(),
    "of another segment size": foreign(change_size=True),
    "another history of this timeline": forked,
    "two forms that differ": two_forms,
    # no files
    "directory": replaced(lambda path: path.mkdir()),
    "pipe": replaced(os.mkfifo),
    "link to nothing": replaced(lambda path: path.symlink_to("nothing")),
    "link to itself": replaced(lambda path: path.symlink_to(path.name)),
}

# What may lie around in an archive that is whole, and what is said of it.
REMARKS = {
    "backup_label": "stray",
    "000000010000000000000001.bak": "stray",
    "00000001000000000000000G": "stray",
    "00000001000000000000000a": "stray",
    "0000000100000000000000010": "stray",
    "000000010000000000000001.gz.gz": "stray",
    "0000000a.history": "stray",
    "00000002.history ": "stray",
    "new\nline": "stray",
    "bytes\udcff": "stray",
    "000000010000000000000002.damaged": "leftover",
}


@for_each_major(since=MAJORS_WITH_SEGMENT_SIZES)
class Damages(unittest.TestCase):
    """Each is found, under its name and at its file, and nothing else is."""

    @classmethod
    def setUpClass(cls):
        cls.sound, cls.other, cls.backup = make_archive(cls.enterClassContext, cls.major, 1, 6000)

    def copy(self):
        path = self.enterContext(ScratchDir())
        shutil.copytree(self.sound.path, path, symlinks=True, dirs_exist_ok=True)
        for each in path.iterdir():
            each.chmod(0o644)
        return Archived(path, self.sound.size)

    def test_found(self):
        status, report = check(self.sound.path)
        self.assertEqual((status, counted(report)), (0, []), report["said"])
        for name, damage in DAMAGES.items():
            with self.subTest(damage=name):
                archive = self.copy()
                expected = damage(archive, self.other)
                status, report = check(archive.path)
                self.assertEqual(counted(report), expected, report["said"])
                self.assertEqual((status, report["result"]), (1, "damaged"), report["said"])
                shutil.rmtree(archive.path)

    def test_remarked(self):
        archive = self.copy()
        for name in REMARKS:
            (archive.path / name).write_bytes(b"x")
        (archive.path / "00000003000000000000000100").mkdir()
        status, report = check(archive.path)
        remarks = {each["file"]: each["kind"] for each in report["findings"]}
        expected = {name.replace("\udcff", "\ufffd"): kind for name, kind in REMARKS.items()}
        self.assertEqual(remarks, {**expected, "00000003000000000000000100": "stray"})
        self.assertEqual((status, counted(report)), (0, []))

    def test_late(self):
        archive = self.copy()
        path = archive.segments(1)[2]
        path.rename(path.with_name(path.name + ".partial"))
        os.utime(path.with_name(path.name + ".partial"))
        status, report = check(archive.path)
        self.assertEqual([(each["kind"], each["file"]) for each in report["findings"]],
                         [("late", path.name)])
        self.assertEqual(status, 0)
        status, report = check(archive.path, "--late-after=0")
        self.assertEqual((status, counted(report)), (1, [("missing", path.name)]))

    def test_since(self):
        """What is before does not matter; what is needed must be there."""
        archive = self.copy()
        for timeline in (1, 2, 3):
            for path in archive.segments(timeline):
                path.unlink()
        for path in archive.path.glob("*.partial"):
            path.unlink()
        self.assertEqual(check(archive.path, "--since", self.backup)[0], 0)
        ends = [path for path in archive.segments(0xA)]
        for path in ends:
            label = (self.backup / "backup_label").read_text()
            if path.name in label.splitlines()[0]:
                path.unlink()
                status, report = check(archive.path, "--since", self.backup)
                self.assertEqual((status, counted(report)), (1, [("missing", path.name)]))
        shutil.rmtree(archive.path)
        archive.path.mkdir()
        status, report = check(archive.path, "--since", self.backup)
        self.assertEqual((status, report["findings"][0]["kind"]), (1, "missing"))

    def test_known_gap(self):
        archive = self.copy()
        first, second, third = archive.segments(1)[1:4]
        second.unlink()
        edit(third, in_record(28))
        start = archive.start(second)
        gap = f"{lsn_text(start)}-{lsn_text(start + archive.size)}"
        pgstow("wal", "check", "-q", "--accept-gap", gap, "--reason", "the disk was full",
               archive.path)
        status, report = check(archive.path)
        self.assertEqual((status, counted(report)), (1, [("damaged", third.name)]))
        known = [each for each in report["findings"] if not each["counts"]]
        self.assertEqual([(each["file"], each["known_reason"]) for each in known],
                         [(second.name, "the disk was full")])
        gap = f"{lsn_text(start)}-{lsn_text(start + 2 * archive.size)}"
        result = pgstow("wal", "check", "--accept-gap", gap, "--reason", "and then broken",
                        "-t", "1", archive.path)
        self.assertEqual(result.rc, 0, result)
        self.assertLess(first.name, second.name)

    def test_cannot_look(self):
        missing = pgstow("wal", "check", "--json", self.sound.path / "nowhere")
        self.assertEqual((missing.rc, json.loads(missing.out)["result"]), (2, "error"))
        archive = self.copy()
        archive.segments(1)[1].chmod(0)
        status, report = check(archive.path)
        self.assertEqual((status, counted(report)[0][0]), (2, "unreadable"))


