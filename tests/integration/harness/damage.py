"""A catalogue of damaged backups, each with what the stock verifier (version 15) says of it.

    for damage in DAMAGES:
        with self.subTest(damage=damage.name), damaged_copy(backup, damage) as directory:
            rc = pgstow("verifybackup", directory).rc
            self.assertEqual("bad" if rc else "good", damage.stock_verdict)

The backup must be in plain format, have a manifest, hold its WAL in pg_wal and some pgbench tables.
Damages that the manifest does not show come with the verdict "good": stock does not notice them.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .run import ScratchDir, run

PAGE_SIZE = 8192
CONTROL_FILE = "global/pg_control"


@dataclass(frozen=True)
class Damage:
    name: str
    stock_verdict: str  # "bad" or "good"
    apply: Callable[[Path], None]


DAMAGES = []


def _damage(stock):
    def register(function):
        DAMAGES.append(Damage(function.__name__, stock, function))
        return function

    return register


@contextlib.contextmanager
def damaged_copy(backup, damage):
    """Copies a backup, damages the copy and yields its directory."""
    with ScratchDir() as scratch:
        directory = scratch / "backup"
        run(["cp", "-a", backup, directory]).check()
        damage.apply(directory)
        yield directory


# --- files ---


def _table_files(backup):
    """The main forks of all relations, the largest first."""
    files = [path for path in backup.glob("base/*/*") if path.name.isdigit()]
    return sorted(files, key=lambda path: (-path.stat().st_size, path))


def _table_file(backup):
    return _table_files(backup)[0]


def _flip(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def _middle(path):
    return path.stat().st_size // 2


@_damage(stock="bad")
def byte_flipped_in_table(backup):
    _flip(_table_file(backup), _middle(_table_file(backup)))


@_damage(stock="bad")
def first_byte_flipped_in_table(backup):
    _flip(_table_file(backup), 0)


@_damage(stock="bad")
def last_byte_flipped_in_table(backup):
    _flip(_table_file(backup), _table_file(backup).stat().st_size - 1)


@_damage(stock="bad")
def byte_flipped_in_control_file(backup):
    _flip(backup / CONTROL_FILE, 8)


@_damage(stock="bad")
def byte_flipped_in_backup_label(backup):
    _flip(backup / "backup_label", 20)


@_damage(stock="bad")
def table_page_zeroed(backup):
    with open(_table_file(backup), "r+b") as file:
        file.seek(3 * PAGE_SIZE)
        file.write(bytes(PAGE_SIZE))


@_damage(stock="bad")
def table_truncated_by_a_byte(backup):
    os.truncate(_table_file(backup), _table_file(backup).stat().st_size - 1)


@_damage(stock="bad")
def table_truncated_to_nothing(backup):
    os.truncate(_table_file(backup), 0)


@_damage(stock="bad")
def table_extended_by_a_page(backup):
    os.truncate(_table_file(backup), _table_file(backup).stat().st_size + PAGE_SIZE)


@_damage(stock="bad")
def empty_file_extended(backup):
    _empty_file(backup).write_bytes(b"\0")


@_damage(stock="bad")
def table_removed(backup):
    _table_file(backup).unlink()


@_damage(stock="bad")
def empty_file_removed(backup):
    _empty_file(backup).unlink()


def _empty_file(backup):
    return min(path for path in backup.glob("base/*/*") if path.stat().st_size == 0)


@_damage(stock="bad")
def directory_removed(backup):
    shutil.rmtree(_table_file(backup).parent)


@_damage(stock="bad")
def tables_exchanged(backup):
    """Two files of the same size have changed places."""
    first, second = _two_of_one_size(_table_files(backup))
    parked = first.with_name("parked")
    first.rename(parked)
    second.rename(first)
    parked.rename(second)


def _two_of_one_size(files):
    for first, second in zip(files, files[1:]):
        if first.stat().st_size == second.stat().st_size > 0:
            if first.read_bytes() != second.read_bytes():
                return first, second
    raise LookupError("no two files of one size")


@_damage(stock="bad")
def extra_file(backup):
    (_table_file(backup).parent / "99999").write_bytes(b"extra")


@_damage(stock="bad")
def extra_empty_file_at_the_top(backup):
    (backup / "extra").touch()


@_damage(stock="bad")
def extra_manifest_in_a_subdirectory(backup):
    (backup / "global" / "backup_manifest").write_text("{}")


@_damage(stock="bad")
def extra_signal_file_in_a_subdirectory(backup):
    (backup / "global" / "standby.signal").touch()


@_damage(stock="bad")
def table_replaced_by_directory(backup):
    table = _table_file(backup)
    table.unlink()
    table.mkdir()


@_damage(stock="bad")
def table_replaced_by_fifo(backup):
    """Whoever opens it waits for ever."""
    table = _table_file(backup)
    table.unlink()
    os.mkfifo(table, 0o666)


@_damage(stock="bad")
def table_unreadable(backup):
    _table_file(backup).chmod(0)


@_damage(stock="bad")
def dangling_link_added(backup):
    (backup / "base" / "link").symlink_to("nowhere")


@_damage(stock="good")
def table_replaced_by_link_to_itself(backup):
    """The content is right, but outside of the backup."""
    table = _table_file(backup)
    outside = backup.parent / "outside"
    table.rename(outside)
    table.symlink_to(outside)


@_damage(stock="good")
def empty_directory_added(backup):
    (backup / "base" / "empty").mkdir()


@_damage(stock="good")
def empty_directory_removed(backup):
    """The server does not start without it, but the manifest does not list directories."""
    (backup / "pg_notify").rmdir()


@_damage(stock="good")
def configuration_changed(backup):
    """What tools are expected to change after a backup is not compared."""
    with open(backup / "postgresql.auto.conf", "a") as conf:
        conf.write("# changed\n")
    (backup / "standby.signal").touch()
    (backup / "recovery.signal").touch()


@_damage(stock="good")
def modification_times_changed(backup):
    os.utime(_table_file(backup), (0, 0))


# --- the control file ---


def _crc32c_of_byte(byte):
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    return byte


CRC32C_TABLE = [_crc32c_of_byte(byte) for byte in range(256)]


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ CRC32C_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


@_damage(stock="good")
def control_file_of_another_cluster(backup):
    """Its CRC-32C in the manifest is right all the same: over data followed by the CRC-32C of the
    data the result is a constant. Only the system identifier in a manifest of version 17+ tells.
    """
    path = backup / CONTROL_FILE
    data = bytearray(path.read_bytes())
    crc_offset = _control_crc_offset(data)
    data[0] ^= 0xFF  # in the system identifier
    struct.pack_into("<I", data, crc_offset, crc32c(data[:crc_offset]))
    path.write_bytes(data)


def _control_crc_offset(data):
    """The CRC stands behind the last field; where that is depends on the version."""
    for offset in range(200, 512, 4):
        if struct.unpack_from("<I", data, offset)[0] == crc32c(data[:offset]):
            return offset
    raise LookupError("no CRC in pg_control")


@_damage(stock="good")
def broken_page_in_manifest(backup):
    """The page was broken before the backup: its checksum is wrong, the manifest's is right."""
    table = _table_file(backup)
    _flip(table, _middle(table))
    _renew_checksum(backup, str(table.relative_to(backup)))


