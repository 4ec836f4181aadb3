"""What shifts with every kind of part change, held against the weights of their definition, in float64."""

from __future__ import annotations

import numpy as np
import pytest
from mixed_shifts import EMBEDDING, NumpyCache, changes, make, weights

from spectra.analysis.diffing import by_group, by_part, by_weight, compare, correlate, total
from spectra.analysis.weight_changes import OuterSum, known_sigmas, weight_changes
from spectra.errors import MismatchError
from spectra.naming.blocks import block_of
from spectra.shift.outer_terms import OuterTerms
from spectra.shift.shift import SpectralShift
from spectra.shift.word_vectors import WordVectors

BASE = weights()


def flat(changed: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([changed[name].ravel() for name in sorted(changed)])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("directions", [1, 3, 99])
def test_distances_and_cosines_are_those_of_the_weights(seed: int, directions: int) -> None:
    shifts = [make(BASE, 2 * seed + i, directions=directions, size=3.0) for i in range(2)]
    dense = [changes(BASE, shift) for shift in shifts]
    found, unknown = weight_changes(shifts, cache=NumpyCache(BASE))  # type: ignore[arg-type]
    assert not unknown
    every = by_weight(*found)
    for part in every:
        a, b = (side[part.name].ravel() for side in dense)
        norms = np.linalg.norm(a), np.linalg.norm(b)
        assert (part.first, part.second) == pytest.approx(norms, rel=1e-9)
        assert part.distance == pytest.approx(np.linalg.norm(a - b), rel=1e-9)
        expected = a @ b / np.prod(norms) if all(norms) else None
        assert part.cosine == (None if expected is None else pytest.approx(expected, abs=1e-9))
    whole, (a, b) = total(every), map(flat, dense)
    assert whole.distance == pytest.approx(np.linalg.norm(a - b), rel=1e-9)
    assert whole.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-9)
    groups = by_group(every, block_of)
    assert sum(group.distance**2 for group in groups) == pytest.approx(whole.distance**2)


def test_clipping_is_in_it() -> None:
    """Deltas that go further than sigma: the exact change is shorter than delta."""
    shift = make(BASE, 1, directions=99, size=30.0)
    (exact,), _ = weight_changes([shift], cache=NumpyCache(BASE))  # type: ignore[arg-type]
    assert np.linalg.norm(np.concatenate([c.d for c in exact.values()])) < 0.9 * np.linalg.norm(
        np.concatenate([*shift.values()])
    )


@pytest.mark.parametrize("count", [2, 5])
def test_each_with_each_agrees_with_the_weights(count: int) -> None:
    shifts = [make(BASE, seed) for seed in range(count)]
    shifts[1] = shifts[1].restricted("unet.*")  # lacks the embedding
    dense = [changes(BASE, shift) for shift in shifts]
    for each in dense:
        each.setdefault(EMBEDDING, np.zeros(BASE[EMBEDDING].shape))
    found = correlate(weight_changes(shifts, cache=NumpyCache(BASE))[0])  # type: ignore[arg-type]
    rows = np.stack([flat(each) for each in dense])
    lengths = np.linalg.norm(rows, axis=1)
    assert found.norms == pytest.approx(lengths, rel=1e-9)
    assert found.cosine == pytest.approx(rows @ rows.T / np.outer(lengths, lengths), abs=1e-9)
    gaps = np.linalg.norm(rows[:, None] - rows, axis=2)
    assert found.distance == pytest.approx(gaps, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("moved", ["a", "b", "both"])
def test_a_short_distance_between_long_terms_keeps_its_digits(moved: str) -> None:
    """The difference of squares would have four left."""
    rng = np.random.default_rng(4)

    def near(values: np.ndarray, by: bool) -> np.ndarray:
        return values * np.float32(1) + by * np.float32(1e-6) * rng.standard_normal(values.shape).astype(np.float32)

    plain = make(BASE, 3, size=0.0)
    outer = {n: OuterTerms(near(t.a, moved != "b"), near(t.b, moved != "a"), t.kernel) for n, t in plain.outer.items()}
    close = SpectralShift(dict(plain), plain.metadata, outer=outer, words=plain.words)
    found, _ = weight_changes([plain, close], cache=NumpyCache(BASE))  # type: ignore[arg-type]
    gap = np.linalg.norm(flat(changes(BASE, plain)) - flat(changes(BASE, close)))
    assert 0 < gap < 1e-4
    assert compare(*found).distance == pytest.approx(gap, rel=1e-8)
    assert correlate(found).distance[0, 1] == pytest.approx(gap, rel=1e-8)


def test_a_shift_and_itself_are_no_distance_apart() -> None:
    shift = make(BASE, 5)
    found, _ = weight_changes([shift, shift], cache=NumpyCache(BASE))  # type: ignore[arg-type]
    assert compare(*found).distance == 0.0
    assert compare(*found).cosine == pytest.approx(1.0)
    assert correlate(found).distance[0, 1] == 0.0


def test_each_part_alone() -> None:
    shifts = [make(BASE, seed) for seed in (6, 7)]
    found, _ = weight_changes(shifts, cache=NumpyCache(BASE))  # type: ignore[arg-type]
    parts = {part.name: part for part in by_part(*found)}
    assert list(parts) == ["delta", "outer", "word"]
    for name, kept in (("delta", {}), ("outer", {"outer": 1}), ("word", {"words": 1})):
        alone = []
        for shift in shifts:
            deltas = dict(shift) if name == "delta" else {n: np.zeros_like(d) for n, d in shift.items()}
            alone.append(SpectralShift(deltas, shift.metadata, **{key: getattr(shift, key) for key in kept}))
        a, b = (flat(changes(BASE, each)) for each in alone)
        assert parts[name].distance == pytest.approx(np.linalg.norm(a - b), rel=1e-9)
        assert (parts[name].first, parts[name].second) == pytest.approx((np.linalg.norm(a), np.linalg.norm(b)))
    assert parts["outer"].moved == 0 < parts["delta"].moved
    only_deltas = SpectralShift(dict(shifts[0]), shifts[0].metadata)
    assert [part.name for part in by_part(*weight_changes([only_deltas, only_deltas])[0])] == ["delta"]


def test_what_the_cache_lacks_is_told_and_left_out() -> None:
    shift = make(BASE, 0, size=0.1)
    both = {name for name, delta in shift.items() if delta.any() and (name in shift.outer or name in shift.words)}
    matrices = {name for name, delta in shift.items() if delta.any() and BASE[name].ndim > 1}
    assert both
    assert matrices > both
    (exact,), unknown = weight_changes([shift], cache=NumpyCache(BASE))  # type: ignore[arg-type]
    assert not unknown
    (found,), unknown = weight_changes([shift], cache=NumpyCache(BASE, vectors=False))  # type: ignore[arg-type]
    assert (unknown.clipping, unknown.cross, unknown.directions) == (set(), both, 3)
    for name in shift:
        parts = [found[name].only(part).norm() for part in ("delta", "outer", "word")]
        if name in both:
            outer = found[name].outer.norm()
            assert found[name].norm() == pytest.approx(np.hypot(parts[0], outer))
        else:
            assert found[name].norm() == exact[name].norm()
    _, unknown = weight_changes([shift], cache=NumpyCache(BASE, sigmas=False, vectors=False))  # type: ignore[arg-type]
    assert (unknown.clipping, unknown.cross) == (matrices, both)


def test_a_delta_of_one_shift_meets_the_terms_of_another() -> None:
    """Neither has both in one weight, and yet their inner product needs the singular vectors."""
    whole = make(BASE, 9)
    name = next(name for name in whole.outer if whole[name].any())
    one = SpectralShift({name: whole[name]}, _only(whole, name))
    two = SpectralShift({name: 0 * whole[name]}, _only(whole, name), outer={name: whole.outer[name]})
    found, unknown = weight_changes([one, two], cache=NumpyCache(BASE))  # type: ignore[arg-type]
    assert not unknown
    a, b = (flat(changes(BASE, each)) for each in (one, two))
    assert compare(*found).cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-12)
    assert weight_changes([one, two], cache=NumpyCache(BASE, vectors=False))[1].cross == {name}  # type: ignore[arg-type]


