"""What a server sent during a base backup, taken from the bytes that a Proxy has recorded.

    with Proxy(server.port) as proxy:
        proxy.record(0)
        basebackup(..., env=server.env() | proxy.env() | UNENCRYPTED).check()
        sent = BaseBackupSent(proxy.recorded(0), server.major)
    sent.archives["base.tar"], sent.manifest
"""

import struct

# Without these the connection begins with a conversation about encryption.
UNENCRYPTED = {"PGSSLMODE": "disable", "PGGSSENCMODE": "disable"}
TYPED_SINCE = 15  # one stream for everything; before, one for each archive


class BaseBackupSent:
    """Archives and manifest as they came; archives of servers before 15 have no end blocks."""

    def __init__(self, stream, major):
        self.archives = {}
        self.manifest = None
        self._current = None
        messages = list(_messages(stream))
        if major >= TYPED_SINCE:
            self._read_typed(messages)
        else:
            self._read_one_by_one(messages)

    def _begin(self, name):
        self.archives[name] = self._current = bytearray()

    def _begin_manifest(self):
        self.manifest = self._current = bytearray()

    def _read_typed(self, messages):
        for kind, body in messages:
            if kind != b"d":
                continue
            if body[:1] == b"n":
                self._begin(body[1:body.index(b"\0")].decode())
            elif body[:1] == b"m":
                self._begin_manifest()
            elif body[:1] == b"d":
                self._current += body[1:]

    def _read_one_by_one(self, messages):
        """The second result before the first stream lists the tablespaces in their order."""
        results, names = 0, []
        for kind, body in messages:
            if kind == b"T":
                results, names = results + 1, []
            elif kind == b"D":
                oid = _first_column(body)
                names.append(f"{oid}.tar" if oid else "base.tar")
            elif kind == b"H":
                if names:
                    self._begin(names.pop(0))
                else:
                    self._begin_manifest()
            elif kind == b"d":
                self._current += body


def _messages(stream):
    at = 0
    while at + 5 <= len(stream):
        [length] = struct.unpack_from(">I", stream, at + 1)
        yield stream[at:at + 1], stream[at + 5:at + 1 + length]
        at += 1 + length


def _first_column(row):
    [length] = struct.unpack_from(">i", row, 2)
    return row[6:6 + length].decode() if length >= 0 else None
