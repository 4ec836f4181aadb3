"""Decomposing Stable Diffusion 1.x's UNet: time, accuracy and floats, beside `torch.linalg.svd` in float32.

Every matrix of the UNet is counted, but each distinct shape is measured once, on random weights as PyTorch initialises
them, and enters the totals as often as the UNet has it. (Time does not depend on the values; the tail does a little.)
Ours is timed as the spectrum cache does it: as many matrices at once as there are threads, a thread each. A plain
`torch.linalg.svd` takes all threads for one matrix, and is many times slower on a wide matrix than on its transpose.
Goals are held against the plain call; the summary says what remains against the best of it: transposed where that is
quicker, and several at once.

With `--set directions=64` it measures instead how much quicker so many leading directions are found (leading.py).

On a machine that is busy with other work, `--set threads=1 --set cpu_clock=true` counts this process's own CPU seconds.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from spectra.benchmarks.case import Bench, Case, Column, Goal, Row
from spectra.benchmarks.files import leading
from spectra.benchmarks.timing import interleaved

if TYPE_CHECKING:
    from torch import Tensor

_WARM_UP_BELOW = 1000
"""Matrices with a smaller rank are quick, and noisy enough to deserve a round that is not counted."""


def _shapes(bench: Bench) -> Mapping[str, int]:
    """Matrix shapes of the UNet (`320x2880`) and how often each occurs, the cheapest first."""
    counts: Counter[tuple[int, int]] = bench.once("shapes", _count)
    ordered = sorted(counts, key=lambda shape: (min(shape), max(shape), shape))
    return {f"{rows}x{columns}": counts[rows, columns] for rows, columns in ordered}


def _count() -> Counter[tuple[int, int]]:
    from spectra.benchmarks.files.storage import sd15_unet

    weights = (weight for name, weight in sd15_unet().named_parameters() if name.endswith("weight"))
    return Counter((w.shape[0], math.prod(w.shape[1:])) for w in weights if w.ndim > 1)


def _items(bench: Bench) -> list[str]:
    return leading.items(bench) if bench.integer("directions") else list(_shapes(bench))


def _measure(bench: Bench, item: str) -> Row:
    return leading.measure(bench, item) if bench.integer("directions") else _measure_in_full(bench, item)


def _measure_in_full(bench: Bench, item: str) -> Row:
    import torch

    from spectra.spectrum.cache.workers import MAX_WORKERS, side_by_side
    from spectra.spectrum.decomposition import decompose

    rows, columns = map(int, item.split("x"))
    generator = torch.Generator().manual_seed(bench.seed)
    weight = (torch.rand(rows, columns, generator=generator) * 2 - 1) / math.sqrt(columns)
    transposed = weight.T.contiguous()
    before = torch.get_num_threads()
    threads = bench.integer("threads") or before
    torch.set_num_threads(threads)
    workers = min(threads, MAX_WORKERS)
    tall = transposed if rows < columns else weight

    def at_once(make: Callable[[], Any]) -> Any:
        with side_by_side(workers) as pool:
            return next(iter(pool.map(lambda _: make(), range(workers))))

    try:
        last: dict[str, Any] = {}
        times = interleaved(
            {
                "ours": lambda: last.update(ours=at_once(lambda: decompose(weight))),
                "svd": lambda: last.update(svd=torch.linalg.svd(weight, full_matrices=False).S),
                "svd_transposed": lambda: torch.linalg.svd(transposed, full_matrices=False).S,
                "svd_at_once": lambda: at_once(lambda: torch.linalg.svd(tall, full_matrices=False).S),
            },
            repetitions=bench.integer("repetitions"),
            warm_up=int(min(rows, columns) < _WARM_UP_BELOW),
            clock=time.process_time if bench.settings["cpu_clock"] else time.perf_counter,
        )
        spectrum, plain = last["ours"], last["svd"].double()
        exact = _exact_sigma(weight)
    finally:
        torch.set_num_threads(before)
    ours = times["ours"].median / workers
    best = min(times["svd"].median, times["svd_transposed"].median, times["svd_at_once"].median / workers)
    return {
        "shape": item,
        "count": _shapes(bench)[item],
        "threads": threads,
        "at_once": workers,
        "ours_s": times["ours"].divided(workers).row(),
        "svd_s": times["svd"].row(),
        "svd_transposed_s": times["svd_transposed"].row(),
        "svd_at_once_s": times["svd_at_once"].divided(workers).row(),
        "ratio": times["svd"].median / ours,
        "ratio_best": best / ours,
        "ours_error": _relative(spectrum.sigma, exact),
        "svd_error": _relative(plain, exact),
        "ours_norm_error": _absolute(spectrum.sigma, exact),
        "svd_norm_error": _absolute(plain, exact),
        "tail": spectrum.rank - spectrum.one_sided,
        "floats": spectrum.floats,
        "weight_floats": weight.numel(),
    }


def _exact_sigma(weight: Tensor) -> Tensor:
    """Singular values in float64 by QR and SVD: nothing that `decompose` does."""
    import torch

    w = weight.double()
    triangle = torch.linalg.qr(w if w.shape[0] >= w.shape[1] else w.T, mode="r").R
    sigma: Tensor = torch.linalg.svdvals(triangle)
    return sigma


def _relative(sigma: Tensor, exact: Tensor) -> float:
    """The worst error of a singular value, relative to itself."""
    return float(((sigma - exact).abs() / exact).max())


def _absolute(sigma: Tensor, exact: Tensor) -> float:
    """The worst error of a singular value, relative to the largest."""
    return float((sigma - exact).abs().max() / exact[0])


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    if bench.settings.get("directions"):
        return leading.summarise(bench, rows)

    def total(key: str) -> float:
        return float(sum(row["count"] * (row[key]["median"] if key.endswith("_s") else row[key]) for row in rows))

    plain = ("svd_s", "svd_transposed_s", "svd_at_once_s")
    best = sum(row["count"] * min(row[name]["median"] for name in plain) for row in rows)
    return {
        "matrices": int(sum(row["count"] for row in rows)),
        "ours_seconds": round(total("ours_s"), 2),
        "svd_seconds": round(total("svd_s"), 2),
        "svd_best_seconds": round(best, 2),
        "time_ratio": round(total("svd_s") / total("ours_s"), 3),
        "time_ratio_best": round(best / total("ours_s"), 3),
        "ours_error": max(row["ours_error"] for row in rows),
        "svd_error": max(row["svd_error"] for row in rows),
        "accuracy_ratio": min(_ratio(row, "error") for row in rows),
        "norm_accuracy_ratio": min(_ratio(row, "norm_error") for row in rows),
        "stored_ratio": round(total("floats") / total("weight_floats"), 4),
        "tail_ratio": round(sum(r["count"] * _tail_floats(r) for r in rows) / total("weight_floats"), 4),
    }


def _ratio(row: Row, error: str) -> float:
    """How many times smaller our error is; one float64 rounding is as good as none."""
    return float(row[f"svd_{error}"] / max(row[f"ours_{error}"], 2.0**-53))


def _tail_floats(row: Row) -> int:
    longest = max(map(int, row["shape"].split("x")))
    return int(row["tail"] * longest)


_IN_FULL = {"directions": (0,)}

CASE = Case(
    name="decompose",
    title="decomposing SD 1.5, against torch.linalg.svd; or K leading directions",
    key="shape",
    items=_items,
    measure=_measure,
    summarise=_summarise,
    settings={"repetitions": 3, "seed": 0, "threads": 0, "cpu_clock": False, "directions": 0},
    columns=(
        Column("shape"),
        Column("count", "times"),
        Column("ours_s", "ours, s", ".3f"),
        Column("svd_s", "svd, s", ".3f"),
        Column("ratio", form=".1f"),
        Column("ratio_best", "best", ".1f"),
        Column("ours_error", "error", ".0e"),
        Column("svd_error", "svd's", ".0e"),
        Column("tail"),
        Column("full_s", "full, s", ".3f"),
        Column("leading_s", "leading, s", ".3f"),
        Column("leading_ratio", "ratio", ".1f"),
        Column("noise_ratio", "in noise", ".1f"),
        Column("residual", form=".0e"),
        Column("leading_bytes", "MB", ".2f", 1e6),
    ),
    goals=(
        Goal("time_ratio", ">=", 5.0, _IN_FULL),
        Goal("accuracy_ratio", ">=", 10.0, _IN_FULL),
        Goal("norm_accuracy_ratio", ">=", 10.0, _IN_FULL),
        Goal("stored_ratio", "<=", 0.35, _IN_FULL),
        Goal("sdxl_ratio", ">=", 15.0, {"directions": (64,)}),
        Goal("residual", "<=", 2e-6, {"directions": (64,)}),
    ),
)
