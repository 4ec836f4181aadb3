"""Leading directions in the cache: kept, grown, served by a whole spectrum, and read without torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from spectra.errors import CacheWarning, InputError
from spectra.spectrum.cache.spectrum_cache import SpectrumCache
from spectra.spectrum.fingerprint import fingerprint
from spectra.spectrum.leading import decompose_leading
from spectra.spectrum.partial import PartialSpectrum


def same(one: PartialSpectrum, two: PartialSpectrum) -> bool:
    """Whether two agree in every bit of their vectors and values."""
    return all(torch.equal(getattr(one, name), getattr(two, name)) for name in ("left", "sigma", "right"))


def one(cache: SpectrumCache, weight: Tensor, directions: int) -> PartialSpectrum:
    return cache.leading({"w": weight}, directions)["w"]


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (6, 3, 3, 3), (1, 5), (7, 7)])
def test_what_is_loaded_is_what_was_computed(cache: SpectrumCache, shape: tuple[int, ...]) -> None:
    w = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    first = one(cache, w, 4)
    other = SpectrumCache(cache.path)
    again = one(other, w, 4)
    assert same(first, decompose_leading(w, 4))
    assert same(again, first)
    assert (again.fingerprint, again.shape, again.directions) == (fingerprint(w), shape, min(4, first.rank))
    assert (again.residual, again.orthogonality) == (first.residual, first.orthogonality)
    assert (other.usage.hits, other.usage.misses) == (1, 0)


def test_an_entry_holds_both_sides_and_nothing_else(cache: SpectrumCache, weight: Callable[..., Tensor]) -> None:
    w = weight(20, 12)
    one(cache, w, 3)
    (entry,) = cache.entries()
    assert entry.path == cache.path / "leading-v1" / fingerprint(w)[:2] / f"{fingerprint(w)}.safetensors"
    assert {name: tuple(tensor.shape) for name, tensor in load_file(entry.path).items()} == {
        "sigma": (3,),
        "left": (3, 20),
        "right": (3, 12),
    }
    assert (entry.shape, entry.rank, entry.directions, entry.side, entry.tail) == ((20, 12), 12, 3, None, None)
    assert cache.usage.bytes == 4 * 3 * (20 + 12) + 8 * 3


def test_a_mapping_of_weights(cache: SpectrumCache, weights: Callable[[int], dict[str, Tensor]]) -> None:
    given = {**weights(4), "norm": torch.ones(7)}
    found = cache.leading(given, 5)
    assert list(found) == ["layer0", "layer1", "layer2", "layer3"]
    for name, partial in found.items():
        exact = torch.linalg.svdvals(given[name].double())[:5]
        torch.testing.assert_close(partial.sigma, exact, rtol=1e-9, atol=0)


def test_more_directions_take_the_place_of_fewer(cache: SpectrumCache, weight: Callable[..., Tensor]) -> None:
    w = weight()
    one(cache, w, 3)
    assert cache.leading_vectors(fingerprint(w), 7) is None
    grown = one(cache, w, 7)
    assert grown.directions == 7
    assert [entry.directions for entry in cache.entries()] == [7]
    assert (cache.usage.hits, cache.usage.misses) == (0, 2)
    fewer = one(cache, w, 2)
    assert (cache.usage.hits, fewer.directions) == (1, 2)
    assert torch.equal(fewer.left, grown.left[:, :2])
    assert [entry.directions for entry in cache.entries()] == [7]


def test_a_whole_spectrum_serves(
    cache: SpectrumCache, weight: Callable[..., Tensor], no_decompose: Callable[[], None]
) -> None:
    w = weight()
    spectrum = cache.spectrum(w)
    no_decompose()
    found = one(cache, w, 5)
    assert torch.equal(found.left, spectrum.basis[:, :5])
    assert torch.equal(found.sigma, spectrum.sigma[:5])
    assert found.from_full
    assert (cache.usage.hits, cache.usage.misses, cache.usage.full) == (1, 1, 0)
    vectors = cache.leading_vectors(fingerprint(w), 5)
    assert vectors is not None
    assert np.array_equal(vectors.right, found.right.numpy())


def test_leading_directions_never_hide_a_whole_spectrum(cache: SpectrumCache, weight: Callable[..., Tensor]) -> None:
    w = weight()
    one(cache, w, 5)
    assert cache.sigma(fingerprint(w)) is None
    assert cache.find(fingerprint(w)) is None
    spectrum = cache.spectrum(w)
    assert spectrum.rank == 12
    one(cache, w, 5)
    for digits in (fingerprint(w), fingerprint(w)[:8]):
        sigma = cache.sigma(digits)
        assert sigma is not None
        assert len(sigma) == 12
    assert sorted(entry.directions or 0 for entry in cache.entries()) == [5, 12]


def test_asking_for_more_than_there_are_gives_all(
    cache: SpectrumCache, weight: Callable[..., Tensor], no_decompose: Callable[[], None]
) -> None:
    w = weight()
    assert one(cache, w, 99).directions == 12
    no_decompose()
    assert one(cache, w, 50).directions == 12
    vectors = cache.leading_vectors(fingerprint(w), 1000)
    assert vectors is not None
    assert len(vectors.sigma) == 12


def test_none_and_fewer_than_none(cache: SpectrumCache, weight: Callable[..., Tensor]) -> None:
    assert one(cache, weight(), 0).left.shape == (12, 0)
    assert one(cache, torch.zeros(0, 4), 3).right.shape == (4, 0)
    assert cache.entries() == []
    with pytest.raises(InputError, match="w: expected 0 or more directions, got -1"):
        one(cache, weight(), -1)


def test_vectors_by_fingerprint_and_prefix(cache: SpectrumCache, weight: Callable[..., Tensor]) -> None:
    w = weight()
    partial = one(cache, w, 6)
    for digits in (64, 16, 8):
        vectors = cache.leading_vectors(fingerprint(w)[:digits], 4)
        assert vectors is not None
        left, sigma, right = vectors
        assert (left.dtype, sigma.dtype, right.dtype) == (np.float32, np.float64, np.float32)
        assert np.array_equal(left, partial.left[:, :4].numpy())
        assert np.array_equal(sigma, partial.sigma[:4].numpy())
        assert np.array_equal(right, partial.right[:, :4].numpy())
        found = cache.find_leading(fingerprint(w)[:digits], 4)
        assert found is not None
        assert same(found, partial.first(4))
    assert cache.find_leading(fingerprint(w), 7) is None
    for unknown in (fingerprint(w)[:7], "f" * 64, "", "../../etc"):
        assert cache.leading_vectors(unknown, 4) is None
        assert cache.find_leading(unknown, 4) is None


def test_vectors_need_no_torch(cache: SpectrumCache, weight: Callable[..., Tensor]) -> None:
    w = weight()
    one(cache, w, 6)
    code = (
        "import sys; from pathlib import Path; from spectra.spectrum.cache.spectrum_cache import SpectrumCache\n"
        "cache = SpectrumCache(Path(sys.argv[1])); left, sigma, right = cache.leading_vectors(sys.argv[2], 5)\n"
        "print(left.shape, len(sigma), right.shape, cache.verify().checked); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, cache.path, fingerprint(w)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "(12, 5) 5 (20, 5) 1\n", "")


def other_digit(content: bytes, fact: bytes) -> bytes:
    """The first digit of a fact changed into another."""
    place = content.index(b'"' + fact + b'":"') + len(fact) + 4
    return content[:place] + (b"2" if content[place : place + 1] == b"1" else b"1") + content[place + 1 :]


HARM: dict[str, Callable[[bytes], bytes]] = {
    "the last bit": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "cut": lambda content: content[:-4],
    "empty": lambda content: b"",
    "residual": lambda content: other_digit(content, b"residual"),
    "from_full": lambda content: content.replace(b'"from_full":"', b'"from_full":"?', 1),
    "shape": lambda content: content.replace(b'"shape":"[12, 20]"', b'"shape":"[20, 12]"'),
    "version": lambda content: content.replace(b'"version":"1"', b'"version":"7"'),
    "orthogonality": lambda content: other_digit(content, b"orthogonality"),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_entry_is_said_set_aside_and_rebuilt(
    cache: SpectrumCache, harm: str, weight: Callable[..., Tensor]
) -> None:
    w = weight()
    expected = one(cache, w, 4)
    (entry,) = cache.entries()
    content = entry.path.read_bytes()
    harmed = HARM[harm](content)
    assert harmed != content
    entry.path.unlink()
    entry.path.write_bytes(harmed)
    with pytest.warns(CacheWarning, match="damaged entry"):
        assert cache.leading_vectors(fingerprint(w), 4) is None
    assert not entry.path.exists()
    entry.path.write_bytes(harmed)
    other = SpectrumCache(cache.path)
    with pytest.warns(CacheWarning, match="damaged entry"):
        again = one(other, w, 4)
    assert same(again, expected)
    assert (other.usage.misses, other.usage.damaged) == (1, 1)


def test_verify_and_gc_know_both_kinds(cache: SpectrumCache, weight: Callable[..., Tensor]) -> None:
    w = weight()
    cache.spectrum(w)
    one(cache, w, 4)
    for entry in cache.entries():
        entry.path.write_bytes(HARM["the last bit"](entry.path.read_bytes()))
    found = cache.verify()
    assert found.checked == 2
    assert sorted(found.damaged) == [fingerprint(w), f"{fingerprint(w)} (leading)"]
    one(cache, w, 4)
    done = cache.gc(0)
    assert (done.removed, done.kept) == (3, 0)


def test_an_entry_that_cannot_be_kept_is_computed(
    cache: SpectrumCache, weight: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache._store, "write", full)
    with pytest.warns(CacheWarning, match="No space left"):
        assert one(cache, weight(), 4).directions == 4
