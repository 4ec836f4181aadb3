"""Outputs that appear whole or not at all: written beside their target under another name, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from spectra.errors import OutputError

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
    errno.EISDIR: "it is a folder; name a file",
}
"""What an operating system's refusal means, and what to do, by `errno`."""


def check_output(path: Path | str, *, force: bool = False, mark: str = "") -> Path:
    """Checks that `path` could be written, before slow work begins, and returns it. Creates nothing.

    Args:
        path: of a file or folder.
        force: it may replace an earlier output.
        mark: of a folder: the name, or a pattern of names, of a file that every earlier output has. A folder that
            holds something, and none of these, is never replaced.

    Raises:
        OutputError: it exists and `force` is not given, is a link or a device, is none of our folders, or its nearest
            existing folder cannot be written.
    """
    target = Path(path)
    _check_kind(target)
    if not force and os.path.lexists(target):
        raise _exists(target)
    if mark and target.is_dir() and any(target.iterdir()) and not any(target.glob(mark)):
        raise OutputError(f"{target} holds other files (it has no {mark}) and is never replaced; choose a new folder")
    if mark and target.exists() and not target.is_dir():
        raise OutputError(f"cannot write {target}: it is a file; name a folder")
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
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary_beside(target) as temporary:
            yield temporary
            with temporary.open("rb") as written:
                # The bytes are on the disk before the name: a crash leaves the old file or the new one, never half.
                os.fsync(written.fileno())
            if force:
                temporary.replace(target)
            else:
                _rename_new(temporary, target)


@contextlib.contextmanager
def temporary_beside(target: Path) -> Iterator[Path]:
    """A path beside `target` that nothing has yet, for a file that is renamed; what is left there is removed."""
    # The suffix stays last: writers such as Pillow choose their format by it.
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.tmp{target.suffix}")
    try:
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path | str, *, force: bool = False) -> Iterator[Path]:
    """A temporary, empty folder beside `path`, which takes the place of `path` when the block ends without an error.

    With `force` an existing folder is set aside, replaced, and removed only after the new one is in place; what it
    held is not merged.

    Raises:
        OutputError: `path` exists and `force` is not given, is not a folder, or cannot be written.
    """
    target = check_output(path, force=force)
    if os.path.lexists(target) and not target.is_dir():
        raise OutputError(f"cannot write {target}: it is a file; name a folder")
    token = secrets.token_hex(4)
    temporary = target.with_name(f".{target.name}.{token}.tmp")
    aside = target.with_name(f".{target.name}.{token}.old")
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        try:
            yield temporary
            if force and target.is_dir():
                target.rename(aside)
            try:
                temporary.rename(target)
            except BaseException:
                if aside.is_dir():
                    aside.rename(target)
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(aside, ignore_errors=True)


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
def _explained(target: Path) -> Iterator[None]:
    """An operating system's refusal, as an `OutputError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in REASONS:
            raise
        raise OutputError(f"cannot write {target}: {REASONS[error.errno]}") from error
