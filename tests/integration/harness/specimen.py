"""A backup that is damaged and made whole again, fault after fault, without copying all of it.

    specimen = Specimen(backup, [tablespace])
    with specimen.damaged():
        specimen.write("PG_VERSION", b"99\n")
        ...
    # everything is as it was, or there was an AssertionError

Paths are as in the manifest: those of tablespaces begin with pg_tblspc/OID.
"""

import contextlib
import functools
import os
import shutil
import stat
from pathlib import Path

from .run import PLAIN_USER


class Specimen:
    """A backup, or any other directory, that belongs to the plain user."""

    def __init__(self, directory, outside=()):
        self.directory = Path(directory)
        self._roots = [self.directory, *map(Path, outside)]
        self._undo = []
        # Beside it: what is set aside is moved, which must not be a copy.
        self._aside = self.directory.with_name(f"{self.directory.name}-set-aside")
        self._aside.mkdir(mode=0o755)

    # --- looking ---

    def path(self, name):
        return self.directory / name

    def read(self, name):
        return self.path(name).read_bytes()

    def names(self):
        """Of all that is in the directory itself, sorted."""
        return sorted(path.name for path in self.directory.iterdir())

    # --- changing: each change knows how to undo itself ---

    def write(self, name, data, mode=0o600):
        """A file with this content in place of whatever is there."""
        self.remove(name, missing_ok=True)
        path = self._made(name)
        path.write_bytes(data)
        self._give_away(path, mode)

    def remove(self, name, missing_ok=False):
        path = self.path(name)
        if missing_ok and not os.path.lexists(path):
            return
        place = self._aside / str(len(self._undo))
        path.rename(place)
        self._undo.append(functools.partial(place.rename, path))

    def rename(self, name, new_name):
        path, new_path = self.path(name), self.path(new_name)
        if os.path.lexists(new_path):
            raise FileExistsError(new_path)
        path.rename(new_path)
        self._undo.append(functools.partial(new_path.rename, path))

    def swap(self, one, other):
        self.rename(one, f"{one}-parked")
        self.rename(other, one)
        self.rename(f"{one}-parked", other)

    def replace_by_directory(self, name):
        self.remove(name, missing_ok=True)
        self._made(name).mkdir()
        self._give_away(self.path(name), 0o700)

    def replace_by_link(self, name, target):
        self.remove(name, missing_ok=True)
        self._made(name).symlink_to(target)

    def replace_by_link_to_itself(self, name):
        """The content is the same, but it is elsewhere."""
        place = self._aside / f"{len(self._undo)}-linked"
        self.path(name).rename(place)
        self._undo.append(functools.partial(place.rename, self.path(name)))
        self._made(name).symlink_to(place)

    def replace_by_fifo(self, name):
        """Whoever opens it waits for ever."""
        self.remove(name)
        os.mkfifo(self._made(name))
        self._give_away(self.path(name), 0o600)

    def chmod(self, name, mode):
        before = stat.S_IMODE(self.path(name).stat().st_mode)
        self.path(name).chmod(mode)
        self._undo.append(functools.partial(self.path(name).chmod, before))

    def _made(self, name):
        """The path of something that is new, and goes again."""
        path = self.path(name)
        self._undo.append(functools.partial(_remove_any, path))
        return path

    @staticmethod
    def _give_away(path, mode):
        os.chown(path, PLAIN_USER.pw_uid, PLAIN_USER.pw_gid)
        path.chmod(mode)

    # --- as it was ---

    @contextlib.contextmanager
    def damaged(self):
        """Whatever is changed within this is undone at its end."""
        before = self._state()
        try:
            yield
        finally:
            while self._undo:
                self._undo.pop()()
        if self._state() != before:
            raise AssertionError(f"{self.directory} is not as it was")

    def _state(self):
        """What there is, in a form that tells whether anybody has changed anything."""
        return {os.path.join(directory, name): _identity(os.path.join(directory, name))
                for root in self._roots
                for directory, directories, files in os.walk(root)
                for name in (*directories, *files)}


def _identity(path):
    status = os.lstat(path)
    changes = () if stat.S_ISDIR(status.st_mode) else (status.st_size, status.st_mtime_ns)
    return (status.st_ino, status.st_mode, *changes)


def _remove_any(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
