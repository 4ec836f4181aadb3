"""The results of the quality bench, a row for each method: means over the subjects with their intervals."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from spectra.benchmarks.case import Row

AXES = ("similarity", "drift", "unrelated", "class", "leak", "background", "second", "follows", "score", "moved")


def table(rows: Sequence[Row]) -> list[Row]:
    """A row for each method: mean and 95 % interval of each axis over the subjects, and what it costs."""
    results = [row for row in rows if row["stage"] == "result"]
    found: list[Row] = []
    for method in dict.fromkeys(row["method"] for row in results):
        own = [row for row in results if row["method"] == method]
        axes = {axis: _interval(_by_subject(own, axis)) for axis in AXES}
        costs = {name: statistics.fmean(row[name] for row in own) for name in ("bytes", "cpu", "memory")}
        made = {name: own[0][name] for name in ("rate", "steps", "held")}
        found.append({"method": method, **made, **axes, **costs, "trainings": len(own)})
    return found


def _by_subject(rows: Sequence[Row], axis: str) -> list[float]:
    """A mean over the seeds of each subject."""
    names = sorted({row["subject"] for row in rows})
    return [statistics.fmean(row[axis] for row in rows if row["subject"] == name) for name in names]


def _interval(values: Sequence[float]) -> dict[str, float]:
    """Mean, and the 2.5 and 97.5 % quantiles of the means of samples drawn with replacement."""
    import numpy as np

    draws = np.random.default_rng(0).choice(np.array(values), (10_000, len(values))).mean(1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return {"mean": round(statistics.fmean(values), 4), "low": round(float(low), 4), "high": round(float(high), 4)}
