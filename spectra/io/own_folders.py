"""Output folders that know what was written into them, so that nothing else is ever deleted with them.

`.spectra.json` in each says which kind of output it is, and lists its files. A folder is replaced only by an output of
its kind, and only if it holds nothing but those.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from spectra.errors import OutputError

LISTING = ".spectra.json"
_FORMAT = "spectra-output-folder"
_MADE_BY_FILE_BROWSERS = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})


def write_listing(folder: Path, kind: str) -> None:
    """List the files of a finished folder in it."""
    files = sorted(path for path in _files(folder) if path != LISTING)
    text = json.dumps({"format": _FORMAT, "kind": kind, "files": files}, indent=1)
    (folder / LISTING).write_text(text + "\n", encoding="utf-8")


def check_own(folder: Path, kind: str) -> None:
    """Check that a folder may be replaced by an output of a kind: it is empty, or an earlier one and nothing more.

    Raises:
        OutputError: it is something else, or holds other files too.
    """
    found = [path for path in _files(folder) if Path(path).name not in _MADE_BY_FILE_BROWSERS]
    if not found and not any(path.is_dir() for path in folder.iterdir()):
        return
    known = _listed(folder, kind)
    if not known:
        raise OutputError(
            f"{folder} holds other files than {kind} writes (no list of them in {LISTING}) and is never replaced; "
            "choose a new folder"
        )
    if others := sorted(set(found) - known - {LISTING}):
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise OutputError(
            f"{folder} holds other files than {kind} wrote ({others[0]}{more}) and is not replaced; move them "
            "elsewhere, or choose a new folder"
        )


def remove_own(folder: Path) -> None:
    """Remove the files that a folder lists, and it and its parent folder, where nothing else is in them."""
    for path in (_listed(folder) | {LISTING}) & set(_files(folder)):
        (folder / path).unlink()
    inside = [Path(place) for place, _, _ in os.walk(folder, topdown=False)]
    for each in (*inside, folder.parent):
        with contextlib.suppress(OSError):
            each.rmdir()


def _listed(folder: Path, kind: str = "") -> set[str]:
    """The files that a folder lists as those of an output of this kind, or of any; none where it does not."""
    try:
        found = json.loads((folder / LISTING).read_text(encoding="utf-8"))
        if found["format"] == _FORMAT and kind in ("", found["kind"]):
            return {path for path in found["files"] if isinstance(path, str)}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return set()


def _files(folder: Path) -> Iterator[str]:
    """Everything in a folder that is no folder, links among them, by its path from there with slashes."""
    for place, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        for name in (*files, *links):
            yield (Path(place) / name).relative_to(folder).as_posix()
