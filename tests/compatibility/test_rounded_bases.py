"""The base in another precision: recognised, used with the original's singular vectors, and told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import build, random_shift
from torch import nn

import spectra
from spectra.adapters.bind import bind
from spectra.adapters.binding import Binding
from spectra.adapters.matching import check_base, original_spectra
from spectra.compatibility.rounded_bases import Fingerprints, cast
from spectra.errors import MismatchError, RoundedCopyWarning
from spectra.families import targets
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.shift import SpectralShift, derive
from spectra.shift.shift_file import read_shift, write_shift
from spectra.spectrum.cache.spectrum_cache import SpectrumCache
from spectra.spectrum.shifted_weight import shifted_weight

HALVES = (torch.float16, torch.bfloat16)

# diffusers remarks on models that are cast, and their norms too.
pytestmark = pytest.mark.filterwarnings("ignore:There are modules")


def bound(model: nn.Module, shift: SpectralShift, cache: SpectrumCache | None = None) -> dict[str, Binding]:
    """What `load` binds a model's weights to."""
    chosen = {target.name: target for target in targets(model, "unet") if target.name in shift}
    matches = check_base(shift, "dog", chosen, {}, True)[0].matches
    return bind(chosen.values(), cache=cache, originals=original_spectra(shift, chosen, matches, cache=cache))


def change_error(original: nn.Module, shift: SpectralShift, bindings: dict[str, Binding]) -> float:
    """Relative error of Delta W over all matrices, against float64 and LAPACK on the original weights."""
    missed = whole = 0.0
    for name, binding in bindings.items():
        if binding.spectrum is None:
            continue
        weight = original.get_parameter(f"{name.removeprefix('unet.')}.weight").detach()
        u, sigma, vt = torch.linalg.svd(weight.double().flatten(1), full_matrices=False)
        delta = torch.from_numpy(shift[name].astype(np.float64))
        expected = (u * (torch.relu(sigma + delta) - sigma)) @ vt
        copy = binding.target.weight.detach().double()
        got = (shifted_weight(copy, binding.spectrum, delta) - copy).flatten(1)
        missed += float((got - expected).square().sum())
        whole += float(expected.square().sum())
    return (missed / whole) ** 0.5


DTYPES = ("float32", "float16", "bfloat16")


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    trained=st.sampled_from(DTYPES),
    live=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32),
)
def test_every_copy_is_recognised(shape: list[int], trained: str, live: str, seed: int) -> None:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    weight = cast(drawn, trained)
    known = Fingerprints.of(weight)
    rounded = {dtype: {"unet.a": digits} for dtype, digits in known.rounded().items()}
    metadata = ShiftMetadata("tiny", {"unet.a": known.digits()[:8]}, trained, rounded=rounded)
    copy = cast(weight, live)
    match = Fingerprints.of(copy).base_match(metadata, "unet.a")
    back = torch.equal(cast(copy, trained), weight)
    # A few numbers may be rounded to the same ones in both precisions: then the first of them is named.
    copies = [dtype for dtype in ("float16", "bfloat16") if torch.equal(cast(copy, dtype), cast(weight, dtype))]
    assert live in (trained, "float32", *copies)
    assert match == ("same" if live == trained else "cast" if back else copies[0])


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_with_the_originals_singular_vectors_only_rounding_is_left(
    dtype: torch.dtype, rounding: float, tmp_path: Path
) -> None:
    model, _ = build("unet")
    shift = random_shift(model, "unet", 1)
    copy = build("unet")[0].to(dtype)
    known, own = bound(copy, shift), bound(copy, shift, SpectrumCache(tmp_path))
    exact = change_error(model, shift, bound(model, shift))
    found, without = change_error(model, shift, known), change_error(model, shift, own)
    assert exact < 1e-6
    assert found < rounding
    assert without > 2 * found, "the copy's own singular vectors are worse"


@pytest.mark.parametrize("dtype", HALVES)
def test_a_rounded_copy_is_loaded_and_told(dtype: torch.dtype, tmp_path: Path) -> None:
    model, _ = build("unet")
    shift = random_shift(model, "unet-ca", 1)
    copy, _ = build("unet", dtype)
    name = str(dtype).removeprefix("torch.")
    with pytest.warns(RoundedCopyWarning, match=f"in float32, of which this model is a copy in {name}; with the"):
        spectra.load(copy, shift, "dog")
    spectra.activate(copy, "dog")
    assert all(parameter.dtype == dtype and parameter.isfinite().all() for parameter in copy.parameters())
    spectra.unload(copy)
    with pytest.warns(RoundedCopyWarning, match="16 of its weights .* about .* %; take the base in float32"):
        spectra.load(copy, shift, "dog", cache=SpectrumCache(tmp_path))
    spectra.unload(copy)


