"""A program at a terminal: for what it asks of a person."""

import os
import pty
import re
import subprocess
import termios

from .run import as_user, environment, track, untrack, wait_until


class Terminal:
    """A program that runs with a terminal of its own. A context manager: killed at the end.

        with Terminal([pgstow_path(), "basebackup", "-W", ...], env=server.env()) as terminal:
            terminal.wait_for("Password: ")
            terminal.type("secret\\n")
            assert terminal.wait() == 0
    """

    def __init__(self, cmd, *, env=None):
        self.cmd = [str(word) for word in cmd]
        self._shown = b""
        self._ours, self._theirs = pty.openpty()
        os.set_blocking(self._ours, False)
        # setsid makes the terminal that of the session, which /dev/tty stands for.
        self.process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", "setsid", "--ctty", *self.cmd],
            stdin=self._theirs, stdout=self._theirs, stderr=self._theirs,
            env=environment(env), cwd="/", **as_user(None),
        )
        track(self)

    def shown(self):
        """All that has been shown so far, what was typed and echoed included."""
        while True:
            try:
                self._shown += os.read(self._ours, 65536)
            except BlockingIOError:
                return self._shown.decode(errors="replace").replace("\r\n", "\n")

    def wait_for(self, pattern, timeout=60):
        """Waits until what is shown matches this regular expression."""
        wait_until(lambda: re.search(pattern, self.shown()), f'"{pattern}" at a terminal', timeout)

    def type(self, text):
        os.write(self._ours, text.encode())

    def echoes(self):
        """Whether the terminal shows what is typed."""
        return bool(termios.tcgetattr(self._theirs)[3] & termios.ECHO)

    def wait(self, timeout=120):
        """Waits for the end and returns the exit status: negative when a signal ended it."""
        wait_until(lambda: self.shown() is not None and self.process.poll() is not None,
                   f"end of {self.cmd[0]}: {self.shown()}", timeout)
        return self.process.returncode

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)
        untrack(self)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()
