"""The network in front of a base backup: how it is read, what TLS costs, and a long way.

    python3 bench/network.py [--quick] [--json FILE] ... PGSTOW

Starts a server of its own, with pgbench's data, and measures in turns

    receive   all that the server sends for a backup is read and thrown away, through libpq
              (bench/floor.c) and from the socket itself with buffers of several sizes
              (bench/receive.c): over a Unix socket, TCP and TLS
    backup    plain, not synced, with WAL, by pgstow, the stock tool and the floor: likewise
    far       the same, and the receivers that catch up on WAL, through a proxy that holds every
              byte back for --delay milliseconds, both ways, and lets --rate megabytes a second
              pass: whoever waits for answers before the server sends more is slower than that
"""

import argparse
import collections
import contextlib
import json
import os
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "integration"))

from harness.run import STOCK_BIN, ScratchDir, run  # noqa: E402
from harness.servers import SUPERUSER, Server  # noqa: E402

from basebackup import SETTINGS, gigabytes_of, take  # noqa: E402
from pairs import in_turns, measured, report, settle  # noqa: E402
from receivewal import History, catch_up  # noqa: E402

KIBIBYTES = [16, 64, 256]
PIECE = 256 * 1024
NUMBERS = {"seconds": "s", "cpu": "CPU s"}


# --- a long way ---


class FarAway:
    """A port on this machine that leads to the server's, `delay` seconds away; as many bytes as
    `rate` pass in a second.
    """

    def __init__(self, server, delay, rate):
        self._server, self._delay, self._rate = server, delay, rate
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _address = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._server.port))
                self._join(near, far)
                self._join(far, near)

    def _join(self, source, target):
        """Two threads: one reads as fast as the rate allows, whatever the target does, the other
        one sends what is old enough.
        """
        on_the_way, arrived = collections.deque(), threading.Semaphore(0)

        def read():
            data, passed = b".", 0.0
            while data:
                try:
                    data = source.recv(PIECE)
                except OSError:
                    data = b""
                passed = max(passed, time.monotonic()) + len(data) / self._rate
                on_the_way.append((passed + self._delay, data))
                arrived.release()
                time.sleep(max(0, passed - time.monotonic()))

        def write():
            with contextlib.suppress(OSError):
                while True:
                    arrived.acquire()
                    due, data = on_the_way.popleft()
                    time.sleep(max(0, due - time.monotonic()))
                    if not data:
                        target.shutdown(socket.SHUT_WR)
                        return
                    target.sendall(data)

        for job in read, write:
            threading.Thread(target=job, daemon=True).start()


# --- measuring ---


def ways(server):
    """{name: (what the environment says of it, the arguments of bench/receive.c)}"""
    port = str(server.port)
    tcp = {"PGHOST": "127.0.0.1", "PGPORT": port, "PGUSER": SUPERUSER, "PGSSLMODE": "disable"}
    return {
        "Unix socket": (tcp | {"PGHOST": str(server.socket_dir)}, [server.socket_dir, port]),
        "TCP": (tcp, ["127.0.0.1", port]),
        "TLS": (tcp | {"PGSSLMODE": "require"}, ["127.0.0.1", port, "tls"]),
    }


def one_run(command, env):
    settle()
    return measured(command, env)


def measure_receiving(name, way, options, gigabytes):
    env, (host, port, *tls) = way
    programs = {"pgstow": [options.programs / "floor"]}
    for size in KIBIBYTES:
        programs[f"{size} KiB"] = [options.programs / "receive", host, port, SUPERUSER, size, *tls]
    runs = in_turns(programs, options.rounds, lambda program: one_run(program, env))
    report(f"receive, {name} (pgstow: through libpq)", runs, NUMBERS, gigabytes)
    return runs


class Environment:
    """Of a server that is reached in some other way."""

    def __init__(self, env):
        self._env = env

    def env(self):
        return self._env


def measure_backup(title, env, place, options, gigabytes):
    more = ["-D", "TARGET", "-c", "fast", "-N"]
    programs = {
        "pgstow": [options.pgstow, "basebackup", *more],
        "stock": [STOCK_BIN / "pg_basebackup", *more],
        "floor": [options.programs / "floor"],
    }
    runs = in_turns(programs, options.rounds,
                    lambda program: take(program, Environment(env), place))
    report(title, runs, NUMBERS, gigabytes)
    return runs


def measure_wal(title, server, env, options):
    history = History(server, options.megabytes)
    programs = {"pgstow": [options.pgstow, "receivewal"], "stock": [STOCK_BIN / "pg_receivewal"]}
    runs = in_turns(programs, options.rounds,
                    lambda program: catch_up(program, history, "none", options, env))
    report(f"{title}, {(history.end - history.start) / 1e6:.0f} MB", runs, NUMBERS)
    return runs


def measure(server, place, options):
    gigabytes = gigabytes_of(server)
    results = {}
    for name, way in () if options.only_far else ways(server).items():
        results[f"receive, {name}"] = measure_receiving(name, way, options, gigabytes)
        results[f"backup, {name}"] = measure_backup(f"backup, {name}", way[0], place, options,
                                                    gigabytes)
    with contextlib.closing(FarAway(server, options.delay / 1000, options.rate * 1e6)) as proxy:
        env = ways(server)["TCP"][0] | {"PGPORT": str(proxy.port)}
        far = f"{2 * options.delay} ms there and back, {options.rate} MB/s"
        results[far] = measure_backup(f"backup, {far}", env, place, options, gigabytes)
        results["WAL"] = measure_wal(f"WAL, {far}", server, env, options)
    return results


# --- options ---


def make_certificate(directory):
    key, certificate = directory / "server.key", directory / "server.crt"
    run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-subj", "/CN=localhost", "-days", "2", "-keyout", key,
         "-out", certificate]).check()
    return {"ssl": "on", "ssl_key_file": key, "ssl_cert_file": certificate}


def parse_options():
    parser = argparse.ArgumentParser()
    parser.add_argument("pgstow", type=lambda path: Path(path).resolve())
    parser.add_argument("--quick", action="store_true", help="a small run: does it work?")
    parser.add_argument("--directory", default="/var/tmp", help="where server and backups go")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=int, default=150, help="of the data; 15 MB each")
    parser.add_argument("--delay", type=int, default=25, help="one way, in milliseconds")
    parser.add_argument("--rate", type=int, default=250, help="megabytes a second")
    parser.add_argument("--megabytes", type=int, default=800, help="of WAL")
    parser.add_argument("--only-far", action="store_true")
    parser.add_argument("--json", help="write all that was measured into this file")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.scale, options.megabytes = 1, 5, 50
    options.drop_caches = False
    options.programs = options.pgstow.parent / "bench"
    return options


def main():
    options = parse_options()
    tempfile.tempdir = options.directory
    with (ScratchDir() as keys,
          Server(15, **SETTINGS, **make_certificate(Path(keys))) as server,
          ScratchDir() as place):
        server.pgbench_init(options.scale)
        server.sql("VACUUM; CHECKPOINT;", timeout=1200)
        print(f"{gigabytes_of(server):.2f} GB, {options.rounds} rounds,"
              f" {os.cpu_count()} processors", flush=True)
        results = measure(server, place, options)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
