"""Some hundred single faults in backups of several versions: the verifier sees each of them.

Each ends with status 1 and a message that names what is damaged, in time; the same backup without
the fault is good. Where the stock tool can judge as well, it says the same, except where a fault
has a reason in STRICTER. Faults at random come from a seed, which is printed when one fails:

    PGSTOW_SEED=... PG_MAJORS=15 python3 -m unittest -v it_damage
"""

import contextlib
import itertools
import json
import os
import random
import re
import unittest
from dataclasses import replace

from harness import (
    Background,
    ScratchDir,
    Server,
    basebackup,
    compat,
    for_each_major,
    pgstow,
    run,
    stock_tool,
)
from harness.faults import (
    BLOCK,
    MANIFEST,
    Case,
    Place,
    added,
    again,
    agreed,
    cut,
    cut_at_place,
    dangling_link_instead,
    directory_instead,
    doubled,
    edit,
    emptied,
    entry,
    faults,
    fifo_instead,
    file_instead,
    flip,
    flip_anywhere,
    flip_with_effect,
    followed_by,
    halved,
    joined_by,
    link_to,
    link_to_itself_instead,
    manifest,
    member_of_manifest,
    members,
    overwrite,
    remove,
    removed,
    rename,
    substitute,
    unreadable,
    wal_range,
    with_content,
    with_field,
    without_end,
    zeroed,
)
from harness.run import STOCK_BIN
from harness.servers import SUPERUSER
from harness.specimen import Specimen
from harness.tarfiles import read_archive, uncompressed
from harness.wal import MB, lsn_number, lsn_text
from harness.walrecords import PAGE, SHORT_HEADER, WalRecords

SEED = int(os.environ.get("PGSTOW_SEED") or random.randrange(2**32))
SEGMENT = re.compile(r"(pg_wal/)?[0-9A-F]{24}")
PATIENCE = 20  # seconds: everything else is a hang
STOCK_PATIENCE = 5
# Of a backup, one after the other, until its WAL has some segments and ends well within one.
RATES = ["40M", "40M", "30M", "30M", "20M", "20M", "10M", "10M", "5M", "5M"]
LEAST_FAULTS = 250  # for each version
DEBIAN_MAJOR = 15  # whose stock tools are always there
TAR_VERIFIER = 18
MANIFEST_2_SINCE = 17
INCREMENTALS_SINCE = 17

# Why the stock tool is content where we are not, as in docs/compatibility.md.
STRICTER = {
    "link": "nothing outside the backup is read",
    "size": "recovery refuses it",
    "cluster": "WAL of another cluster cannot be replayed",
    "length": "a last record that claims to be longer than the range hides what follows",
    "tar WAL": "half of a backup is not enough",
    "end": "a stream or an archive without its end is damaged, and so is an archive with more",
    "page": "a page with a wrong checksum was damaged before the backup, or with its manifest",
    "directory": "no server starts without it",
}

# What the lines say.
CHECKSUM = 'checksum mismatch for file "PATH"'
SIZE = r'"PATH" has size \d+ on disk but size \d+ in the manifest'
MISSING = '"PATH" is present in the manifest but not on disk'
EXTRA = '"PATH" is present on disk but not in the manifest'
ODD = '"PATH" is not a regular file or directory'
CLOSED = 'could not open file "PATH": Permission denied'

# --- files ---

TABLES = ["table", "index", "visibility map", "table in a tablespace", "initial fork"]
FILES = [*TABLES, "commit status", "pg_control", "relation map", "backup_label", "PG_VERSION",
         "configuration"]

FILE_FAULTS = [
    *faults(FILES, CHECKSUM,
            ("first byte flipped", edit(flip(0))),
            ("last byte flipped", edit(flip(-1))),
            ("a bit flipped at random", edit(flip_anywhere)),
            ("cut by a byte", edit(cut(1)), SIZE),
            ("cut in half", edit(halved), SIZE),
            ("emptied", edit(emptied), SIZE),
            ("longer by a byte", edit(followed_by(b"\0")), SIZE),
            ("in twice", edit(doubled), SIZE),
            ("removed", remove, MISSING),
            ("renamed", rename("9"), MISSING),
            ("a directory in its place", directory_instead, MISSING),
            ("a link to itself in its place", link_to_itself_instead, ODD, "link"),
            ("a dangling link in its place", dangling_link_instead, ODD),
            ("a fifo in its place", fifo_instead, ODD),
            ("unreadable", unreadable, CLOSED)),
    *faults(TABLES, CHECKSUM,
            ("all zeros", edit(zeroed)),
            ("last page zeros", edit(overwrite(-PAGE, bytes(PAGE)))),
            ("longer by a page", edit(followed_by(bytes(PAGE))), SIZE),
            ("cut by a page", edit(cut(PAGE)), SIZE)),
    *faults("empty table", SIZE,
            ("longer by a byte", edit(followed_by(b"\0"))),
            ("longer by a page", edit(followed_by(bytes(PAGE)))),
            ("removed", remove, MISSING),
            ("renamed", rename("9"), MISSING),
            ("a directory in its place", directory_instead, MISSING),
            ("a fifo in its place", fifo_instead, ODD)),
]

# Whatever the digest is.
DIGEST_FAULTS = [
    fault for fault in FILE_FAULTS
    if fault.where in ("table", "table in a tablespace", "pg_control", "empty table")
    and fault.how in ("first byte flipped", "last byte flipped", "a bit flipped at random",
                      "all zeros", "cut by a byte", "longer by a byte", "removed")
]


def swap_with(other):
    return lambda case: case.specimen.swap(case.place.path, other(case))


def twin(case):
    """A file of the same size with other content."""
    path = case.specimen.path(case.place.path)
    return next(f"{os.path.dirname(case.place.path)}/{sibling.name}"
                for sibling in sorted(path.parent.iterdir())
                if sibling != path and sibling.stat().st_size == path.stat().st_size
                and sibling.read_bytes() != path.read_bytes())


TREE_FAULTS = [
    *faults("table", f'{CHECKSUM}|checksum mismatch for file "base/',
            ("changed places with its twin", swap_with(twin))),
    *faults(["new file", "new file in a database", "new file in a tablespace",
             "new file among transactions"], EXTRA,
            ("with content", added(b"content")),
            ("without content", added()),
            ("a dangling link", dangling_link_instead, 'stat file or directory "PATH"|' + ODD),
            ("a link to itself", link_to("/"), ODD)),
    *faults(["manifest elsewhere", "signal file elsewhere", "WAL elsewhere",
             "configuration elsewhere"], EXTRA, ("added", added())),
    *faults(["database", "directory of a tablespace"], '"PATH/[^"]*" is present in the manifest',
            ("removed", remove),
            ("renamed", rename("9")),
            ("unreadable", unreadable, 'could not open directory "PATH": Permission denied'),
            ("a file in its place", file_instead),
            ("a dangling link in its place", dangling_link_instead, ODD)),
    *faults("link to a tablespace", '"PATH/[^"]*" is present in the manifest but not on disk',
            ("removed", remove),
            ("dangling", dangling_link_instead),
            ("leads elsewhere", link_to("../global")),
            ("an empty directory in its place", directory_instead),
            ("a file in its place", file_instead)),
]

