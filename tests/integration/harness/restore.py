"""Making a data directory of a backup in tar format, as somebody does who restores one by hand.

    oids = restore_tar(backup, target, {oid: directory})
    redirect_tablespaces(target, {oid: directory})   # after verifying: it changes a file
    with server.start_copy(target) as copy: ...

Archives are unpacked by tar and the programs of the compression methods, not by what is under test.
"""

import re
import shutil

from .run import run

DECOMPRESSORS = {"": [], ".gz": ["-I", "gzip"], ".lz4": ["-I", "lz4"], ".zst": ["-I", "zstd"]}
ARCHIVE_NAME = re.compile(r"^(base|pg_wal|\d+)\.tar(|\.gz|\.lz4|\.zst)$")
WAL_SEGMENT = re.compile(r"^[0-9A-F]{24}$")


def archives(backup):
    """The archives of a backup in tar format, as {"base" | "pg_wal" | oid: path}."""
    matches = {path: ARCHIVE_NAME.match(path.name) for path in backup.iterdir()}
    return {match[1]: path for path, match in matches.items() if match}


def extract(archive, directory):
    """Unpacks an archive into a directory, which is made if it does not exist."""
    run(["mkdir", "-p", "-m", "700", directory]).check()
    decompressor = DECOMPRESSORS[ARCHIVE_NAME.match(archive.name)[2]]
    run(["tar", "-x", "-p", *decompressor, "-f", archive, "-C", directory]).check()


def restore_tar(backup, target, tablespaces=None):
    """Unpacks a backup in tar format into `target`.

    tablespaces  where the archives of tablespaces go, {oid: directory}; one that is not there is
                 an in-place tablespace and goes to pg_tblspc/<oid>
    """
    found = archives(backup)
    extract(found.pop("base"), target)
    if "pg_wal" in found:
        extract(found.pop("pg_wal"), target / "pg_wal")
    for oid, archive in found.items():
        place = target / "pg_tblspc" / oid
        if oid in (tablespaces or {}):
            run(["ln", "-s", tablespaces[oid], place]).check()
            place = tablespaces[oid]
        extract(archive, place)
    if (backup / "backup_manifest").exists():
        run(["cp", "-p", backup / "backup_manifest", target]).check()


def redirect_tablespaces(target, tablespaces):
    """Makes a server that starts on a restored backup look for its tablespaces elsewhere."""
    path = target / "tablespace_map"
    lines = [line.split(" ", 1) for line in path.read_text().splitlines()]
    path.write_text("".join(f"{oid} {tablespaces[oid]}\n" for oid, _ in lines))


def copy_wal(server, target):
    """Gives a backup that was taken without WAL what its server has."""
    for path in sorted((server.data_dir / "pg_wal").iterdir()):
        if WAL_SEGMENT.match(path.name):
            place = target / "pg_wal" / path.name
            shutil.copy(path, place)
            shutil.chown(place, target.owner())
