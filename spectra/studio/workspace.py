"""The folder of a studio: what a request may name in it, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from spectra.analysis.library import SUFFIX, LibraryEntry, read_entry
from spectra.errors import InputError

HIDDEN = ".studio"
"""Folder of what the page keeps for itself: uploaded pictures and the queue. Libraries pass over hidden folders."""

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
"""Files that a browser may be given to show."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")


class Workspace:
    """A folder, and the names of things in it.

    Args:
        folder: made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._root = folder.resolve()
        self.hidden.mkdir(exist_ok=True)

    @property
    def hidden(self) -> Path:
        """Folder of what the page keeps for itself."""
        return self.folder / HIDDEN

    def find(self, name: str) -> Path:
        """The path of a file or folder that is there, by its path in the folder.

        Raises:
            InputError: it is not there, or, links followed, not in the folder.
        """
        try:
            path = self.folder / name
            found = path.resolve(strict=True)
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"{name!r} is not in the folder") from error
        if not found.is_relative_to(self._root):
            raise InputError(f"{name!r} is not in the folder")
        return path

    def picture(self, name: str) -> Path:
        """The path of a picture that a browser may be given.

        Raises:
            InputError: it is not there, or no picture.
        """
        path = self.find(name)
        if path.suffix.lower() not in PICTURES or not path.is_file():
            raise InputError(f"{name!r} is no picture")
        return path

    def shift(self, name: str) -> LibraryEntry:
        """The shift of a name as `name_of` gives it.

        Raises:
            InputError: there is none.
            ShiftFileError: its file is damaged.
        """
        entry = read_entry(self.find(f"{name}{SUFFIX}"))
        if entry is None:
            raise InputError(f"{name!r} is no shift")
        return entry

    def name_of(self, path: Path) -> str:
        """What a page calls a file in the folder: its path from there; of a shift without the ending."""
        name = path.relative_to(self.folder).as_posix()
        return name.removesuffix(SUFFIX)

    def new(self, name: str) -> Path:
        """Where something new of this name goes.

        Raises:
            InputError: it is no plain name.
        """
        return self.folder / plain_name(name)


def plain_name(name: str) -> str:
    """The name itself, if it can be that of a new file or folder on any system.

    Raises:
        InputError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"name: expected letters, digits, - and _, at most 60, got {name!r}")
    return name
