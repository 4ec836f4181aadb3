"""Editing: a picture, what it shows, what it should show, and a sheet of every combination."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from nicegui import ui
from starlette.requests import Request

from spectra.errors import InputError, SpectraError
from spectra.studio.commands import EditForm, edit_command
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
    show_error,
    tag,
    text_field,
    url,
)
from spectra.studio.views.frame import frame

_TEXTS = ("name", "tray", "caption", "edit", "noise_mixes", "guidances", "keeps", "scales")
_SWEEPS = {
    "noise_mixes": ("Fresh noise", "from 0, the picture's own, to 1, fresh alone"),
    "guidances": ("Guidance", "how strongly the prompt leads"),
    "keeps": ("Keep", "more of the unedited picture, from 0 to 1"),
    "scales": ("Scale", "of what was learnt"),
}


def register(studio: Studio) -> None:
    """The page of edits."""

    async def show_edit(request: Request) -> None:
        with frame(studio, "Edit"):
            tag("h1", "Edit")
            await EditView(studio, request).show()
            job.queue_list(studio)

    ui.page("/edit", response_timeout=30)(show_edit)


class EditView:
    """One browser's form of an edit; its state is that of the address."""

    def __init__(self, studio: Studio, request: Request) -> None:
        asked = request.query_params
        texts = {name: asked.get(name, "") for name in _TEXTS}
        steps, seed = (int(n) if (n := asked.get(name, "")).isdecimal() else 0 for name in ("train_steps", "seed"))
        self.studio = studio
        self.form = EditForm(**{**texts, "tray": texts["tray"] or new_tray()}, train_steps=steps, seed=seed)

    @property
    def address(self) -> str:
        """The link that opens the form as it is."""
        return url("/edit", **{name: value or "" for name, value in vars(self.form).items()})

    async def show(self) -> None:
        """Build the form."""
        remember(self.address)
        form = self.form
        with tag("div", "", "two"):
            with section("The picture"):
                self._picture = ui.refreshable(self._show_picture)
                self._picture()
            with section("The edit"):
                text_field("What it shows", form.caption, self._setter("caption"), placeholder="a drawing of a fox")
                text_field(
                    "What it should show",
                    form.edit,
                    self._setter("edit"),
                    placeholder="a drawing of a fox on a red ground",
                )
                text_field("Name", form.name, self._setter("name"), at_once=True)
                with tag("details", open=any(getattr(form, name) for name in _SWEEPS) or bool(form.train_steps)):
                    tag("summary", "A sweep: several numbers, separated by commas, draw every combination")
                    with tag("div", "", "row filters"):
                        for name, (label, hint) in _SWEEPS.items():
                            text_field(
                                label, getattr(form, name), self._setter(name), hint=hint, placeholder="the usual"
                            )
                        number_field("Steps of learning", form.train_steps or "", self._counter("train_steps"), min=1)
                        number_field("Seed", form.seed, self._counter("seed"), min=0)
                self._told = tag("div")
                button("Start", self._start, "primary")

    def _show_picture(self) -> None:
        files = self._files()
        for file in files[:1]:
            picture(f"/file/{self.studio.workspace.name_of(file)}", f"{file.name}, to be edited", "whole")
            button("Another picture", self._another, aria_label=f"Remove {file.name}")
        if not files:
            drop_zone(self.form.tray, "Drop a picture here", self._picture.refresh, many=False)

    def _files(self) -> list[Any]:
        try:
            return self.studio.trays.pictures(self.form.tray)
        except SpectraError:
            return []

    def _another(self) -> None:
        for file in self._files():
            self.studio.trays.remove(self.form.tray, file.name)
        self._picture.refresh()

    def _set(self, **given: Any) -> None:
        self.form = replace(self.form, **given)
        self._told.clear()
        remember(self.address)

    def _setter(self, name: str) -> Any:
        return lambda text: self._set(**{name: text.strip()})

    def _counter(self, name: str) -> Any:
        return lambda text: self._set(**{name: int(text) if text.isdecimal() else 0})

    async def _start(self) -> None:
        form, studio = self.form, self.studio
        try:
            out, files = studio.workspace.new(form.name), self._files()
            if not files:
                raise InputError("no picture: drop one first")
            arguments = await asyncio.to_thread(edit_command, form, studio.settings, files[0], out)
            made = await asyncio.to_thread(studio.queue.add, form.name, "edit", arguments, out, vars(form))
        except SpectraError as error:
            self._told.clear()
            with self._told:
                show_error(str(error))
            return
        ui.navigate.to(f"/job/{made.key}")
