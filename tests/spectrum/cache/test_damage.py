"""Damaged entries are said, set aside and rebuilt, whatever the damage."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from spectra.errors import CacheWarning
from spectra.spectrum.cache.spectrum_cache import SpectrumCache
from spectra.spectrum.decomposition import decompose
from spectra.spectrum.fingerprint import fingerprint
from spectra.spectrum.spectrum import Spectrum


def flip(position: int) -> Callable[[bytes], bytes]:
    def flipped(content: bytes) -> bytes:
        harmed = bytearray(content)
        harmed[position] ^= 1
        return bytes(harmed)

    return flipped


def swap(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content.replace(old, new, 1)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a bit of the payload's end": flip(-1),
    "a bit of sigma": lambda content: flip(8 + int.from_bytes(content[:8], "little") + 3)(content),
    "a bit of the header's length": flip(2),
    "a bit of the opening brace": flip(8),
    "empty": lambda content: b"",
    "seven bytes": lambda content: content[:7],
    "header cut": lambda content: content[:100],
    "payload cut": lambda content: content[:-4],
    "zeros": lambda content: bytes(len(content)),
    "not safetensors": lambda content: b"<html>" * 100,
    "other side": swap(b'"side":"left"', b'"side":"back"'),
    "wrong side": swap(b'"side":"left"', b'"side":"top" '),
    "other shape": swap(b'"shape":"[12, 20]"', b'"shape":"[12, 02]"'),
    "other order": swap(b'"shape":"[12, 20]"', b'"shape":"[20, 12]"'),
    "endless shape": swap(b'"shape":"[12, 20]"', b'"shape":"[1e9999]"'),
    "no dimensions": swap(b'"shape":"[12, 20]"', b'"shape":"[]"      '),
    "later version": swap(b'"version":"1"', b'"version":"9"'),
    "other format": swap(b"spectra-spectrum", b"spectra-spectrun"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_said_set_aside_and_rebuilt(
    cache: SpectrumCache, damage: str, weight: Callable[..., Tensor], same: Callable[[Spectrum, Spectrum], bool]
) -> None:
    w = weight()
    first = cache.spectrum(w)
    expected = decompose(w)
    (entry,) = cache.entries()
    content = entry.path.read_bytes()
    harmed = DAMAGE[damage](content)
    assert harmed != content
    # Another file takes the place: the first one's map must not see it.
    entry.path.unlink()
    entry.path.write_bytes(harmed)
    other = SpectrumCache(cache.path)
    with pytest.warns(CacheWarning, match="damaged entry"):
        again = other.spectrum(w)
    assert same(again, expected)
    assert same(first, expected)
    assert (other.usage.misses, other.usage.damaged) == (1, 1)
    assert [path.read_bytes() for path in (cache.path / "damaged").iterdir()] == [harmed]
    assert same(SpectrumCache(cache.path).spectrum(w), expected)


def test_an_entry_under_another_name_is_not_believed(
    cache: SpectrumCache, weight: Callable[..., Tensor], same: Callable[[Spectrum, Spectrum], bool]
) -> None:
    one, two = weight(seed=1), weight(seed=2)
    cache.spectrum(one)
    (entry,) = cache.entries()
    wrong = cache.path / "v1" / fingerprint(two)[:2] / f"{fingerprint(two)}.safetensors"
    wrong.parent.mkdir(exist_ok=True)
    wrong.write_bytes(entry.path.read_bytes())
    with pytest.warns(CacheWarning, match="another weight"):
        assert same(cache.spectrum(two), decompose(two))


def test_damage_in_the_basis_leaves_sigma_readable(cache: SpectrumCache, weight: Callable[..., Tensor]) -> None:
    w = weight()
    cache.spectrum(w)
    (entry,) = cache.entries()
    entry.path.write_bytes(flip(-1)(entry.path.read_bytes()))
    assert cache.sigma(fingerprint(w)) is not None


def test_damaged_sigma_is_said_and_set_aside(cache: SpectrumCache, weight: Callable[..., Tensor]) -> None:
    w = weight()
    cache.spectrum(w)
    (entry,) = cache.entries()
    entry.path.write_bytes(DAMAGE["a bit of sigma"](entry.path.read_bytes()))
    with pytest.warns(CacheWarning, match="checksum of sigma"):
        assert cache.sigma(fingerprint(w)) is None
    assert not entry.path.exists()


def test_verify_finds_and_sets_aside(cache: SpectrumCache, weights: Callable[[int], dict[str, Tensor]]) -> None:
    cache.spectra(weights(4))
    victim = cache.entries()[2]
    victim.path.write_bytes(flip(-1)(victim.path.read_bytes()))
    found = cache.verify()
    assert found.checked == 4
    assert list(found.damaged) == [victim.fingerprint]
    assert "checksum" in found.damaged[victim.fingerprint]
    assert len(cache.entries()) == 3
    assert cache.verify().damaged == {}


def test_a_listing_survives_a_damaged_header(cache: SpectrumCache, weights: Callable[[int], dict[str, Tensor]]) -> None:
    cache.spectra(weights(2))
    cache.entries()[0].path.write_bytes(b"nothing")
    assert sorted(entry.shape is None for entry in cache.entries()) == [False, True]
