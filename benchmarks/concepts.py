"""Several concepts trained together, against one after the other: time, counted flops, and what they come to.

Both train the same subjects of the embedded base by its default settings, from the same samples. A round is one step of
the concepts together and one step of each alone, in turns within one process. Steps are timed, not loading or drawing:

    ratio        time of a step together, over the sum of a step of each alone
    flops_ratio  the same of the counted flops of their matrix products and convolutions
    difference   of the shifts after all rounds: |together - alone| over |alone|, largest of the concepts
    rounding     the same for one of them alone, with each batch cut in two: what another order of sums comes to
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.benchmarks.case import Bench, Case, Column, Goal, Row

if TYPE_CHECKING:
    from spectra.training.run import Training

_GOAL = 8
"""Concepts for which the goals are set."""


def _items(bench: Bench) -> list[str]:
    return ["2", "4", str(_GOAL)]


def _training(bench: Bench, subjects: Sequence[int], **more: Any) -> Training:
    """A training of some embedded subjects, ready for its first step."""
    from spectra.base.subjects import SUBJECTS
    from spectra.training.checks import check
    from spectra.training.config import make_config
    from spectra.training.run import Training

    few = {"prior_steps": bench.integer("prior_steps")}  # what class pictures look like costs no step any time
    settings = [{"subject": SUBJECTS[n].name, "seed": bench.seed + n, **few, **more} for n in subjects]
    with tempfile.TemporaryDirectory() as folder:
        checked = [check(make_config(each), Path(folder) / str(n)) for n, each in enumerate(settings)]
    training = Training([str(n) for n in subjects], checked)
    training.prepare()
    return training


def _measure(bench: Bench, item: str) -> Row:
    from torch.utils.flop_counter import FlopCounterMode

    concepts = range(int(item))
    together = _training(bench, concepts)
    alone = [_training(bench, [n]) for n in concepts]
    try:
        flops = []
        for group in ([together], alone):
            with FlopCounterMode(display=False) as counter:
                for training in group:
                    training.loop.advance()
            flops.append(counter.get_total_flops())
        times = bench.time(
            {
                "together": together.loop.advance,
                "alone": lambda: [training.loop.advance() for training in alone],
            }
        )
        steps = together.loop.step
        difference = max(_distance(together, n, training) for n, training in enumerate(alone))
        rounding = _rounding(bench, alone[0])
    finally:
        for training in (together, *alone):
            training.close()
    return {
        "concepts": item,
        "together_s": times["together"].row(),
        "alone_s": times["alone"].row(),
        "ratio": round(times["together"].median / times["alone"].median, 4),
        "together_gflops": round(flops[0] / 1e9, 2),
        "flops_ratio": round(flops[0] / flops[1], 4),
        "steps": steps,
        "difference": float(f"{difference:.3g}"),
        "rounding": float(f"{rounding:.3g}"),
    }


def _rounding(bench: Bench, alone: Training) -> float:
    """The distance between a concept trained alone, and the same with its batch of 4 cut in two."""
    # Made last: accelerate has one count of accumulated batches for the whole process.
    cut = _training(bench, [0], batch=2, accumulation=2)
    try:
        while cut.loop.step < alone.loop.step:
            cut.loop.advance()
        return _distance(cut, 0, alone)
    finally:
        cut.close()


def _distance(training: Training, number: int, alone: Training) -> float:
    """`|a - b| / |b|` over all deltas of a concept and of the same one trained alone."""
    import torch

    a, b = (torch.cat(list(stack.of(n).values())) for stack, n in ((training.stack, number), (alone.stack, 0)))
    return float((a - b).norm() / b.norm())


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    return {f"{name}_{row['concepts']}": row[name] for row in rows for name in ("ratio", "flops_ratio", "difference")}


CASE = Case(
    name="concepts",
    title="training several concepts together, against one after the other",
    key="concepts",
    items=_items,
    measure=_measure,
    summarise=_summarise,
    settings={"repetitions": 10, "seed": 0, "prior_steps": 2},
    columns=(
        Column("concepts"),
        Column("together_s", "together, s", ".3f"),
        Column("alone_s", "alone, s", ".3f"),
        Column("ratio", form=".3f"),
        Column("flops_ratio", "of flops", ".3f"),
        Column("difference", form=".1e"),
        Column("rounding", form=".1e"),
    ),
    goals=(Goal(f"ratio_{_GOAL}", "<", 0.5),),
)