# What no server starts without, and the manifest does not list.
REQUIRED_DIRECTORIES = ["pg_commit_ts", "pg_logical/mappings", "pg_logical/snapshots", "pg_notify",
                        "pg_replslot", "pg_subtrans", "pg_tblspc", "pg_twophase"]
REQUIRED_UNTIL_14 = ["pg_stat", "pg_stat_tmp"]
NO_DIRECTORY = 'directory "MEMBER" is missing: no server starts without it'


def required_directories(major):
    return REQUIRED_DIRECTORIES + (REQUIRED_UNTIL_14 if major < 15 else [])


def directory_faults(major, change):
    """Empty ones: what is below others is missed anyway, by the stock tool as well."""
    return [fault for name in required_directories(major) if name != "pg_tblspc"
            for fault in faults(name, NO_DIRECTORY, ("removed", change, NO_DIRECTORY, "directory"))]


# --- WAL ---

BAD_WAL = 'WAL parsing failed for timeline 1.*"?SEGMENT'
SEGMENTS = ["first segment", "middle segment", "last segment"]



def magic_of_another_version(data, case):
    """That of 13, or of 14."""
    at = _header(case.place)
    magic = b"\x0d\xd1" if data[at:at + 2] == b"\x06\xd1" else b"\x06\xd1"
    return data[:at] + magic + data[at + 2:]


def system_of_another_cluster(data, case):
    at = _header(case.place) + 24
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]


def _header(segment):
    """Where its first page is, in a file of its own or in an archive."""
    return segment.offset + (BLOCK if segment.member else 0)


def from_its_middle(change):
    """The range begins in this segment, of whose first page only the header is read then."""
    def changed(case):
        name = os.path.basename(case.place.member or case.place.path)
        offset = case.places["record in the middle"].offset - _header(case.place)
        start = (int(name[8:16], 16) << 32) + int(name[16:], 16) * MB + offset
        wal_range(Start_LSN=lsn_text(start))(case)
        change(case)

    return changed


def first_header_faults(magic, system):
    """The header is compared with those of the next segments, though nothing else on its page is
    needed. The reasons are those for which the stock tool does not do so.
    """
    says = "WAL parsing failed for timeline 1"
    return faults("middle segment", says,
                  ("the first, magic of another version",
                   from_its_middle(edit(magic_of_another_version)), says, magic),
                  ("the first, system of another cluster",
                   from_its_middle(edit(system_of_another_cluster)), says, system))