def _only(shift: SpectralShift, name: str) -> object:
    return shift.restricted(name).metadata


def test_a_word_and_outer_terms_of_one_embedding_overlap() -> None:
    word = WordVectors((4, 1), np.array([[1.0, 2.0], [3.0, 4.0]]))
    terms = OuterTerms(np.arange(6.0)[None] - 1, np.array([[0.5, -2.0]]))
    dense = np.outer(np.arange(6.0) - 1, [0.5, -2.0])
    rows = np.zeros((6, 2))
    rows[[4, 1]] = word.vectors
    both = OuterSum(terms.a, terms.right), OuterSum.of_word(word)
    assert both[0].dot(both[1]) == pytest.approx(np.sum(dense * rows))
    assert OuterSum.joined(both).norm() == pytest.approx(np.linalg.norm(dense + rows))
    assert (both[0] - both[1]).norm() == pytest.approx(np.linalg.norm(dense - rows))
    assert len(OuterSum.joined([])) == OuterSum.nothing().norm() == both[0].dot(OuterSum.nothing()) == 0


def test_sigmas_are_known_as_far_as_something_moves() -> None:
    shift = make(BASE, 10, directions=2)
    moved = {name for name, delta in shift.items() if delta.any() and BASE[name].ndim > 1}
    whole = known_sigmas(shift, cache=NumpyCache(BASE))  # type: ignore[arg-type]
    assert whole.keys() == moved
    assert all(sigma.size == shift[name].size for name, sigma in whole.items())
    leading = known_sigmas(shift, cache=NumpyCache(BASE, sigmas=False))  # type: ignore[arg-type]
    assert all(np.array_equal(leading[name], whole[name][:2]) for name in moved)
    assert known_sigmas(shift, cache=NumpyCache(BASE, sigmas=False, vectors=False)) == {}  # type: ignore[arg-type]


def test_another_weights_terms_are_refused() -> None:
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"
    plain = make(BASE, 0).restricted(name)
    terms = OuterTerms(np.ones((1, 12)), np.ones((1, 13)))
    shift = SpectralShift({name: np.ones(12)}, plain.metadata, outer={name: terms})
    with pytest.raises(MismatchError, match="12 rows and 13 columns, the weight in the cache has 12 and 20"):
        weight_changes([shift], cache=NumpyCache(BASE))  # type: ignore[arg-type]
    longer = SpectralShift({name: np.ones(11)}, plain.metadata)
    with pytest.raises(MismatchError, match="expected a delta of 12 floats"):
        weight_changes([longer], cache=NumpyCache(BASE))  # type: ignore[arg-type]
