"""Shifts as vectors: operators, rounding, and what their results say of themselves."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_shifts import LENGTHS, make, saved

from spectra.errors import InputError, MismatchError, ShiftFileError, TargetError
from spectra.shift.shift import SpectralShift, combine

ROUNDING = 2.0**-24
"""The largest relative error of one rounding to float32."""

scales = st.floats(-4, 4, allow_nan=False).filter(lambda x: x == 0 or abs(x) > 1e-6)


def exact(*terms: tuple[float, SpectralShift]) -> dict[str, np.ndarray]:
    return {
        name: sum((c * shift[name].astype(np.longdouble) for c, shift in terms), np.zeros(n, np.longdouble))
        for name, n in LENGTHS.items()
    }


@given(scales, scales, st.integers(0, 99))
@settings(max_examples=40)
def test_an_expression_rounds_once_per_operator(a: float, b: float, seed: int) -> None:
    x, y = make(seed), make(seed + 1)
    found = a * x - y * b
    for name, value in exact((a, x), (-b, y)).items():
        parts = abs(a * x[name].astype(np.float64)) + abs(b * y[name].astype(np.float64))
        bound = ROUNDING * (parts + abs(value)) * (1 + 1e-6) + 2.0**-149
        assert np.all(abs(found[name] - value) <= bound)


@given(st.lists(scales, min_size=1, max_size=6))
@settings(max_examples=40)
def test_combine_rounds_once_in_all(factors: list[float]) -> None:
    terms = [(factor, make(seed)) for seed, factor in enumerate(factors)]
    found = combine(terms)
    for name, value in exact(*terms).items():
        noise = 1e-15 * sum(abs(c * s[name].astype(np.float64)) for c, s in terms)
        assert np.all(abs(found[name] - value) <= ROUNDING * abs(value) + noise + 2.0**-149)


def test_laws_that_hold_exactly() -> None:
    a, b = make(0), make(1)
    assert dict_equal(a + b, b + a)
    assert dict_equal(-1 * -a, a)
    assert dict_equal(a * 1, a)
    assert dict_equal(a / 2 + a / 2, a)
    assert dict_equal(sum([a]), a)
    assert (a - a).norm() == 0


def dict_equal(a: SpectralShift, b: SpectralShift) -> bool:
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


@given(st.integers(0, 99))
@settings(max_examples=20)
def test_addition_is_associative_but_for_rounding(seed: int) -> None:
    a, b, c = (make(seed + i) for i in range(3))
    left, right = (a + b) + c, a + (b + c)
    for name in left:
        size = abs(a[name]) + abs(b[name]) + abs(c[name])
        assert np.all(abs(left[name] - right[name]) <= 4 * ROUNDING * size)


def test_signs_of_zeros_and_every_bit_are_kept() -> None:
    a = make(0)
    odd = SpectralShift({name: np.full(n, -0.0) for name, n in LENGTHS.items()}, a.metadata)
    assert all(np.signbit((1 * odd)[name]).all() for name in odd)


def test_a_missing_weight_counts_as_zero() -> None:
    a, b = make(0, "unet.conv_in"), make(1, "text_encoder.encoder.layers.0.mlp.fc1")
    both = 2 * a - b
    assert list(both) == ["text_encoder.encoder.layers.0.mlp.fc1", "unet.conv_in"]
    np.testing.assert_array_equal(both["unet.conv_in"], 2 * a["unet.conv_in"])
    assert a.dot(b) == 0
    assert a.cosine(b) == 0


def test_norm_dot_and_cosine() -> None:
    a, b = make(0), make(1)
    flat = [np.concatenate([s[name] for name in LENGTHS]).astype(np.float64) for s in (a, b)]
    assert a.norm() == pytest.approx(np.linalg.norm(flat[0]), rel=1e-14)
    assert a.dot(b) == pytest.approx(flat[0] @ flat[1], rel=1e-12)
    assert (a + a).cosine(a) == pytest.approx(1, abs=1e-14)
    assert (0 * a).cosine(a) == 0


def test_numpy_numbers_are_numbers() -> None:
    a = make(0)
    assert dict_equal(np.float64(0.5) * a, a * 0.5)
    assert dict_equal(np.float32(0.5) * a, a / np.int64(2))


def test_what_is_no_operand_is_refused() -> None:
    a = make(0)
    for wrong in (lambda: a * a, lambda: a + 1, lambda: a * "2", lambda: 1 / a, lambda: 1 + a):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(ZeroDivisionError):
        _ = a / 0
    with pytest.raises(InputError, match="finite scale"):
        _ = a * math.nan
    with pytest.raises(InputError, match="at least one"):
        combine([])
    with pytest.raises(ShiftFileError, match="not finite"):
        _ = a * 1e39


def test_other_bases_are_refused() -> None:
    a = make(0, "unet.conv_in")
    for b in (
        make(1, "unet.conv_in", fingerprints={"unet.conv_in": "f" * 8}),
        make(1, "unet.conv_in", base_dtype="float16"),
    ):
        for operation in (lambda b=b: a + b, lambda b=b: a.dot(b), lambda b=b: a.cosine(b)):
            with pytest.raises(MismatchError, match="different bases"):
                operation()
    longer = SpectralShift({"unet.conv_in": np.ones(9)}, a.metadata)
    with pytest.raises(MismatchError, match="4 floats in one and 9"):
        _ = a + longer


def test_the_recipe_of_a_sum_is_one_list_of_files(tmp_path: Path) -> None:
    a, b = saved(make(0), tmp_path / "a"), saved(make(1), tmp_path / "b")
    made = 0.5 * (a - b) + a + a.restricted("unet")
    ha, hb = a.metadata.content_hash, b.metadata.content_hash
    assert made.metadata.parents == (ha, hb)
    recipe = made.metadata.recipe
    assert isinstance(recipe, dict)
    assert recipe == {
        "method": "add",
        "shifts": [
            {"content_hash": ha, "scale": 1.5},
            {"content_hash": hb, "scale": -0.5},
            {"recipe": {"method": "restrict", "pattern": "unet", "shifts": [{"content_hash": ha}]}, "scale": 1.0},
        ],
    }
    json.dumps(recipe)
    again = saved(made, tmp_path / "c")
    assert (again + a).metadata.parents == (again.metadata.content_hash, ha)


def test_a_long_sum_keeps_a_flat_recipe(tmp_path: Path) -> None:
    shifts = [saved(make(i, "unet.conv_in"), tmp_path / str(i)) for i in range(60)]
    recipe = (sum(shifts) / 60).metadata.recipe
    assert isinstance(recipe, dict)
    assert len(recipe["shifts"]) == 60


def test_restricting_keeps_values_and_refuses_nothing() -> None:
    a = make(0)
    some = a.restricted("unet.up_blocks.1,text-encoder")
    assert list(some) == ["text_encoder.encoder.layers.0.mlp.fc1", "unet.up_blocks.1.attentions.0.proj_in"]
    assert all(some[name].tobytes() == a[name].tobytes() for name in some)
    with pytest.raises(TargetError, match="matches none"):
        a.restricted("unet.mid_block")
