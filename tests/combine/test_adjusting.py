"""Edits of a shift: what each does to every value, what it says it did, and what it leaves alone."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import dense_terms
import numpy as np
import pytest
import torch
from dense_terms import CONV, TOKENS, Q
from hypothesis import given, settings
from hypothesis import strategies as st
from random_shifts import LENGTHS, NORM, make, saved

from spectra import decompose
from spectra.combine.adjusting import Band, Keep, Only, OuterRank, Scale, Soft, Step, adjust
from spectra.errors import InputError, ShiftFileError, TargetError
from spectra.shift.shift_file import read_shift, write_shift
from spectra.spectrum.shifted_weight import shifted_weight

IN, WIDE = "unet.conv_in", "unet.up_blocks.1.attentions.0.proj_in"
MATRICES = [name for name in LENGTHS if name != NORM]


@given(st.integers(0, 40), st.integers(0, 50))
@settings(max_examples=25)
def test_keeping_takes_the_largest_and_norms_stay(count: int, seed: int) -> None:
    shift = make(seed)
    edited = adjust(shift, [Keep(count)])
    assert edited.shift[NORM].tobytes() == shift[NORM].tobytes()
    for name in MATRICES:
        kept = edited.shift[name] != 0
        assert kept.sum() == min(count, LENGTHS[name])
        assert edited.shift[name][kept].tobytes() == shift[name][kept].tobytes()
        if kept.any() and not kept.all():
            assert abs(shift[name][kept]).min() >= abs(shift[name][~kept]).max()
    (effect,) = edited.effects
    assert effect.weights == len(MATRICES)
    assert effect.changed == sum(max(0, LENGTHS[name] - count) for name in MATRICES)


def test_keeping_the_largest_is_the_best_approximation_of_delta_w() -> None:
    weight = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 6)))
    spectrum = decompose(weight + 5 * torch.eye(4, 6))  # far from being clipped
    weight = weight + 5 * torch.eye(4, 6)
    shift = make(2, IN, size=0.1)
    whole, kept = (
        shifted_weight(weight, spectrum, torch.tensor(each[IN], dtype=torch.float64)) - weight
        for each in (shift, adjust(shift, [Keep(2)]).shift)
    )
    best = torch.linalg.svdvals(whole)[2:].norm()
    assert torch.linalg.norm(whole - kept) == pytest.approx(best.item(), rel=1e-4)
    distance = adjust(shift, [Keep(2)]).distance
    assert torch.linalg.norm(whole - kept) / torch.linalg.norm(whole) == pytest.approx(distance, rel=1e-4)


def test_the_first_directions_are_those_of_the_largest_singular_values() -> None:
    shift = make(0)
    kept = adjust(shift, [Keep(3, first=True)]).shift
    assert kept[WIDE][:3].tobytes() == shift[WIDE][:3].tobytes()
    assert not kept[WIDE][3:].any()


@given(st.floats(0, 3), st.integers(0, 50))
@settings(max_examples=25)
def test_soft_threshold(threshold: float, seed: int) -> None:
    shift = make(seed)
    soft = adjust(shift, [Soft(threshold)]).shift
    for name in MATRICES:
        exact = shift[name].astype(float)
        expected = np.sign(exact) * np.maximum(abs(exact) - threshold, 0)
        np.testing.assert_array_equal(soft[name], expected.astype(np.float32))
    assert soft[NORM].tobytes() == shift[NORM].tobytes()


@given(st.lists(st.floats(0.01, 0.99), max_size=5, unique=True), st.integers(1, 33))
@settings(max_examples=40)
def test_bands_that_meet_touch_every_value_once(inner: list[float], seed: int) -> None:
    edges = [0.0, *sorted(inner), 1.0]
    shift = make(seed)
    bands: list[Step] = [Band(low, high, 2.0) for low, high in pairwise(edges)]
    edited = adjust(shift, bands).shift
    for name in MATRICES:
        np.testing.assert_array_equal(edited[name], 2 * shift[name])


def test_a_band_is_counted_from_the_largest_singular_value() -> None:
    shift = make(0, WIDE)
    edited = adjust(shift, [Band(0, 0.1, 0.0)])
    assert not edited.shift[WIDE][:3].any()
    assert edited.shift[WIDE][3:].tobytes() == shift[WIDE][3:].tobytes()
    assert edited.effects[0].changed == 3


def test_scaling_acts_on_norms_too_and_patterns_choose() -> None:
    shift = make(0)
    edited = adjust(shift, [Scale(0.5), Scale(3.0, "unet.up_blocks.1"), Only("unet"), Soft(9.0, "unet.conv_in")])
    assert set(edited.shift) == {name for name in LENGTHS if name.startswith("unet")}
    np.testing.assert_array_equal(edited.shift[NORM], shift[NORM] / 2)
    np.testing.assert_array_equal(edited.shift[WIDE], (1.5 * shift[WIDE].astype(float)).astype(np.float32))
    assert not edited.shift[IN].any()
    assert [effect.weights for effect in edited.effects] == [5, 1, 4, 1]
    assert edited.effects[0].energy == pytest.approx(0.25)


def test_steps_round_once_in_all() -> None:
    shift = make(0)
    thrice = adjust(shift, [Scale(1 / 3), Scale(3.0)]).shift
    assert all(thrice[name].tobytes() == shift[name].tobytes() for name in shift)


def test_the_recipe_says_every_step_zeros_included(tmp_path: Path) -> None:
    shift = saved(make(0), tmp_path / "a")
    edited = saved(adjust(shift, [Band(0, 0.5, 0, "unet"), Keep(0), Keep(3, first=True)]).shift, tmp_path / "b")
    assert edited.metadata.parents == (shift.metadata.content_hash,)
    assert edited.metadata.recipe == {
        "method": "adjust",
        "shifts": [{"content_hash": shift.metadata.content_hash}],
        "steps": [
            {"step": "band", "start": 0, "stop": 0.5, "factor": 0, "pattern": "unet"},
            {"step": "keep", "count": 0},
            {"step": "keep", "count": 3, "first": True},
        ],
    }
    json.dumps(edited.metadata.recipe)


@pytest.mark.parametrize(
    ("steps", "error", "said"),
    [
        ([], InputError, "at least one step"),
        ([Scale(float("inf"))], InputError, "finite factor"),
        ([Band(0.5, 0.5, 1)], InputError, "a band from 0 to 1"),
        ([Band(0, 2, 1)], InputError, "a band from 0 to 1"),
        ([Soft(-1)], InputError, "threshold of at least 0"),
        ([Keep(-1)], InputError, "at least 0 directions"),
        ([Keep(1, "unet-1d")], TargetError, "1-D and have no singular values"),
        ([Only("unet.mid_block")], TargetError, "matches none"),
        ([Only("text-encoder"), Keep(1, "unet")], TargetError, "matches none of 1 weights"),
        ([Scale(1e39)], ShiftFileError, "not finite"),
    ],
)
def test_what_cannot_be_done_is_said(steps: list[Step], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        adjust(make(0), steps)


def test_unknown_dimensions_need_a_pattern() -> None:
    shift = make(0, ndims={})
    with pytest.raises(TargetError, match="does not tell which of its weights have singular values"):
        adjust(shift, [Keep(1)])
    assert adjust(shift, [Keep(1, "unet.conv_in")]).effects[0].weights == 1


def test_a_shift_of_zeros(tmp_path: Path) -> None:
    edited = adjust(0 * make(0), [Keep(1)])
    assert (edited.effects[0].energy, edited.distance) == (1.0, 0.0)


def test_scaling_acts_on_terms_and_words_and_other_steps_leave_them_alone() -> None:
    shift = dense_terms.make(0, 2)
    half = adjust(shift, [Scale(0.5)]).shift
    for name in (Q, CONV):
        np.testing.assert_array_equal(dense_terms.change(half, name), 0.5 * dense_terms.change(shift, name))
    np.testing.assert_array_equal(dense_terms.rows_added(half), 0.5 * dense_terms.rows_added(shift))
    gone = adjust(shift, [Scale(0, "unet"), Scale(0, TOKENS)]).shift
    assert not gone.outer
    assert not gone.words
    fewer = adjust(shift, [Keep(1), Soft(0.1), Band(0, 1, 2)]).shift
    assert (fewer.outer, fewer.words) == (shift.outer, shift.words)
    only = adjust(shift, [Only("unet.mid_block")])
    assert (set(only.shift.outer), set(only.shift.words)) == ({Q}, set())
    assert only.effects[0].changed == sum(shift[name].size for name in shift if name != Q) + sum(
        each.floats for each in (shift.outer[CONV], shift.words[TOKENS])
    )
    assert adjust(shift, [Scale(2, Q)]).effects[0].changed == shift[Q].size + shift.outer[Q].a.size


def test_fewer_terms_with_energy_and_distance_of_the_dense_change() -> None:
    shift = dense_terms.with_parts(
        {dense_terms.NORM: np.ones(8)}, {name: dense_terms.terms(3, name, 4) for name in (Q, CONV)}
    )
    adjusted = adjust(shift, [OuterRank(2)])
    before, after = ([dense_terms.change(each, name) for name in (Q, CONV)] for each in (shift, adjusted.shift))
    whole = 8 + sum(np.sum(np.square(each)) for each in before)
    left = 8 + sum(np.sum(np.square(each)) for each in after)
    moved = sum(np.sum(np.square(x - y)) for x, y in zip(before, after, strict=True))
    (effect,) = adjusted.effects
    assert (effect.weights, effect.step) == (2, OuterRank(2))
    assert effect.energy == pytest.approx(left / whole)
    assert adjusted.distance == pytest.approx(np.sqrt(moved / whole), rel=1e-6)
    assert not adjusted.unknown
    assert all(adjusted.shift.outer[name].rank <= 2 for name in (Q, CONV))
    assert adjust(dense_terms.make(0, 2), [OuterRank(2, Q)]).unknown  # a diagonal and terms, of a base not in the cache


@pytest.mark.parametrize(
    ("step", "error", "said"),
    [
        (OuterRank(0), InputError, "at least 1 outer term"),
        (OuterRank(1, TOKENS), TargetError, "none of the 1 weights that are meant has outer terms"),
        (Keep(1, Q), TargetError, "outer terms or words alone"),
        (Soft(0.1, TOKENS), TargetError, "outer terms or words alone"),
    ],
)
def test_what_means_nothing_for_terms_is_said(step: Step, error: type[Exception], said: str) -> None:
    whole = dense_terms.make(0)
    shift = dense_terms.with_parts({}, dict(whole.outer), dict(whole.words))
    with pytest.raises(error, match=said):
        adjust(shift, [step])


def test_the_command_keeps_fewer_terms(tmp_path: Path, spectra_cli: Any) -> None:
    path, out = tmp_path / "a", tmp_path / "b"
    write_shift(dense_terms.make(0, 3), path)
    ran = spectra_cli("adjust", path, "--outer-rank", 1, "--on", Q, "-o", out)
    assert (ran.code, ran.err) == (0, "")
    assert "to_q: keep 1 outer term" in ran.out
    assert {name: each.rank for name, each in read_shift(out).outer.items()} == {Q: 1, CONV: 3}


def test_the_command(tmp_path: Path, spectra_cli: Any) -> None:
    path, out = tmp_path / "a", tmp_path / "b"
    shift = saved(make(0), path)
    ran = spectra_cli("adjust", path, "--scale", "unet.up_blocks=0.5", "--keep", 2, "--on", "unet", "-o", out)
    assert (ran.code, ran.err) == (0, "")
    for text in ("unet.up_blocks: scale by 0.5", "unet: keep largest 2", "Delta W changes by"):
        assert text in ran.out
    assert max(map(len, ran.out.splitlines()[:-2])) <= 80
    assert ran.out.splitlines()[-1].startswith("next: spectra generate ")
    ran = spectra_cli(
        "adjust", path, "--band", "0:0.1=0", "--only", "unet", "--soft", 0.1, "-o", out, "--force", "--json"
    )
    found = json.loads(ran.out)
    assert [step["step"] for step in found["steps"]] == ["only", "band", "soft"]
    assert found["floats"] == shift.restricted("unet").floats
    for arguments, said in (
        ([], "nothing to do"),
        (["--on", "unet", "--scale", "2"], "--on says where"),
        (["--scale", "unet="], "--scale takes"),
        (["--band", "0.1=2"], "--band takes"),
        (["--keep", "1"], "exists already"),
    ):
        ran = spectra_cli("adjust", path, *arguments, "-o", out)
        assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
        assert said in ran.err


def test_the_file_s_precision_is_kept(tmp_path: Path, spectra_cli: Any) -> None:
    for name, precision in (("half", "float16"), ("whole", "float32")):
        write_shift(make(0), tmp_path / name, dtype=precision)
        assert spectra_cli("adjust", tmp_path / name, "--keep", 2, "-o", tmp_path / f"{name}-2").code == 0
        assert read_shift(tmp_path / f"{name}-2").precision == precision
    wider = tmp_path / "wider"
    assert spectra_cli("adjust", tmp_path / "half", "--keep", 2, "--file-dtype", "float32", "-o", wider).code == 0
    assert read_shift(wider).precision == "float32"