# --- the manifest ---


def _manifest_path(backup):
    return backup / "backup_manifest"


def _read_manifest(backup):
    return json.loads(_manifest_path(backup).read_text())


def manifest_text(manifest):
    """A manifest with the right checksum of itself, whatever it holds."""
    members = [
        f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)},\n"
        for key, value in manifest.items()
        if key != "Manifest-Checksum"
    ]
    body = "{ " + "".join(members)
    checksum = hashlib.sha256(body.encode()).hexdigest()
    return f'{body}"Manifest-Checksum": "{checksum}"}}\n'


@contextlib.contextmanager
def _edited_manifest(backup):
    manifest = _read_manifest(backup)
    yield manifest
    _manifest_path(backup).write_text(manifest_text(manifest))


def _table_entry(manifest):
    """The entry of the largest relation, the one that _table_file names."""
    tables = [entry for entry in manifest["Files"] if re.fullmatch(r"base/\d+/\d+", entry["Path"])]
    return max(tables, key=lambda entry: entry["Size"])


def _renew_checksum(backup, path):
    with _edited_manifest(backup) as manifest:
        [entry] = [entry for entry in manifest["Files"] if entry["Path"] == path]
        crc = crc32c((backup / path).read_bytes())
        entry.update({"Checksum-Algorithm": "CRC32C", "Checksum": struct.pack("<I", crc).hex()})


@_damage(stock="good")
def manifest_rewritten(backup):
    """The same content in another layout; it shows that the damages below do what they say only."""
    with _edited_manifest(backup):
        pass


@_damage(stock="bad")
def manifest_byte_flipped(backup):
    _flip(_manifest_path(backup), _middle(_manifest_path(backup)))


@_damage(stock="bad")
def manifest_size_changed(backup):
    """One digit: still a manifest, but not the one that its checksum was made for."""
    text = _manifest_path(backup).read_text()
    _manifest_path(backup).write_text(text.replace('"Size": 8192', '"Size": 8193', 1))


@_damage(stock="bad")
def manifest_cut_in_half(backup):
    os.truncate(_manifest_path(backup), _middle(_manifest_path(backup)))


@_damage(stock="bad")
def manifest_without_last_newline(backup):
    os.truncate(_manifest_path(backup), _manifest_path(backup).stat().st_size - 1)


@_damage(stock="bad")
def manifest_followed_by_more(backup):
    with open(_manifest_path(backup), "a") as manifest:
        manifest.write("{}\n")


@_damage(stock="bad")
def manifest_empty(backup):
    os.truncate(_manifest_path(backup), 0)


@_damage(stock="bad")
def manifest_removed(backup):
    _manifest_path(backup).unlink()


@_damage(stock="bad")
def manifest_of_unknown_version(backup):
    with _edited_manifest(backup) as manifest:
        manifest["PostgreSQL-Backup-Manifest-Version"] = 3


