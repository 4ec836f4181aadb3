"""What a training leaves behind to be read: its summary, its log and its loss curve."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spectra.bases.embedded import NAME
from spectra.plots import style
from spectra.training.run.judgement import Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOW = 20
"""Steps over which the curve is averaged, since a step's loss depends mostly on the timesteps it drew."""


@dataclass(frozen=True)
class Summary:
    """What was learnt, what it cost, and where it is.

    `pictures` counts what was used of the instance pictures (`subjects.count_pictures`), `loss_before` and `loss_after`
    are the denoising loss of them at the same fixed noise, `judged` what is to be said of subject, class and prompt,
    `reduced_bytes` of gradients are what a step sums over the `processes` that trained it together,
    `base_options` what the command line takes beside `--base` to load the base as it was.
    """

    subject: str
    prompt: str
    class_prompt: str
    pictures: dict[str, Any]
    base: str
    folder: str
    shift: str
    sheet: str
    config: str
    loss_curve: str
    state: str | None
    steps: int
    resumed_at: int
    tensors: int
    floats: int
    bytes: int
    base_bytes: int
    loss_before: float
    loss_after: float
    train_seconds: float
    judged: tuple[Verdict, ...] = ()
    total_seconds: float = 0.0
    processes: int = 1
    reduced_bytes: int = 0
    base_options: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON values."""
        return {**asdict(self), "try": self.next_commands()}

    def moved_to(self, folder: Path) -> Summary:
        """The summary of a training whose folder lies at `folder` now."""
        names = ("folder", "shift", "sheet", "config", "loss_curve", *(("state",) if self.state else ()))
        paths: dict[str, Any] = {n: str(folder / Path(getattr(self, n)).relative_to(self.folder)) for n in names}
        return replace(self, **paths)

    def next_commands(self) -> list[str]:
        """Commands to try next, to be copied into a shell."""
        base = "" if self.base == NAME else f" {shlex.join(['--base', self.base, *self.base_options])}"
        shift, prompt = shlex.quote(self.shift), shlex.quote(self.prompt)
        pictures = shlex.quote(self.folder + "-pictures")
        return [
            f"spectra generate{base} --shift {shift} --prompt {prompt} --count 4 -o {pictures}",
            f"spectra inspect {shift}",
        ]


def write_log(history: Sequence[dict[str, float]], path: Path) -> None:
    """Write a JSON object for each step, one a line."""
    path.write_text("".join(json.dumps(record) + "\n" for record in history), encoding="utf-8")


def draw_loss_curve(history: Sequence[dict[str, float]]) -> Figure:
    """Every term's curve, each step faintly, and averaged over `WINDOW` steps."""
    figure = style.new_figure(7, 4)
    axes = figure.subplots()
    steps = [record["step"] for record in history]
    terms = [key for key in history[0] if key not in ("step", "seconds", "loss")]
    for term, colour in zip(terms, itertools.cycle(style.LINES)):
        values = [record[term] for record in history]
        axes.plot(steps, values, color=colour, alpha=0.2, linewidth=0.8)
        means = [np.mean(values[max(0, end - WINDOW) : end]) for end in range(1, len(values) + 1)]
        axes.plot(steps, means, color=colour, label=f"{term} (mean of {WINDOW} steps)")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure
