"""Two names of a folder change places at once, where the operating system can do that."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_HERE = -100  # AT_FDCWD: paths are taken as they are
_LINUX_EXCHANGE = 2
_MACOS_SWAP = 2


def exchange(one: Path, other: Path) -> bool:
    """Let two paths of one file system change places: there is no moment at which either name is free.

    Returns:
        Whether it was done; False where there is no such call, or the file system does not know it. Nothing has
        changed then.
    """
    if sys.platform not in ("linux", "darwin"):
        return False
    library = ctypes.CDLL(None, use_errno=True)
    first, second = os.fsencode(one), os.fsencode(other)
    try:
        if sys.platform == "darwin":
            return int(library.renamex_np(first, second, _MACOS_SWAP)) == 0
        return int(library.renameat2(_HERE, first, _HERE, second, _LINUX_EXCHANGE)) == 0
    except AttributeError:  # an older libc
        return False
