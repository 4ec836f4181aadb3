"""Training: pictures dropped, seen as the training will see them, a preset, and the queue of what runs and waits."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from nicegui import ui
from starlette.requests import Request

from spectra.errors import SpectraError
from spectra.settings import declared_settings
from spectra.studio.commands import TrainForm, train_command, train_config
from spectra.studio.looks import Look, look_at
from spectra.studio.studio import Studio
from spectra.studio.uploads import new_tray
from spectra.studio.views import job
from spectra.studio.views.dropzone import drop_zone
from spectra.studio.views.elements import (
    button,
    number_field,
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
from spectra.training.config import TrainConfig
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
        self._looks: list[list[Look]] | None = None
        self._wrong, self._asked = "", 0
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
            "sheets": "" if form.sheets == 4 else form.sheets,
        }
        return url("/train", **given, prompt=form.prompts if any(form.prompts) else (), **numbers)

    async def show(self) -> None:
        """Build the form."""
        remember(self.address)
        self._subjects = ui.refreshable(self._show_subjects)
        with section("Pictures"):
            self._subjects()
            self._waits = tag("p", "", "quiet", role="status")
        with section("How"):
            with tag("div", "", "row filters"):
                text_field("Name", self.form.name, lambda text: self._set(name=text.strip()), at_once=True)
                presets = {name: name for name in PRESETS}
                meant = declared_settings(TrainConfig)["preset"].help
                select_field("Preset", self.form.preset, presets, lambda value: self._set(preset=value))
                number_field("Steps", self.form.steps or "", self._number("steps"), min=1, placeholder="the preset's")
                number_field(
                    "Prior weight",
                    "" if self.form.prior_weight is None else f"{self.form.prior_weight:g}",
                    lambda text: self._set(prior_weight=_weight(text)),
                    min=0,
                    step="any",
                    placeholder="the preset's",
                )
                number_field("Sheets on the way", self.form.sheets, self._number("sheets"), min=0, max=20)
                number_field("Seed", self.form.seed, self._number("seed"), min=0)
            tag("p", meant, "quiet")
            if len(self.form.trays) == 1:
                text_field(
                    "Class prompt",
                    self.form.class_prompt,
                    lambda text: self._set(class_prompt=text.strip()),
                    placeholder="the prompt without its word in brackets",
                )
            self._told = tag("div")
            button("Start", self._start, "primary")
        ui.timer(0.01, self._look, once=True)

    def _set(self, **given: Any) -> None:
        self.form = replace(self.form, **given)
        remember(self.address)

    def _number(self, name: str) -> Any:
        return lambda text: self._set(**{name: _count(text)})

    def _show_subjects(self) -> None:
        """Each subject's prompt and pictures; what is known of how they will be seen comes later."""
        with tag("div", "", "subjects"):
            for place in range(len(self.form.trays)):
                self._show_subject(place, self._looks[place] if self._looks else None)
        if self._wrong:
            show_error(self._wrong)
        if len(self.form.trays) == 1:
            button("Add a second subject", self._add_subject)
        else:
            with tag("div", "", "row"):
                button("Swap left and right", self._swap)
                button("Remove the right one", self._remove_subject)

    async def _look(self) -> None:
        """Ask how the training will see the pictures, once the base is there, and show that."""
        self._asked += 1
        number, form, drawer = self._asked, self.form, self.studio.drawer
        self._looks, self._wrong = None, ""
        if all(form.prompts) and all(map(self._pictures, form.trays)):
            self._waits.set_text("" if drawer.ready else "Loading the base, to show the pictures as it will see them …")
            folders = [self.studio.trays.folder(tray) for tray in form.trays]
            try:
                looks = await asyncio.to_thread(look_at, form, self.studio.settings, folders, drawer)
                wrong = ""
            except SpectraError as error:
                looks, wrong = None, str(error)
            if number != self._asked:
                return
            self._looks, self._wrong = looks, wrong
            self._waits.set_text("")
        self._subjects.refresh()

    def _pictures(self, tray: str) -> list[Any]:
        try:
            return self.studio.trays.pictures(tray)
        except SpectraError:
            return []

    def _show_subject(self, place: int, looks: list[Look] | None) -> None:
        form = self.form
        tray, several = form.trays[place], len(form.trays) > 1
        heading = f"Subject on the {_SIDES[place]}" if several else "Subject"
        with tag("div", "", "subject", role="group", aria_label=heading):
            if several:
                tag("h3", heading)
            example = f"a drawing of a [V{place + 1}] fox"
            text_field(
                "Prompt",
                form.prompts[place],
                lambda text: self._set_prompt(place, text),
                placeholder=example,
                hint="what they show, with a word of its own in brackets",
            )
            drop_zone(tray, "Drop pictures here", self._look)
            with tag("ul", "", "looks"):
                seen = {look.file.name: look for look in looks or ()}
                for file in self._pictures(tray):
                    with tag("li"):
                        self._show_picture(tray, file, seen.get(file.name))

    def _show_picture(self, tray: str, file: Any, look: Look | None) -> None:
        source = f"/file/{self.studio.workspace.name_of(file)}" if look is None else f"/drawn/{look.key}"
        picture(source, f"{file.name}, as it is learnt" if look else file.name)
        if look is not None:
            tag("span", look.prompt, "learnt")
            tag("span", look.size, "quiet")
        caption = file.with_suffix(".txt")
        own = caption.read_text(encoding="utf-8").strip() if caption.is_file() else ""
        text_field(
            f"Caption of {file.name}",
            own,
            lambda text: self._set_caption(tray, file.name, text),
            placeholder="the prompt",
        )
        button("Remove", lambda: self._remove(tray, file.name), "quiet", aria_label=f"Remove {file.name}")

    async def _set_prompt(self, place: int, text: str) -> None:
        prompts = list(self.form.prompts)
        prompts[place] = text.strip()
        self._set(prompts=tuple(prompts))
        await self._look()

    async def _set_caption(self, tray: str, name: str, caption: str) -> None:
        try:
            self.studio.trays.set_caption(tray, name, caption)
        except SpectraError as error:
            self._tell(str(error))
        await self._look()

    async def _remove(self, tray: str, name: str) -> None:
        self.studio.trays.remove(tray, name)
        await self._look()

    def _add_subject(self) -> None:
        self._set(trays=(*self.form.trays, new_tray()), prompts=(*self.form.prompts, ""), class_prompt="")
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