WAL_FAULTS = [
    *faults(["first record", "record in the middle", "record across pages", "last record"],
            BAD_WAL,
            ("transaction", edit(flip(4))),
            ("previous record", edit(flip(8))),
            ("info", edit(flip(16))),
            ("resource manager", edit(flip(17))),
            ("padding", edit(flip(18))),
            ("checksum", edit(flip(20))),
            ("first byte of the body", edit(flip(24))),
            ("last byte", edit(flip(-1)))),
    *faults(["first record", "record in the middle", "record across pages"], BAD_WAL,
            ("length", edit(flip(0))),
            ("upper bits of the length", edit(flip(1)))),
    *faults("last record", BAD_WAL,
            ("length", edit(flip(0)), BAD_WAL, "length"),
            ("upper bits of the length", edit(flip(1)), BAD_WAL, "length"),
            ("segment cut within it", edit(cut_at_place))),
    *faults(["page in the middle", *SEGMENTS], BAD_WAL,
            ("magic", edit(flip(0))),
            ("magic of another version", edit(magic_of_another_version)),
            ("info: unknown bit", edit(flip(2, 0x40))),
            ("info: kind of header", edit(flip(2, 0x02))),
            ("timeline", edit(flip(4))),
            ("address", edit(flip(8))),
            ("upper half of the address", edit(flip(12)))),
    *faults("page with a continued record", BAD_WAL,
            ("info: whether continued", edit(flip(2, 0x01))),
            ("remaining length", edit(flip(16))),
            ("first byte behind the header", edit(flip(SHORT_HEADER)))),
    *faults(SEGMENTS, BAD_WAL,
            # A manifest of version 1 does not tell it: the segment after it is another one's then.
            ("system identifier", edit(flip(24)), "WAL parsing failed.*: system identifier",
             "cluster"),
            ("segment size", edit(flip(34))),
            ("page size", edit(flip(37))),
            ("removed", remove),
            ("renamed", rename(".partial")),
            ("emptied", edit(emptied)),
            ("longer by a page", edit(followed_by(bytes(PAGE))), BAD_WAL, "size"),
            ("all zeros", edit(zeroed)),
            ("a directory in its place", directory_instead),
            ("a fifo in its place", fifo_instead),
            ("unreadable", unreadable)),
    *faults(["first segment", "middle segment"], BAD_WAL,
            ("cut by a byte", edit(cut(1))),
            ("cut in half", edit(halved))),
    *faults("last segment", BAD_WAL,
            ("cut by a byte", edit(cut(1)), BAD_WAL, "size")),
    *faults("middle segment", BAD_WAL,
            ("a page of zeros", edit(overwrite(MB // 2, bytes(PAGE)))),
            ("a page of the one before", edit(lambda data, case: data[:PAGE] + data[:-PAGE])),
            ("changed places with the last",
             swap_with(lambda case: case.places["last segment"].path))),
    *faults("WAL directory", "WAL parsing failed for timeline 1.*pg_wal",
            ("removed", remove),
            ("empty", directory_instead),
            ("a dangling link in its place", dangling_link_instead),
            ("a file in its place", file_instead),
            ("unreadable", unreadable)),
]

# --- the manifest ---

NO_MANIFEST = "manifest checksum mismatch|could not parse backup manifest|" \
              "duplicate path name in backup manifest|unrecognized checksum algorithm|" \
              "invalid checksum for file|could not open file .*backup_manifest|parsing failed"
PARSE = "could not parse backup manifest: .*"

# What is in it is not what its checksum was made of.
ALTERED_MANIFEST = [
    *faults("manifest", "manifest checksum mismatch",
            ("size", substitute(r'"Size": 8192', b'"Size": 8193')),
            ("path", substitute(r'"Path": "base/1/', b'"Path": "base/2/')),
            ("time", substitute(r'"Last-Modified": "2', b'"Last-Modified": "3')),
            ("algorithm", substitute(r'"CRC32C"', b'"SHA224"'), NO_MANIFEST),
            ("checksum of a file",
             substitute(r'"Checksum": "[0-9a-f]{8}', b'"Checksum": "00112233')),
            ("key of a file", substitute(r'"Size"', b'"Sise"'), PARSE),
            ("timeline", substitute(r'"Timeline": 1', b'"Timeline": 2')),
            ("start", substitute(r'"Start-LSN": "0/', b'"Start-LSN": "1/')),
            ("end", substitute(r'"End-LSN": "0/', b'"End-LSN": "1/')),
            ("version", substitute(r'Version": [12]', b'Version": 3'), NO_MANIFEST),
            ("key at the top", substitute(r'"Files"', b'"Fires"'), PARSE),
            ("checksum", substitute(r'"Manifest-Checksum": "[0-9a-f]{4}',
                                    b'"Manifest-Checksum": "0000')),
            ("checksum is none", substitute(r'"Manifest-Checksum": "[0-9a-f]{4}',
                                            b'"Manifest-Checksum": "none'), "manifest checksum"),
            ("checksum too short", substitute(r'"Manifest-Checksum": "[0-9a-f]{4}',
                                              b'"Manifest-Checksum": "'), "manifest checksum"),
            ("its key", substitute(r'Manifest-Checksum', b'Manifest-checksum'), PARSE),
            ("a blank more", substitute(r'"Files": ', b'"Files":  ')),
            ("a bit flipped at random", edit(flip_anywhere), NO_MANIFEST),
            ("another bit flipped at random", edit(flip_anywhere), NO_MANIFEST),
            ("a third bit flipped at random", edit(flip_anywhere), NO_MANIFEST),
            ("a byte of zero", edit(overwrite(1000, b"\0")), NO_MANIFEST),
            ("cut by a byte", edit(cut(1)), PARSE),
            ("cut by a line", edit(cut(88)), NO_MANIFEST),
            ("cut in half", edit(halved), PARSE),
            ("emptied", edit(emptied), PARSE),
            ("in twice", edit(doubled), PARSE),
            ("followed by a blank line", edit(followed_by(b"\n")), NO_MANIFEST),
            ("followed by more", edit(followed_by(b"{}\n")), PARSE),
            ("removed", remove, 'could not open file ".*backup_manifest"'),
            ("a directory in its place", directory_instead, "backup_manifest"),
            ("a dangling link in its place", dangling_link_instead,
             'could not open file ".*backup_manifest"'),
            ("unreadable", unreadable, 'could not open file ".*backup_manifest"')),
]


def without_path(content, found):
    content["Files"].remove(found)


def twice(content, found):
    content["Files"].append(found)


def with_another(**values):
    values = {key.replace("_", "-"): value for key, value in values.items()}
    return manifest(lambda content, found: content["Files"].append(found | values))


def encoded(path):
    """As a path that is no UTF-8."""
    return entry(Path=None, Encoded_Path=lambda _: path)


def hex_of(text):
    return text.encode().hex()


# What is in it is wrong, though its checksum is right.
def wal_of_another_cluster(case):
    """All of it says so."""
    for path in sorted(case.specimen.path("pg_wal").glob("[0-9A-F]" * 24)):
        segment = path.read_bytes()
        case.specimen.write(f"pg_wal/{path.name}", flip(24)(segment, Case(
            case.specimen, Place(path.name), case.places, case.random)))


FORGED_MANIFEST = [
    *faults("table", SIZE,
            ("size one more", entry(Size=lambda size: size + 1)),
            ("size one less", entry(Size=lambda size: size - 1)),
            ("size of 4 GB more", entry(Size=lambda size: size + 2**32)),
            ("size 0", entry(Size=0)),
            ("size below zero", entry(Size=-1), PARSE),
            ("size of 63 bits", entry(Size=2**63 - 1)),
            ("size of 64 bits", entry(Size=2**64 - 1), 'total size is out of range.*"PATH"'),
            ("size of more", entry(Size=2**64), PARSE),
            ("size that is a text", entry(Size="8192 bytes"), PARSE),
            ("size with a fraction", entry(Size=0.5), PARSE),
            ("no size", entry(Size=None), PARSE),
            ("checksum of zeros", entry(Checksum="00000000"), CHECKSUM),
            ("checksum of another algorithm", entry(Checksum_Algorithm="SHA256"),
             'file "PATH" has checksum of length 4, but expected 32'),
            ("checksum too short", entry(Checksum=lambda text: text[:-2]),
             'file "PATH" has checksum of length 3, but expected 4'),
            ("checksum too long", entry(Checksum=lambda text: text + "00"),
             'file "PATH" has checksum of length 5, but expected 4'),
            ("checksum with half a byte", entry(Checksum=lambda text: text[:-1]),
             'invalid checksum for file "PATH"'),
            ("checksum with other letters", entry(Checksum="zzzzzzzz"),
             'invalid checksum for file "PATH"'),
            ("checksum without algorithm", entry(Checksum_Algorithm=None), PARSE),
            ("unknown algorithm", entry(Checksum_Algorithm="MD5"),
             'unrecognized checksum algorithm: "MD5"'),
            ("path removed", manifest(without_path), EXTRA),
            ("path twice", manifest(twice), 'duplicate path name in backup manifest: "PATH"'),
            ("path added", with_another(Path="base/1/99999"),
             '"base/1/99999" is present in the manifest but not on disk'),
            ("path of another", entry(Path="base/1/99999"),
             '"base/1/99999" is present in the manifest but not on disk'),
            ("path empty", entry(Path=""), PARSE),
            ("path absolute", entry(Path=lambda path: "/" + path), PARSE),
            ("path to the parent", entry(Path=lambda path: f"../{path}"), PARSE),
            ("path through the parent", entry(Path=lambda path: f"base/../../{path}"), PARSE),
            ("path with a detour", entry(Path=lambda path: f"base/../{path}"), PARSE),
            ("path with a dot", entry(Path=lambda path: f"./{path}"), PARSE),
            ("path with two slashes", entry(Path=lambda path: path.replace("/", "//")), PARSE),
            ("path to a directory", entry(Path="base"),
             '"PATH" is present on disk|"base" is present in the manifest'),
            ("path too long", entry(Path="x" * 5000), "could not parse backup manifest|x{100}"),
            ("path with a line feed", entry(Path="a\nb"), '"a$|"PATH" is present on disk'),
            ("no path", entry(Path=None), PARSE),
            ("path encoded, of another", encoded(hex_of("base/1/99999")),
             '"base/1/99999" is present in the manifest'),
            ("path encoded, to the parent", encoded(hex_of("../x")), PARSE),
            ("path encoded, with half a byte", encoded("abc"), PARSE),
            ("path encoded, with other letters", encoded("zz"), PARSE),
            ("path encoded, with a zero", encoded("6100"), PARSE),
            ("path encoded, no UTF-8", encoded("ff"), "is present in the manifest but not on disk"),
            ("both kinds of path", entry(Encoded_Path=hex_of("base/1/1")), PARSE),
            ("unknown key", entry(Unknown="value"), PARSE)),
    *faults("manifest", PARSE,
            ("unknown version", member_of_manifest("PostgreSQL-Backup-Manifest-Version", 3),
             "manifest version"),
            ("no version", member_of_manifest("PostgreSQL-Backup-Manifest-Version", None)),
            ("unknown key at the top", member_of_manifest("Unknown", "value")),
            ("files that are no list", member_of_manifest("Files", {})),
            ("no list of WAL", member_of_manifest("WAL-Ranges", "none")),
            ("deep nesting", member_of_manifest("Files", json.loads("[" * 900 + "]" * 900))),
            ("range: beyond the end", wal_range(End_LSN=lambda lsn: moved(lsn, 64 * MB)),
             "WAL parsing failed for timeline 1"),
            ("range: just beyond the end", wal_range(End_LSN=lambda lsn: moved(lsn, 2 * MB)),
             "WAL parsing failed for timeline 1"),
            ("range: from before the start", wal_range(Start_LSN=lambda lsn: moved(lsn, -2 * MB)),
             "WAL parsing failed for timeline 1"),
            ("range: ends before it begins",
             wal_range(End_LSN="0/28", Start_LSN="0/1000028"),
             "WAL parsing failed for timeline 1"),
            ("range: of another timeline", wal_range(Timeline=2),
             "WAL parsing failed for timeline 2"),
            ("range: timeline that is a text", wal_range(Timeline="one")),
            ("range: timeline too big", wal_range(Timeline=2**32)),
            ("range: start that is none", wal_range(Start_LSN="0-28")),
            ("range: end that is none", wal_range(End_LSN="")),
            ("range: no start", wal_range(Start_LSN=None)),
            ("range: no end", wal_range(End_LSN=None)),
            ("range: no timeline", wal_range(Timeline=None)),
            ("range: unknown key", wal_range(Unknown="value"))),
    *faults("WAL directory", "WAL parsing failed for timeline 1.*: system identifier",
            ("of another cluster", wal_of_another_cluster,
             "WAL parsing failed for timeline 1.*: system identifier", "cluster")),
]


# Only version 2 has the system identifier.
FORGED_MANIFEST_2 = [
    *faults("manifest", PARSE,
            ("system identifier", member_of_manifest("System-Identifier", lambda old: old ^ 1),
             "system identifier"),
            ("system identifier that is a text", member_of_manifest("System-Identifier", "x")),
            ("no system identifier", member_of_manifest("System-Identifier", None))),
    *faults("pg_control", "global/pg_control",
            ("another system identifier, in the manifest as well", agreed(edit(flip(0))),
             "global/pg_control")),
]


def moved(lsn, distance):
    return lsn_text(lsn_number(lsn) + distance)


# --- data pages ---

BAD_PAGE = "page verification failed: MEMBER block 2: calculated checksum [0-9A-F]+ but found"

# In the third page of a file; neither the manifest nor the stock tool knows.
PAGE_FAULTS = faults(
    ["page of a table", "page of an index", "page in a tablespace"], BAD_PAGE,
    ("position of the last change", edit(flip(4)), BAD_PAGE, "page"),
    ("checksum", edit(flip(8)), BAD_PAGE, "page"),
    ("flags", edit(flip(10)), BAD_PAGE, "page"),
    ("lower end", edit(flip(12)), BAD_PAGE, "page"),
    ("upper end", edit(flip(14)), BAD_PAGE, "page"),
    ("version", edit(flip(18)), BAD_PAGE, "page"),
    ("line pointer", edit(flip(24)), BAD_PAGE, "page"),
    ("middle", edit(flip(PAGE // 2)), BAD_PAGE, "page"),
    ("last byte", edit(flip(-1)), BAD_PAGE, "page"))

# Of the blocks and their numbers that are in an incremental file.
INCREMENTAL_PAGE_FAULTS = faults(
    ["incremental file", "incremental file in a tablespace"], "page verification failed: MEMBER",
    *((how, edit(flip(offset)), "page verification failed: MEMBER", "page")
      for how, offset in (("magic", 0), ("number of blocks", 4), ("number of a block", 13),
                          ("header of a page", PAGE + 10), ("middle of a page", PAGE + PAGE // 2),
                          ("last byte", -1))))

CHANGED_PAGE = r'file "MEMBER": page 2 \(bytes 16384 to 24575\) has changed'
PAGE_DIGESTS = "backup_pages"

# With backup_pages, the page is named as well.
PAGE_DIGEST_FAULTS = [
    *faults(["page of a table", "page of an index", "page in a tablespace", "page of a map"],
            CHANGED_PAGE,
            ("first byte flipped", edit(flip(0))),
            ("last byte flipped", edit(flip(-1))),
            ("a bit flipped at random", edit(flip_anywhere)),
            ("zeros", edit(overwrite(0, bytes(PAGE))))),
    *faults("page digests", f'"{PAGE_DIGESTS}"',
            ("first byte flipped", edit(flip(0))),
            ("version flipped", edit(flip(8))),
            ("page size flipped", edit(flip(13))),
            ("length of the first path flipped", edit(flip(16))),
            ("first path flipped", edit(flip(21, 0x01))),
            ("last byte flipped", edit(flip(-1))),
            ("a bit flipped at random", edit(flip_anywhere)),
            ("another bit flipped at random", edit(flip_anywhere)),
            ("cut by a byte", edit(cut(1))),
            ("cut in half", edit(halved)),
            ("emptied", edit(emptied)),
            ("followed by a byte", edit(followed_by(b"\0"))),
            ("in twice", edit(doubled)),
            ("of another backup", lambda case: case.write(
                case.specimen.directory.with_name("digests before").joinpath(PAGE_DIGESTS)
                .read_bytes()), "does not belong to this backup"),
            ("a directory in its place", directory_instead),
            ("a link to itself in its place", link_to_itself_instead),
            ("a fifo in its place", fifo_instead),
            ("unreadable", unreadable)),
]

# --- archives ---

ARCHIVES = ["archive", "archive of a tablespace"]
NO_ARCHIVE = "PATH"
IN_ARCHIVE = 'checksum mismatch for file "MEMBER" in archive "PATH"'
SIZE_IN_ARCHIVE = r'file "[^"]*" has size \d+ in archive "PATH" but size \d+ in the manifest'
NOT_IN_ARCHIVE = '"MEMBER" is present in the manifest but not on disk'
MEMBERS = ["member", "member that is a table", "member in a tablespace", "last member"]

TAR_FAULTS = [
    *faults(MEMBERS, NO_ARCHIVE,
            ("header: name flipped", edit(flip(1))),
            ("header: mode flipped", edit(flip(103))),
            ("header: size flipped", edit(flip(130))),
            ("header: time flipped", edit(flip(140))),
            ("header: checksum flipped", edit(flip(150, 0x01))),
            ("header: magic flipped", edit(flip(258))),
            ("header: zeros", edit(overwrite(0, bytes(BLOCK)))),
            ("header: another name", members(with_field("name", b"base/other")),
             'file "base/other" is present in archive "PATH" but not in the manifest'),
            ("header: size of one more", members(with_field("size", b"00000000001\0")), NO_ARCHIVE),
            ("header: size that is no number", members(with_field("size", b"eleven")), NO_ARCHIVE),
            ("header: size of 8 GB", members(with_field("size", b"77777777777\0")), NO_ARCHIVE),
            ("header: a link", members(with_field("type", b"2")), NO_ARCHIVE),
            ("header: a directory", members(with_field("type", b"5")), NO_ARCHIVE),
            ("header: a device", members(with_field("type", b"3")), NO_ARCHIVE),
            ("header: an unknown type", members(with_field("type", b"Z")), NO_ARCHIVE),
            ("first byte flipped", edit(flip(BLOCK)), IN_ARCHIVE),
            ("last byte flipped", edit(flip(-1)), IN_ARCHIVE),
            ("cut by a byte", members(with_content(lambda data: data[:-1])), SIZE_IN_ARCHIVE),
            ("longer by a byte", members(with_content(lambda data: data + b"\0")), SIZE_IN_ARCHIVE),
            ("emptied", members(with_content(lambda data: b"")), SIZE_IN_ARCHIVE),
            ("removed", members(removed), NOT_IN_ARCHIVE),
            ("in twice, with other content",
             members(again(lambda data: bytes([data[0] ^ 1]) + data[1:])), IN_ARCHIVE),
            ("another added", members(joined_by(b"base/other")),
             'file "base/other" is present in archive "PATH" but not in the manifest'),
            ("one outside added", members(joined_by(b"../other")), NO_ARCHIVE),
            ("one with an absolute name added", members(joined_by(b"/tmp/other")), NO_ARCHIVE),
            ("archive cut before it", edit(cut_at_place), NO_ARCHIVE),
            ("archive cut within", edit(lambda data, case: data[:case.place.offset + BLOCK + 1]),
             NO_ARCHIVE)),
    *faults(ARCHIVES, NO_ARCHIVE,
            ("without its end", edit(without_end), NO_ARCHIVE, "end"),
            ("with half of its end", edit(cut(BLOCK)), NO_ARCHIVE, "end"),
            ("followed by more", edit(followed_by(b"more" * BLOCK)), NO_ARCHIVE, "end"),
            ("in twice", edit(doubled), NO_ARCHIVE, "end")),
]

ARCHIVE_FAULTS = [
    *faults(ARCHIVES, NO_ARCHIVE,
            ("emptied", edit(emptied)),
            ("cut in half", edit(halved)),
            ("removed", remove, "is present in the manifest but not on disk"),
            ("renamed", rename(".bz2"), "PATH.bz2"),
            ("a directory in its place", directory_instead),
            ("a link to itself in its place", link_to_itself_instead, NO_ARCHIVE, "link"),
            ("a dangling link in its place", dangling_link_instead),
            ("a fifo in its place", fifo_instead),
            ("unreadable", unreadable)),
    *faults("archive", "in the manifest",
            ("changed places with that of the tablespace",
             swap_with(lambda case: case.places["archive of a tablespace"].path))),
    *faults("archive of a tablespace", "in the manifest",
            ("of another number", lambda case: case.specimen.rename(
                case.place.path, "99999" + case.place.path[case.place.path.index("."):]))),
    *faults("new file beside the archives", "PATH",
            ("without content", added()),
            ("a directory", directory_instead),
            ("a dangling link", dangling_link_instead)),
    *faults("manifest", "manifest",
            ("removed", remove),
            ("a bit flipped at random", edit(flip_anywhere), NO_MANIFEST),
            ("cut by a byte", edit(cut(1)))),
]

# --- compressed archives ---


def any_member(all_members):
    return all_members


def second_segment(all_members):
    """All of it is needed: it is neither the first nor the last."""
    segments = [member for member in all_members if SEGMENT.fullmatch(member.name)]
    return sorted(segments, key=lambda segment: segment.name)[1]


ANY_STREAM = [
    ("a bit flipped at random", flip_with_effect(any_member)),
    ("another bit flipped at random", flip_with_effect(any_member)),
    ("a third bit flipped at random", flip_with_effect(any_member)),
    ("first byte flipped", edit(flip(0))),
    ("not compressed at all", lambda case: case.write(
        uncompressed(case.specimen.path(case.place.path)))),
    ("without its last byte", edit(cut(1)), NO_ARCHIVE, "end"),
    ("followed by garbage", edit(followed_by(b"garbage"))),
]
STREAM_FAULTS = {
    "gzip": [*ANY_STREAM,
             ("without its length", edit(cut(4)), NO_ARCHIVE, "end"),
             ("without its trailer", edit(cut(8)), NO_ARCHIVE, "end"),
             ("length in the trailer flipped", edit(flip(-1))),
             ("checksum in the trailer flipped", edit(flip(-8)))],
    "lz4": [*ANY_STREAM,
            ("without its end mark", edit(cut(4)), NO_ARCHIVE, "end")],
    "zstd": [*ANY_STREAM,
             ("without its last block", edit(cut(4)))],
}

WAL_STREAM_FAULTS = [
    ("removed", remove, "WAL parsing failed for timeline 1", "tar WAL"),
    ("emptied", edit(emptied), NO_ARCHIVE, "tar WAL"),
    ("cut in half", edit(halved), NO_ARCHIVE, "tar WAL"),
    ("a bit flipped at random", flip_with_effect(second_segment), NO_ARCHIVE, "tar WAL"),
    ("without its last byte", edit(cut(1)), NO_ARCHIVE, "tar WAL"),
    ("a directory in its place", directory_instead),
    ("unreadable", unreadable, NO_ARCHIVE, "tar WAL"),
]

WAL_IN_TAR_FAULTS = [
    *faults(SEGMENTS, BAD_WAL,
            ("removed", members(removed), BAD_WAL, "tar WAL"),
            ("cut by a page", members(with_content(lambda data: data[:-PAGE])),
             BAD_WAL, "tar WAL"),
            ("emptied", members(with_content(lambda data: b"")), BAD_WAL, "tar WAL"),
            ("magic", edit(flip(BLOCK)), "WAL parsing failed.*magic", "tar WAL"),
            ("magic of another version", edit(magic_of_another_version),
             "WAL parsing failed.*magic", "tar WAL"),
            ("system identifier", edit(flip(BLOCK + 24)), "WAL parsing failed.*system identifier",
             "tar WAL")),
    *faults(["first record", "record in the middle", "record across pages", "last record"],
            BAD_WAL,
            ("checksum", edit(flip(20)), BAD_WAL, "tar WAL"),
            ("first byte of the body", edit(flip(24)), BAD_WAL, "tar WAL"),
            ("last byte", edit(flip(-1)), BAD_WAL, "tar WAL")),
]

# In an archive that the stock tool does not open at all.
WAL_ARCHIVE_FAULTS = faults(
    SEGMENTS, NO_ARCHIVE,
    ("header: name flipped", edit(flip(1)), NO_ARCHIVE, "tar WAL"),
    ("header: zeros", edit(overwrite(0, bytes(BLOCK))), NO_ARCHIVE, "tar WAL"),
    ("archive cut before it", edit(cut_at_place), NO_ARCHIVE, "tar WAL"))

# --- incremental backups ---

INCREMENTAL_FAULTS = faults(
    ["incremental file", "incremental file in a tablespace"], CHECKSUM,
    ("magic flipped", edit(flip(0))),
    ("number of blocks flipped", edit(flip(4, 0x01))),
    ("length flipped", edit(flip(8, 0x01))),
    ("number of a block flipped", edit(flip(12, 0x01))),
    ("last byte flipped", edit(flip(-1))),
    ("a bit flipped at random", edit(flip_anywhere)),
    ("cut by a page", edit(cut(PAGE)), SIZE),
    ("emptied", edit(emptied), SIZE),
    ("removed", remove, MISSING),
    ("renamed", rename("9"), MISSING))


# --- backups ---

LOAD = """
DO $$
BEGIN
    LOOP
        PERFORM pg_logical_emit_message(false, 'load', md5(g::text))
        FROM generate_series(1, 1000) g;
        PERFORM pg_logical_emit_message(false, 'load', repeat('x', 20000));
        PERFORM pg_sleep(0.01);
    END LOOP;
END
$$
"""

TABLES_OF_THE_TEST = """
CREATE TABLE big AS SELECT g AS id, md5(g::text) AS v FROM generate_series(1, 20000) g;
CREATE INDEX big_index ON big (id);
CREATE TABLE elsewhere TABLESPACE elsewhere AS SELECT * FROM big WHERE id <= 5000;
CREATE TABLE one AS SELECT g AS id, 'one' AS v FROM generate_series(1, 500) g;
CREATE TABLE other AS SELECT id, 'other' AS v FROM one;
CREATE TABLE empty (a int);
CREATE UNLOGGED TABLE unlogged (a int PRIMARY KEY);
VACUUM;
CHECKPOINT;
"""


class Source:
    """A server that is busy while it is backed up, and what its files are."""

    def __init__(self, server):
        self.server = server
        location = server.create_tablespace("elsewhere")
        self._location = location
        server.sql(TABLES_OF_THE_TEST)
        self.oid = server.value("SELECT oid FROM pg_tablespace WHERE spcname = 'elsewhere'")

    def file(self, relation):
        return self.server.value(f"SELECT pg_relation_filepath('{relation}')")

    @contextlib.contextmanager
    def load(self):
        """It writes so much WAL that every backup has several segments of it."""
        psql = [STOCK_BIN / "psql", "-X", "-q", "-c", LOAD, "postgres", SUPERUSER]
        with Background(psql, env=self.server.env()):
            yield

    def back_up(self, target, *args, form="plain", segments=1):
        """It is to take long enough for some segments of WAL."""
        mapping = [f"-T{self._location}={target}-elsewhere"] if form == "plain" else []
        for rate in RATES:
            basebackup("-D", target, "-F", form, "-r", rate, *mapping, *args,
                       env=self.server.env()).check()
            if segments == 1 or self._suits(segments, *the_range(target)):
                return
            run(["rm", "-rf", target, f"{target}-elsewhere"]).check()
        raise AssertionError("the WAL of no backup is as it should be: is the load running?")

    @staticmethod
    def _suits(segments, start, end):
        """At the edge of a segment, what happens to it depends on where exactly the end is."""
        return end // MB - start // MB >= segments - 1 and MB // 8 < end % MB < MB - MB // 8

    def specimen(self, target):
        outside = target.with_name(f"{target.name}-elsewhere")
        return Specimen(target, [outside] if outside.exists() else [])


def is_tar(specimen):
    return not specimen.path("base").exists()


def the_range(backup):
    [needed] = json.loads((backup / MANIFEST).read_text())["WAL-Ranges"]
    return lsn_number(needed["Start-LSN"]), lsn_number(needed["End-LSN"])


def wal_places(wal, part_of):
    """The places of WAL. part_of(segment, offset, end) is the one of a part of a segment, and with
    an end of None that of all of it.
    """
    def record(found):
        name, offset = wal.locate(found.start)
        return part_of(name, offset, offset + found.end - found.start)

    def page(lsn):
        name, offset = wal.locate(lsn)
        return part_of(name, offset, offset + PAGE)

    needed = wal.needed()
    middle = len(needed) // 2
    start = (wal.start // wal.segment_size + middle) * wal.segment_size
    inside = [found for found in wal.records
              if start < found.start and found.end < start + wal.segment_size]
    whole = next(found for found in inside if not found.crosses_pages
                 and found.start > start + wal.segment_size // 2)
    crossing = next(found for found in inside if found.crosses_pages)
    return {
        "first record": record(wal.records[0]),
        "record in the middle": record(whole),
        "record across pages": record(crossing),
        "last record": record(wal.records[-1]),
        "page in the middle": page(start + wal.segment_size // 2),
        "page with a continued record": page((crossing.start // PAGE + 1) * PAGE),
        "first segment": part_of(needed[0], 0, None),
        "middle segment": part_of(needed[middle], 0, None),
        "last segment": part_of(needed[-1], 0, None),
    }


def wal_of(files, wanted, segment_size=MB):
    """The WAL between two positions, from those of some (name, content) that are segments."""
    segments = {os.path.basename(name): content for name, content in files
                if SEGMENT.fullmatch(name) and len(content) == segment_size}
    return WalRecords(segments, *wanted)


# --- tests ---


class Corpus(unittest.TestCase):
    """The tables themselves, of what every version is tried with."""

    TABLES = [FILE_FAULTS, TREE_FAULTS, WAL_FAULTS, ALTERED_MANIFEST, FORGED_MANIFEST, PAGE_FAULTS,
              PAGE_DIGEST_FAULTS, TAR_FAULTS, ARCHIVE_FAULTS, WAL_IN_TAR_FAULTS]

    def test_is_large(self):
        self.assertGreater(sum(map(len, self.TABLES)), LEAST_FAULTS)

    def test_nothing_is_in_it_twice(self):
        for table in self.TABLES:
            names = [str(fault) for fault in table]
            self.assertEqual(len(names), len(set(names)))

    def test_reasons_are_known(self):
        for fault in itertools.chain(*self.TABLES):
            self.assertIn(fault.stricter, ["", *STRICTER], fault)


@for_each_major(since=13)
class Damage(unittest.TestCase):
    """Every fault is tried on a backup that was good before, and is good afterwards."""

    FORMATS = {"none": ".tar", "gzip": ".tar.gz", "lz4": ".tar.lz4", "zstd": ".tar.zst"}

    @classmethod
    def setUpClass(cls):
        cls.scratch = cls.enterClassContext(ScratchDir())
        settings = {"autovacuum": "off"}
        if cls.major >= INCREMENTALS_SINCE:
            settings["summarize_wal"] = "on"
        with Server(cls.major, initdb_args=["--wal-segsize=1"], **settings) as server:
            cls.source = Source(server)
            cls.files = cls.files_of(server)
            with cls.source.load():
                cls.take_backups()

    @classmethod
    def take_backups(cls):
        def take(name, *args, **options):
            target = cls.scratch / name
            cls.source.back_up(target, *args, **options)
            cls.specimens[name] = cls.source.specimen(target)

        cls.specimens = {}
        take("plain", segments=3)
        take("SHA256", "--manifest-checksums=SHA256")
        take("NONE", "--manifest-checksums=NONE")
        for method in cls.FORMATS:
            take(method, "-Z", "none" if method == "none" else f"client-{method}:1", form="tar",
                 segments=3)
        take("fetched", "-X", "fetch", form="tar", segments=3)
        take("tar NONE", "--manifest-checksums=NONE", form="tar")
        take("digests before", "--page-digests")
        cls.source.server.sql("UPDATE one SET v = 'changed'; CHECKPOINT")
        take("digests", "--page-digests")
        if cls.major >= INCREMENTALS_SINCE:
            cls.source.server.sql("UPDATE big SET v = 'changed' WHERE id % 4000 = 0;"
                                  "UPDATE elsewhere SET v = 'changed' WHERE id % 1000 = 0")
            take("incremental", "-i", cls.scratch / "plain" / MANIFEST)
            take("incremental NONE", "-i", cls.scratch / "plain" / MANIFEST,
                 "--manifest-checksums=NONE")

    @classmethod
    def files_of(cls, server):
        """What the faults call by a name, in the plain backups."""
        table, elsewhere = cls.source.file("big"), cls.source.file("elsewhere")
        link = f"pg_tblspc/{cls.source.oid}"
        return {
            "table": table,
            "small table": cls.source.file("one"),
            "index": cls.source.file("big_index"),
            "visibility map": f"{table}_vm",
            "space map": f"{table}_fsm",
            "table in a tablespace": elsewhere,
            "initial fork": f"{cls.source.file('unlogged_pkey')}_init",
            "empty table": cls.source.file("empty"),
            "commit status": "pg_xact/0000",
            "pg_control": "global/pg_control",
            "relation map": "global/pg_filenode.map",
            "configuration": "postgresql.conf",
            "backup_label": "backup_label",
            "PG_VERSION": "PG_VERSION",
            "new file": "new",
            "new file in a database": f"{os.path.dirname(table)}/99999",
            "new file in a tablespace": f"{os.path.dirname(elsewhere)}/99999",
            "new file among transactions": "pg_xact/FFFF",
            "manifest elsewhere": f"global/{MANIFEST}",
            "signal file elsewhere": "base/standby.signal",
            "WAL elsewhere": f"global/{'0' * 24}",
            "configuration elsewhere": "base/postgresql.auto.conf",
            "database": os.path.dirname(table),
            "directory of a tablespace": os.path.dirname(elsewhere),
            "link to a tablespace": link,
            "WAL directory": "pg_wal",
            "manifest": MANIFEST,
        }

    # --- one fault after the other ---

    def places(self, **more):
        return {name: Place(path) for name, path in self.files.items()} | more

    def try_faults(self, specimen, faults_to_try, places, *args):
        self.assert_good(specimen, *args)
        for fault in faults_to_try:
            rng = random.Random(f"{SEED} {fault}")
            with self.subTest(str(fault), seed=SEED), specimen.damaged():
                fault.change(Case(specimen, places[fault.where], places, rng))
                self.assert_found(fault, places[fault.where], specimen, *args)
                self.assert_stock_agrees(fault, specimen)
        self.assert_good(specimen, *args)

    def assert_good(self, specimen, *args):
        pgstow("verifybackup", *args, specimen.directory, timeout=PATIENCE).check()
        self.assertIn(self.stock_verdict(specimen), ("good", None))

    def assert_found(self, fault, place, specimen, *args):
        result = compat("pg_verifybackup", *args, specimen.directory, timeout=PATIENCE)
        self.assertEqual((result.rc, result.out), (1, ""), result)
        pattern = self.pattern(fault.says, place)
        self.assertRegex(result.err, pattern, result)
        if not is_tar(specimen):  # whose archives are read to where they can be: more is missing
            for line in re.findall(r"(?m)^.* error: .*$", result.err):
                self.assertRegex(line, f"{pattern}|{re.escape(place.path)}", result)

    def assert_stock_agrees(self, fault, specimen):
        """It must miss what we say that it misses, too: or the reason is none."""
        self.assertIn(self.stock_verdict(specimen), ("good" if fault.stricter else "bad", None))

    def stock_verdict(self, specimen):
        """None where there is no tool that can judge; not to come to an end is bad as well."""
        if os.path.lexists(specimen.path(PAGE_DIGESTS)):
            return None
        if is_tar(specimen):
            tool, options = stock_tool("pg_verifybackup", TAR_VERIFIER), ["-n", "-F", "tar"]
        else:
            tool, options = self.stock_of_plain(), []
        if tool is None:
            return None
        try:
            result = run([tool, *options, specimen.directory], timeout=STOCK_PATIENCE)
        except TimeoutError:
            return "bad"
        return "bad" if result.rc else "good"

    def stock_of_plain(self):
        """Of the very version, since it wants to read the WAL."""
        return STOCK_BIN / "pg_verifybackup" if self.major == DEBIAN_MAJOR else None

    @staticmethod
    def pattern(says, place):
        for word, text in (("PATH", place.path), ("MEMBER", place.listed or place.path),
                           ("SEGMENT", os.path.basename(place.member or place.path))):
            says = says.replace(word, re.escape(text))
        return "(?m)^pg_verifybackup: error: .*(" + says + ")"

    def test_files(self):
        self.try_faults(self.specimens["plain"], FILE_FAULTS, self.places())

    def test_tree(self):
        places = self.places(table=Place(self.files["small table"]))
        self.try_faults(self.specimens["plain"], TREE_FAULTS, places)

    def test_wal(self):
        specimen = self.specimens["plain"]
        segments = ((f"pg_wal/{path.name}", path.read_bytes())
                    for path in specimen.path("pg_wal").iterdir() if path.is_file())
        wal = wal_of(segments, the_range(specimen.directory))
        places = wal_places(wal, lambda name, offset, end: Place(f"pg_wal/{name}", offset, end))
        self.try_faults(specimen, WAL_FAULTS + first_header_faults("", "cluster"),
                        self.places(**places))

    def test_manifest(self):
        self.try_faults(self.specimens["plain"], ALTERED_MANIFEST + FORGED_MANIFEST,
                        self.places())

    def test_manifest_with_system_identifier(self):
        if self.major < MANIFEST_2_SINCE:
            self.skipTest("manifests of version 1")
        self.try_faults(self.specimens["plain"], FORGED_MANIFEST_2, self.places())

    def test_digests(self):
        self.try_faults(self.specimens["SHA256"], DIGEST_FAULTS, self.places())

    def test_required_directories(self):
        places = {name: Place(name) for name in required_directories(self.major)}
        self.try_faults(self.specimens["plain"], directory_faults(self.major, remove), places)

    # --- pages ---

    def pages(self):
        """The third pages."""
        return {name: Place(self.files[file], 2 * PAGE, 3 * PAGE) for name, file in (
            ("page of a table", "table"), ("page of an index", "index"),
            ("page in a tablespace", "table in a tablespace"), ("page of a map", "space map"))}

    def test_pages(self):
        self.try_faults(self.specimens["NONE"], PAGE_FAULTS, self.pages())

    def test_pages_in_tar(self):
        specimen = self.specimens["tar NONE"]
        found = {place.listed: place for name in ("base.tar", f"{self.source.oid}.tar")
                 for place in self.members_of(specimen, name).values()}
        places = {}
        for name, page in self.pages().items():
            member = found[page.path]
            places[name] = replace(member, offset=member.offset + BLOCK + page.offset,
                                   end=member.offset + BLOCK + page.end)
        self.try_faults(specimen, PAGE_FAULTS, places, "-n")

    def test_page_digests(self):
        places = self.pages() | {"page digests": Place(PAGE_DIGESTS)}
        self.try_faults(self.specimens["digests"], PAGE_DIGEST_FAULTS, places)

    # --- incremental backups ---

    def incremental_places(self):
        def place(path):
            directory, name = os.path.split(path)
            return Place(f"{directory}/INCREMENTAL.{name}")

        return {"incremental file": place(self.files["table"]),
                "incremental file in a tablespace": place(self.files["table in a tablespace"])}

    def test_incremental(self):
        if self.major < INCREMENTALS_SINCE:
            self.skipTest("no incremental backups")
        places = self.incremental_places()
        self.try_faults(self.specimens["incremental"], INCREMENTAL_FAULTS, places)
        self.try_faults(self.specimens["incremental NONE"], INCREMENTAL_PAGE_FAULTS, places)

    # --- in tar format ---

    def tar_places(self, specimen):
        [suffix] = {re.sub(r"^\w+", "", name) for name in specimen.names() if ".tar" in name}
        base, elsewhere = f"base{suffix}", f"{self.source.oid}{suffix}"
        in_base = self.members_of(specimen, base)
        in_elsewhere = self.members_of(specimen, elsewhere)
        [other] = [name for name in in_elsewhere if name.endswith(
            self.files["table in a tablespace"].split("/", 2)[2])]
        return {
            "archive": Place(base),
            "archive of a tablespace": Place(elsewhere),
            "archive of WAL": Place(f"pg_wal{suffix}"),
            "member": in_base["backup_label"],
            "member that is a table": in_base[self.files["table"]],
            "member in a tablespace": in_elsewhere[other],
            "last member": in_base["global/pg_control"],
            "new file beside the archives": Place("notes"),
            "manifest": Place(MANIFEST),
        }

    def members_of(self, specimen, name):
        """The places of its members, which end where their content ends."""
        oid = name.split(".")[0]
        root = f"pg_tblspc/{oid}/" if oid.isdigit() else ""
        found, at = {}, 0
        for member in read_archive(uncompressed(specimen.path(name))).members:
            end = at + BLOCK + len(member.content)
            found[member.name] = Place(name, at, end, member.name,
                                       root + member.name.rstrip("/"))
            at = (end + BLOCK - 1) // BLOCK * BLOCK
        return found

    def test_tar(self):
        specimen = self.specimens["none"]
        places = self.tar_places(specimen)
        self.try_faults(specimen, TAR_FAULTS + ARCHIVE_FAULTS, places, "-n")
        found = self.members_of(specimen, "base.tar")
        places |= {name: found[f"{name}/"] for name in required_directories(self.major)}
        self.try_faults(specimen, directory_faults(self.major, members(removed)), places, "-n")

    def test_tar_wal(self):
        for name, archive, more in (("none", "pg_wal.tar", WAL_ARCHIVE_FAULTS),
                                    ("fetched", "base.tar", [])):
            specimen = self.specimens[name]
            found = self.members_of(specimen, archive)
            data = specimen.read(archive)
            wal = wal_of(((member, data[place.offset + BLOCK:place.end])
                          for member, place in found.items()),
                         the_range(specimen.directory))

            def part_of(segment, offset, end):
                member = next(place for path, place in found.items() if path.endswith(segment))
                at = member.offset + BLOCK + offset
                return member if end is None else Place(
                    archive, at, at + end - offset, member.member)

            rows = WAL_IN_TAR_FAULTS + first_header_faults("tar WAL", "tar WAL") + more
            self.try_faults(specimen, rows, wal_places(wal, part_of))

    def test_compressed(self):
        for method, rows in STREAM_FAULTS.items():
            specimen = self.specimens[method]
            self.try_faults(specimen, faults(ARCHIVES, NO_ARCHIVE, *rows),
                            self.tar_places(specimen), "-n")

    def test_compressed_wal(self):
        for method in self.FORMATS:
            specimen = self.specimens[method]
            self.try_faults(specimen, faults("archive of WAL", NO_ARCHIVE, *WAL_STREAM_FAULTS),
                            self.tar_places(specimen))
