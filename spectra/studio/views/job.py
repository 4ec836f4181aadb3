"""One training or edit as its folder shows it, and the queue of all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nicegui import ui

from spectra.errors import SpectraError
from spectra.studio import watching
from spectra.studio.commands import EditForm, TrainForm, resumed
from spectra.studio.jobs import OVER, Job, State
from spectra.studio.studio import Studio
from spectra.studio.views.elements import (
    button,
    link,
    picture,
    progress_bar,
    section,
    show_error,
    tag,
    url,
)
from spectra.studio.views.frame import frame
from spectra.training.run.report import WINDOW

_LOOK = 1.0
"""Seconds between two looks at a job's folder."""

_WORDS: dict[State, str] = {
    "waiting": "waits for its turn",
    "running": "runs",
    "stopping": "stops after this step",
    "done": "is done",
    "stopped": "was stopped",
    "failed": "failed",
}
_KINDS = {"train": "Training", "edit": "Edit"}
_BOX = (640, 200)
"""Width and height of the box of a loss curve."""


async def show(studio: Studio, key: str) -> None:
    """The page of a job."""
    try:
        job = await asyncio.to_thread(studio.queue.job, key)
    except SpectraError as error:
        with frame(studio, "Train", "No such job"):
            tag("h1", "No such job")
            show_error(str(error))
            link("The queue", "/train#queue")
        return
    with frame(studio, job.kind.capitalize(), job.name):
        tag("h1", job.name)
        JobView(studio, job).show()


class JobView:
    """One browser's look at a job. Its folder is all that is known; nothing is kept here that a reload would lose."""

    def __init__(self, studio: Studio, job: Job) -> None:
        self.studio, self.job = studio, job
        self._shown: tuple[Any, ...] = ()

    def show(self) -> None:
        """Build the view."""
        self._state = tag("p", "", "state", role="status")
        self._progress = tag("div", "", "progress")
        with self._progress:
            self._bar = progress_bar("Steps", 0, 0)
            self._said = tag("span", "", "quiet")
        self._buttons = ui.refreshable(self._show_buttons)
        with tag("div", "", "row"):
            self._buttons()
        self._error = tag("div")
        self._curve = tag("div", "", "curve")
        self._sheets = tag("div", "", "sheets")
        with tag("details", "", "log"):
            tag("summary", "What the command says")
            tag("code", self.job.command, "command", tabindex="0")
            self._log = tag("pre", "", "", tabindex="0", aria_label="Log")
        self._look()
        ui.timer(_LOOK, self._look)

    def _look(self) -> None:
        """Show what is new in the folder."""
        state, points, sheets, log = (
            self.job.state,
            watching.losses(self.job),
            watching.sheets(self.job),
            self.job.log(),
        )
        seen = (state, len(points), tuple((path, path.stat().st_mtime_ns) for path in sheets), log)
        if seen == self._shown:
            return
        before, self._shown = self._shown, seen
        self._state.set_text(f"{_KINDS[self.job.kind]} {_WORDS[state]}")
        self._state.props["data-state"] = state
        self._log.set_text("\n".join(log[-40:]))
        if not before or before[0] != state:
            self._buttons.refresh()
            self._error.clear()
            if error := self.job.error:
                with self._error:
                    show_error(error)
        self._progress.set_visibility(state in ("running", "stopping"))
        self._show_progress(points)
        if not before or before[1] != seen[1]:
            self._show_curve(points)
        if not before or before[2] != seen[2]:
            self._show_sheets(sheets)

    def _show_progress(self, points: list[tuple[int, float]]) -> None:
        told = self.job.progress()
        done = points[-1][0] if points else 0
        steps = self.job.form.get("all_steps", 0)
        if told is not None and (not told[0].startswith("training") or told[1] >= done):
            words, done, steps = told
        else:
            words = "training" if points else "starting"
        if steps:
            self._bar.props["max"], self._bar.props["value"] = steps, done
        self._said.set_text(f"{words}, {done} of {steps}" if done and steps else words)

    def _show_curve(self, points: list[tuple[int, float]]) -> None:
        self._curve.clear()
        if not points:
            return
        width, height = _BOX
        steps = max(points[-1][0], self.job.form.get("all_steps", 0))
        means = watching.averaged(points, WINDOW)
        words = f"Loss after {points[-1][0]} steps: {means[-1][1]:.4f}, the mean of the last {WINDOW}"
        with self._curve, section("Loss"):
            with tag(
                "svg", "", viewBox=f"0 0 {width} {height}", role="img", aria_label=words, preserveAspectRatio="none"
            ):
                top = max(loss for _, loss in points)
                for look, values in (("each", points), ("mean", means)):
                    tag("path", "", look, d=watching.curve(values, steps, top, width, height))
            tag("p", words, "quiet")

    def _show_sheets(self, sheets: list[Path]) -> None:
        self._sheets.clear()
        with self._sheets:
            for path in sheets:
                heading = "Sheet" if path.name != "samples.png" else "On the way"
                source = f"/file/{self.studio.workspace.name_of(path)}?{path.stat().st_mtime_ns}"
                with section(heading), tag("a", "", href=source, target="_blank", aria_label=f"Open: {heading}"):
                    picture(source, f"{heading} of {self.job.name}", "plot")

    def _show_buttons(self) -> None:
        job, state = self.job, self.job.state
        if state in ("waiting", "running"):
            button("Stop", lambda: self._do(self.studio.queue.stop), "primary")
        if state in ("stopped", "failed"):
            again = resumed(job.arguments, job.out)
            words = "Resume" if "--resume" in again else "Start again"
            button(words, lambda: self._do(lambda each: self.studio.queue.again(each, again)), "primary")
        if (found := watching.shift(job)) is not None and job.kind == "train":
            link("Play with it", url("/play", shift=self.studio.workspace.name_of(found)), "button primary")
        if state in OVER:
            link("Once more with changes", _form_address(job), "button")
            button("Take off the list", self._forget, "quiet")

    def _do(self, what: Callable[[Job], None]) -> None:
        what(self.job)
        self.job = self.studio.queue.job(self.job.key)
        self._shown = ()
        self._look()

    def _forget(self) -> None:
        self.studio.queue.forget(self.job)
        ui.navigate.to(f"/{self.job.kind}")


