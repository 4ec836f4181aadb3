"""Outputs that appear whole or not at all: written beside their target, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from spectra.errors import OutputError, OutputWarning
from spectra.io.exchange import exchange
from spectra.io.own_folders import check_own, write_listing
from spectra.io.workplaces import remove_leftovers, temporary_beside, workplace

REASONS = {
    errno.ENOSPC: "the disk is full; free some space or choose another place",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another place",
    errno.EFBIG: "the file is larger than this file system or process may write; choose another place",
    errno.EACCES: "permission denied; choose another place or change its permissions",
    errno.EPERM: "permission denied; choose another place or change its permissions",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ENOTDIR: "a part of the path is a file, not a folder; choose another place",
    errno.EEXIST: "something of that name exists already; choose another name",
    errno.ENOTEMPTY: "something of that name exists already; choose another name",
    errno.EISDIR: "it is a folder; name a file",
}
"""What an operating system's refusal means, and what to do, by `errno`."""


def check_output(path: Path | str, *, force: bool = False, folder_of: str = "") -> Path:
    """Checks that `path` could be written, before slow work begins, and returns it. Creates nothing; what killed
    processes left beside `path` is removed, so that its room is free again.

    Args:
        path: of a file or folder.
        force: it may replace an earlier output.
        folder_of: it is a folder, of this kind of output: the command that writes it. One that holds anything else is
            never replaced (`spectra.io.own_folders`).

    Raises:
        OutputError: it exists and `force` is not given, is a link or a device, is none of our folders, or its nearest
            existing folder cannot be written.
    """
    target = Path(path)
    _check_kind(target)
    remove_leftovers(target.parent)
    if not force and os.path.lexists(target):
        raise _exists(target)
    if folder_of and os.path.lexists(target):
        if not target.is_dir():
            raise OutputError(f"cannot write {target}: it is a file; name a folder")
        with explained(target):
            check_own(target, folder_of)
    folder = target.absolute().parent
    while not os.path.lexists(folder):
        folder = folder.parent
    if not folder.is_dir():
        raise OutputError(f"cannot write {target}: {folder} is not a folder; choose another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write {target}: permission denied in {folder}; choose another place")
    return target


def _check_kind(target: Path) -> None:
    """Refuses to replace what is neither a file nor a folder: the rename would put a file in its place.

    Raises:
        OutputError: it is a link, a device, a pipe or a socket, or no name that a file can have.
    """
    try:
        mode = target.lstat().st_mode
    except ValueError as error:
        raise OutputError(f"cannot write {target}: {error}; choose another name") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise OutputError(f"cannot write {target}: {REASONS[error.errno]}") from error
        return
    if stat.S_ISLNK(mode):
        raise OutputError(f"cannot write {target}: it is a link; name what it points to, or another file")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OutputError(f"cannot write {target}: it is no regular file but a device or a pipe; name a file")


@contextlib.contextmanager
def atomic_write(path: Path | str, *, force: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`, which takes the place of `path` when the block ends without an error.

    Missing parent folders are made. On any failure the temporary file is removed and `path` is as it was.

    Args:
        path: the file to write.
        force: replace a file that exists. Without it a file that appears while the block runs is kept as well.

    Raises:
        OutputError: `path` exists and `force` is not given, is a folder, or cannot be written (disk full, ...).
    """
    target = check_output(path, force=force)
    if target.is_dir():
        raise OutputError(f"cannot write {target}: it is a folder; name a file")
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary_beside(target) as temporary:
            yield temporary
            _to_disk(temporary)
            if force:
                temporary.replace(target)
            else:
                _rename_new(temporary, target)


@contextlib.contextmanager
def atomic_folder(path: Path | str, kind: str, *, force: bool = False) -> Iterator[Path]:
    """A temporary, empty folder beside `path`, which takes the place of `path` when the block ends without an error.

    With `force` an earlier output of this kind is replaced, and removed only after the new one is in place; what it
    held is not merged.

    Args:
        path: the folder to write.
        kind: the command that writes it; it stands in the list of files that the folder gets.
        force: replace an earlier output.

    Raises:
        OutputError: `path` exists and `force` is not given, is no earlier output of this kind or holds other files
            too, or cannot be written.
    """
    target = check_output(path, force=force, folder_of=kind)
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with workplace(target.parent) as place:
            temporary = place / "new" / target.name
            temporary.mkdir()
            yield temporary
            write_listing(temporary, kind)
            for file in temporary.rglob("*"):
                if file.is_file() and not file.is_symlink():
                    _to_disk(file)
            if not force or not target.is_dir():
                temporary.rename(target)
            else:
                _replace(temporary, target, kind)


def copy_folder(source: Path, target: Path, *, wanted: Callable[[Path], bool] = lambda path: True) -> None:
    """Copies the files of a folder, those that links lead to among them, without their permissions and times.

    Args:
        source: the folder.
        target: where to; made if it is not there.
        wanted: whether a file shall be copied.

    Raises:
        OSError: the first that cannot be read or written (`shutil.copytree` collects them, and loses their reasons).
    """

    def refuse(error: OSError) -> None:
        raise error

    for place, _, files in os.walk(source, onerror=refuse, followlinks=True):
        inside = target / Path(place).relative_to(source)
        inside.mkdir(parents=True, exist_ok=True)
        for file in (Path(place) / name for name in sorted(files)):
            if wanted(file):
                shutil.copyfile(file, inside / file.name)


def _to_disk(file: Path) -> None:
    """The bytes are on the disk before the name: a crash leaves the old file or the new one, never half."""
    with file.open("rb") as written:
        os.fsync(written.fileno())


def _replace(temporary: Path, target: Path, kind: str) -> None:
    """Put a new folder in the place of an earlier one, which is left to be removed."""
    try:
        check_own(target, kind)
    except OutputError:
        kept = target.with_name(f"{target.name}.{secrets.token_hex(4)}")
        target.rename(kept)
        temporary.rename(target)
        warnings.warn(f"{target} had got other files meanwhile, and is kept as {kept}", OutputWarning, stacklevel=4)
        return
    if exchange(temporary, target):
        return
    aside = temporary.parents[1] / "old" / target.name
    aside.parent.mkdir()
    target.rename(aside)
    try:
        temporary.rename(target)
    except BaseException:
        aside.rename(target)
        raise


def _rename_new(temporary: Path, target: Path) -> None:
    """Rename without replacing: a hard link fails if the target exists. Where there are none, look first."""
    try:
        os.link(temporary, target)
    except OSError:
        if os.path.lexists(target):
            raise _exists(target) from None
        temporary.rename(target)


def _exists(target: Path) -> OutputError:
    return OutputError(f"{target} exists already; choose another output or pass --force to replace it")


@contextlib.contextmanager
def explained(target: Path) -> Iterator[None]:
    """An operating system's refusal, as an `OutputError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in REASONS:
            raise
        raise OutputError(f"cannot write {target}: {REASONS[error.errno]}") from error
