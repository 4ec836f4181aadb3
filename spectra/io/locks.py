"""Locks on files that the operating system keeps: whoever dies has let go of them, so that none goes stale."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_BUSY = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


@dataclass(frozen=True)
class Lock:
    """A lock that is held.

    Attributes:
        path: its file, which goes with it.
        certain: nobody else can hold it; False where the file system knows no locks.
    """

    path: Path
    certain: bool
    _descriptor: int

    def release(self) -> None:
        """Let go, and remove the file."""
        # First the name: whoever opens it from now on makes a file of their own, and whoever has it open looks again.
        with contextlib.suppress(OSError):
            self.path.unlink()
        os.close(self._descriptor)
        if sys.platform == "win32":  # where an open file cannot be removed
            with contextlib.suppress(OSError):
                self.path.unlink()


def take_lock(path: Path) -> Lock | None:
    """The lock on a file, which is made if it is not there; None while another process or thread holds it.

    Raises:
        OSError: the file cannot be made, because its folder is gone, for one.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            held = _try(descriptor)
            if held is not None and os.path.samestat(os.fstat(descriptor), path.lstat()):
                return Lock(path, held, descriptor)
        except FileNotFoundError:  # released and removed since it was opened
            held = False
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if held is None:
            return None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[Lock | None]:
    """`take_lock` for as long as the block runs."""
    lock = take_lock(path)
    try:
        yield lock
    finally:
        if lock is not None:
            lock.release()


def _try(descriptor: int) -> bool | None:
    """Lock an open file at once: True; False where there are no locks; None where another holds it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return None if error.errno in _BUSY else False
    return True
