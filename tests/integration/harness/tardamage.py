"""A catalogue of damaged backups in tar format, each with what the stock verifier (version 18, with
-n) says of it, and one of WAL damage, which that one does not look for.

    for damage in TAR_DAMAGES:
        with self.subTest(damage.name), damaged_tar_copy(backup, damage) as directory:
            rc = pgstow("verifybackup", "-n", directory).rc
            self.assertEqual("bad" if rc else "good", damage.stock_verdict)

The backup must have a manifest and one tablespace with a table. Archives may be compressed.
"""

import contextlib
import gzip
import json
from dataclasses import replace

from .damage import Damage
from .restore import archives
from .run import CommandFailed, ScratchDir, run
from .tarfiles import BLOCK, FIELDS, read_archive, uncompressed

TAR_DAMAGES = []
WAL_DAMAGES = []  # "bad" is what it should be
END = bytes(2 * BLOCK)


def _damage(stock, catalogue=TAR_DAMAGES):
    def register(function):
        catalogue.append(Damage(function.__name__, stock, function))
        return function

    return register


@contextlib.contextmanager
def damaged_tar_copy(backup, damage):
    """Copies a backup, damages the copy and yields its directory."""
    with ScratchDir() as scratch:
        directory = scratch / "backup"
        run(["cp", "-a", backup, directory]).check()
        damage.apply(directory)
        yield directory


# --- archives and their members ---


def _base(backup):
    return archives(backup)["base"]


def _tablespace(backup):
    [oid] = archives(backup).keys() - {"base", "pg_wal"}
    return archives(backup)[oid]


def _wal(backup):
    """The archive that holds the WAL."""
    return archives(backup).get("pg_wal", _base(backup))


def _members(path):
    return read_archive(uncompressed(path)).members


def _write(path, data):
    """Compressed as the name says."""
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(data, 1))
    elif path.suffix in (".lz4", ".zst"):
        plain = path.with_name("plain")
        plain.write_bytes(data)
        program = {".lz4": "lz4", ".zst": "zstd"}[path.suffix]
        with open(path, "wb") as out:
            run([program, "-q", "-c", plain], user="root", stdout=out).check()
        plain.unlink()
    else:
        path.write_bytes(data)
    path.chmod(0o644)


def _write_members(path, members):
    padded = (member.header + member.content + bytes(-len(member.content) % BLOCK)
              for member in members)
    _write(path, b"".join(padded) + END)


def _find(members, name):
    [index] = [i for i, member in enumerate(members) if member.name == name]
    return index


def _change(path, name, **changes):
    """Replaces the header or the content of a member."""
    members = _members(path)
    index = _find(members, name)
    members[index] = replace(members[index], **changes)
    _write_members(path, members)


def _remove(path, name):
    members = _members(path)
    del members[_find(members, name)]
    _write_members(path, members)


def _with_field(member, name, value):
    """The member's header with another value of a field, and its checksum made right."""
    header = bytearray(member.header)
    start, length = FIELDS[name]
    header[start:start + length] = value.ljust(length, b"\0")
    start, length = FIELDS["checksum"]
    header[start:start + length] = b" " * length
    header[start:start + length] = b"%07o " % sum(header)
    return bytes(header)


def _flipped(data, at):
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1:]


