"""How the library tells a caller how far it has come. It never prints: a caller hands in what shows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """One bar at a time: `start`, any number of `advance`, then `finish` (also when the work failed)."""

    def start(self, label: str, total: int) -> None:
        """Begin a piece of work of `total` units, called `label`."""

    def advance(self, n: int = 1, note: str = "") -> None:
        """`n` more units are done; `note` replaces the text shown beside the bar, if it is not empty."""

    def finish(self) -> None:
        """The piece of work is over."""


@contextmanager
def working(progress: Progress, label: str, total: int) -> Iterator[None]:
    """A piece of work of `total` units within the block, which is over at its end, also when it fails."""
    progress.start(label, total)
    try:
        yield
    finally:
        progress.finish()


class _Silent:
    def start(self, label: str, total: int) -> None:
        pass

    def advance(self, n: int = 1, note: str = "") -> None:
        pass

    def finish(self) -> None:
        pass


SILENT: Progress = _Silent()
"""Shows nothing: the default of every function that takes a `progress`."""
