"""What the integration tests stand on: real servers, our programs, the stock tools, and trouble.

    run.py         running programs as an ordinary user, in the foreground and in the background
    majors.py      which PostgreSQL versions a test runs against
    servers.py     servers of every version: create, load, kill, copy, compare
    proxy.py       a connection that breaks, stalls or lies at a chosen byte
    restore.py     data directories of backups in tar format
    incremental.py incremental backups put together
    tarfiles.py    archives down to their bytes
    wire.py        what a server sent, from the bytes of a connection
    damage.py      a catalogue of damaged backups with the stock verifier's verdict on each
    tardamage.py   the same in tar format
    specimen.py    a backup that is damaged and made whole again, without copying it
    faults.py      verbs for tables of what can go wrong with it
    walrecords.py  where in its segments WAL has its pages and records
    filesystem.py  a file system that is soon full
    terminal.py    a program at a terminal, where a person types
    wal.py         WAL archives: what a directory of WAL holds
    waltest.py     what tests of WAL archives share: receivers, servers that write, comparisons

A test file tests/integration/it_<topic>.py imports what it needs from `harness`, and is registered
in tests/integration/CMakeLists.txt. By hand, in tests/integration:

    PG_MAJORS="17 18" PGSTOW_BIN=... PGSTOW_COMPAT=... python3 -m unittest -v it_<topic>
"""

from .damage import DAMAGES, Damage, damaged_copy
from .filesystem import small_filesystem
from .incremental import combine
from .majors import for_each_major, majors
from .proxy import Proxy
from .restore import archives, copy_wal, extract, redirect_tablespaces, restore_tar
from .run import (
    Background,
    CommandFailed,
    Result,
    ScratchDir,
    basebackup,
    compat,
    is_stock_tested,
    ours_only,
    pgstow,
    run,
    stock,
    wait_until,
)
from .servers import (
    PgbenchLoad,
    Server,
    ServerFailed,
    forget_recovery,
    server_compression_methods,
    stock_tool,
)
from .tarfiles import read_archive, uncompressed
from .terminal import Terminal
from .wire import UNENCRYPTED, BaseBackupSent

__all__ = [
    "DAMAGES",
    "Background",
    "BaseBackupSent",
    "CommandFailed",
    "Damage",
    "PgbenchLoad",
    "Proxy",
    "Result",
    "ScratchDir",
    "Server",
    "ServerFailed",
    "Terminal",
    "UNENCRYPTED",
    "archives",
    "basebackup",
    "combine",
    "compat",
    "copy_wal",
    "damaged_copy",
    "extract",
    "for_each_major",
    "forget_recovery",
    "is_stock_tested",
    "majors",
    "ours_only",
    "pgstow",
    "read_archive",
    "redirect_tablespaces",
    "restore_tar",
    "run",
    "server_compression_methods",
    "small_filesystem",
    "stock",
    "stock_tool",
    "uncompressed",
    "wait_until",
]
