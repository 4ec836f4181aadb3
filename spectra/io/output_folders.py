"""Output folders: what may be replaced by a new one."""

from __future__ import annotations

from pathlib import Path

from spectra.errors import OutputError


def check_ours(folder: Path, mark: str) -> None:
    """That replacing `folder` destroys nothing but an earlier output, which has a file called `mark` in it.

    Raises:
        OutputError: it exists, holds something, and has no such file.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / mark).is_file():
        raise OutputError(f"{folder} holds other files (it has no {mark}) and is never replaced; choose a new folder")
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"cannot write {folder}: it is a file; name a folder")
