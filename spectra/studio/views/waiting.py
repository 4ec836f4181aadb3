"""What is shown while something is drawn: how far it is, and a way out."""

from __future__ import annotations

from collections.abc import Callable

from nicegui import ui

from spectra.studio.drawer import Drawing
from spectra.studio.views.elements import button, progress_bar, tag

_LOOK = 0.25
"""Seconds between two looks at a drawing."""


def drawing_progress(
    drawing: Drawing, over: Callable[[Drawing], None], changed: Callable[[Drawing], None] = lambda drawing: None
) -> None:
    """A bar with a button to cancel.

    Args:
        over: is told once nothing more will come.
        changed: is told of each new look at it.
    """
    with tag("div", "", "progress") as shown:
        bar = progress_bar("Drawing", 0, 0)
        said = tag("span", "waiting for the base", "quiet")
        button("Cancel", drawing.cancel)

    def look() -> None:
        if drawing.total:
            bar.props["max"], bar.props["value"] = drawing.total, drawing.done
            said.set_text(f"step {drawing.done} of {drawing.total}")
        changed(drawing)
        if drawing.over:
            timer.deactivate()
            shown.set_visibility(False)
            over(drawing)

    with shown:
        timer = ui.timer(_LOOK, look)
