"""Running programs as an ordinary user, and leaving nothing behind.

Servers refuse to run as root, and a backup must belong to whoever starts it. So where the tests run
as root, every program here runs as PLAIN_USER instead, and works in a ScratchDir of that user.

Whatever has to go away again (a process, a directory) is tracked, and closed when the interpreter
ends, also through SIGTERM, SIGHUP or Ctrl-C. If it is killed, the kernel kills the processes.
"""

import atexit
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from dataclasses import dataclass
from pathlib import Path

STOCK_BIN = Path(os.environ.get("STOCK_BIN", "/usr/lib/postgresql/15/bin"))
POLL_SECONDS = 0.02


def _plain_user():
    """The user to run programs as: like plain_user in scripts/lib/common.sh."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid())
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


PLAIN_USER = _plain_user()


# --- what has to be closed at the end ---

_tracked = []


def track(thing):
    """Has thing.close() called when the interpreter ends, unless it is untracked before."""
    _tracked.append(thing)


def untrack(thing):
    if thing in _tracked:
        _tracked.remove(thing)


def _close_tracked():
    for thing in reversed(_tracked.copy()):
        try:
            thing.close()
        except Exception as error:
            print(f"could not clean up {thing}: {error}", file=sys.stderr)


atexit.register(_close_tracked)
# As a KeyboardInterrupt, because unittest takes any other exception for the failure of one test.
signal.signal(signal.SIGTERM, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.default_int_handler)


class ScratchDir:
    """A temporary directory of the plain user: `with ScratchDir() as path`, or path and close()."""

    def __init__(self):
        self.path = Path(tempfile.mkdtemp(prefix="pgstow-it-"))
        os.chown(self.path, PLAIN_USER.pw_uid, PLAIN_USER.pw_gid)
        track(self)

    def close(self):
        shutil.rmtree(self.path, ignore_errors=True)
        untrack(self)

    def __enter__(self):
        return self.path

    def __exit__(self, *exc_info):
        self.close()


# --- processes ---


class CommandFailed(AssertionError):
    """A command ended otherwise than the test needs."""


@dataclass(frozen=True)
class Result:
    """How a command ended. rc is negative when a signal ended it."""

    cmd: list
    rc: int
    out: str
    err: str
    seconds: float

    def check(self):
        """Returns the result itself, or raises CommandFailed if the status was not 0."""
        if self.rc != 0:
            raise CommandFailed(str(self))
        return self

    def __str__(self):
        return (
            f"{' '.join(self.cmd)}\nexit status {self.rc} after {self.seconds:.1f} s\n"
            f"--- stdout ---\n{self.out}\n--- stderr ---\n{self.err}"
        )


def wait_until(condition, what, timeout=60):
    """Waits until condition() is true and returns its value; raises TimeoutError naming `what`."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout} s")
        time.sleep(POLL_SECONDS)
    return value


def environment(extra):
    """Ours without libpq's variables: what a program connects to is for the test to say."""
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PG") or name.startswith("PGSTOW_")
    }
    env.update(LC_ALL="C", HOME=tempfile.gettempdir())
    env.update(extra or {})
    return env


class Background:
    """A running program. As a context manager it is killed at the end if it still runs.

    stdout is where its standard output goes instead of Result.out, as an open binary file.
    user is a user name, for the rare test that does not want the plain user.
    death_signal is what the program gets if the test, or the thread that started it, dies.
    """

    def __init__(self, cmd, *, env=None, input="", stdout=None, user=None, cwd=None,
                 death_signal="KILL"):
        self.cmd = [str(word) for word in cmd]
        self._out = tempfile.TemporaryFile()
        self._err = tempfile.TemporaryFile()
        self._started = time.monotonic()
        with tempfile.TemporaryFile() as stdin:
            stdin.write(input.encode())
            stdin.seek(0)
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", death_signal, "--", *self.cmd],
                stdin=stdin, stdout=stdout or self._out, stderr=self._err,
                env=environment(env), cwd=cwd or "/", start_new_session=True, **as_user(user),
            )
        track(self)

    @property
    def pid(self):
        return self.process.pid

    def is_running(self):
        return self.process.poll() is None

    def out(self):
        return _whole_text(self._out)

    def err(self):
        return _whole_text(self._err)

    def wait_for_err(self, pattern, timeout=60):
        """Waits until standard error matches this regular expression, and returns the match."""

        def matched_or_ended():
            running = self.is_running()  # asked before reading: what it wrote last counts too
            match = re.search(pattern, self.err(), re.MULTILINE)
            if not match and not running:
                raise CommandFailed(f'ended without "{pattern}":\n{self._result()}')
            return match

        return wait_until(matched_or_ended, f'"{pattern}" from {self.cmd[0]}', timeout)

    def send_signal(self, number):
        self.process.send_signal(number)

    def wait(self, timeout=120):
        """Waits for the end, returns the Result; kills it and raises TimeoutError if too late."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._kill()
            raise TimeoutError(f"killed after {timeout} s: {self._result()}") from None
        return self._result()

    def stop(self, number=signal.SIGTERM, timeout=60):
        """Signals it, waits for the end and returns the Result."""
        self.send_signal(number)
        return self.wait(timeout)

    def close(self):
        self._kill()
        self._out.close()
        self._err.close()
        untrack(self)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def _kill(self):
        if self.is_running():
            os.killpg(self.pid, signal.SIGKILL)
            self.process.wait()

    def _result(self):
        seconds = time.monotonic() - self._started
        return Result(self.cmd, self.process.returncode, self.out(), self.err(), seconds)


def as_user(name):
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam(name) if name else PLAIN_USER
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _whole_text(file):
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode(errors="replace")


def run(cmd, *, timeout=120, **options):
    """Runs a command to its end and returns its Result. For the options see Background."""
    with Background(cmd, **options) as process:
        return process.wait(timeout)


def stock(tool, *args, **options):
    """Runs a stock PostgreSQL 15 tool."""
    return run([STOCK_BIN / tool, *args], **options)


def pgstow(*args, **options):
    """Runs the pgstow program that PGSTOW_BIN names."""
    return run([pgstow_path(), *args], **options)


def compat(tool, *args, **options):
    """Runs pgstow under the name of a stock tool, from the directory PGSTOW_COMPAT."""
    return run([compat_path(tool), *args], **options)


def basebackup(*args, **options):
    """Runs pg_basebackup with a fast checkpoint, from the directory PGSTOW_COMPAT.

    That can also be a directory of stock tools, to see whether a test holds for them.
    """
    return compat("pg_basebackup", "-c", "fast", *args, **options)


def is_stock_tested():
    """Whether PGSTOW_COMPAT is a directory of stock tools, which take our place."""
    return compat_path("pg_basebackup").resolve().name != pgstow_path().name


def ours_only(reason, before=None):
    """Decorates a test of something that the stock tools do not do, or do wrong, or did until
    version `before`.
    """
    skipped = is_stock_tested()
    if skipped and before:
        version = subprocess.run([compat_path("pg_basebackup"), "--version"], check=True,
                                 capture_output=True, text=True).stdout
        skipped = int(re.search(r"\) (\d+)", version)[1]) < before
    return unittest.skipIf(skipped, reason)


def pgstow_path():
    return Path(os.environ["PGSTOW_BIN"])


def compat_path(tool):
    return Path(os.environ["PGSTOW_COMPAT"]) / tool
