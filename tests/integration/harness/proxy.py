"""A TCP proxy before a server that breaks, stalls or falsifies a connection at a chosen byte.

    with Proxy(server.port) as proxy:
        proxy.cut(after=100_000, connection=1)
        result = pgstow(..., env=server.env() | proxy.env())
        assert proxy.fault_happened(timeout=0)

Connections are counted from 0 in the order in which the client opens them; bytes are those from the
server to the client. What comes before the chosen byte reaches the client as it is.
"""

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass

from .run import track, untrack

CHUNK = 65536


@dataclass(frozen=True)
class _Fault:
    after: int
    action: str  # "cut", "reset", "stall" or "flip"


class Proxy:
    """Listens on 127.0.0.1 (attribute port) and forwards to `server_port`. A context manager."""

    def __init__(self, server_port, listen_port=0):
        self._server_port = server_port
        self._faults = {}
        self._fault_happened = threading.Event()
        self._released = threading.Event()
        self._received = []  # bytes from the server, by connection
        self._records = {}  # the bytes themselves, of the connections to record
        self._sockets = []
        self._listener = socket.create_server(("127.0.0.1", listen_port))
        self.port = self._listener.getsockname()[1]
        track(self)
        self._in_thread(self._accept)

    # --- what the test says and asks ---

    def cut(self, after, connection=0, reset=False):
        """Closes the connection, or resets it, once `after` bytes have come from the server."""
        self._faults[connection] = _Fault(after, "reset" if reset else "cut")

    def stall(self, after, connection=0):
        """Stops forwarding to the client after `after` bytes, but leaves the connection open."""
        self._faults[connection] = _Fault(after, "stall")

    def flip(self, after, connection=0):
        """Inverts the bits of the byte that follows the first `after` bytes."""
        self._faults[connection] = _Fault(after, "flip")

    def record(self, connection=0):
        """Keeps what comes from the server over this connection, for recorded()."""
        self._records[connection] = bytearray()

    def recorded(self, connection=0):
        return bytes(self._records[connection])

    def release(self):
        """Lets stalled connections go on."""
        self._released.set()

    def fault_happened(self, timeout=60):
        """Waits until a fault has taken place; false if it has not within the timeout."""
        return self._fault_happened.wait(timeout)

    def env(self):
        """What to put over server.env() to come through the proxy."""
        return {"PGPORT": str(self.port)}

    def connection_count(self):
        return len(self._received)

    def received(self, connection=0):
        """How many bytes this connection has brought from the server."""
        return self._received[connection]

    def close(self):
        self.release()
        # shutdown wakes the threads that wait for these sockets; close alone does not
        for each in [self._listener, *self._sockets]:
            _shut(each)
        untrack(self)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    # --- threads: one accepts, two carry each connection ---

    @staticmethod
    def _in_thread(function, *args):
        threading.Thread(target=function, args=args, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            try:
                server = socket.create_connection(("127.0.0.1", self._server_port))
            except OSError:
                _shut(client)
                continue
            self._sockets += [client, server]
            self._received.append(0)
            number = len(self._received) - 1
            self._in_thread(_carry, client, server)
            self._in_thread(self._carry_from_server, number, server, client)

    def _carry_from_server(self, number, server, client):
        with contextlib.suppress(OSError):
            while data := server.recv(CHUNK):
                if number in self._records:
                    self._records[number] += data
                fault = self._faults.get(number)
                if fault and self._received[number] + len(data) >= fault.after:
                    allowed = max(0, fault.after - self._received[number])
                    self._forward(number, data[:allowed], client)
                    data = self._strike(number, data[allowed:], server, client)
                self._forward(number, data, client)
        _shut(client)

    def _forward(self, number, data, client):
        client.sendall(data)
        self._received[number] += len(data)

    def _strike(self, number, rest, server, client):
        """Does the damage; returns what takes the place of the rest of the data."""
        action = self._faults[number].action
        if action == "flip" and not rest:
            return rest  # the byte is still to come
        del self._faults[number]
        self._fault_happened.set()  # first: who sees the damage must find it reported
        if action == "flip":
            return bytes([rest[0] ^ 0xFF]) + rest[1:]
        if action == "stall":
            self._released.wait()
            return rest
        if action == "reset":
            _reset(client)
        _shut(client)
        _shut(server)
        return rest


def _reset(client):
    """Closes a socket so that its peer sees a reset."""
    no_lingering = struct.pack("ii", 1, 0)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_lingering)
    client.shutdown(socket.SHUT_RD)  # wakes its reading thread, but tells the peer nothing yet
    client.close()


def _carry(source, target):
    with contextlib.suppress(OSError):
        while data := source.recv(CHUNK):
            target.sendall(data)
    _shut(target)


def _shut(which):
    with contextlib.suppress(OSError):
        which.shutdown(socket.SHUT_RDWR)
    which.close()
