"""Whole merges: subsets, precisions, components, blocks, recipes, streaming, and agreement with rebuilt weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_shifts import LENGTHS, NORM, make, saved
from small_models import build, random_shift

import spectra
from spectra import decompose
from spectra.combine.merging import METHODS, Parent, Recipe, find_parents, merge, read_recipe, replay, sources
from spectra.errors import InputError, MismatchError, ShiftFileError, TargetError
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift, write_shift
from spectra.spectrum.shifted_weight import shifted_weight

IN, FC = "unet.conv_in", "text_encoder.encoder.layers.0.mlp.fc1"


def same(a: SpectralShift, b: SpectralShift) -> bool:
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


@pytest.mark.parametrize("method", ["interpolate", "slerp"])
def test_alpha_1_and_0_are_the_parents_with_their_weights_alone(method: str) -> None:
    a, b = make(0, IN, NORM), make(1, IN, FC)
    assert same(merge([a, b], method, weights=[1]).shift, a)
    assert same(merge([a, b], method, weights=[0]).shift, b)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_files_and_shifts_at_hand_give_the_same_in_pieces_of_any_size(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shifts = [saved(make(i), tmp_path / f"{i}") for i in range(2)]
    whole = merge(shifts, method, seed=3)
    monkeypatch.setattr(sources, "_BUDGET", 1)
    pieces = merge([tmp_path / "0", tmp_path / "1"], method, seed=3)
    assert same(whole.shift, pieces.shift)
    assert whole.shift.metadata == pieces.shift.metadata


def test_a_missing_weight_is_zero() -> None:
    a, b = make(0, IN, NORM), make(1, IN, FC)
    made = merge([a, b], "weighted", weights=[0.25, 0.5])
    assert set(made.shift) == {IN, NORM, FC}
    assert made.shared == 1
    np.testing.assert_array_equal(made.shift[FC], (0.5 * b[FC].astype(float)).astype(np.float32))
    np.testing.assert_array_equal(merge([a, b], "ties", density=1).shift[NORM], a[NORM])


def test_a_weight_to_which_nothing_contributes_is_left_out() -> None:
    a, b = make(0, IN, NORM), make(1, IN, FC)
    assert set(merge([a, b], scales=[1, 0]).shift) == {IN, NORM}
    assert set(merge([a, b], "add", blocks={"text-encoder": 0}).shift) == {IN, NORM}
    with pytest.raises(InputError, match="nothing is left"):
        merge([a, b], "add", scales=[0, 0])


def test_half_precision_is_widened_exactly(tmp_path: Path) -> None:
    a, b = saved(make(0), tmp_path / "a", "float16"), saved(make(1), tmp_path / "b")
    made = merge([tmp_path / "a", tmp_path / "b"], "add").shift
    assert made.precision == "float32"
    for name in made:
        np.testing.assert_array_equal(made[name], (a[name].astype(float) + b[name]).astype(np.float32))


def test_block_weights_hold_for_their_layers_and_the_later_one_wins() -> None:
    a, b = make(0), make(1)
    made = merge([a, b], "interpolate", weights=[0.5], blocks={"unet": 1, "unet.up_blocks.1": 0})
    assert [(each.pattern, each.weights, each.floats) for each in made.touched] == [
        ("unet", 4, 61),
        ("unet.up_blocks.1", 1, 33),
    ]
    assert same(made.shift.restricted(IN), a.restricted(IN))
    assert same(made.shift.restricted("unet.up_blocks.1"), b.restricted("unet.up_blocks.1"))
    half = (0.5 * a[FC].astype(float) + 0.5 * b[FC]).astype(np.float32)
    np.testing.assert_array_equal(made.shift[FC], half)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"method": "mean"}, InputError, "no merging method is called 'mean'"),
        ({"method": "ties", "density": 0}, InputError, "above 0, at most 1"),
        ({"method": "breadcrumbs", "density": 0.99, "gamma": 0.1}, InputError, "at most 1"),
        ({"method": "della", "density": 0.1, "epsilon": 0.4}, InputError, "epsilon"),
        ({"method": "add", "density": 0.5}, InputError, "has no parameter 'density'; it has: none"),
        ({"method": "sce", "weights": [1, 2]}, InputError, "finds the weights itself"),
        ({"method": "sce", "blocks": {"unet": 1}}, InputError, "finds the weights itself"),
        ({"method": "interpolate", "weights": [0.5, 0.5]}, InputError, "takes one number, alpha"),
        ({"weights": [1, 2, 3]}, InputError, "one weight for each of 2 shifts"),
        ({"weights": [float("nan")]}, InputError, "finite weights"),
        ({"scales": [1]}, InputError, "one scale for each of 2"),
        ({"blocks": {"unet.mid_block": 1}}, TargetError, "matches none"),
        ({"scales": [1e39, 1]}, ShiftFileError, "not finite; float32 cannot hold"),
    ],
)
def test_what_cannot_be_done_is_said(arguments: dict, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        merge([make(0), make(1)], **arguments)


def test_two_only_methods_and_no_shift_at_all() -> None:
    with pytest.raises(InputError, match="takes two shifts, got 3"):
        merge([make(0), make(1), make(2)], "slerp")
    with pytest.raises(InputError):
        merge([])


def test_another_base_is_refused_with_its_file(tmp_path: Path) -> None:
    a = saved(make(0, IN), tmp_path / "a")
    saved(make(1, IN, fingerprints={IN: "f" * 8}), tmp_path / "other")
    with pytest.raises(MismatchError, match=r"other: these shifts belong to different bases"):
        merge([a, tmp_path / "other"])


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    saved(make(0), tmp_path / "a")
    data = bytearray((tmp_path / "a").read_bytes())
    data[-1] ^= 1
    (tmp_path / "b").write_bytes(data)
    with pytest.raises(ShiftFileError, match=r"b: its content hash should be"):
        merge([tmp_path / "a", tmp_path / "b"])
    (tmp_path / "b").write_bytes(data[:-4])
    with pytest.raises(ShiftFileError, match="expected .* bytes"):
        merge([tmp_path / "b"])


def test_names_that_sort_unlike_their_keys_are_hashed_as_they_lie(tmp_path: Path) -> None:
    names = ["unet.a", "unet.a.b", "unet.a.z"]  # keys: a.b.delta, a.delta, a.z.delta
    shift = SpectralShift({n: np.ones(2) for n in names}, ShiftMetadata("b", dict.fromkeys(names, "0" * 8)))
    write_shift(shift, tmp_path / "a")
    assert same(merge([tmp_path / "a"]).shift, shift)


@given(st.integers(0, 50), st.sampled_from([(6, 4), (4, 6), (5, 5)]), st.floats(0, 1))
@settings(max_examples=25)
def test_merges_are_the_papers_formula_on_rebuilt_weights(seed: int, shape: tuple[int, int], alpha: float) -> None:
    rng = np.random.default_rng(seed)
    weight = torch.from_numpy(rng.standard_normal(shape))
    spectrum = decompose(weight)
    a, b = (make(seed + i, IN, size=1.5) for i in (0, 1))
    if min(shape) != LENGTHS[IN]:
        a, b = (SpectralShift({IN: rng.standard_normal(min(shape))}, s.metadata) for s in (a, b))
    u, sigma, vt = torch.linalg.svd(weight, full_matrices=False)
    first, second = (shift[IN].astype(np.float64) for shift in (a, b))
    for merged, delta in (
        (merge([a, b], "interpolate", weights=[alpha]), alpha * first + (1 - alpha) * second),
        (merge([a, b], "add"), first + second),
    ):
        formula = u @ torch.diag(torch.relu(sigma + torch.from_numpy(delta))) @ vt
        rounded = torch.from_numpy(merged.shift[IN].astype(np.float64))
        in_float64 = u @ torch.diag(torch.relu(sigma + rounded)) @ vt
        rounding = 2.0**-24 * np.linalg.norm(delta)
        assert torch.linalg.norm(in_float64 - formula) <= rounding + 1e-12
        # Bases are stored in float32 (docs/algebra.md, section 2), so a rebuilt weight is good to that.
        assert torch.linalg.norm(shifted_weight(weight, spectrum, rounded) - formula) <= 1e-5 * (1 + sigma[0])


def test_a_sum_draws_what_its_shifts_draw_together() -> None:
    model, call = build("unet")
    a, b = random_shift(model, "unet", 1), random_shift(model, "unet", 2)
    for name, shift in {"a": a, "b": b, "sum": merge([a, b], scales=[0.5, -0.25], method="add").shift}.items():
        spectra.load(model, shift, name)
    spectra.activate(model, {"a": 0.5, "b": -0.25})
    together = call()
    spectra.activate(model, {"sum": 1})
    torch.testing.assert_close(call(), together, rtol=1e-4, atol=1e-5)
    spectra.activate(model, {})
    assert not torch.allclose(call(), together, rtol=1e-2, atol=1e-2)


def test_prediction_by_hand() -> None:
    metadata = ShiftMetadata(
        "b", {"unet.a": "0" * 8, "unet.down_blocks.0.x": "1" * 8}, ndims={"unet.a": 2, "unet.down_blocks.0.x": 2}
    )
    a = SpectralShift({"unet.a": np.array([1.0, -2.0, 0.0]), "unet.down_blocks.0.x": np.array([2.0])}, metadata)
    b = SpectralShift({"unet.a": np.array([-1.0, -2.0, 3.0]), "unet.down_blocks.0.x": np.array([2.0])}, metadata)
    recipe = Recipe("add", (Parent(), Parent()))
    found = replay([a, b], recipe, sigmas={"unet.a": np.array([5.0, 3.0, 0.5])}).prediction
    first = found.as_dict()["blocks"][0]
    assert first == {
        "name": "unet",
        "weights": 1,
        "floats": 3,
        "norm": 5.0,
        "opposed": 1,
        "cosine": pytest.approx(3 / np.sqrt(5 * 14)),
        "energy": 25 / 19,
        "known": 3,
        "clipped": 1,
        "clipped_alone": 0,
        "lost": pytest.approx(1 - 18 / 25),
    }
    assert found.as_dict()["blocks"][1]["lost"] is None
    assert found.total.as_dict("t")["energy"] == pytest.approx((25 + 16) / (19 + 8))
    assert found.singular_values == 4
    assert found.cosines()[0] == pytest.approx((8 + 8) / np.sqrt(9 * 41))


def test_the_clipping_that_is_predicted_is_what_happens() -> None:
    weight = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 7)))
    spectrum = decompose(weight)
    a, b = make(3, IN, size=2), make(4, IN, size=2)
    found = replay([a, b], Recipe("add", (Parent(), Parent())), sigmas={IN: spectrum.sigma.numpy()})
    change = torch.linalg.norm(shifted_weight(weight, spectrum, torch.tensor(found.shift[IN])) - weight)
    total = found.prediction.total
    assert total.clipped > 0
    assert change**2 == pytest.approx(total.energy_kept, rel=1e-4)


def test_recipes_replay_to_the_same_bytes(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for i, file in enumerate(files):
        write_shift(make(i), file)
    for method in ("weighted", "ties", "della", "karcher"):
        made = merge(files, method, weights=[0.2, 0.3, 0.4], scales=[1, 0.5, 1], blocks={"unet": [1, 2, 3]}, seed=5)
        first, toml = tmp_path / f"{method}.safetensors", tmp_path / "recipes" / f"{method}.toml"
        write_shift(made.shift, first)
        toml.parent.mkdir(exist_ok=True)
        toml.write_text(made.recipe.to_toml(toml.parent))
        recipe = read_recipe(toml)
        for known in (recipe, read_recipe(first)):
            again = tmp_path / "again"
            write_shift(replay(find_parents(known, files[::-1]), known).shift, again, force=True)
            assert again.read_bytes() == first.read_bytes()
        assert [Path(parent.file).resolve() for parent in recipe.parents] == [file.resolve() for file in files]
        assert find_parents(recipe, []) == [Path(parent.file) for parent in recipe.parents]
        assert str(tmp_path) not in json.dumps(made.shift.metadata.recipe)


def test_a_recipe_knows_its_shifts_by_content(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    for i, file in enumerate(files):
        write_shift(make(i), file)
    toml = tmp_path / "r.toml"
    toml.write_text(merge(files).recipe.to_toml(tmp_path))
    moved = files[0].rename(tmp_path / "moved")
    recipe = read_recipe(toml)
    with pytest.raises(InputError, match=r"shift 1 of the recipe \(content [0-9a-f]{32}\), which is not at .*a"):
        find_parents(recipe, [])
    assert find_parents(recipe, [moved]) == [moved, files[1]]
    write_shift(make(7), files[0])
    with pytest.raises(MismatchError, match="the recipe was made with content"):
        replay(find_parents(recipe, []), recipe)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1), st.floats(-9, 9))
@settings(max_examples=40)
def test_a_recipe_is_read_as_it_was_written(tmp_path: Path, name: str, number: float) -> None:
    parents = (Parent("0" * 32, number, str(tmp_path / "shifts" / f"{name}.x")),)
    recipe = Recipe("ties", parents, (number,), ((name, (number, 1.0)),), {"density": 0.25}, seed=4)
    (tmp_path / "r.toml").write_text(recipe.to_toml(tmp_path), encoding="utf-8")
    found = read_recipe(tmp_path / "r.toml")
    assert Path(found.parents[0].file) == Path(parents[0].file)
    assert replace(found, parents=parents) == recipe


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not Unicode text"):
        Recipe("add", (Parent(file="a\udcff"),)).to_toml(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("method = 3\nshifts = []", "method: expected text"),
        ("shifts = []", "no recipe of a merge"),
        ("method = 'add'\nshifts = [1]", "list of tables"),
        ("method = 'add'\nshifts = []\ndensity = 'x'", "expected a finite number"),
        ("method = 'add'\nshifts = []\nseed = 1.5", "expected a whole number"),
        ("method = 'add'\nshifts = []\nlambda = 1", "no 'lambda'"),
        ("method = 'add'\n[[shifts]]\nscale = inf", "expected a finite number"),
    ],
)
def test_bad_recipes_are_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(InputError, match=said):
        read_recipe(tmp_path / "r.toml")


def test_a_result_without_a_file_hands_on_its_recipe(tmp_path: Path) -> None:
    a = saved(make(0), tmp_path / "a")
    between = merge([a, make(1)], "add").shift
    recipe = merge([between, a]).shift.metadata.recipe
    assert isinstance(recipe, dict)
    assert recipe["shifts"][0]["recipe"]["method"] == "add"
    twice = (2 * merge([a, a], "model-stock").shift).metadata.recipe
    assert isinstance(twice, dict)
    assert twice["shifts"][0]["recipe"]["method"] == "model-stock"
    write_shift(merge([between, a]).shift, tmp_path / "m")
    kept = read_recipe(tmp_path / "m")
    with pytest.raises(InputError, match="never in a file"):
        find_parents(kept, [tmp_path / "a"])
    assert read_shift(tmp_path / "m").metadata.parents == (a.metadata.content_hash,)


def test_a_sum_of_operators_is_replayed_as_a_merge(tmp_path: Path) -> None:
    a, b = saved(make(0), tmp_path / "a"), saved(make(1), tmp_path / "b")
    write_shift(0.5 * a + 0.25 * b, tmp_path / "sum")
    recipe = read_recipe(tmp_path / "sum")
    again = replay(find_parents(recipe, [tmp_path / "a", tmp_path / "b"]), recipe).shift
    for name in again:
        np.testing.assert_allclose(again[name], (0.5 * a + 0.25 * b)[name], rtol=1e-6, atol=1e-7)
    assert replace(recipe, weights=()) == recipe