def _flip_with_effect(path, data):
    """Where to flip a byte of compressed data. Not everywhere does one change what comes out: in a
    run of zeros, one that is copied from 17 bytes before is as good as one from the byte before."""
    content = uncompressed(path)
    trial = path.with_name("trial" + path.suffix)
    try:
        for at in range(len(data) // 2, len(data)):
            trial.write_bytes(_flipped(data, at))
            try:
                if uncompressed(trial) != content:
                    return at
            except CommandFailed:
                return at
    finally:
        trial.unlink()
    raise AssertionError(f"no byte of {path} matters")


def _largest(path):
    return max(_members(path), key=lambda member: len(member.content))


def _flip_in_member(path, name, at):
    _change(path, name, content=_flipped(_members(path)[_find(_members(path), name)].content, at))


# --- files ---


@_damage(stock="good")
def nothing(backup):
    """It shows that the damages below do what they say only."""
    _write_members(_base(backup), _members(_base(backup)))


@_damage(stock="bad")
def byte_flipped_in_archive(backup):
    path = _base(backup)
    data = path.read_bytes()
    if path.suffix == ".tar":
        at = data.find(_largest(path).content) + 1000
    else:
        at = _flip_with_effect(path, data)
    path.write_bytes(_flipped(data, at))


@_damage(stock="bad")
def byte_flipped_in_tablespace(backup):
    largest = _largest(_tablespace(backup))
    _flip_in_member(_tablespace(backup), largest.name, len(largest.content) - 1)


@_damage(stock="bad")
def byte_flipped_in_control_file(backup):
    _flip_in_member(_base(backup), "global/pg_control", 8)


@_damage(stock="bad")
def byte_flipped_in_header(backup):
    members = _members(_base(backup))
    index = _find(members, "PG_VERSION")
    _change(_base(backup), "PG_VERSION", header=_flipped(members[index].header, 200))


@_damage(stock="bad")
def file_shorter(backup):
    member = _members(_base(backup))[0]
    _change(_base(backup), member.name, content=member.content[:-1],
            header=_with_field(member, "size", b"%011o " % (len(member.content) - 1)))


@_damage(stock="bad")
def file_removed(backup):
    _remove(_base(backup), "PG_VERSION")


@_damage(stock="bad")
def file_of_tablespace_removed(backup):
    _remove(_tablespace(backup), _largest(_tablespace(backup)).name)


@_damage(stock="bad")
def file_renamed(backup):
    member = _members(_base(backup))[0]
    _change(_base(backup), member.name, header=_with_field(member, "name", b"base/other"))


@_damage(stock="good")
def file_in_twice(backup):
    members = _members(_base(backup))
    _write_members(_base(backup), [*members, members[0]])


@_damage(stock="good")
def files_in_another_order(backup):
    _write_members(_base(backup), sorted(_members(_base(backup)), key=lambda member: member.name))


@_damage(stock="good")
def directory_removed(backup):
    """The server does not start without it, but the manifest does not list directories."""
    _remove(_base(backup), "pg_notify/")


@_damage(stock="good")
def configuration_removed(backup):
    _remove(_base(backup), "postgresql.auto.conf")


# --- archives ---


@_damage(stock="bad")
def archive_cut_in_half(backup):
    data = _base(backup).read_bytes()
    _base(backup).write_bytes(data[:len(data) // 2])


@_damage(stock="bad")
def archive_empty(backup):
    _base(backup).write_bytes(b"")


@_damage(stock="bad")
def archive_removed(backup):
    _base(backup).unlink()


@_damage(stock="bad")
def tablespace_removed(backup):
    _tablespace(backup).unlink()


@_damage(stock="bad")
def tablespace_of_another_number(backup):
    path = _tablespace(backup)
    path.rename(path.with_name("99999." + path.name.split(".", 1)[1]))


@_damage(stock="bad")
def archive_in_twice(backup):
    """Under another name, the second tablespace's files are not in the manifest."""
    path = _tablespace(backup)
    run(["cp", path, path.with_name("99999." + path.name.split(".", 1)[1])]).check()


@_damage(stock="good")
def archive_of_nothing_added(backup):
    _write(backup / "99999.tar", END)


@_damage(stock="good")
def archive_of_another_compression(backup):
    data = uncompressed(_base(backup))
    _base(backup).unlink()
    _write(backup / "base.tar.gz", data)
    (backup / "base.tar.gz").rename(backup / "base.tgz")


@_damage(stock="bad")
def archive_of_another_name(backup):
    _base(backup).rename(backup / "base.tar.bz2")


@_damage(stock="bad")
def unknown_file(backup):
    (backup / "notes").write_text("")


@_damage(stock="bad")
def unknown_directory(backup):
    (backup / "lost+found").mkdir(mode=0o755)


@_damage(stock="bad")
def manifest_cut(backup):
    path = backup / "backup_manifest"
    path.write_bytes(path.read_bytes()[:-10])


@_damage(stock="bad")
def manifest_removed(backup):
    (backup / "backup_manifest").unlink()


# --- WAL ---


def _wal_range(backup):
    """The first and the last needed position in the WAL, as 64-bit numbers, and the timeline."""
    [needed] = json.loads((backup / "backup_manifest").read_text())["WAL-Ranges"]
    start, end = (needed[key].split("/") for key in ("Start-LSN", "End-LSN"))
    return (*(int(high, 16) << 32 | int(low, 16) for high, low in (start, end)),
            needed["Timeline"])


def _wal_place(backup, lsn):
    """The member that holds this position, and the offset in it."""
    prefix = "pg_wal/" if _wal(backup) == _base(backup) else ""
    _, _, timeline = _wal_range(backup)
    size = max(len(member.content) for member in _members(_wal(backup))
               if member.name.startswith(f"{prefix}{timeline:08X}"))
    per_id = 2**32 // size
    number = lsn // size
    return f"{prefix}{timeline:08X}{number // per_id:08X}{number % per_id:08X}", lsn % size


def _flip_wal(backup, lsn):
    _flip_in_member(_wal(backup), *_wal_place(backup, lsn))


@_damage("good", WAL_DAMAGES)
def no_wal_damage(backup):
    _write_members(_wal(backup), _members(_wal(backup)))


@_damage("bad", WAL_DAMAGES)
def wal_byte_flipped_in_first_record(backup):
    start, _, _ = _wal_range(backup)
    _flip_wal(backup, start + 4)  # the transaction identifier


@_damage("bad", WAL_DAMAGES)
def wal_byte_flipped_in_last_record(backup):
    _, end, _ = _wal_range(backup)
    _flip_wal(backup, end - 8)  # the end of its data, before up to 7 bytes of padding


@_damage("good", WAL_DAMAGES)
def wal_byte_flipped_behind_the_end(backup):
    _, end, _ = _wal_range(backup)
    _flip_wal(backup, end + 8192)


@_damage("bad", WAL_DAMAGES)
def wal_segment_removed(backup):
    start, _, _ = _wal_range(backup)
    _remove(_wal(backup), _wal_place(backup, start)[0])


@_damage("bad", WAL_DAMAGES)
def wal_segment_cut(backup):
    _, end, _ = _wal_range(backup)
    name, _ = _wal_place(backup, end - 1)
    member = _members(_wal(backup))[_find(_members(_wal(backup)), name)]
    _change(_wal(backup), name, content=member.content[:-8192],
            header=_with_field(member, "size", b"%011o " % (len(member.content) - 8192)))
