"""Ctrl-C in a training: the step that is being taken is finished first, so that what is saved is whole."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """A training was interrupted between two steps, and has saved where it was.

    Attributes:
        step: optimizer steps done.
        steps: those that were asked for.
        folders: the output folders, which are not there yet.
    """

    def __init__(self, step: int, steps: int, folders: Sequence[Path]) -> None:
        super().__init__(f"interrupted after {step} of {steps} steps")
        self.step, self.steps, self.folders = step, steps, tuple(folders)


class InterruptBetweenSteps:
    """Within the block the first Ctrl-C is only noted, as `asked`, and told; a second one interrupts at once.

    Args:
        tell: called at the first one.
        echo: seconds within which a second one counts as the first: a launcher hands on what the terminal has told all.
    """

    def __init__(self, tell: Callable[[], None], echo: float = 0.0) -> None:
        self.asked = False
        self._tell, self._echo, self._since = tell, echo, 0.0
        self._before: Any = None

    def __enter__(self) -> InterruptBetweenSteps:
        if threading.current_thread() is threading.main_thread():  # the only one that may listen to signals
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.asked:
            self.asked, self._since = True, now
            self._tell()
        elif now - self._since >= self._echo:
            raise KeyboardInterrupt
