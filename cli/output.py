"""The only place that prints: results on stdout, everything else on stderr."""

from __future__ import annotations

import contextlib
import io
import json as _json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from spectra.errors import CacheWarning, ClippingWarning, OutputWarning, PictureWarning, RoundedCopyWarning
from spectra.progress import Progress
from spectra.visible_text import one_line, visible, visible_json

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress as RichProgress

Part: TypeAlias = "RenderableType"
"""A piece of what people see."""


def prepare() -> None:
    """Prepare for a command: letters that the terminal's encoding lacks are shown as escapes (JSON stays JSON).

    The libraries that log on import report errors only, unless the user has set a level, so that one clear line is not
    buried.
    """
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    for name in ("bitsandbytes", "torchao", "torch.utils._pytree"):  # of which diffusers imports what is installed
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.ERROR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def silent(on: bool) -> Iterator[None]:
    """With `on`, nothing inside the block is shown: another process of the same training shows it."""
    with contextlib.ExitStack() as redirected:
        if on:
            redirected.enter_context(contextlib.redirect_stdout(io.StringIO()))
            redirected.enter_context(contextlib.redirect_stderr(io.StringIO()))
        yield


def line(text: str) -> None:
    """One plain line on stdout."""
    sys.stdout.write(text + "\n")


def say(message: str) -> None:
    """A message to the user, on stderr; wrapped to the terminal, never mixed with a result."""
    sys.stderr.write(visible(message, keep="\n") + "\n")
    sys.stderr.flush()


def failure(message: str) -> None:
    """Why a command failed: exactly one line on stderr."""
    say(f"error: {visible(' '.join(message.split()))}")


def result(obj: Any, *, json: bool, human: Callable[[], Iterable[Part]]) -> None:
    """What a command found out, on stdout.

    Args:
        obj: the result as JSON data (a dict at the top).
        json: print `obj` as one JSON object and nothing else; NaN and infinity are refused, JSON has none.
        human: gives the same for a person: lines of text, shown as they are however long, and what is rich's, which is
            fitted to the terminal.
    """
    if json:
        line(visible_json(_json.dumps(obj, ensure_ascii=False, allow_nan=False)))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(file=sys.stdout, highlight=False)
    for part in human():
        if isinstance(part, str):
            console.print(Text(visible(part, keep="\n")), soft_wrap=True)
        else:
            console.print(part)


def values_of(source: object, *names: str) -> dict[str, Any]:
    """Attributes by name as JSON values: mappings as dictionaries, tuples as lists."""
    values = {name: getattr(source, name) for name in names}
    return {
        name: dict(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
    }


class _Bar:
    """A rich progress bar on stderr, for one piece of work after another."""

    _rich: RichProgress | None = None

    def start(self, label: str, total: int) -> None:
        from rich import progress as rich_progress
        from rich.console import Console

        self.finish()
        self._rich = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}", markup=False),
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TimeRemainingColumn(),
            rich_progress.TextColumn("{task.fields[note]}", markup=False),
            console=Console(file=sys.stderr),
            transient=True,
        )
        self._rich.add_task(visible(label), total=total, note="")
        self._rich.start()

    def advance(self, n: int = 1, note: str = "") -> None:
        if self._rich is not None:
            changed: dict[str, Any] = {"note": visible(note)} if note else {}
            self._rich.update(self._rich.task_ids[0], advance=n, **changed)

    def finish(self) -> None:
        if self._rich is not None:
            self._rich.stop()
        self._rich = None


class _Lines:
    """A line on stderr every so often, for a log: of work that takes a while, twenty at most and one a minute."""

    _label, _total, _done = "", 0, 0
    _told, _last = 0, 0.0  # units done, and the time, at the last line

    def start(self, label: str, total: int) -> None:
        self._label, self._total, self._done = label, total, 0
        self._told, self._last = 0, time.monotonic()

    def advance(self, n: int = 1, note: str = "") -> None:
        now = time.monotonic()
        passed = now - self._last
        if n > 1 and not self._done and passed < 0.1:
            self._told = n  # done before, by a training that is resumed
        self._done += n
        new = self._done - self._told
        due = passed >= LINE_SECONDS and new >= self._total / 20
        if new and self._done < self._total and (due or passed >= LONGEST_SILENCE):
            left = f"{passed / new * (self._total - self._done):.0f} s left"
            say(", ".join(filter(None, (f"{self._label} {self._done}/{self._total}", note, left))))
            self._told, self._last = self._done, now

    def finish(self) -> None:
        self._total = 0


LINE_SECONDS = 5.0
"""Seconds that lie between two lines of a log at the least."""

LONGEST_SILENCE = 60.0
"""Seconds after which there is a line however little was done."""


def progress() -> Progress:
    """Bars on stderr if that is a terminal, now and then a line otherwise."""
    return _Bar() if sys.stderr.isatty() else _Lines()


_OURS = (CacheWarning, ClippingWarning, OutputWarning, PictureWarning, RoundedCopyWarning)


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings inside the block are one line each, without the place in the source that Python shows."""
    with warnings.catch_warnings():
        for category in _OURS:
            warnings.simplefilter("always", category)

        def show(message: Warning | str, *place: Any, **more: Any) -> None:
            say(f"warning: {one_line(str(message))}")

        warnings.showwarning = show
        yield
