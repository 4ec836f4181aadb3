"""Playing: a prompt, a slider for each shift and group of blocks, pictures as they come, and what was found kept."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from nicegui import ui
from starlette.requests import Request

from spectra.analysis.library import scan
from spectra.bases.embedded.subjects import DEFAULT_SUBJECT, find_subject
from spectra.errors import InputError, SpectraError
from spectra.studio.blend import Part, between, merge_command, write_blend
from spectra.studio.cards import is_step, prompt_of
from spectra.studio.drawer import Cell, Drawing
from spectra.studio.studio import Studio
from spectra.studio.views.elements import (
    button,
    link,
    number_field,
    remember,
    section,
    select_field,
    show_error,
    slider,
    tag,
    text_field,
    url,
)
from spectra.studio.views.frame import frame
from spectra.studio.views.gallery import Gallery, parse_seeds
from spectra.studio.workspace import plain_name

_STRIP = 5
"""Pictures of a strip between two shifts."""

_MOST = 8
"""Shifts that are played together."""


def register(studio: Studio) -> None:
    """The page to play on."""

    async def show_play(request: Request) -> None:
        with frame(studio, "Play"):
            await PlayView(studio, request).show()

    ui.page("/play", response_timeout=30)(show_play)


class PlayView:
    """One browser's play; its state is that of the address."""

    def __init__(self, studio: Studio, request: Request) -> None:
        asked = request.query_params
        self.studio, self.gallery = studio, Gallery(studio)
        self.prompt, self.negative = asked.get("prompt", ""), asked.get("negative", "")
        self.seeds, self.steps = asked.get("seeds", "0,1,2,3"), asked.get("steps", "")
        self.guidance, self.strip = asked.get("guidance", ""), bool(asked.get("strip"))
        self._asked = asked.getlist("shift")[:_MOST]
        self.parts: dict[str, Part] = {}
        self._wrong: list[str] = []

    async def show(self) -> None:
        """Build the view, and draw what its address says."""
        held = await asyncio.to_thread(scan, [self.studio.settings.folder])
        self._known = {self.studio.workspace.name_of(entry.path): entry for entry in held.entries}
        for text in self._asked:
            self._add(*text.split(";", 1))
        if not self.prompt and self.parts:
            self.prompt = prompt_of(self._known[next(iter(self.parts))], held.entries)
        if not self.prompt and not self.studio.settings.base:
            self.prompt = find_subject(DEFAULT_SUBJECT).class_prompt
        tag("h1", "Play")
        with tag("div", "", "two"):
            with tag("div", "", "controls"):
                with section("What to draw"):
                    self._show_wishes()
                self._show_parts = ui.refreshable(self._list_parts)
                self._show_parts()
                with section("Keep it"):
                    self._show_save()
            with tag("div", "", "stage"):
                self._told = tag("div", "", aria_live="polite")
                self.gallery.show()
        self._draw()

    def _add(self, name: str, text: str = "") -> None:
        """Take a shift into play; what is wrong with it is told with the next drawing."""
        try:
            if name not in self._known:
                raise InputError(f"{name!r} is no shift of this folder")
            self.parts[name] = Part.of(self._known[name].path, text)
        except SpectraError as error:
            self._wrong.append(str(error))

    def _show_wishes(self) -> None:
        text_field("Prompt", self.prompt, lambda text: self._set(prompt=text))
        with tag("div", "", "row"):
            text_field("Seeds", self.seeds, lambda text: self._set(seeds=text))
            button("Draw", self._draw, "primary")
        with tag("details", open=bool(self.negative or self.steps or self.guidance)):
            tag("summary", "More: negative prompt, steps, guidance")
            text_field("Negative prompt", self.negative, lambda text: self._set(negative=text))
            with tag("div", "", "row"):
                number_field(
                    "Steps", self.steps, lambda text: self._set(steps=text), min=1, max=200, placeholder="usual"
                )
                number_field(
                    "Guidance",
                    self.guidance,
                    lambda text: self._set(guidance=text),
                    min=0,
                    step="any",
                    placeholder="usual",
                )

    def _list_parts(self) -> None:
        with section("Shifts"):
            for name, part in list(self.parts.items()):
                with tag("fieldset", "", "shift"):
                    tag("legend", name)
                    slider("scale", part.scale, partial(self._scale, name), low=-1, high=2)
                    with tag("details", open=any(factor != 1 for factor in part.groups.values())):
                        tag("summary", "groups of blocks")
                        for group, factor in part.groups.items():
                            slider(
                                group,
                                factor,
                                partial(self._scale_group, name, group),
                                low=0,
                                high=2,
                            )
                    button("Remove", partial(self._remove, name), "quiet", aria_label=f"Remove {name}")
            others = [name for name, entry in self._known.items() if name not in self.parts and not is_step(entry)]
            if others and len(self.parts) < _MOST:
                select_field("Add a shift", "", {"": "choose", **{name: name for name in others}}, self._choose)
            if len(self.parts) == 2:
                label = "Draw the seeds" if self.strip else "Strip between the two"
                button(label, lambda: self._set_strip(not self.strip))
            if not self._known:
                link("Train one first", "/train")

    def _choose(self, name: str) -> None:
        if name:
            self._add(name)
            self._changed_parts()

    def _remove(self, name: str) -> None:
        self.parts.pop(name, None)
        self._changed_parts()

    def _set_strip(self, strip: bool) -> None:
        self.strip = strip
        self._changed_parts()

    def _changed_parts(self) -> None:
        self.strip = self.strip and len(self.parts) == 2
        self._show_parts.refresh()
        self._draw()

    def _scale(self, name: str, value: float) -> None:
        part = self.parts[name]
        self.parts[name] = Part(part.path, value, part.groups)
        self._draw()

    def _scale_group(self, name: str, group: str, value: float) -> None:
        part = self.parts[name]
        self.parts[name] = Part(part.path, part.scale, {**part.groups, group: value})
        self._draw()

    def _set(self, **given: Any) -> None:
        vars(self).update(given)
        self._draw()

    @property
    def address(self) -> str:
        """The link that opens the view as it is."""
        shifts = [part.text(name) for name, part in self.parts.items()]
        wishes = {"negative": self.negative, "steps": self.steps, "guidance": self.guidance}
        seeds = "" if self.seeds == "0,1,2,3" else self.seeds
        return url("/play", prompt=self.prompt, shift=shifts, seeds=seeds, strip="1" if self.strip else "", **wishes)

    def _draw(self) -> None:
        """Draw what the view says, in place of what is being drawn."""
        remember(self.address)
        self._command.set_text(merge_command(list(self.parts.values()), self._out) if self.parts else "")
        self._told.clear()
        wrong, self._wrong = self._wrong, []
        try:
            drawing = Drawing(self._cells(), _whole("steps", self.steps), _decimal("guidance", self.guidance))
        except SpectraError as error:
            wrong.append(str(error))
        else:
            self.gallery.start(drawing, columns=_STRIP if self.strip else 2 if len(drawing.cells) <= 4 else 4)
        with self._told:
            for line in wrong:
                show_error(line)

    def _cells(self) -> list[Cell]:
        seeds, parts = parse_seeds(self.seeds), list(self.parts.values())
        if self.strip and len(parts) == 2:
            names = [name.rpartition("/")[2] for name in self.parts]
            return [
                Cell(
                    self.prompt,
                    seeds[0],
                    {part.path: part.weights for part in pair},
                    ", ".join(f"{name} {part.scale:.2f}" for name, part in zip(names, pair, strict=True)),
                    self.negative,
                )
                for pair in between(parts[0], parts[1], _STRIP)
            ]
        in_force = {part.path: part.weights for part in parts}
        return [Cell(self.prompt, seed, in_force, f"seed {seed}", self.negative) for seed in seeds]

    def _show_save(self) -> None:
        self._name = "blend"
        with tag("div", "", "row"):
            text_field("Save as", self._name, self._set_name, at_once=True, pattern="[A-Za-z0-9][A-Za-z0-9_\\-]*")
            button("Save", self._save)
        self._saved = tag("div", "", role="status")
        tag("p", "The same by the command line:", "quiet")
        self._command = tag("code", "", "command", tabindex="0")

    @property
    def _out(self) -> Any:
        return self.studio.settings.folder / f"{self._name}.safetensors"

    def _set_name(self, name: str) -> None:
        self._name = name.strip()
        if self.parts:
            self._command.set_text(merge_command(list(self.parts.values()), self._out))

    async def _save(self) -> None:
        self._saved.clear()
        try:
            plain_name(self._name)
            await asyncio.to_thread(write_blend, list(self.parts.values()), self._out)
        except SpectraError as error:
            with self._saved:
                show_error(str(error))
            return
        with self._saved:
            tag("p", f"Saved as {self._name}.", "good")
            link("See it in the library", url("/", find=self._name))


def _whole(what: str, text: str) -> int:
    if not text:
        return 0
    if not text.isdecimal() or not 1 <= int(text) <= 200:
        raise InputError(f"{what}: expected a whole number from 1 to 200, got {text!r}")
    return int(text)


def _decimal(what: str, text: str) -> float | None:
    try:
        return float(text) if text else None
    except ValueError as error:
        raise InputError(f"{what}: expected a number, got {text!r}") from error
