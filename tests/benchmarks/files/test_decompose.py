"""The cases on decomposing and caching: what they count, and that their figures are the right ones."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from spectra.benchmarks.case import Bench, Row
from spectra.benchmarks.files import cache, decompose, leading
from spectra.benchmarks.run import run


def row(shape: str, count: int, ours: float, svd: float, svd_transposed: float, **more: float) -> Row:
    errors = {"ours_error": 1e-12, "svd_error": 1e-5, "ours_norm_error": 0.0, "svd_norm_error": 1e-6}
    times = {"ours_s": ours, "svd_s": svd, "svd_transposed_s": svd_transposed, "svd_at_once_s": 8.0}
    return (
        {"shape": shape, "count": count, "tail": 1, "floats": 10, "weight_floats": 50}
        | {name: {"median": value} for name, value in times.items()}
        | errors
        | more
    )


def test_the_unet_has_as_many_matrices_as_the_papers_table() -> None:
    shapes = decompose._shapes(Bench(decompose.CASE.settings))
    assert sum(shapes.values()) == 184 + 98
    floats = sum(count * math.prod(map(int, shape.split("x"))) for shape, count in shapes.items())
    assert 850e6 < floats < 859_520_964
    assert shapes["1280x1280"] == 61


def test_totals_count_every_matrix_of_a_shape() -> None:
    rows = [row("2x5", 3, 1.0, 7.0, 2.0, tail=1), row("4x10", 2, 0.5, 6.0, 9.0, svd_error=2e-5)]
    summary = decompose._summarise(Bench({}), rows)
    assert summary["matrices"] == 5
    assert summary["ours_seconds"] == 4.0
    assert summary["svd_seconds"] == 33.0
    assert summary["time_ratio"] == 8.25
    assert summary["time_ratio_best"] == (3 * 2 + 2 * 6) / 4
    assert summary["stored_ratio"] == 0.2
    assert summary["tail_ratio"] == (3 * 5 + 2 * 10) / 250
    assert summary["accuracy_ratio"] == pytest.approx(1e7)
    assert summary["norm_accuracy_ratio"] == pytest.approx(1e-6 * 2**53)


def test_exact_sigma_is_float64s() -> None:
    for shape in ((6, 15), (15, 6), (7, 7)):
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(
            decompose._exact_sigma(weight), torch.linalg.svdvals(weight.double()), rtol=1e-13, atol=0
        )


def test_a_small_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompose, "_count", lambda: Counter({(30, 80): 2, (64, 40): 1}))
    threads = torch.get_num_threads()
    record = run(decompose.CASE, out=tmp_path, settings={"repetitions": 1, "threads": 2}).record
    assert record["failures"] == []
    assert [(row["shape"], row["count"]) for row in record["rows"]] == [("30x80", 2), ("64x40", 1)]
    assert {row["at_once"] for row in record["rows"]} == {2}
    assert record["summary"]["accuracy_ratio"] > 10
    assert record["summary"]["matrices"] == 3
    assert torch.get_num_threads() == threads


def test_a_small_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"a": torch.randn(8, 20), "b": torch.randn(9, 5)}
    monkeypatch.setattr(cache, "_weights", lambda bench: weights)
    record = run(cache.CASE, out=tmp_path, settings={"repetitions": 2}).record
    assert record["failures"] == []
    (row,) = record["rows"]
    assert (row["weights"], row["computed"], row["loaded"]) == (2, 2, 4)
    assert row["bytes"] > 8 * 8 * 4 + 5 * 5 * 4
    assert record["summary"]["warm_seconds"] > 0


def test_leading_directions_against_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"sdxl": Counter({(96, 160): 3, (200, 48): 2}), "flux": Counter({(120, 120): 4})}
    monkeypatch.setattr(leading, "_counts", lambda: counts)
    settings = {"repetitions": 1, "threads": 1, "directions": 4}
    record = run(decompose.CASE, out=tmp_path, settings=settings).record
    assert record["failures"] == []
    assert [(row["shape"], row["count"]) for row in record["rows"]] == [
        ("sdxl 200x48", 2),
        ("sdxl 96x160", 3),
        ("flux 120x120", 4),
    ]
    for row in record["rows"]:
        assert row["residual"] <= row["stated_residual"] * 1.01
        assert row["residual"] < 2e-6
        assert row["sigma_error"] < 1e-7
    summary = record["summary"]
    assert (summary["sdxl_matrices"], summary["flux_matrices"]) == (5, 4)
    assert summary["sdxl_leading_bytes"] == sum(n * 4 * (4 * (r + c) + 8) for (r, c), n in counts["sdxl"].items())
    assert record["goals"] == []


def test_the_models_have_their_matrices() -> None:
    found = leading._counts()
    assert sum(n * rows * columns for (rows, columns), n in found["flux"].items()) > 11.8e9
    assert 2.5e9 < sum(n * rows * columns for (rows, columns), n in found["sdxl"].items()) < 2_567_463_684
    assert found["sdxl"][10240, 1280] == 60


def test_weights_like_trained_ones_fall_as_the_embedded_base_does() -> None:
    bench = Bench(decompose.CASE.settings)
    wide, tall = (leading._like_trained(*shape, bench) for shape in ((256, 300), (300, 256)))
    sigma = torch.linalg.svdvals(wide.double())
    torch.testing.assert_close(torch.linalg.svdvals(tall.double()), sigma, rtol=1e-3, atol=1e-3)
    shares, values = bench.shared["profile"]
    middle = float(sigma[128]) / float(sigma[16])
    at = [math.log(129 / 256), math.log(17 / 256)]
    expected = np.exp(np.interp(at[0], shares, values) - np.interp(at[1], shares, values))
    assert middle == pytest.approx(expected, rel=0.02)
