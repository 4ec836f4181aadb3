"""What stands around every view: the head of the page, its links, and the queue in a line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from nicegui import ui

from spectra.studio.studio import Studio
from spectra.studio.views.elements import link, tag
from spectra.version import __version__

_VIEWS = {"Library": "/", "Play": "/play", "Train": "/train", "Edit": "/edit"}
_HEAD = (
    f'<link rel="stylesheet" href="/static/studio.css?{__version__}"><script src="/static/studio.js?{__version__}">'
    "</script>"
)


@contextmanager
def frame(studio: Studio, view: str, title: str = "") -> Iterator[None]:
    """The page around a view.

    Args:
        view: the link that is marked as where one is.
        title: of the browser's tab.
    """
    ui.page_title(f"{title or view} · spectra studio")
    ui.add_head_html(_HEAD)
    link("Skip to the content", "#content", "skip")
    with tag("header", "", "top"):
        link("spectra", "/", "brand", aria_label="spectra studio, library")
        with tag("nav", "", aria_label="Views"):
            for name, to in _VIEWS.items():
                link(name, to, aria_current="page" if name == view else None)
        _queue_line(studio)
        tag("button", "◐", "button quiet theme", type="button", aria_label="Dark or light").on(
            "click", js_handler="() => window.studio.theme()"
        )
    with tag("main", "", "view", id="content", tabindex="-1"):
        yield
    tag("div", "", "toast", id="toast", role="status", aria_live="polite")


def _queue_line(studio: Studio) -> None:
    """How many jobs run and wait, which leads to them."""
    made = link("", "/train#queue", "queue")

    def look() -> None:
        states = [job.state for job in studio.queue.jobs()]
        running = sum(state in ("running", "stopping") for state in states)
        waiting = states.count("waiting")
        text = ", ".join(f"{count} {name}" for count, name in ((running, "running"), (waiting, "waiting")) if count)
        if made.text != text:
            made.set_text(text)
        made.set_visibility(bool(text))

    look()
    ui.timer(2.0, look)
