"""A layer between commands and their files: from the n-th write into a folder on, the disk is full."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock


class Writes:
    """Counts the writes that were tried."""

    def __init__(self, full_at: int) -> None:
        self.tried, self.full_at = 0, full_at

    def one(self) -> None:
        self.tried += 1
        if self.full_at and self.tried >= self.full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _File:
    """An open file whose writes are counted. It has no descriptor, past which C code could write."""

    def __init__(self, file: Any, writes: Writes) -> None:
        self._file, self._writes = file, writes

    def write(self, data: Any) -> int:
        self._writes.one()
        return int(self._file.write(data))

    def truncate(self, size: int | None = None) -> int:
        self._writes.one()
        return int(self._file.truncate(size))

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _File:
        self._file.__enter__()
        return self

    def __exit__(self, *raised: Any) -> Any:
        return self._file.__exit__(*raised)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)


@contextmanager
def full_disk(folder: Path, at: int = 0) -> Iterator[Writes]:
    """Within the block, writes into files below `folder` are counted; the `at`-th, and all after it, fail."""
    writes, real = Writes(at), io.open

    def opened(file: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
        found = real(file, mode, *more, **named)
        within = isinstance(file, (str, os.PathLike)) and Path(file).absolute().is_relative_to(folder)
        return _File(found, writes) if within and set(mode) & set("wax+") else found

    with mock.patch.object(io, "open", opened), mock.patch.object(builtins, "open", opened):
        yield writes
