"""The library: a card for each shift of the folder, found by words, sorted, and as a family tree."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nicegui import ui
from starlette.requests import Request

from spectra.analysis.library import SORTS, Library, LibraryEntry, scan, select, sort_entries
from spectra.analysis.lineage import Branch, family
from spectra.studio.cards import card_drawing, is_drawn, is_step, keep_picture, kept_picture
from spectra.studio.drawer import Drawing
from spectra.studio.studio import Studio
from spectra.studio.views.elements import (
    button,
    checkbox,
    facts,
    link,
    picture,
    remember,
    section,
    select_field,
    show_error,
    tag,
    text_field,
    url,
)
from spectra.studio.views.frame import frame
from spectra.studio.views.waiting import drawing_progress

_SHOWN = 48
"""Cards that are shown before more are asked for."""


def register(studio: Studio) -> None:
    """The library's pages."""

    async def show_library(request: Request) -> None:
        with frame(studio, "Library"):
            await LibraryView(studio, request).show()

    async def show_lineage(request: Request) -> None:
        with frame(studio, "Library", "Lineage"):
            held = await asyncio.to_thread(scan, [studio.settings.folder])
            wanted = request.query_params.getlist("of")
            chosen = [entry for entry in held.entries if studio.workspace.name_of(entry.path) in wanted]
            _tree(studio, family(held.entries, chosen or held.entries), bool(chosen))

    ui.page("/", response_timeout=30)(show_library)
    ui.page("/lineage", response_timeout=30)(show_lineage)


class LibraryView:
    """One browser's look at the library; its state is that of the address."""

    def __init__(self, studio: Studio, request: Request) -> None:
        asked = request.query_params
        self.studio, self.find, self.base = studio, asked.get("find", ""), asked.get("base", "")
        self.sort = asked["sort"] if asked.get("sort", "") in SORTS else "date"
        self.picked = list(dict.fromkeys(asked.getlist("pick")))
        self.steps, self.shown = bool(asked.get("steps")), _SHOWN
        self.held = Library((), 0, {})
        self.drawing: Drawing | None = None

    async def show(self) -> None:
        """Build the view."""
        self.held = await asyncio.to_thread(scan, [self.studio.settings.folder])
        with section("Library", level=1):
            with tag("div", "", "row filters", role="search"):
                text_field(
                    "Find", self.find, lambda text: self._change(find=text), at_once=True, placeholder="words, a hash"
                )
                bases = {"": "any", **{name: name or "unnamed" for name in sorted(_bases(self.held.entries))}}
                select_field("Base", self.base, bases, lambda value: self._change(base=value))
                select_field("Sort", self.sort, {name: name for name in SORTS}, lambda value: self._change(sort=value))
                checkbox("steps of trainings", self.steps, lambda ticked: self._change(steps=ticked))
                link("Lineage", "/lineage", "button")
            # Apart from the cards, whose boxes keep the keyboard's focus when they are ticked.
            self._bar, self._cards = ui.refreshable(self._show_bar), ui.refreshable(self._show_cards)
            self._bar()
            self._cards()

    def _change(self, **given: Any) -> None:
        vars(self).update(given)
        self._refresh()

    def _refresh(self) -> None:
        self._remember()
        self._bar.refresh()
        self._cards.refresh()

    def _remember(self) -> None:
        sort = "" if self.sort == "date" else self.sort
        remember(url("/", find=self.find, base=self.base, sort=sort, steps="1" if self.steps else "", pick=self.picked))

    def _pick(self, name: str, picked: bool) -> None:
        self.picked = [each for each in self.picked if each != name] + ([name] if picked else [])
        self._remember()
        self._bar.refresh()

    @property
    def _held(self) -> list[LibraryEntry]:
        return [entry for entry in self.held.entries if self.steps or not is_step(entry)]

    @property
    def _entries(self) -> tuple[LibraryEntry, ...]:
        return sort_entries(select(self._held, find=self.find, base=self.base), self.sort)

    def _show_bar(self) -> None:
        entries = self._entries
        with tag("div", "", "row between"):
            many = f"{len(entries)} of {len(self._held)} shifts"
            tag("p", many, "quiet", role="status")
            with tag("div", "", "row"):
                self._actions(entries)
        if self.drawing is not None:
            drawing_progress(self.drawing, self._drawn)

    def _show_cards(self) -> None:
        entries = self._entries
        for path, why in self.held.damaged.items():
            show_error(f"{path}: {why}")
        if not self.held.entries:
            with tag("div", "", "empty"):
                tag("p", f"No shift in {self.studio.settings.folder} yet.")
                link("Train the first", "/train", "button primary")
            return
        with tag("ul", "", "cards"):
            for entry in entries[: self.shown]:
                with tag("li"):
                    self._card(entry)
        if len(entries) > self.shown:
            button(f"Show {len(entries) - self.shown} more", lambda: self._change(shown=self.shown * 4))

    def _actions(self, entries: Sequence[LibraryEntry]) -> None:
        if len(self.picked) >= 2:
            link("Compare", url("/compare", a=self.picked[-2], b=self.picked[-1]), "button primary")
        if self.picked:
            link("Play together", url("/play", shift=self.picked), "button primary")
        without = [entry for entry in entries[: self.shown] if not is_drawn(self.studio.workspace, entry)]
        if without and self.drawing is None:
            button("Draw missing pictures", lambda: self._draw(without))

    def _draw(self, entries: list[LibraryEntry]) -> None:
        self._drawn_entries = entries
        self.drawing = self.studio.drawer.start(card_drawing(entries, self.held.entries))
        self._bar.refresh()

    def _drawn(self, drawing: Drawing) -> None:
        """The cards' pictures are there, or some of them."""
        for entry, key in zip(self._drawn_entries, drawing.pictures, strict=True):
            if key and (png := self.studio.drawer.fetch(key)):
                keep_picture(self.studio.workspace, entry, png)
        self.drawing = None
        self._bar.refresh()
        self._cards.refresh()
        if drawing.error:
            ui.run_javascript(f"window.studio.say({json.dumps(drawing.error)})")

    def _card(self, entry: LibraryEntry) -> None:
        name = self.studio.workspace.name_of(entry.path)
        with tag("article", "", "card", aria_label=name):
            with link("", url("/play", shift=name), "thumb", aria_label=f"Play with {name}"):
                if not _show_thumb(self.studio, entry):
                    tag("span", "no picture yet", "quiet")
            tag("h2", name)
            tag("p", entry.origin or "no prompt", "prompt")
            facts(
                [
                    ("base", Path(entry.metadata.base).name),
                    ("date", time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.changed))),
                    ("size", _size(entry.bytes)),
                    ("parents", str(len(entry.metadata.parents)) if entry.metadata.parents else ""),
                ]
            )
            with tag("div", "", "row between"):
                checkbox("pick", name in self.picked, lambda ticked: self._pick(name, ticked))
                link("Lineage", url("/lineage", of=name), aria_label=f"Lineage of {name}")


