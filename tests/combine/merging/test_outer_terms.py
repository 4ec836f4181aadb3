"""Every method on outer terms and words, against dense matrices in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import dense_terms
import numpy as np
import pytest
from dense_terms import CONV, NORM, SHAPES, TOKENS, Dense, Q, change, make, rows_added, terms, with_parts
from random_shifts import saved

from spectra.combine.merging import METHODS, Parent, Recipe, find_parents, merge, read_recipe, replay
from spectra.combine.merging.one_weight import random_numbers
from spectra.errors import InputError, ShiftFileError
from spectra.shift.outer_terms import OuterTerms
from spectra.shift.shift import SpectralShift, combine
from spectra.shift.shift_file import write_shift
from spectra.shift.word_vectors import WordVectors

EVERY = sorted(METHODS)
ELECTING = ("ties", "dare-ties", "della", "sce")


def close(found: Dense, expected: Dense) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6 * max(1e-30, float(np.linalg.norm(expected))))


def one(name: str, *given: OuterTerms | None) -> list[SpectralShift]:
    """Shifts that change one weight, by these terms."""
    return [with_parts({name: np.zeros(1)} if each is None else {}, {name: each} if each else {}) for each in given]


@pytest.mark.parametrize(("method", "weights"), [("add", [2, -0.5, 1]), ("weighted", []), ("weighted", [0, 1, 3])])
def test_sums_are_sums_of_dense_changes(method: str, weights: list[float]) -> None:
    shifts = [make(0, 2), make(1, 3), make(2, ids=(5, 9))]
    shifts[2] = with_parts(dict(shifts[2]), {CONV: terms(7, CONV, 2, plain=True)}, dict(shifts[2].words))
    scales = [1.0, 0.25, -2.0]
    made = merge(shifts, method, weights=weights, scales=scales).shift
    factors = [s * w for s, w in zip(scales, weights or [1 / 3] * 3, strict=True)]
    for name in (Q, CONV):
        close(change(made, name), sum(f * change(each, name) for f, each in zip(factors, shifts, strict=True)))
    close(rows_added(made), sum(f * rows_added(each) for f, each in zip(factors, shifts, strict=True)))
    assert made.outer[Q].rank == sum(shifts[i].outer[Q].rank for i in (0, 1) if factors[i])
    if all(factors):
        again = combine(list(zip(factors, shifts, strict=True)))
        assert again.outer[CONV] == made.outer[CONV]
        assert again.words == made.words


@pytest.mark.parametrize("method", ["interpolate", "slerp"])
def test_alpha_1_and_0_are_the_parents_bit_for_bit(method: str) -> None:
    a, b = make(0, 2), with_parts({NORM: np.ones(8)}, {Q: terms(1, Q, 3)})
    for alpha, parent in ((1, a), (0, b)):
        made = merge([a, b], method, weights=[alpha]).shift
        assert made.keys() == parent.keys()
        assert (dict(made.outer), dict(made.words)) == (dict(parent.outer), dict(parent.words))


def test_a_shift_with_itself_its_opposite_and_nothing() -> None:
    a = make(0, 2)
    twice = merge([a, a], "add").shift
    assert twice.outer[Q].rank == 2
    np.testing.assert_array_equal(change(twice, Q), 2 * change(a, Q))
    gone = merge([a, a], "add", scales=[1, -1])
    assert not gone.shift.outer
    assert not rows_added(gone.shift).any()
    assert gone.prediction.all_terms.energy_of_sum == pytest.approx(0, abs=1e-12)
    assert gone.prediction.all_terms.cosine == pytest.approx(-1)
    assert merge([a, a], "add", scales=[1, 0]).shift.outer == a.outer
    zero = OuterTerms(np.zeros((1, 7), np.float32), np.ones((1, 10), np.float32))
    for method in EVERY:
        made = merge(one(Q, terms(0, Q), zero), method).shift
        assert np.isfinite(change(made, Q)).all()
        assert not merge(one(Q, zero, zero), method).shift.outer


@pytest.mark.parametrize("name", [Q, CONV])
@pytest.mark.parametrize("method", EVERY)
def test_how_a_change_is_written_as_terms_does_not_matter(method: str, name: str) -> None:
    first, second = terms(0, name, 2), terms(1, name, 1)
    second = second.scaled(math.copysign(1, first.dot(second)))
    apart = OuterTerms(-4 * first.a, first.b / -4, None)
    if first.kernel is not None:
        apart = OuterTerms(-4 * first.a, first.b / 2, first.kernel / -2)
    halves = OuterTerms(
        np.vstack([first.a / 2, first.a / 2]),
        np.vstack([first.b, first.b]),
        None if first.kernel is None else np.vstack([first.kernel, first.kernel]),
    )
    mixing = np.array([[2.0, 1.0], [-1.0, 0.5]])
    whole = OuterTerms(first.a, first.right.astype(np.float32)) if first.kernel is not None else first
    mixed = OuterTerms(mixing.T @ whole.a.astype(float), np.linalg.inv(mixing) @ whole.right)
    expected = change(merge(one(name, first, second), method, seed=3).shift, name)
    assert np.linalg.norm(expected) > 0
    for other in (apart, halves):
        close(change(merge(one(name, other, second), method, seed=3).shift, name), expected)
    if name == Q:  # a convolution's terms are left out by channels; without kernels, by channels and taps
        close(change(merge(one(name, mixed, second), method, seed=3).shift, name), expected)


@pytest.mark.parametrize("method", ["slerp", "karcher", "model-stock"])
@pytest.mark.parametrize("name", [Q, CONV])
def test_methods_of_directions_are_those_of_dense_changes(method: str, name: str) -> None:
    shifts = one(name, terms(0, name, 2), terms(1, name, 3))
    shifts.append(
        with_parts({}, {name: OuterTerms(np.vstack([terms(0, name).a * 3]), terms(0, name).b, terms(0, name).kernel)})
    )
    shifts = shifts[: 2 if method == "slerp" else 3]
    weights = {"slerp": [0.3], "karcher": [0.5, 0.3, 0.4], "model-stock": []}[method]
    dense = np.stack([change(each, name).ravel() for each in shifts])
    expected = METHODS[method].function(dense, METHODS[method].weights(weights, len(shifts)))
    close(change(merge(shifts, method, weights=weights).shift, name), expected.reshape(change(shifts[0], name).shape))


@pytest.mark.parametrize("method", ELECTING)
def test_where_rows_are_parallel_signs_are_elected_as_those_of_deltas(method: str) -> None:
    rng = np.random.default_rng(0)
    b = rng.standard_normal((1, 10))
    given = [OuterTerms(rng.standard_normal((1, 7)), sign * b) for sign in (1, -2, 0.5)]
    dense = np.stack([each.change().ravel() for each in given])
    options: dict[str, Any] = {"density": 1.0} | ({"epsilon": 0.0} if method == "della" else {})
    drawn = {"random": np.zeros(dense.shape)} if METHODS[method].random else {}
    weights = [] if method == "sce" else [1.0, 0.4, -0.7]
    expected = METHODS[method].function(dense, METHODS[method].weights(weights, 3), **options, **drawn)
    close(change(merge(one(Q, *given), method, weights=weights, **options).shift, Q), expected.reshape(7, 10))


def test_terms_at_right_angles_stand_side_by_side() -> None:
    b = np.linalg.qr(np.random.default_rng(0).standard_normal((10, 3)))[0].T
    given = [OuterTerms(terms(i, Q).a, b[i : i + 1]) for i in range(3)]
    expected = sum(each.change() for each in given)
    close(change(merge(one(Q, *given), "ties", density=1).shift, Q), expected)


def _elected(dense: Dense, weights: Dense, voting: Dense) -> Dense:
    """The rule of `ties_and_dare`, row by row, on dense changes `[k, n0, columns]`."""
    turned = dense * np.sign(weights)[:, None, None]
    shares, result = np.abs(weights), np.zeros(dense.shape[1:])
    for n in range(dense.shape[1]):
        rows = turned[:, n]
        agree = [i for i, row in enumerate(rows) if row @ (voting @ rows) > 0]
        for i in agree:
            counted = 0.0
            for j in agree:
                lengths = np.linalg.norm(rows[i]) * np.linalg.norm(rows[j])
                cosine = rows[i] @ rows[j] / lengths if lengths else 0.0
                counted += shares[j] * max(0.0, cosine) ** 2
            result[n] += shares[i] / counted * rows[i] if counted else 0.0
    return result


def _top(sizes: Dense, share: float) -> Dense:
    number = min(sizes.size, int(share * sizes.size + 0.5))
    return (sizes >= np.sort(sizes)[-number]).astype(float) if number else np.zeros(sizes.size)


def _leave_out(method: str, change: Dense, drawn: list[Dense], sizes: list[Dense], p: dict[str, float]) -> Dense:
    """One change `[n0, n1, taps]` with rows and columns left out, by its definition."""
    sides = []
    for random, size in zip(drawn, sizes, strict=True):
        share = math.sqrt(p["density"])
        if method in ("ties", "sce"):
            sides.append(_top(size, share))
        elif method == "breadcrumbs":
            most = 1 - math.sqrt(1 - p["gamma"])
            sides.append(_top(size, share + most) * (1 - _top(size, most)))
        else:
            places = np.argsort(np.argsort(-size, kind="stable"), kind="stable")
            spread = p["epsilon"] * (0.5 - (places + 0.5) / size.size) if method == "della" else np.zeros(size.size)
            kept = np.sqrt(p["density"] + spread)
            sides.append(np.where(random < kept, 1 / kept, 0.0))
    left: Dense = sides[0][:, None, None] * change * sides[1][None, :, None]
    return left


@pytest.mark.parametrize("name", [Q, CONV])
@pytest.mark.parametrize("method", ["ties", "dare", "dare-ties", "della", "breadcrumbs", "sce"])
def test_what_is_left_out_and_elected_is_as_defined(method: str, name: str) -> None:
    rows, columns, taps = SHAPES[name]
    shifts = one(name, terms(0, name, 2), terms(1, name, 1), terms(2, name, 3))
    dense = np.stack([change(each, name).reshape(rows, columns, max(taps, 1)) for each in shifts])
    parameters = METHODS[method].complete({"density": 0.5})
    weights = np.ones(3) if method == "sce" else np.array([1.0, -0.5, 0.7])
    drawn = [random_numbers(4, f"{name}\0{side}", (3, n)) for side, n in (("rows", rows), ("columns", columns))]
    of = np.var(dense, axis=0)[None].repeat(3, axis=0) if method == "sce" else np.square(dense)
    kept = np.stack(
        [
            _leave_out(
                method, dense[i], [side[i] for side in drawn], [of[i].sum((1, 2)), of[i].sum((0, 2))], parameters
            )
            for i in range(3)
        ]
    ).reshape(3, rows, -1)
    if method in ("dare", "breadcrumbs"):
        expected = np.tensordot(weights, kept, 1)
    elif method == "sce":
        expected = _elected(kept, np.square(kept).sum((1, 2)), np.ones(3))
    else:
        expected = _elected(kept, weights, np.abs(weights))
    given = [] if method == "sce" else weights.tolist()
    made = merge(shifts, method, weights=given, seed=4, density=0.5)
    assert np.linalg.norm(expected) > 0
    close(change(made.shift, name), expected)
    assert made.shift.outer[name].rank <= 6


def test_dropping_changes_nothing_on_average() -> None:
    shifts = one(Q, terms(0, Q, 2))
    found = [change(merge(shifts, "dare", seed=seed).shift, Q) for seed in range(600)]
    error = np.linalg.norm(np.mean(found, axis=0) - change(shifts[0], Q))
    spread = np.sqrt(np.mean([np.sum(np.square(each - change(shifts[0], Q))) for each in found]))
    assert error < 3 * spread / math.sqrt(600)


@pytest.mark.parametrize("method", EVERY)
def test_words_are_merged_by_token(method: str) -> None:
    a, b = make(0, ids=(3, 5), text="sks"), make(1, ids=(5, 9), text="zwx")
    made = merge([a, b], method, seed=2)
    rows = {
        3: [rows_added(a)[3], np.zeros(8)],
        5: [rows_added(a)[5], rows_added(b)[5]],
        9: [np.zeros(8), rows_added(b)[9]],
    }
    each = METHODS[method]
    for token, vectors in rows.items():
        drawn = {"random": random_numbers(2, f"{TOKENS}[{token}]", (2, 8))} if each.random else {}
        expected = each.function(np.array(vectors), each.weights([], 2), **each.parameters, **drawn)
        close(rows_added(made.shift)[token], expected)
    assert made.shift.words[TOKENS].text == "sks, zwx"


def test_words_of_the_same_tokens_are_told() -> None:
    a, b = make(0, ids=(3, 5)), make(1, ids=(5, 9), text="zwx")
    (shared,) = merge([a, b], "add").prediction.tokens
    first, second = rows_added(a)[5], rows_added(b)[5]
    assert (shared.weight, shared.token, shared.shifts) == (TOKENS, 5, (0, 1))
    assert shared.cosine == pytest.approx(first @ second / np.linalg.norm(first) / np.linalg.norm(second))
    assert not merge([make(0, ids=(3,)), make(1, ids=(4,))], "add").prediction.tokens
    alone = merge([a, b], "interpolate", weights=[1])
    assert alone.shift.words == a.words
    assert not alone.prediction.tokens


def test_interference_of_terms_is_that_of_dense_changes() -> None:
    a, b = make(0, 2), make(1, 3)
    found = merge([a, b], "weighted", weights=[0.7, -0.3], scales=[1, 2]).prediction
    for name in (Q, CONV):
        first, second = 0.7 * change(a, name), -0.6 * change(b, name)
        told = found.weights[name].as_dict(name)
        norms = np.linalg.norm(first), np.linalg.norm(second)
        assert told["cosine"] == pytest.approx(np.sum(first * second) / norms[0] / norms[1], rel=1e-9)
        assert told["energy"] == pytest.approx(np.sum((first + second) ** 2) / (norms[0] ** 2 + norms[1] ** 2))
        assert told["norm"] == pytest.approx(np.linalg.norm(first + second), rel=1e-6)
        assert (told["terms"], told["error"]) == (5, 0.0)
    keys = ["name", "weights", "terms", "norm", "cosine", "energy", "error"]
    assert list(found.as_dict()["outer_terms"]["blocks"][0]) == keys
    summed = sum(found.weights[name].energy_of_sum for name in (Q, CONV))
    assert found.all_terms.energy_of_sum == pytest.approx(summed)
    parts = [found.total, found.all_terms]
    dots = sum(part.dots[0] for part in parts)
    lengths = sum(part.energies[0] for part in parts) * sum(part.energy for part in parts)
    assert found.cosines()[0] == pytest.approx(dots / math.sqrt(lengths))


@pytest.mark.parametrize("method", ["add", "ties", "slerp"])
def test_fewer_terms_and_their_error(method: str) -> None:
    shifts = [make(0, 2), make(1, 3)]
    whole, few = merge(shifts, method).shift, merge(shifts, method, outer_rank=2)
    for name in (Q, CONV):
        assert few.shift.outer[name].rank <= 2
        error = np.linalg.norm(change(whole, name) - change(few.shift, name)) / np.linalg.norm(change(whole, name))
        assert few.prediction.weights[name].as_dict(name)["error"] == pytest.approx(error, rel=1e-6)
    sigma = np.linalg.svd(change(whole, Q), compute_uv=False)
    best = np.linalg.norm(sigma[2:]) / np.linalg.norm(sigma)
    assert few.prediction.weights[Q].as_dict(Q)["error"] == pytest.approx(best, rel=1e-6)
    assert merge(shifts, method, outer_rank=5).shift.outer == whole.outer


def test_recipes_replay_to_the_same_bytes(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.safetensors" for i in range(3)]
    for i, file in enumerate(files):
        write_shift(make(i, 2), file)
    for method in EVERY:
        given = files[:2] if METHODS[method].shares == "alpha" else files
        made = merge(given, method, outer_rank=3, seed=5)
        first, toml = tmp_path / f"{method}.safetensors", tmp_path / f"{method}.toml"
        write_shift(made.shift, first)
        toml.write_text(made.recipe.to_toml(tmp_path))
        for known in (read_recipe(toml), read_recipe(first)):
            assert known.outer_rank == 3
            again = tmp_path / "again"
            write_shift(replay(find_parents(known, files), known).shift, again, force=True)
            assert again.read_bytes() == first.read_bytes()


def test_files_are_read_as_shifts_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shifts = [saved(make(i, 1 + i), tmp_path / f"{i}") for i in range(3)]
    shifts.append(saved(with_parts({Q: np.ones(7)}, {}), tmp_path / "3"))
    files = [tmp_path / f"{i}" for i in range(4)]
    whole = merge(shifts, "ties", density=0.7)
    for budget in (1, 10**9):
        monkeypatch.setattr("spectra.combine.merging.sources._BUDGET", budget)
        pieces = merge(files, "ties", density=0.7)
        assert pieces.shift == whole.shift


@pytest.mark.parametrize("rank", [0, -1])
def test_an_outer_rank_below_one_is_refused(rank: int) -> None:
    with pytest.raises(InputError, match=f"outer rank of at least 1, got {rank}"):
        replay([make(0)], Recipe("add", (Parent(),), outer_rank=rank))


def test_what_float32_cannot_hold_is_said_with_the_weight() -> None:
    for method in ("add", "ties"):
        with pytest.raises(ShiftFileError, match=rf"{Q}: float32 cannot hold what was merged"):
            merge(one(Q, terms(0, Q), terms(1, Q)), method, scales=[1e39, 1])
    words = {TOKENS: WordVectors((1,), np.ones((1, 8), np.float32), "sks")}
    with pytest.raises(ShiftFileError, match=f"{TOKENS}: .* float32 cannot hold"):
        merge([with_parts({}, {}, words)], "add", scales=[1e39])


def test_terms_of_another_shape_are_refused() -> None:
    other = dense_terms.with_parts({}, {Q: OuterTerms(np.ones((1, 7)), np.ones((1, 12)))})
    with pytest.raises(Exception, match="different bases"):
        merge([make(0), other])
