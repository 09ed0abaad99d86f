"""A file system that is soon full."""

import contextlib
import os
from contextlib import contextmanager

from .run import PLAIN_USER, ScratchDir, run

BLOCK = os.sysconf("SC_PAGE_SIZE")


@contextmanager
def small_filesystem(test, size):
    """Yields a directory of the plain user on a file system of this size, for example "20M".

    Skips the test where file systems cannot be mounted.
    """
    if os.geteuid() != 0:
        test.skipTest("only root can mount a file system")
    with ScratchDir() as directory:
        options = f"size={size},uid={PLAIN_USER.pw_uid},gid={PLAIN_USER.pw_gid},mode=700"
        mounted = run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory], user="root")
        if mounted.rc != 0:
            test.skipTest(f"cannot mount a file system: {mounted.err}")
        try:
            yield directory
        finally:
            run(["umount", directory], user="root").check()


def used_bytes(directory):
    """How much of its file system is in use."""
    status = os.statvfs(directory)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def resize(directory, size):
    """Gives a small file system another size, in bytes; it counts in blocks of BLOCK."""
    run(["mount", "-o", f"remount,size={size}", directory], user="root").check()


def fill(filler, leaving=0):
    """Makes a file that takes all the room of its file system but `leaving` bytes, also when other
    programs are writing there.
    """
    with open(filler, "wb") as file:
        while True:
            status = os.statvfs(filler)
            room = status.f_bavail * status.f_frsize - leaving
            if room < status.f_frsize:
                return
            with contextlib.suppress(OSError):  # somebody was faster
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, room)