def _tree(studio: Studio, branches: Sequence[Branch], some: bool) -> None:
    with section("Lineage", level=1):
        tag("p", "Each shift stands under what it was made from.", "quiet")
        if some:
            link("Of all shifts", "/lineage", "button")
        if not branches:
            tag("p", "No shift here was made from another, nor was one made from it.", "empty")
        with tag("ul", "", "tree"):
            for branch in branches:
                with tag("li", "", style=f"--depth: {branch.depth}"):
                    if not branch.entries:
                        tag("span", f"{branch.content_hash[:12]} (not in this folder)", "quiet")
                    entry = _shown_as(branch.entries)
                    if entry is not None:
                        name = studio.workspace.name_of(entry.path)
                        with tag("span", "", "thumb"):
                            _show_thumb(studio, entry)
                        link(name, url("/play", shift=name))
                        tag("span", entry.origin, "quiet")
                    if len(branch.entries) > 1:
                        more = len(branch.entries) - 1
                        tag("span", f"and {more} cop{'y' if more == 1 else 'ies'} of it", "quiet")
                    if branch.partners:
                        tag("span", f"with {len(branch.partners)} other", "quiet")


def _shown_as(entries: Sequence[LibraryEntry]) -> LibraryEntry | None:
    """Of files of one content the one that says most: none that a training left on its way, if there is another."""
    return min(entries, key=lambda entry: (is_step(entry), len(entry.path.parts)), default=None)


def _show_thumb(studio: Studio, entry: LibraryEntry) -> bool:
    """The picture of a shift, where there is one."""
    workspace = studio.workspace
    kept = kept_picture(workspace, entry)
    if kept is None:
        return False
    sheet = "" if is_drawn(workspace, entry) else "sheet"
    source = f"/file/{kept.relative_to(workspace.folder).as_posix()}?{int(kept.stat().st_mtime)}"
    picture(source, "", sheet, loading="lazy")
    return True


def _bases(entries: Sequence[LibraryEntry]) -> set[str]:
    return {entry.metadata.base for entry in entries}


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
