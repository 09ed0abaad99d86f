"""What the integration tests stand on: real servers, our programs, the stock tools, and trouble.

    run.py         running programs as an ordinary user, in the foreground and in the background
    majors.py      which PostgreSQL versions a test runs against
    servers.py     servers of every version: create, load, kill, copy, compare
    proxy.py       a connection that breaks, stalls or lies at a chosen byte
    damage.py      a catalogue of damaged backups with the stock verifier's verdict on each
    filesystem.py  a file system that is soon full
    terminal.py    a program at a terminal, where a person types

A test file tests/integration/it_<topic>.py imports what it needs from `harness`, and is registered
in tests/integration/CMakeLists.txt. By hand, in tests/integration:

    PG_MAJORS="17 18" PGSTOW_BIN=... PGSTOW_COMPAT=... python3 -m unittest -v it_<topic>
"""

from .damage import DAMAGES, Damage, damaged_copy
from .filesystem import small_filesystem
from .majors import for_each_major, majors
from .proxy import Proxy
from .run import (
    Background,
    CommandFailed,
    Result,
    ScratchDir,
    compat,
    pgstow,
    run,
    stock,
    wait_until,
)
from .servers import PgbenchLoad, Server, ServerFailed, forget_recovery
from .terminal import Terminal

__all__ = [
    "DAMAGES",
    "Background",
    "CommandFailed",
    "Damage",
    "PgbenchLoad",
    "Proxy",
    "Result",
    "ScratchDir",
    "Server",
    "ServerFailed",
    "Terminal",
    "compat",
    "damaged_copy",
    "for_each_major",
    "forget_recovery",
    "majors",
    "pgstow",
    "run",
    "small_filesystem",
    "stock",
    "wait_until",
]
