"""PostgreSQL servers of every major version: create, load, stop, kill, copy and compare them.

    with Server(18, wal_keep_size="128MB") as server:
        server.pgbench_init(scale=1)
        with server.pgbench_load() as load:
            load.wait_transactions(100)
        pgstow("basebackup", "-D", target, env=server.env()).check()
        with server.start_copy(target) as copy:
            assert copy.data_digest() == server.data_digest()

The servers come from scripts/servers, the client programs from the stock version 15.
"""

import csv
import functools
import io
import os
import random
import select
import signal
import socket
import subprocess
from pathlib import Path

from .run import STOCK_BIN, Background, ScratchDir, run, track, untrack, wait_until

REPOSITORY = Path(__file__).resolve().parents[3]
SUPERUSER = "postgres"
PASSWORD = "a password, with 'quotes'"

# Speed where safety is not under test, and room for several backups at once. Memory is mapped from
# files in the data directory, so that a killed server leaves none of it behind.
DEFAULT_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "shared_buffers": "32MB",
    "dynamic_shared_memory_type": "mmap",
    "wal_level": "replica",
    "max_wal_senders": 10,
    "max_replication_slots": 10,
    "hot_standby": "on",
    "log_line_prefix": "%m [%p] ",
    "log_replication_commands": "on",
}

SERVER_COMPRESSION_SINCE = 15
RECOVERY_PARAMETERS_ARE_SETTINGS = 12  # before, they are in recovery.conf

STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class ServerFailed(AssertionError):
    """A server did not start or stop as it should."""


@functools.cache
def servers_dir():
    listing = subprocess.run(
        [REPOSITORY / "scripts" / "servers", "--path"], check=True, capture_output=True, text=True
    )
    return Path(listing.stdout.strip())


def stock_tool(tool, major):
    """The stock tool of a version, or None. Those of 15 are always there; for others the variable
    STOCK_DIR can name a directory of MAJOR/bin/TOOL.
    """
    homes = [servers_dir(), *map(Path, filter(None, [os.environ.get("STOCK_DIR")]))]
    places = [home / str(major) / "bin" / tool for home in homes]
    return next((place for place in places if place.exists()), None)


def server_compression_methods(major):
    """What the server of a version can compress a backup with: from 15 on, and as it was built."""
    if major < SERVER_COMPRESSION_SINCE:
        return []
    libraries = {"gzip": b"libz.so", "lz4": b"liblz4.so", "zstd": b"libzstd.so"}
    program = (servers_dir() / str(major) / "bin/postgres").read_bytes()
    return [method for method, library in libraries.items() if library in program]


