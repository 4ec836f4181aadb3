"""Two shifts side by side: where they act, their spectra, how alike they are, and pictures from the same seeds."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

from nicegui import ui
from starlette.requests import Request

from spectra.analysis.library import LibraryEntry, scan
from spectra.errors import SpectraError
from spectra.studio.cards import is_step, prompt_of
from spectra.studio.drawer import Cell, Drawing
from spectra.studio.plots import difference_facts, plot_pair
from spectra.studio.studio import Studio
from spectra.studio.views.elements import (
    button,
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
from spectra.studio.views.gallery import Gallery, parse_seeds


def register(studio: Studio) -> None:
    """The page of two shifts."""

    async def show_comparison(request: Request) -> None:
        with frame(studio, "Library", "Compare"), section("Compare", level=1):
            await CompareView(studio, request).show()

    ui.page("/compare", response_timeout=60)(show_comparison)


class CompareView:
    """One browser's look at two shifts; its state is that of the address."""

    def __init__(self, studio: Studio, request: Request) -> None:
        asked = request.query_params
        self.studio = studio
        self.names = [asked.get("a", ""), asked.get("b", "")]
        self.prompt, self.seeds = asked.get("prompt", ""), asked.get("seeds", "0,1")
        self.gallery = Gallery(studio)

    async def show(self) -> None:
        """Build the view."""
        held = await asyncio.to_thread(scan, [self.studio.settings.folder])
        known = {self.studio.workspace.name_of(entry.path): entry for entry in held.entries}
        choices = {
            "": "choose a shift",
            **{name: name for name, entry in known.items() if name in self.names or not is_step(entry)},
        }
        with tag("div", "", "row filters"):
            for place, label in enumerate(("First", "Second")):
                select_field(label, self.names[place], choices, partial(self._choose, place))
        entries = [known[name] for name in self.names if name in known]
        if len(entries) < 2:
            tag("p", "Choose two shifts to compare.", "empty")
            return
        self._show_pictures(entries, held.entries)
        plots = tag("div", "", "plots", aria_live="polite")
        with plots:
            tag("p", "Drawing the plots …", "quiet")
        ui.timer(0.01, lambda: self._show_plots(plots, entries), once=True)

    def _choose(self, place: int, name: str) -> None:
        self.names[place] = name
        ui.navigate.to(url("/compare", a=self.names[0], b=self.names[1], seeds=self.seeds))

    def _show_pictures(self, entries: list[LibraryEntry], every: tuple[LibraryEntry, ...]) -> None:
        prompts = [self.prompt or prompt_of(entry, every) for entry in entries]
        with section("From the same seeds"):
            with tag("div", "", "row filters"):
                text_field("Prompt", self.prompt, self._set_prompt, placeholder="each its own, or one for both")
                text_field("Seeds", self.seeds, self._set_seeds)
                button("Draw", lambda: self._draw(entries, prompts), "primary")
            self._error = tag("div")
            self.gallery.show()
        self._draw(entries, prompts)

    def _set_prompt(self, prompt: str) -> None:
        self.prompt = prompt
        ui.navigate.to(self._address())

    def _set_seeds(self, seeds: str) -> None:
        self.seeds = seeds
        remember(self._address())

    def _address(self) -> str:
        return url("/compare", a=self.names[0], b=self.names[1], prompt=self.prompt, seeds=self.seeds)

    def _draw(self, entries: list[LibraryEntry], prompts: list[str]) -> None:
        self._error.clear()
        try:
            seeds = parse_seeds(self.seeds)
        except SpectraError as error:
            with self._error:
                show_error(str(error))
            return
        cells = [
            Cell(prompt, seed, {entry.path: 1.0}, f"{name}, seed {seed}")
            for seed in seeds
            for entry, prompt, name in zip(entries, prompts, self.names, strict=True)
        ]
        self.gallery.start(Drawing(cells), columns=2)

    async def _show_plots(self, place: ui.element, entries: list[LibraryEntry]) -> None:
        workspace = self.studio.workspace
        try:
            plots = await asyncio.to_thread(plot_pair, workspace, *entries)
        except SpectraError as error:
            place.clear()
            with place:
                show_error(str(error))
            return
        place.clear()
        with place:
            if plots.error:
                show_error(plots.error)
            if plots.total is not None and plots.difference is not None:
                with section("How they differ"):
                    facts(difference_facts(plots.total, self.names))
                    if not plots.exact:
                        tag("p", "What the ReLU clips is left out: the base's spectra are not in the cache.", "quiet")
                    words = "Where the two differ by block, and the cosine of each weight"
                    self._show_plot(plots.difference, words)
            for name, path in zip(self.names, plots.each, strict=True):
                with section(name):
                    link("Play with it", url("/play", shift=name), aria_label=f"Play with {name}")
                    words = f"Energy of {name} by block, and the singular values that it moves most"
                    self._show_plot(path, words)

    def _show_plot(self, path: Path, words: str) -> None:
        """A plot, which opens by itself: on a phone its letters are small."""
        source = f"/file/{path.relative_to(self.studio.workspace.folder).as_posix()}"
        with tag("a", "", href=source, target="_blank", aria_label=f"Open: {words}"):
            picture(source, words, "plot")
