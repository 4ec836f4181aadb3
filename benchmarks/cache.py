"""The spectrum cache on a whole Stable Diffusion 1.x UNet: filling it, and loading from it warm.

The UNet is really built, with random weights in float32 (3.4 GB), and its spectra are written to a temporary folder
(0.9 GB). Warm is what a second training or loading pays before its first step: hashing every weight, mapping every
entry and reading it once for its checksum, with the files in the system's page cache.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.benchmarks.case import Bench, Case, Column, Goal, Row
from spectra.benchmarks.timing import spread

if TYPE_CHECKING:
    from torch import Tensor


def _weights(bench: Bench) -> dict[str, Tensor]:
    import torch
    from diffusers import UNet2DConditionModel

    def build() -> dict[str, Tensor]:
        torch.manual_seed(bench.seed)
        make: Any = UNet2DConditionModel  # diffusers is untyped here
        named = make(cross_attention_dim=768).named_parameters()
        return {name: weight.detach() for name, weight in named if weight.ndim > 1}

    weights: dict[str, Tensor] = bench.once("weights", build)
    return weights


def _folder(bench: Bench) -> Path:
    # Kept as an object: the folder goes when the run's shared things do.
    folder: tempfile.TemporaryDirectory[str] = bench.once("folder", tempfile.TemporaryDirectory)
    return Path(folder.name)


def _measure(bench: Bench, item: str) -> Row:
    import torch

    from spectra.cache import SpectrumCache

    weights = _weights(bench)
    cache = SpectrumCache(_folder(bench), max_bytes=10**12)
    if item == "warm":
        cache.fill(weights, bench.progress)
    samples = []
    for _ in range(bench.integer("repetitions") if item == "warm" else 1):
        start = time.perf_counter()
        usage = cache.fill(weights, bench.progress)
        samples.append(time.perf_counter() - start)
    return {
        "state": item,
        "seconds": spread(samples).row(),
        "weights": len(weights),
        "hits": usage.hits,
        "misses": usage.misses,
        "bytes": usage.bytes,
        "threads": torch.get_num_threads(),
    }


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    return {f"{row['state']}_seconds": row["seconds"]["median"] for row in rows} | {"bytes": rows[0]["bytes"]}


CASE = Case(
    name="cache",
    title="the spectra of SD 1.5's whole UNet: filling the cache, and loading from it",
    key="state",
    items=lambda bench: ["cold", "warm"],
    measure=_measure,
    summarise=_summarise,
    settings={"repetitions": 3, "seed": 0},
    columns=(
        Column("state"),
        Column("seconds", form=".2f"),
        Column("weights"),
        Column("hits", "found"),
        Column("misses", "computed"),
        Column("bytes", form=",.0f"),
    ),
    goals=(Goal("warm_seconds", "<=", 15.0),),
)