class Server:
    """A server on a new cluster or an existing data directory. A context manager: started, closed.

    checksums    whether a new cluster has data checksums
    auth         how TCP connections authenticate in a new cluster: trust, md5 or scram-sha-256
    initdb_args  more arguments for initdb
    data_dir     an existing data directory to run instead of a new cluster; it stays at the end
    settings     of postgresql.conf, over DEFAULT_SETTINGS or over those of the existing directory
    """

    def __init__(self, major, *, checksums=True, auth="trust", initdb_args=(), data_dir=None,
                 **settings):
        self.major = major
        self.auth = auth
        self.bin = servers_dir() / str(major) / "bin"
        if not (self.bin / "postgres").exists():
            raise ServerFailed(f"no PostgreSQL {major} in {servers_dir()}: run scripts/servers")
        self.port = _free_port()
        self._scratch = ScratchDir()
        self.socket_dir = self._scratch.path
        self._process = None
        self._past_log = ""
        self._was_killed = False
        self._options = {"port": self.port, "unix_socket_directories": self.socket_dir}
        track(self)
        if data_dir:
            self.data_dir = Path(data_dir)
            self._options.update(settings)
        else:
            self.data_dir = self._scratch.path / "data"
            self._init_cluster(checksums, initdb_args)
            self.configure(**(DEFAULT_SETTINGS | settings))

    # --- life ---

    def _init_cluster(self, checksums, initdb_args):
        password_file = self._scratch.path / "password"
        password_file.write_text(PASSWORD)
        password_file.chmod(0o644)
        run([
            self.bin / "initdb", "--pgdata", self.data_dir, "--no-sync",
            "--username", SUPERUSER, "--encoding", "UTF8", "--locale", "C",
            "--auth-local", "trust", "--auth-host", self.auth, "--pwfile", password_file,
            *self._checksum_option(checksums), *initdb_args,
        ]).check()
        # Connections for replication are lines of their own: "all" does not include them.
        (self.data_dir / "pg_hba.conf").write_text(
            "local  all          all                trust\n"
            "local  replication  all                trust\n"
            f"host   all          all  127.0.0.1/32  {self.auth}\n"
            f"host   replication  all  127.0.0.1/32  {self.auth}\n"
        )

    def _checksum_option(self, checksums):
        if checksums:
            return ["--data-checksums"]
        return ["--no-data-checksums"] if self.major >= 18 else []

    def configure(self, **settings):
        """Adds settings to postgresql.conf; a running server reloads it (some need a restart)."""
        with open(self.data_dir / "postgresql.conf", "a") as conf:
            for name, value in settings.items():
                conf.write(f"{name} = {_quote(value)}\n")
        if self.is_running():
            self._process.send_signal(signal.SIGHUP)

    def start(self, timeout=60):
        """Starts the server and returns it when it accepts connections."""
        command = [self.bin / "postgres", "-D", self.data_dir]
        for name, value in self._options.items():
            command += ["-c", f"{name}={value}"]
        self._process = Background(command, death_signal="QUIT")  # an immediate shutdown
        untrack(self._process)  # it is for the server to end it
        self._was_killed = False
        wait_until(self._is_ready, f"start of {self}", timeout)
        return self

    def _is_ready(self):
        if not self._process.is_running():
            raise ServerFailed(f"{self} did not start:\n{self.log()}")
        lines = [line.strip() for line in self._pid_file_lines()]
        return lines[:1] == [str(self._process.pid)] and lines[7:] == ["ready"]

    def _pid_file_lines(self):
        try:
            return (self.data_dir / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def is_running(self):
        return self._process is not None and self._process.is_running()

    def stop(self, mode="fast", timeout=60):
        """Shuts the server down: "smart", "fast" or "immediate"."""
        result = self._process.stop(STOP_SIGNALS[mode], timeout)
        self._forget_process()
        if result.rc != 0:
            raise ServerFailed(f"{self} did not stop cleanly: {result}")

    def restart(self):
        self.stop()
        return self.start()

    def kill(self):
        """Kills all processes of the server at once, as the loss of its machine would."""
        self._process.send_signal(signal.SIGSTOP)  # or it would replace the children that die
        children = _children(self._process.pid)
        ends = [os.pidfd_open(pid) for pid in children]
        for pid in [*children, self._process.pid]:
            os.kill(pid, signal.SIGKILL)
        self._process.wait()
        for end in ends:
            select.select([end], [], [])
            os.close(end)
        self._was_killed = True
        self._forget_process()

    def _forget_process(self):
        self._past_log = self.log()
        self._process.close()
        self._process = None

    def close(self):
        """Ends the server if it runs, and removes everything but a data directory it was given."""
        if self.is_running():
            self._process.stop(STOP_SIGNALS["immediate"])
        if self._process:
            self._forget_process()
        if self._was_killed:
            self._remove_shared_memory()
        self._scratch.close()
        untrack(self)

    def _remove_shared_memory(self):
        """Removes what a killed server leaves to its successor, when there will be none."""
        _key, identifier = self._pid_file_lines()[6].split()
        run(["ipcrm", "-m", identifier])

    def log(self):
        """What the server has written since it was created."""
        return self._past_log + (self._process.err() if self._process else "")

    def __enter__(self):
        try:
            return self if self.is_running() else self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *exc_info):
        self.close()

    def __str__(self):
        return f"PostgreSQL {self.major} in {self.data_dir}"

    # --- connecting ---

    def env(self):
        """The environment with which libpq programs connect here over TCP."""
        env = {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": SUPERUSER}
        if self.auth != "trust":
            env["PGPASSWORD"] = PASSWORD
        return env

    def conninfo(self, **more):
        """A connection string for TCP; `more` adds to it or replaces (host=server.socket_dir)."""
        names = {"PGHOST": "host", "PGPORT": "port", "PGUSER": "user", "PGPASSWORD": "password"}
        parameters = {names[name]: value for name, value in self.env().items()} | more
        return " ".join(f"{name}={_quote(value)}" for name, value in parameters.items())

    # --- SQL ---

    def sql(self, query, dbname="postgres", timeout=120):
        """Runs SQL through psql; returns the rows of all statements as lists of strings."""
        env = self.env() | {"PGDATABASE": dbname, "PGCLIENTENCODING": "UTF8"}
        psql = [STOCK_BIN / "psql", "-X", "-q", "-t", "--csv", "-v", "ON_ERROR_STOP=1"]
        result = run(psql, input=query, env=env, timeout=timeout).check()
        return list(csv.reader(io.StringIO(result.out)))

    def value(self, query, dbname="postgres"):
        """The first column of the only row that the query returns."""
        [row] = self.sql(query, dbname)
        return row[0]

    def wait_for(self, condition, dbname="postgres", timeout=60):
        """Waits until this SQL expression is true."""
        query = f"SELECT {condition}"
        wait_until(lambda: self.value(query, dbname) == "t", f"{condition} on {self}", timeout)

    def create_tablespace(self, name):
        """Creates a tablespace in a directory of its own and returns the directory."""
        location = self._scratch.path / f"tablespace-{name}"
        run(["mkdir", location]).check()
        self.sql(f'CREATE TABLESPACE "{name}" LOCATION \'{location}\'')
        return location

    def promote(self):
        """Ends a standby's recovery, which starts a new timeline."""
        run([self.bin / "pg_ctl", "promote", "-w", "-D", self.data_dir]).check()
        self.wait_for("NOT pg_is_in_recovery()")

    # --- data ---

    def pgbench_init(self, scale=1):
        run([STOCK_BIN / "pgbench", "-i", "-q", "-s", scale, "postgres"], env=self.env()).check()

    def pgbench_load(self, clients=2):
        """Starts the standard pgbench transactions in the background: see PgbenchLoad."""
        return PgbenchLoad(self, clients)

    def pgbench_is_consistent(self):
        """Whether pgbench's invariant holds: every sum of balances is the sum of all changes."""
        [sums] = self.sql(
            "SELECT (SELECT coalesce(sum(delta), 0) FROM pgbench_history),"
            " (SELECT sum(abalance) FROM pgbench_accounts),"
            " (SELECT sum(tbalance) FROM pgbench_tellers),"
            " (SELECT sum(bbalance) FROM pgbench_branches)"
        )
        return len(set(sums)) == 1

    def data_digest(self):
        """The content of every permanent table as {"database.schema.table": (rows, digest)}."""
        databases = self.sql("SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1")
        return {
            f"{database}.{table}": (int(rows), digest)
            for [database] in databases
            for table, rows, digest in self.sql(DIGEST_QUERY, database)
        }

    # --- copies ---

    def start_copy(self, data_dir, **settings):
        """Starts a server of the same version on a restored backup; settings as for Server."""
        return Server(self.major, data_dir=data_dir, auth=self.auth, **settings).__enter__()

    def start_standby(self, data_dir, **settings):
        """Starts a standby of this server on a restored backup of its cluster."""
        self._request_recovery(data_dir, standby=True, primary_conninfo=self.conninfo())
        return self.start_copy(data_dir, **settings)

    def start_recovered(self, data_dir, archive, restore_command=None, **settings):
        """Starts a server on a restored backup after recovery with all the WAL in a directory, which
        it gets with `cp` or another command.
        """
        command = restore_command or f'cp "{archive}/%f" "%p"'
        self._request_recovery(data_dir, restore_command=command)
        copy = self.start_copy(data_dir, **settings)
        try:
            copy.wait_for("NOT pg_is_in_recovery()")
        except BaseException:
            copy.close()
            raise
        return copy

    def _request_recovery(self, data_dir, standby=False, **parameters):
        """Tells the next start on this directory what to recover from; see forget_recovery."""
        parameters["recovery_target_timeline"] = "latest"
        if self.major < RECOVERY_PARAMETERS_ARE_SETTINGS:
            parameters["standby_mode"] = "on" if standby else "off"
            conf = data_dir / "recovery.conf"
        else:
            run(["touch", data_dir / ("standby.signal" if standby else "recovery.signal")]).check()
            conf = data_dir / "postgresql.auto.conf"
        run(["touch", conf]).check()
        with open(conf, "a") as file:
            file.writelines(f"{name} = {_quote(value)}\n" for name, value in parameters.items())


def forget_recovery(data_dir):
    """Makes a restored backup of a standby start as a server of its own."""
    for name in ("standby.signal", "recovery.conf"):
        (data_dir / name).unlink(missing_ok=True)


# One query for each table, made and then run by psql. Neither sum depends on the order of the rows.
DIGEST_QUERY = r"""
SELECT format('SELECT %L, count(*), coalesce(sum(hashtext(t::text)), 0) FROM %s t',
              oid::regclass, oid::regclass)
FROM pg_class
WHERE relkind = 'r' AND relpersistence = 'p'
  AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
ORDER BY oid \gexec
"""


class PgbenchLoad:
    """pgbench running in the background. A context manager; stop() it before comparing data."""

    def __init__(self, server, clients):
        self.server = server
        self._transactions_before = self._history_rows()
        self._process = Background(
            [STOCK_BIN / "pgbench", "-n", "-c", clients, "-T", 3600, "postgres"], env=server.env()
        )

    def _history_rows(self):
        return int(self.server.value("SELECT count(*) FROM pgbench_history"))

    def transactions(self):
        """How many transactions it has committed so far."""
        return self._history_rows() - self._transactions_before

    def wait_transactions(self, count, timeout=60):
        """Waits until it has committed `count` more transactions than now."""
        goal = self.transactions() + count

        def reached():
            if not self._process.is_running():
                raise ServerFailed(f"pgbench ended: {self._process.wait()}")
            return self.transactions() >= goal

        wait_until(reached, f"{count} transactions of pgbench", timeout)

    def stop(self):
        """Ends the load and waits until the server has finished its last transactions."""
        self._process.close()
        self.server.wait_for(
            "NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'pgbench')"
        )

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._process.close()


def _quote(value):
    """Quotes a value for postgresql.conf and for connection strings, whose rules agree."""
    escaped = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _free_port():
    """A port nobody listens on, below those that the kernel gives to outgoing connections."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
