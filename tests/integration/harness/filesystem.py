"""A file system that is soon full."""

import os
from contextlib import contextmanager

from .run import PLAIN_USER, ScratchDir, run


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
