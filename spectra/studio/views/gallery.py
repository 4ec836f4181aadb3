"""Pictures as they come: a place for each, how far they are, and a way to cancel."""

from __future__ import annotations

from typing import Any

from nicegui import ui

from spectra.errors import InputError
from spectra.settings import LARGEST_SEED
from spectra.studio.drawer import Cell, Drawing
from spectra.studio.studio import Studio
from spectra.studio.views.elements import show_error, tag
from spectra.studio.views.waiting import drawing_progress

MOST = 16
"""Pictures of one drawing."""


class Gallery:
    """The newest drawing of a view; an older one is cancelled when another is started."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self.drawing: Drawing | None = None
        self._columns = 4

    def show(self) -> None:
        """The place where pictures come."""
        self._place = tag("div", "", "gallery-place")
        with self._place:
            tag("div", "", "gallery")
        ui.context.client.on_disconnect(self.cancel)

    def cancel(self) -> None:
        """Draw nothing more."""
        if self.drawing is not None:
            self.drawing.cancel()

    def start(self, drawing: Drawing, columns: int = 4) -> None:
        """Draw something else; what was there stays until its place has a newer picture."""
        before = self.drawing.pictures if self.drawing is not None else []
        self.cancel()
        self.drawing = drawing
        self._place.clear()
        with self._place:
            self._bar = tag("div", "", "bar")
            with tag("div", "", "gallery", style=f"--columns: {columns}"):
                same = len(before) == len(drawing.cells)
                shown = [_figure(cell, before[n] if same else "") for n, cell in enumerate(drawing.cells)]
            with self._bar:
                drawing_progress(self._studio.drawer.start(drawing), self._over, lambda each: _look(each, shown))

    def _over(self, drawing: Drawing) -> None:
        if drawing.error:
            with self._bar:
                show_error(drawing.error)
        else:
            with self._bar:
                tag("p", "Cancelled." if drawing.cancelled else f"Drawn in {drawing.whole_steps} steps each.", "quiet")


def _figure(cell: Cell, before: str) -> tuple[Any, Any]:
    """The place of one picture, with the one that was there before."""
    words = f"{cell.prompt or 'no prompt'}, {cell.caption}"
    source = _source(before)
    with tag("figure"):
        with tag("a", "", href=source, target="_blank", aria_label=f"Open: {words}") as opened:
            made = tag("img", "", "old" if before else "none", src=source, alt=words)
        tag("figcaption", cell.caption)
    return made, opened


def _look(drawing: Drawing, shown: list[Any]) -> None:
    for key, (made, opened) in zip(drawing.pictures, shown, strict=True):
        if key and made.props.get("src") != _source(key):
            made.props["src"] = _source(key)
            made.classes(remove="old none")
            opened.props["href"] = _source(key)


def _source(key: str) -> str | None:
    return f"/drawn/{key}" if key else None


def parse_seeds(text: str) -> list[int]:
    """Seeds separated by commas.

    Raises:
        InputError: something else, or too many.
    """
    pieces = [piece.strip() for piece in text.split(",") if piece.strip()]
    good = pieces and all(piece.isascii() and piece.isdigit() and int(piece) <= LARGEST_SEED for piece in pieces)
    if not good or len(pieces) > MOST:
        raise InputError(f"seeds: expected one to {MOST} whole numbers separated by commas, got {text!r}")
    return list(dict.fromkeys(map(int, pieces)))
