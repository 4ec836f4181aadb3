"""The spectrum cache on a whole Stable Diffusion 1.x UNet: filling it, and loading from it warm.

The UNet is really built, with random weights in float32 (3.4 GB), and its spectra are written to a temporary folder
(0.9 GB). Warm is what a second training or loading pays before its first step: hashing every weight, mapping every
entry and reading it once for its checksum, with the files in the system's page cache.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.benchmarks.case import Bench, Case, Column, Goal, Row
from spectra.benchmarks.timing import spread

if TYPE_CHECKING:
    from torch import Tensor

    from spectra.spectrum.cache.spectrum_cache import SpectrumCache


def _weights(bench: Bench) -> dict[str, Tensor]:
    import torch
    from diffusers import UNet2DConditionModel

    torch.manual_seed(bench.seed)
    make: Any = UNet2DConditionModel  # diffusers is untyped here
    named = make(cross_attention_dim=768).named_parameters()
    return {name: weight.detach() for name, weight in named if weight.ndim > 1}


def _measure(bench: Bench, item: str) -> Row:
    import torch

    from spectra.spectrum.cache.spectrum_cache import SpectrumCache

    weights = _weights(bench)
    with tempfile.TemporaryDirectory() as folder:
        cache = SpectrumCache(Path(folder), max_bytes=10**12)
        cold, *loads = (_load(cache, weights, bench) for _ in range(1 + bench.integer("repetitions")))
        size = sum(entry.size for entry in cache.entries())
    return {
        "base": item,
        "weights": len(weights),
        "cold_s": round(cold.seconds, 3),
        "cold_cpu_s": round(cold.cpu, 3),
        "warm_s": spread([load.seconds for load in loads]).row(),
        "warm_cpu_s": spread([load.cpu for load in loads]).row(),
        "computed": cold.misses,
        "loaded": cache.usage.hits,
        "bytes": size,
        "threads": torch.get_num_threads(),
    }


@dataclass(frozen=True)
class _Load:
    """One pass over all weights: wall clock, CPU seconds of all threads, and spectra that had to be computed."""

    seconds: float
    cpu: float
    misses: int


def _load(cache: SpectrumCache, weights: dict[str, Tensor], bench: Bench) -> _Load:
    start, cpu, misses = time.perf_counter(), time.process_time(), cache.usage.misses
    cache.spectra(weights, bench.progress)
    return _Load(time.perf_counter() - start, time.process_time() - cpu, cache.usage.misses - misses)


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    (row,) = rows
    return {
        "cold_seconds": row["cold_s"],
        "cold_cpu_seconds": row["cold_cpu_s"],
        "warm_seconds": row["warm_s"]["median"],
        "warm_cpu_seconds": row["warm_cpu_s"]["median"],
    }


CASE = Case(
    name="cache",
    title="the spectra of SD 1.5's UNet: filling the cache, loading from it",
    key="base",
    items=lambda bench: ["sd15-unet"],
    measure=_measure,
    summarise=_summarise,
    settings={"repetitions": 3, "seed": 0},
    columns=(
        Column("base"),
        Column("weights"),
        Column("cold_s", "cold, s", ".1f"),
        Column("cold_cpu_s", "CPU, s", ".1f"),
        Column("warm_s", "warm, s", ".2f"),
        Column("warm_cpu_s", "CPU, s", ".2f"),
        Column("bytes", form=",.0f"),
    ),
    # Seconds, not a minute. On a busy machine the wall clock says little, so CPU seconds are held to less.
    goals=(Goal("warm_seconds", "<", 60.0), Goal("warm_cpu_seconds", "<=", 10.0)),
)
