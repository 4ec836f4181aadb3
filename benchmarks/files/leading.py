"""K leading directions of SDXL's and FLUX.1's matrices, against decomposing them in full (`decompose`, directions > 0).

Every matrix of the models is counted, but each distinct shape is measured once and enters the totals as often as its
model has it; FLUX.1's totals are therefore an estimate from one matrix of each shape. Singular values fall as the
embedded base's do: the median of its weights at each share of the rank, their first slope continued. The vectors are
random. The same number of directions is also found in independent Gaussian entries, the worst case (`noise`).
Full and partial take turns, on the same threads, as many matrices at once as there are threads.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from spectra.benchmarks.case import Bench, Row
from spectra.benchmarks.timing import interleaved

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from spectra.spectrum.partial import PartialSpectrum

MODELS = ("sdxl", "flux")

_LARGE = 2000
"""Matrices with a larger rank are measured once: a full decomposition takes long enough to be no noise."""


def items(bench: Bench) -> list[str]:
    """`model rowsxcolumns` of every distinct shape."""
    counts: dict[str, Counter[tuple[int, int]]] = bench.once("counts", _counts)
    return [f"{model} {rows}x{columns}" for model in MODELS for rows, columns in sorted(counts[model], key=_size)]


def _size(shape: tuple[int, int]) -> tuple[int, int, tuple[int, int]]:
    return min(shape), max(shape), shape


def _counts() -> dict[str, Counter[tuple[int, int]]]:
    from spectra.benchmarks.steps.models import denoiser

    found = {}
    for model in MODELS:
        module = denoiser(model)[0].module
        weights = [weight for name, weight in module.named_parameters() if name.endswith("weight") and weight.ndim > 1]
        found[model] = Counter((weight.shape[0], math.prod(weight.shape[1:])) for weight in weights)
    return found


def measure(bench: Bench, item: str) -> Row:
    """One shape to its row."""
    import torch

    from spectra.spectrum.cache.workers import MAX_WORKERS, side_by_side
    from spectra.spectrum.decomposition import decompose
    from spectra.spectrum.leading import decompose_leading

    model, shape = item.split()
    rows, columns = map(int, shape.split("x"))
    k = bench.integer("directions")
    weight = _like_trained(rows, columns, bench)
    noise = torch.randn(rows, columns, generator=torch.Generator().manual_seed(bench.seed))
    before = torch.get_num_threads()
    threads = bench.integer("threads") or before
    torch.set_num_threads(threads)
    workers = min(threads, MAX_WORKERS)
    last: dict[str, Any] = {}

    def at_once(name: str, make: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            with side_by_side(workers) as pool:
                last[name] = next(iter(pool.map(lambda _: make(), range(workers))))

        return run

    large = min(rows, columns) > _LARGE
    try:
        times = interleaved(
            {
                "full": at_once("full", lambda: decompose(weight)),
                "leading": at_once("leading", lambda: decompose_leading(weight, k)),
                "noise": at_once("noise", lambda: decompose_leading(noise, k)),
            },
            repetitions=1 if large else bench.integer("repetitions"),
            warm_up=int(not large),
            clock=time.process_time if bench.settings["cpu_clock"] else time.perf_counter,
        )
    finally:
        torch.set_num_threads(before)
    found: PartialSpectrum = last["leading"]
    sigma = last["full"].sigma[: found.directions]
    return {
        "shape": item,
        "count": bench.once("counts", _counts)[model][rows, columns],
        "threads": threads,
        "at_once": workers,
        "full_s": times["full"].divided(workers).row(),
        "leading_s": times["leading"].divided(workers).row(),
        "noise_s": times["noise"].divided(workers).row(),
        "leading_ratio": times["full"].median / times["leading"].median,
        "noise_ratio": times["full"].median / times["noise"].median,
        "residual": _residual(weight, found),
        "noise_residual": _residual(noise, last["noise"]),
        "stated_residual": found.residual,
        "orthogonality": found.orthogonality,
        "sigma_error": float((found.sigma - sigma).abs().max() / sigma[0]),
        "cut": found.from_full,
        "noise_cut": last["noise"].from_full,
        "leading_bytes": found.bytes,
        "full_bytes": last["full"].bytes,
    }


def summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    """Totals of each model that was measured, and the worst residual."""
    found: dict[str, Any] = {}
    for model in MODELS:
        own = [row for row in rows if row["shape"].startswith(f"{model} ")]
        if not own:
            continue
        seconds = {
            name: sum(row["count"] * row[f"{name}_s"]["median"] for row in own) for name in ("full", "leading", "noise")
        }
        found |= {f"{model}_{name}_seconds": round(value, 2) for name, value in seconds.items()}
        found |= {
            f"{model}_matrices": sum(row["count"] for row in own),
            f"{model}_ratio": round(seconds["full"] / seconds["leading"], 2),
            f"{model}_noise_ratio": round(seconds["full"] / seconds["noise"], 2),
            f"{model}_leading_bytes": sum(row["count"] * row["leading_bytes"] for row in own),
            f"{model}_full_bytes": sum(row["count"] * row["full_bytes"] for row in own),
        }
    worst = ("residual", "noise_residual", "stated_residual", "orthogonality", "sigma_error")
    return found | {name: max(row[name] for row in rows) for name in worst}


def _residual(weight: Tensor, found: PartialSpectrum) -> float:
    """The largest `||W v - sigma u||` or `||W^T u - sigma v||` of a direction over the largest sigma: float64."""
    import torch

    u, v = found.left.double(), found.right.double()
    through, back = [], torch.zeros_like(v)
    for start in range(0, len(weight), 1024):
        part = weight[start : start + 1024].double()
        through.append(part @ v)
        back += part.T @ u[start : start + 1024]
    sides = (torch.cat(through) - u * found.sigma, back - v * found.sigma)
    return max(float(side.norm(dim=0).max()) for side in sides) / float(found.sigma[0])


def _like_trained(rows: int, columns: int, bench: Bench) -> Tensor:
    """A matrix with random singular vectors and the embedded base's singular values, stretched to its rank."""
    import numpy as np
    import torch

    rank, long = min(rows, columns), max(rows, columns)
    shares, values = bench.once("profile", _profile)
    at = np.log((np.arange(rank) + 0.5) / rank)
    slope = (values[1] - values[0]) / (shares[1] - shares[0])
    sigma = np.exp(np.where(at < shares[0], values[0] + slope * (at - shares[0]), np.interp(at, shares, values)))
    generator = torch.Generator().manual_seed(bench.seed)

    def frame(size: int) -> Tensor:
        vectors: Tensor = torch.linalg.qr(torch.randn(size, rank, generator=generator)).Q
        return vectors

    made = frame(rank) * torch.from_numpy(sigma).float() @ frame(long).T
    return made if rows <= columns else made.T.contiguous()


def _profile() -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of shares of the rank, ascending, and of the embedded base's median sigma there over its rms."""
    import numpy as np
    import torch

    from spectra.bases.weight_files import base_weights
    from spectra.spectrum.spectrum import matrix

    shares = np.log(np.concatenate([np.geomspace(1 / 128, 0.3, 12), np.linspace(0.35, 0.995, 14)]))
    found = []
    weights = base_weights("", (), dtype="float32").matrices()
    for name in weights:
        w = matrix(weights[name])
        if (rank := min(w.shape)) >= 128:
            sigma = torch.linalg.svdvals(w.double()).clamp_min(1e-12).numpy()
            at = np.log((np.arange(rank) + 0.5) / rank)
            found.append(np.interp(shares, at, np.log(sigma / np.sqrt(np.mean(sigma**2)))))
    return shares, np.median(found, axis=0)
