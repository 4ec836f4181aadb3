"""Whether the other processes are alive: each beats in a store that all reach, and looks at the next one's beats.

What waits in a collective for a process that is gone may wait for long, depending on the backend. So a thread looks,
and ends its process where that has not ended by itself soon after there was trouble.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from spectra.training.processes.launch import set_speaks
from spectra.visible_text import one_line

BEAT = 1.0
"""Seconds between two beats."""

SILENCE = 25.0
"""Seconds without a beat after which a process counts as dead."""

GRACE = 25.0
"""Seconds that a process has to end by itself once there is trouble."""

PATIENCE = 3.0
"""Seconds that processes leave to the first one to tell what is wrong, and to one that ends to say why."""

ENDED = "another process of this training has ended"
STOPPED = "the launcher has stopped this training"


class Watch:
    """Looks after the processes of a training from one of them, in a thread of its own.

    Args:
        store: of torch.distributed, which all reach.
        number: of this process.
        count: of all.
        place: of their keys in the store.
    """

    def __init__(self, store: Any, number: int, count: int, place: str = "spectra") -> None:
        self._place = place
        self._store, self._number, self._count, self._next = store, number, count, (number + 1) % count
        self._trouble = ""
        self._since = 0.0
        self._claimed: bool | None = None
        self._claiming = threading.Lock()
        self._over = threading.Event()
        self._beats, self._heard = -1, time.monotonic()
        self._thread = threading.Thread(target=self._look, name="other processes", daemon=True)
        self._thread.start()

    def publish(self, error: str) -> None:
        """Tell the others why this process ends."""
        try:
            if not self._store.check([self._key("error")]):
                self._store.set(self._key("error"), error)
        except RuntimeError:  # the store is gone with the process that held it
            pass

    def why(self) -> str:
        """Why the training cannot go on, once a collective has failed; an error that another process has published."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if said := self._said():
                return said
            time.sleep(0.1)
        return ENDED

    def speaks(self) -> bool:
        """Whether this process is the one that tells what is wrong; only one is, the first where it can."""
        with self._claiming:
            if self._claimed is None:
                self._claimed = self._claim()
                set_speaks(self._claimed)
            return self._claimed

    def stopped(self) -> None:
        """The launcher wants this process to end: it has `GRACE` seconds for that."""
        self._trouble = self._trouble or STOPPED

    def close(self) -> None:
        """Look no more; the first process, which may hold the store, is the last to do so, where the others live."""
        self._over.set()
        self._thread.join(2 * BEAT)
        try:
            closed, until = self._store.add(self._key("closed"), 1), time.monotonic() + 3 * PATIENCE
            while self._number == 0 and closed < self._count and time.monotonic() < until:
                time.sleep(0.02)
                closed = self._store.add(self._key("closed"), 0)
        except RuntimeError:
            pass

    def _key(self, name: str) -> str:
        return f"{self._place}/{name}"

    def _claim(self) -> bool:
        try:
            until = time.monotonic() + (PATIENCE if self._number else 0)
            while time.monotonic() < until and not self._store.check([self._key("told")]):
                time.sleep(0.1)
            return bool(self._store.add(self._key("told"), 1) == 1)
        except RuntimeError:
            return self._number <= 1  # the first one held the store, and is gone

    def _said(self) -> str:
        """What another process has published; empty if nothing is."""
        key = self._key("error")
        try:
            return one_line(self._store.get(key).decode()) if self._store.check([key]) else ""
        except RuntimeError:
            return ""

    def _look(self) -> None:
        while not self._over.wait(BEAT):
            if not self._trouble:
                self._trouble = self._found()
            if not self._trouble:
                continue
            self._since = self._since or time.monotonic()
            if time.monotonic() - self._since > GRACE and not self._over.is_set():
                if self.speaks():
                    _last_line(f"error: {self._trouble}; continue with --resume if a state was saved (--save-every)")
                os._exit(1)

    def _found(self) -> str:
        """What is wrong; empty if nothing is."""
        try:
            self._store.add(self._key(f"alive/{self._number}"), 1)
            if said := self._said():
                return said
            beats = self._store.add(self._key(f"alive/{self._next}"), 0)
        except RuntimeError:
            return ENDED
        if beats != self._beats:
            self._beats, self._heard = beats, time.monotonic()
        elif time.monotonic() - self._heard > SILENCE:
            self.publish(f"process {self._next} of this training does not answer any more")
            return ENDED
        return ""


class StopSignal:
    """Within the block a launcher's SIGTERM is no end at once, but calls `stop`."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._before: Any = None

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, lambda number, frame: self._stop())

    def __exit__(self, *error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)


def _last_line(text: str) -> None:
    """A line on the process's own stderr, from a thread, before it ends."""
    stream = sys.__stderr__
    if stream is not None:
        stream.write(text + "\n")
        stream.flush()
