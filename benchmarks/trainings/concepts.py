"""Several concepts trained together, against one after the other: time, counted flops, and what they come to.

Both train the same subjects of the embedded base by its default settings, from the same samples. A round is one step of
the concepts together and one step of each alone, in turns within one process. Steps are timed, not loading or drawing:

    ratio           time of a step together, over the sum of a step of each alone
    flops_ratio     the same of the counted flops of their matrix products and convolutions
    difference      of the first concept's shift after all rounds: |together - alone| over |alone|
    together_error  |together - exact| over |exact|, where exact is the same training with the base in float64
    alone_error     the same for the concept alone: rounding, and what AdamW makes of it
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spectra.benchmarks.case import Bench, Case, Column, Goal, Row
from spectra.benchmarks.steps.flops import counter

if TYPE_CHECKING:
    from torch import Tensor

    from spectra.training.run.trainer import Training

_FIGURES = ("ratio", "flops_ratio", "difference", "together_error", "alone_error")

_GOAL = 8
"""Concepts for which the goals are set."""


def _items(bench: Bench) -> list[str]:
    return ["2", "4", str(_GOAL)]


def _training(bench: Bench, subjects: Sequence[int], *, exact: bool = False) -> Training:
    """A training of some embedded subjects, ready for its first step; with the base in float64 if `exact`."""
    import torch

    from spectra.bases.embedded.subjects import SUBJECTS, instance_pictures
    from spectra.training.config import make_config
    from spectra.training.run.concepts import ConceptSpec
    from spectra.training.run.inputs import validate_inputs
    from spectra.training.run.trainer import Training

    with tempfile.TemporaryDirectory() as folder:
        # Class pictures need not be drawn for this: any will do, the same ones for all.
        for number, picture in enumerate(instance_pictures(SUBJECTS[-1], count=8)):
            picture.save(Path(folder) / f"{number}.png")
        common = {"class_images": folder, "preset": bench.settings["preset"]}
        inputs = []
        for n in subjects:
            config = make_config({**common, "subject": SUBJECTS[n].name, "seed": bench.seed + n})
            inputs.append(validate_inputs(ConceptSpec(str(n), config, Path(folder) / str(n))))
        training = Training(inputs)
        if exact:
            for model in (training.pipe.unet, training.pipe.vae, training.pipe.text_encoder):
                torch.nn.Module.to(model, torch.float64)
        training.prepare()
    return training


def _measure(bench: Bench, item: str) -> Row:
    concepts = range(int(item))
    together = _training(bench, concepts)
    alone = [_training(bench, [n]) for n in concepts]
    trainings = [together, *alone]
    try:
        for training in trainings:
            training.loop.advance()  # makes what a first step makes for good
        flops = []
        for group in ([together], alone):
            with counter() as counted:
                for training in group:
                    training.loop.advance()
            flops.append(counted.get_total_flops())
        times = bench.time(
            {
                "together": together.loop.advance,
                "alone": lambda: [training.loop.advance() for training in alone],
            },
            warm_up=0,  # that was the step above
        )
        exact = _training(bench, [0], exact=True)
        trainings.append(exact)
        while exact.loop.step < together.loop.step:
            exact.loop.advance()
        shifts = [_deltas(training) for training in (together, alone[0], exact)]
    finally:
        for training in trainings:
            training.close()
    return {
        "concepts": item,
        "together_s": times["together"].row(),
        "alone_s": times["alone"].row(),
        "ratio": round(times["together"].median / times["alone"].median, 4),
        "together_gflops": round(flops[0] / 1e9, 2),
        "flops_ratio": round(flops[0] / flops[1], 4),
        "steps": together.loop.step,
        "difference": _distance(shifts[0], shifts[1]),
        "together_error": _distance(shifts[0], shifts[2]),
        "alone_error": _distance(shifts[1], shifts[2]),
    }


def _deltas(training: Training) -> Tensor:
    """All deltas of the first concept, as one vector."""
    import torch

    return torch.cat([value.flatten() for value in training.parameters.of(0).values()])


def _distance(a: Tensor, b: Tensor) -> float:
    return float(f"{float((a - b).norm() / b.norm()):.3g}")


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    return {f"{name}_{row['concepts']}": row[name] for row in rows for name in _FIGURES}


CASE = Case(
    name="concepts",
    title="training several concepts together, against one after the other",
    key="concepts",
    items=_items,
    measure=_measure,
    summarise=_summarise,
    settings={"repetitions": 10, "seed": 0, "preset": "balanced"},
    columns=(
        Column("concepts"),
        Column("together_s", "together, s", ".3f"),
        Column("alone_s", "alone, s", ".3f"),
        Column("ratio", form=".3f"),
        Column("flops_ratio", "of flops", ".3f"),
        Column("difference", form=".1e"),
        Column("together_error", "from exact", ".1e"),
        Column("alone_error", "alone", ".1e"),
    ),
    goals=(Goal(f"ratio_{_GOAL}", "<", 0.5),),
)
