"""Training: pictures dropped, seen as the training will see them, a preset, and the queue of what runs and waits."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import Any

from nicegui import ui
from starlette.requests import Request

from spectra.bases.embedded.subjects import DEFAULT_SUBJECT, find_subject, instance_pictures
from spectra.errors import SpectraError
from spectra.studio.commands import TrainForm, train_command, train_config
from spectra.studio.looks import look_at
from spectra.studio.studio import Studio
from spectra.studio.uploads import new_tray
from spectra.studio.views import job
from spectra.studio.views.dropzone import drop_zone
from spectra.studio.views.elements import (
    button,
    number_field,
    remember,
    section,
    select_field,
    show_error,
    tag,
    text_field,
    url,
)
from spectra.studio.views.frame import frame
from spectra.studio.views.tray import Tray
from spectra.training.presets import PRESETS

_SIDES = ("left", "right")


def register(studio: Studio) -> None:
    """The pages of trainings and of the queue."""

    async def show_train(request: Request) -> None:
        with frame(studio, "Train"):
            tag("h1", "Train")
            await TrainView(studio, request).show()
            job.queue_list(studio)

    async def show_job(request: Request) -> None:
        await job.show(studio, request.path_params["key"])

    ui.page("/train", response_timeout=30)(show_train)
    ui.page("/job/{key}", response_timeout=30)(show_job)


class TrainView:
    """One browser's form of a training; its state is that of the address, and the pictures lie in their trays."""

    def __init__(self, studio: Studio, request: Request) -> None:
        asked = request.query_params
        trays = tuple(asked.getlist("tray")[:2]) or (new_tray(),)
        prompts = asked.getlist("prompt")[:2]
        self.studio = studio
        self._trays: list[Tray] = []
        self._asked = 0
        self.form = TrainForm(
            name=asked.get("name", ""),
            trays=trays,
            prompts=tuple([*prompts, "", ""][: len(trays)]),
            class_prompt=asked.get("class", ""),
            preset=asked["preset"] if asked.get("preset") in PRESETS else "balanced",
            steps=_count(asked.get("steps", "")),
            prior_weight=_weight(asked.get("prior", "")),
            seed=_count(asked.get("seed", "")),
            sheets=_count(asked.get("sheets", "4")),
        )

    @property
    def address(self) -> str:
        """The link that opens the form as it is."""
        form = self.form
        preset = "" if form.preset == "balanced" else form.preset
        given = {"name": form.name, "class": form.class_prompt, "preset": preset, "tray": form.trays}
        weight = "" if form.prior_weight is None else f"{form.prior_weight:g}"
        numbers = {
            "steps": form.steps or "",
            "prior": weight,
            "seed": form.seed or "",
            "sheets": "" if form.sheets == 4 else str(form.sheets),
        }
        return url("/train", **given, prompt=form.prompts if any(form.prompts) else (), **numbers)

    async def show(self) -> None:
        """Build the form."""
        remember(self.address)
        with section("Pictures"):
            with tag("div", "", "subjects"):
                for place in range(len(self.form.trays)):
                    self._show_subject(place)
            self._waits = tag("p", "", "quiet", role="status")
            self._wrong = tag("div")
            with tag("div", "", "row"):
                if len(self.form.trays) == 1:
                    button("Add a second subject", self._add_subject)
                    if not self.studio.settings.base:
                        button(f"Try it with a {DEFAULT_SUBJECT}", self._take_example)
                else:
                    button("Swap left and right", self._swap)
                    button("Remove the right one", self._remove_subject)
        with section("How", "how"):
            with tag("div", "", "row filters"):
                text_field("Name", self.form.name, lambda text: self._set(name=text.strip()), at_once=True)
                presets = {name: f"{name}: {preset.goal}" for name, preset in PRESETS.items()}
                select_field("Preset", self.form.preset, presets, lambda value: self._reset(preset=value))
                number_field("Steps", self.form.steps or "", self._number("steps"), min=1, placeholder="the preset's")
            if len(self.form.trays) == 1:
                text_field(
                    "Class prompt",
                    self.form.class_prompt,
                    lambda text: self._reset(class_prompt=text.strip()),
                    placeholder="the prompt without its word in brackets",
                    hint="what else looks like it, which the base shall go on drawing as before",
                )
            self._show_more()
            self._told = tag("div")
            button("Start", self._start, "primary")
        ui.timer(0.01, self._look, once=True)

    def _show_more(self) -> None:
        """What most leave as it is."""
        form = self.form
        with tag("details", open=form.prior_weight is not None or bool(form.seed) or form.sheets != 4):
            tag("summary", "More: class pictures, sheets on the way, seed")
            with tag("div", "", "row filters"):
                number_field(
                    "Prior weight",
                    "" if form.prior_weight is None else f"{form.prior_weight:g}",
                    lambda text: self._reset(prior_weight=_weight(text)),
                    min=0,
                    step="any",
                    placeholder="the preset's",
                    hint="of class pictures in the loss; 0 for none",
                )
                number_field("Sheets on the way", form.sheets, self._number("sheets"), min=0, max=20)
                number_field("Seed", form.seed, self._number("seed"), min=0)

    def _set(self, **given: Any) -> None:
        self.form = replace(self.form, **given)
        self._told.clear()
        remember(self.address)

    async def _reset(self, **given: Any) -> None:
        """Change what decides how the pictures are seen."""
        self._set(**given)
        await self._look()

    def _number(self, name: str) -> Any:
        return lambda text: self._set(**{name: _count(text)})

    def _show_subject(self, place: int) -> None:
        """A subject's prompt, and its pictures."""
        form = self.form
        tray, several = form.trays[place], len(form.trays) > 1
        heading = f"Subject on the {_SIDES[place]}" if several else "Subject"
        with tag("div", "", "subject", role="group", aria_label=heading):
            if several:
                tag("h3", heading)
            text_field(
                "Prompt",
                form.prompts[place],
                partial(self._set_prompt, place),
                placeholder=f"a drawing of a [V{place + 1}] fox",
                hint="what they show, with a word of its own in brackets",
            )
            drop_zone(tray, "Drop pictures here", self._look)
            self._trays.append(Tray(self.studio, tray, self._look, self._tell))

    async def _look(self) -> None:
        """Show the pictures, and once the base is there, how the training will see them."""
        self._asked += 1
        number, form, drawer = self._asked, self.form, self.studio.drawer
        for tray in self._trays:
            tray.show()
        looks, wrong = None, ""
        if all(form.prompts) and all(tray.files for tray in self._trays):
            self._waits.set_text("" if drawer.ready else "Loading the base, to show the pictures as it will see them …")
            folders = [self.studio.trays.folder(tray) for tray in form.trays]
            try:
                looks = await asyncio.to_thread(look_at, form, self.studio.settings, folders, drawer)
            except SpectraError as error:
                wrong = str(error)
            if number != self._asked:
                return
        self._waits.set_text("")
        self._wrong.clear()
        with self._wrong:
            if wrong:
                show_error(wrong)
        for tray, seen in zip(self._trays, looks or [[] for _ in self._trays], strict=True):
            tray.show_looks(seen)

    async def _set_prompt(self, place: int, text: str) -> None:
        prompts = list(self.form.prompts)
        prompts[place] = text.strip()
        await self._reset(prompts=tuple(prompts))

    def _add_subject(self) -> None:
        self._set(trays=(*self.form.trays, new_tray()), prompts=(*self.form.prompts, ""), class_prompt="")
        ui.navigate.to(self.address)

    async def _take_example(self) -> None:
        """Fill the form with the pictures of the subject that a bare `spectra train` learns."""
        subject = find_subject(DEFAULT_SUBJECT)
        try:
            await asyncio.to_thread(self.studio.trays.put, self.form.trays[0], instance_pictures(subject), subject.name)
        except SpectraError as error:
            self._tell(str(error))
            return
        self._set(prompts=(subject.prompt,), name=self.form.name or DEFAULT_SUBJECT)
        ui.navigate.to(self.address)

    def _swap(self) -> None:
        self._set(trays=self.form.trays[::-1], prompts=self.form.prompts[::-1])
        ui.navigate.to(self.address)

    def _remove_subject(self) -> None:
        self._set(trays=self.form.trays[:1], prompts=self.form.prompts[:1])
        ui.navigate.to(self.address)

    def _tell(self, wrong: str) -> None:
        self._told.clear()
        with self._told:
            show_error(wrong)

    async def _start(self) -> None:
        form, studio = self.form, self.studio
        try:
            out = studio.workspace.new(form.name)
            folders = [studio.trays.folder(tray) for tray in form.trays]
            arguments = await asyncio.to_thread(train_command, form, studio.settings, folders, out)
            kept = {**vars(form), "all_steps": train_config(form, studio.settings, folders).steps}
            made = await asyncio.to_thread(studio.queue.add, form.name, "train", arguments, out, kept)
        except SpectraError as error:
            self._tell(str(error))
            return
        ui.navigate.to(f"/job/{made.key}")


def _count(text: str) -> int:
    """A whole number; 0 for anything else."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0


def _weight(text: str) -> float | None:
    """A number; None for anything else."""
    try:
        return float(text)
    except ValueError:
        return None
