"""Folders in which outputs are written before they are renamed, each beside what it becomes.

One is called `.spectra-` and eight digits. While it is in use its `lock` is held, so that what a killed process left is
known by its lock being free: the next output into the same folder removes it. In it lie

    new/<name>    the output on its way
    old/<name>    the output that was there, for the moment between two renames; if that moment was the last one of its
                  process, it is put back
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from spectra.io.locks import Lock, take_lock

_NAME = re.compile(r"\.spectra-[0-9a-f]{8}")


@contextlib.contextmanager
def workplace(folder: Path) -> Iterator[Path]:
    """A locked folder in `folder`, removed afterwards."""
    lock = None
    while lock is None:
        place = folder / f".spectra-{secrets.token_hex(4)}"
        place.mkdir()
        with contextlib.suppress(FileNotFoundError):  # taken for a leftover before it was locked: once more
            lock = take_lock(place / "lock")
    try:
        (place / "new").mkdir()
        yield place
    finally:
        _clear(place, lock)


@contextlib.contextmanager
def temporary_beside(target: Path) -> Iterator[Path]:
    """A path of the target's name on its file system, for a file that is renamed; what is left there is removed."""
    with workplace(target.parent) as place:
        yield place / "new" / target.name


def remove_leftovers(folder: Path) -> tuple[int, int]:
    """Removes what killed processes left in a folder; an output that one of them had set aside is put back.

    Returns:
        How many files were removed, and their bytes.
    """
    sizes: list[int] = []
    for place in _leftovers(folder):
        with contextlib.suppress(OSError):
            lock = take_lock(place / "lock")
            if lock is not None and lock.certain:
                sizes += [file.lstat().st_size for file in (place / "new").rglob("*") if not file.is_dir()]
                _clear(place, lock)
            elif lock is not None:
                lock.release()
    return len(sizes), sum(sizes)


def _clear(place: Path, lock: Lock) -> None:
    """Remove a working folder whose lock is held; the lock goes last, since until then nobody else may clear it."""
    shutil.rmtree(place / "new", ignore_errors=True)
    for old in (place / "old").glob("*"):
        target = place.parent / old.name
        if os.path.lexists(target):
            shutil.rmtree(old, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                old.rename(target)
    lock.release()
    for folder in (place / "old", place):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _leftovers(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as found:
            ours = [each for each in found if _NAME.fullmatch(each.name)]
            return [Path(each.path) for each in ours if each.is_dir(follow_symlinks=False)]
    except OSError:
        return []
