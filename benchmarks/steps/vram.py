"""What `spectra plan` says of the memory of a training step of published models.

Counted on shapes, with an estimate of what cannot be counted; no weights and no GPU are needed, and none was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from spectra.benchmarks.case import Bench, Case, Column, Row

MODELS = ("sd15", "sdxl", "sd3", "flux")
"""Names of published bases (`spectra.bases.published`)."""


def _measure(bench: Bench, item: str) -> Row:
    plain, quantised = _planned(item, bench), _planned(item, bench, quantize="nf4")
    return {
        "model": item,
        "pixels": plain.resolution,
        "step": plain.memory.step(checkpointing=False),
        "checkpointed": plain.memory.step(checkpointing=True),
        "nf4": quantised.memory.step(checkpointing=True),
        "file": plain.file_bytes,
    }


def _planned(model: str, bench: Bench, **given: Any) -> Any:
    """The plan of the default preset: a picture and one of the class in a step."""
    from spectra.bases.published import find_published
    from spectra.planning.plan import plan
    from spectra.planning.request import PlanRequest
    from spectra.training.config import make_config

    base = {"base": find_published(model).hub_id, "precision": str(bench.settings["precision"])}
    return plan(PlanRequest(config=make_config({**base, **given}), family=model))


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    return {row["model"]: row["step"] for row in rows}


CASE = Case(
    name="vram",
    title="memory of a training step as spectra plan counts it, default preset",
    key="model",
    items=lambda bench: list(MODELS),
    measure=_measure,
    summarise=_summarise,
    settings={"precision": "bfloat16"},
    columns=(
        Column("model"),
        Column("pixels"),
        Column("step", "step, GB", ".1f", 1e9),
        Column("checkpointed", "with checkpointing, GB", ".1f", 1e9),
        Column("nf4", "and nf4, GB", ".1f", 1e9),
        Column("file", "shift file, MB", ".1f", 1e6),
    ),
)