@pytest.mark.parametrize("dtype", HALVES)
def test_the_original_of_the_copy_that_was_trained_on(dtype: torch.dtype, tmp_path: Path) -> None:
    half, _ = build("unet", dtype)
    shift = random_shift(half, "unet", 1)
    original, _ = build("unet")
    found = bound(original, shift, SpectrumCache(tmp_path))  # nothing in it: the original is rounded and decomposed
    assert change_error(half, shift, found) < (1e-3 if dtype is torch.float16 else 8e-3)
    with pytest.warns(RoundedCopyWarning, match="a copy in float32; with the original's"):
        spectra.load(original, shift, "dog")
    spectra.unload(original)


def test_few_directions_are_the_originals(tmp_path: Path) -> None:
    """As many as the shift has, where the cache knows no more of the original."""
    model, _ = build("unet")
    whole = random_shift(model, "unet-ca", 1)
    few = {name: np.where(np.arange(len(delta)) < 2, delta, 0).astype(np.float32) for name, delta in whole.items()}
    shift = SpectralShift(few, whole.metadata)
    copy, _ = build("unet", torch.float16)
    cache = SpectrumCache(tmp_path)
    weights = {t.name: t.weight for t in targets(model, "unet-ca") if t.weight.ndim > 1}
    cache.leading(weights, 2)
    with pytest.warns(RoundedCopyWarning, match="of which this model is a copy in float16; with the"):
        spectra.load(copy, shift, "dog", cache=cache)
    spectra.unload(copy)
    assert cache.usage.misses == len(weights)


def test_a_half_precision_file_in_float32_is_the_same_base() -> None:
    """Weights that float16 holds: their copy in float32 loses nothing, and neither does a shift on it."""
    wide = build("unet", torch.float16)[0].float()
    shift = random_shift(wide, "unet", 1)
    assert change_error(wide, shift, bound(wide.half(), shift)) < 1e-6


def test_singular_vectors_in_use_by_another_shift_are_told() -> None:
    model, _ = build("unet")
    shift = random_shift(model, "unet-ca-kv", 1)
    half, _ = build("unet", torch.float16)
    trained_on_it = random_shift(half, "unet-ca-kv", 2)
    spectra.load(half, trained_on_it, "own")
    with pytest.warns(RoundedCopyWarning, match="8 of its weights the original's singular vectors are not in use"):
        spectra.load(half, shift, "dog")
    spectra.unload(half)
    with pytest.warns(RoundedCopyWarning):
        spectra.load(half, shift, "dog")
    with pytest.warns(RoundedCopyWarning, match="'own' .* are not in use"):
        spectra.load(half, trained_on_it, "own")
    spectra.unload(half)


def test_another_base_is_refused_in_every_precision() -> None:
    model, _ = build("unet")
    shift = random_shift(model, "unet-ca", 1)
    for dtype in (torch.float32, *HALVES):
        other, _ = build("unet")
        with torch.no_grad():
            other.down_blocks[1].attentions[0].transformer_blocks[0].attn2.to_k.weight[0, 0] += 1
        with pytest.raises(MismatchError, match=r"another base: 1 of its 16 weights differ"):
            spectra.load(other.to(dtype), shift, "dog")


def test_files_and_merges_hand_on_what_recognises_a_copy(tmp_path: Path) -> None:
    model, _ = build("unet")
    a, b = random_shift(model, "unet-ca", 1), random_shift(model, "unet-1d", 2)
    assert set(a.metadata.rounded) == {"float16", "bfloat16"}
    for shift, options in ((a, {}), (b, {"error": 0.01})):
        write_shift(shift, tmp_path / "a.safetensors", force=True, **options)
        assert read_shift(tmp_path / "a.safetensors").metadata.rounded == shift.metadata.rounded
    both = derive([a, b], {**a, **b}, {"method": "add"})
    with pytest.warns(RoundedCopyWarning):
        spectra.load(half := build("unet", torch.float16)[0], both, "both")
    spectra.unload(half)
    blind = derive([a, SpectralShift(b, ShiftMetadata("", b.metadata.fingerprints))], {**a, **b}, None)
    assert not blind.metadata.rounded
    with pytest.raises(MismatchError, match="another base"):
        spectra.load(half, blind, "blind")
