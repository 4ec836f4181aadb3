"""Interleaving, and the median with its spread."""

from __future__ import annotations

import numpy as np
import pytest

from spectra.benchmarks.timing import interleaved, order, spread
from spectra.errors import InputError


@pytest.mark.parametrize("samples", [[3.0], [1.0, 2.0], [5.0, 1.0, 4.0], [0.1 * n * n for n in range(17)]])
def test_spread_is_that_of_numpy(samples: list[float]) -> None:
    found = spread(samples)
    expected = np.quantile(np.asarray(samples, np.float64), [0.5, 0.2, 0.8])
    np.testing.assert_allclose([found.median, found.p20, found.p80], expected, rtol=1e-12)
    assert found.repetitions == len(samples)


def test_spread_of_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match="at least one sample"):
        spread([])


def test_every_variant_takes_every_place_equally_often() -> None:
    names = ["a", "b", "c"]
    rounds = [order(names, repetition) for repetition in range(6)]
    assert all(sorted(one) == names for one in rounds)
    for place in range(3):
        assert sorted(one[place] for one in rounds) == ["a", "a", "b", "b", "c", "c"]
    assert order(names, 0) == names


def test_variants_run_in_turns_and_only_they_are_timed() -> None:
    now = 0.0
    calls: list[str] = []

    def variant(name: str, seconds: list[float]) -> object:
        def call() -> None:
            nonlocal now
            calls.append(name)
            now += seconds.pop(0)

        return call

    found = interleaved(
        {"a": variant("a", [100.0, 1.0, 3.0, 2.0]), "b": variant("b", [100.0, 10.0, 10.0, 40.0])},  # type: ignore[dict-item]
        repetitions=3,
        warm_up=1,
        clock=lambda: now,
    )
    assert calls == ["a", "b", *order(["a", "b"], 0), *order(["a", "b"], 1), *order(["a", "b"], 2)]
    assert found["a"].median == 2.0
    assert found["b"].median == 10.0
    assert found["b"].p80 == pytest.approx(28.0)


def test_no_repetitions_is_an_error() -> None:
    with pytest.raises(InputError, match="1 or more"):
        interleaved({"a": lambda: None}, repetitions=0)
