"""What a job's folders show of it while it runs and afterwards: losses, sheets, and the shift that came of it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spectra.io.safetensors_header import HeaderError, read_header
from spectra.studio.jobs import OVER, Job
from spectra.training.run.outputs import LOG, SAMPLES, SHEET, Outputs

EDIT_SHEET = "sheet.png"

_TOLD = re.compile(r"^training (\d+)/\d+, loss ([\d.e-]+)")


def losses(job: Job) -> list[tuple[int, float]]:
    """Step and loss of each step so far.

    Those of a training that runs come with the states that it saves; after the last one, as the command tells them now
    and then.
    """
    known = _saved_losses(Outputs(job.out))
    last = known[-1][0] if known else 0
    told = [(int(found[1]), float(found[2])) for line in job.log() if (found := _TOLD.match(line))]
    return known + sorted(point for point in dict(told).items() if point[0] > last and job.state not in OVER)


def _saved_losses(outputs: Outputs) -> list[tuple[int, float]]:
    try:
        if (outputs.folder / LOG).is_file():
            text = (outputs.folder / LOG).read_text(encoding="utf-8")
            history: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
        else:
            history = json.loads(read_header(outputs.find_state()).metadata["progress"])["history"]
        return [(int(record["step"]), float(record["loss"])) for record in history]
    except (OSError, HeaderError, ValueError, KeyError, TypeError):
        return []


def sheets(job: Job) -> list[Path]:
    """The sheets that are there: the last one first."""
    outputs = Outputs(job.out)
    if job.kind == "edit":
        found = [job.out / EDIT_SHEET]
    else:
        found = [outputs.folder / SHEET, outputs.folder / "progress" / SAMPLES, outputs.unfinished / SAMPLES]
    return [path for path in found if path.is_file()]


def shift(job: Job) -> Path | None:
    """The shift that a job left; None before it did."""
    folder = job.out if job.kind == "train" else job.out / "training"
    path = folder / f"{job.out.name}.safetensors"
    return path if path.is_file() else None


def curve(points: Sequence[tuple[int, float]], steps: int, top: float, width: int, height: int) -> str:
    """Losses as a path of SVG.

    Args:
        points: step and loss, at least one.
        steps, top: the step at the right edge and the loss at the upper one.
        width, height: of the box.
    """
    places = (
        f"{step / max(steps, 1) * width:.1f} {height - loss / (top or 1.0) * height:.1f}" for step, loss in points
    )
    return "M" + "L".join(places)


def averaged(points: Sequence[tuple[int, float]], window: int) -> list[tuple[int, float]]:
    """Each loss as the mean of the last few, since a single one depends on the noise that it drew."""
    values = [loss for _, loss in points]
    means = []
    for place, (step, _) in enumerate(points):
        last = values[max(0, place + 1 - window) : place + 1]
        means.append((step, sum(last) / len(last)))
    return means