def queue_list(studio: Studio) -> None:
    """Every job with its state, the newest first."""

    def listed() -> None:
        jobs = studio.queue.jobs()[::-1]
        if not jobs:
            tag("p", "Nothing runs or waits.", "quiet")
        with tag("ul", "", "jobs"):
            for job in jobs:
                with tag("li"):
                    link(job.name, f"/job/{job.key}")
                    tag("span", f"{_KINDS[job.kind]} {_WORDS[job.state]}", "state", data_state=job.state)

    with section("Queue") as part:
        part.props["id"] = "queue"
        shown = ui.refreshable(listed)
        shown()
    before = [(job.key, job.state) for job in studio.queue.jobs()]

    def look() -> None:
        nonlocal before
        now = [(job.key, job.state) for job in studio.queue.jobs()]
        if now != before:
            before = now
            shown.refresh()

    ui.timer(2 * _LOOK, look)


def _form_address(job: Job) -> str:
    """The form that a job was started by, filled in as it was but for the name."""
    if job.kind == "edit":
        known = EditForm().__dict__
        return url("/edit", **{name: job.form.get(name, "") or "" for name in known if name != "name"})
    form = TrainForm.of(job.form)
    given = {"class": form.class_prompt, "preset": form.preset, "steps": form.steps or "", "seed": form.seed or ""}
    weight = "" if form.prior_weight is None else f"{form.prior_weight:g}"
    return url("/train", tray=form.trays, prompt=form.prompts, prior=weight, **given)