@_damage(stock="bad")
def manifest_with_unknown_key(backup):
    with _edited_manifest(backup) as manifest:
        manifest["Unknown"] = "value"


@_damage(stock="bad")
def manifest_with_duplicate_path(backup):
    with _edited_manifest(backup) as manifest:
        manifest["Files"].append(_table_entry(manifest))


@_damage(stock="bad")
def manifest_with_absolute_path(backup):
    with _edited_manifest(backup) as manifest:
        entry = _table_entry(manifest)
        entry["Path"] = str(backup / entry["Path"])


@_damage(stock="bad")
def manifest_with_path_outside(backup):
    with _edited_manifest(backup) as manifest:
        entry = _table_entry(manifest)
        entry["Path"] = f"../{backup.name}/{entry['Path']}"


@_damage(stock="bad")
def manifest_with_empty_path(backup):
    with _edited_manifest(backup) as manifest:
        _table_entry(manifest)["Path"] = ""


@_damage(stock="bad")
def manifest_without_a_file(backup):
    with _edited_manifest(backup) as manifest:
        manifest["Files"].remove(_table_entry(manifest))


@_damage(stock="bad")
def manifest_with_wrong_size(backup):
    with _edited_manifest(backup) as manifest:
        _table_entry(manifest)["Size"] += PAGE_SIZE


@_damage(stock="bad")
def manifest_with_negative_size(backup):
    with _edited_manifest(backup) as manifest:
        _table_entry(manifest)["Size"] = -1


@_damage(stock="bad")
def manifest_with_wrong_checksum(backup):
    with _edited_manifest(backup) as manifest:
        _table_entry(manifest)["Checksum"] = "00000000"


@_damage(stock="bad")
def manifest_with_short_checksum(backup):
    with _edited_manifest(backup) as manifest:
        entry = _table_entry(manifest)
        entry["Checksum"] = entry["Checksum"][:-2]


@_damage(stock="bad")
def manifest_with_unknown_checksum_algorithm(backup):
    with _edited_manifest(backup) as manifest:
        _table_entry(manifest)["Checksum-Algorithm"] = "MD5"


@_damage(stock="good")
def manifest_with_upper_case_checksum(backup):
    with _edited_manifest(backup) as manifest:
        entry = _table_entry(manifest)
        entry["Checksum"] = entry["Checksum"].upper()


@_damage(stock="good")
def byte_flipped_in_file_without_checksum(backup):
    byte_flipped_in_table(backup)
    with _edited_manifest(backup) as manifest:
        entry = _table_entry(manifest)
        del entry["Checksum"], entry["Checksum-Algorithm"]


@_damage(stock="bad")
def manifest_with_wal_range_of_another_timeline(backup):
    with _edited_manifest(backup) as manifest:
        manifest["WAL-Ranges"][0]["Timeline"] += 1


# --- WAL ---


def _wal_range(backup):
    """The first and the last needed position in the WAL, as 64-bit numbers, and the timeline."""
    [needed] = _read_manifest(backup)["WAL-Ranges"]
    return _parse_lsn(needed["Start-LSN"]), _parse_lsn(needed["End-LSN"]), needed["Timeline"]


def _parse_lsn(text):
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def _wal_place(backup, lsn):
    """The segment file that holds this position, and the offset in it."""
    _, _, timeline = _wal_range(backup)
    directory = backup / "pg_wal"
    size = next(directory.glob("[0-9A-F]" * 24)).stat().st_size
    per_id = 2**32 // size
    name = f"{timeline:08X}{lsn // size // per_id:08X}{lsn // size % per_id:08X}"
    return directory / name, lsn % size


@_damage(stock="bad")
def wal_segment_removed(backup):
    start, _, _ = _wal_range(backup)
    segment, _ = _wal_place(backup, start)
    segment.unlink()


@_damage(stock="bad")
def wal_byte_flipped_in_first_record(backup):
    start, _, _ = _wal_range(backup)
    _flip(*_wal_place(backup, start + 4))  # the transaction identifier


@_damage(stock="bad")
def wal_byte_flipped_in_last_record(backup):
    _, end, _ = _wal_range(backup)
    _flip(*_wal_place(backup, end - 8))  # the end of its data, before up to 7 bytes of padding


@_damage(stock="bad")
def wal_page_zeroed(backup):
    start, _, _ = _wal_range(backup)
    segment, offset = _wal_place(backup, start)
    with open(segment, "r+b") as file:
        file.seek(offset // PAGE_SIZE * PAGE_SIZE)
        file.write(bytes(PAGE_SIZE))


@_damage(stock="bad")
def wal_segment_cut(backup):
    start, _, _ = _wal_range(backup)
    segment, offset = _wal_place(backup, start)
    os.truncate(segment, offset)


@_damage(stock="good")
def wal_byte_flipped_behind_the_end(backup):
    _, end, _ = _wal_range(backup)
    _flip(*_wal_place(backup, end + PAGE_SIZE))


@_damage(stock="good")
def extra_file_in_wal_directory(backup):
    (backup / "pg_wal" / "extra").write_bytes(b"extra")
