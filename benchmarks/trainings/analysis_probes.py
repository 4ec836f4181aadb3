"""What a shift does to the pictures of a subject, judged: the probes of `spectra bench analysis`."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from spectra.benchmarks.case import Bench, Row
from spectra.benchmarks.trainings.trained import draw

if TYPE_CHECKING:
    from spectra.shift.shift import SpectralShift


@contextlib.contextmanager
def active(bench: Bench, shift: SpectralShift) -> Iterator[None]:
    """Within the block the pipeline draws with this shift."""
    import spectra
    from spectra.bases.pipeline import load_pipeline

    pipe = bench.once("pipe", load_pipeline)
    spectra.load(pipe, shift, name="probe")
    try:
        spectra.activate(pipe, {"probe": 1.0})
        yield
    finally:
        spectra.unload(pipe, "probe")


def probe(bench: Bench, item: str, shifts: Mapping[str, SpectralShift]) -> Row:
    """Every figure with a shift for each subject: their means, and each subject's."""
    each: dict[str, dict[str, float]] = {}
    for name, shift in shifts.items():
        with active(bench, shift):
            each[name] = _figures(bench, item, name)
    return {**means(each), "subjects": each}


def means(each: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean of each figure over the subjects."""
    first = next(iter(each.values()))
    return {figure: round(statistics.fmean(of[figure] for of in each.values()), 4) for figure in first}


def _figures(bench: Bench, item: str, name: str) -> dict[str, float]:
    """What the pipeline draws of a subject now, judged."""
    from spectra.bases.embedded.subjects import find_subject, has_border, instance_pictures, plain_picture
    from spectra.benchmarks.trainings import analysis_pictures, judge
    from spectra.benchmarks.trainings.editing import EDITS
    from spectra.training.data.subjects import INSTANCE_COUNT

    known, pipe, count = find_subject(name), bench.shared["pipe"], bench.integer("pictures")
    own = instance_pictures(known, count=INSTANCE_COUNT, seed=bench.seed)
    learnt = draw(bench, pipe, [known.prompt], count)
    of_class = draw(bench, pipe, [known.class_prompt], max(1, count // 2))
    few = max(1, count // 2 // len(EDITS))
    edited = draw(bench, pipe, [f"{known.prompt} on a {colour} background" for colour in EDITS], few)
    by_colour = [(colour, edited[n * few : (n + 1) * few]) for n, colour in enumerate(EDITS)]
    if bench.settings["sheets"]:
        analysis_pictures.keep(Path(str(bench.settings["sheets"])), item, name, learnt[0])
    figures = {
        "similarity": judge.identity(learnt, own),
        "leak": judge.identity(of_class, own),
        "class": judge.class_scores(of_class, known.concept)["top1"],
        "edit": statistics.fmean(has_border(each, colour) for colour, drawn in by_colour for each in drawn),
        "edit_similarity": statistics.fmean(
            judge.identity(drawn, [plain_picture(known, colour)]) for colour, drawn in by_colour
        ),
    }
    return {figure: round(float(value), 4) for figure, value in figures.items()}


def likeness(bench: Bench, name: str) -> float:
    """Similarity of what the pipeline draws now by a subject's own prompt."""
    from spectra.bases.embedded.subjects import find_subject, instance_pictures
    from spectra.benchmarks.trainings import judge
    from spectra.training.data.subjects import INSTANCE_COUNT

    known = find_subject(name)
    drawn = draw(bench, bench.shared["pipe"], [known.prompt], bench.integer("pictures"))
    return round(judge.identity(drawn, instance_pictures(known, count=INSTANCE_COUNT, seed=bench.seed)), 4)
