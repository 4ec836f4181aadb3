"""Files of every format version, written by the code that first wrote them, are read to the values that went in.

files/version-1-first*.safetensors          commit 325513f, the first that wrote shift files
files/version-1-rounded*.safetensors        commit 946f0c5, the last before packed files
files/version-2-packed.safetensors          commit cc87694, the first whose packed files are documented
files/version-3*.safetensors                commit 4ec5330; packed: b5498e9
files/cache-whole.safetensors, -leading     commits 325513f and 2559cd4
files/recipe.toml, recipe-outer-rank.toml   commits 57c1faa and 9c24fd3
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from spectra.combine.merging.recipe import find_parents, read_recipe
from spectra.io.safetensors_header import read_header
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift, write_shift
from spectra.spectrum.cache.spectrum_cache import SpectrumCache
from spectra.spectrum.fingerprint import fingerprint

FILES = Path(__file__).parent / "files"
LINEAR, NORM, CONV, WORDS = "unet.down.attn2.to_q", "unet.down.norm", "unet.down.conv", "text_encoder.embeddings"
PACKED = {
    "version-2-packed.safetensors": "9b8c52089f95c8bc248c8dd83fd5e199",
    "version-3-packed.safetensors": "b7db82d2673b3c8ea6a34e20e094e950",
}
"""The start of the SHA-256 of the values that the writing code's own reader gave."""
ERROR = 0.05


def numbers(n: int, step: int) -> np.ndarray:
    """Sixteenths, which float16 holds too."""
    return ((np.arange(n) * step % 17 - 8) / 16).astype(np.float32)


def read(name: str, version: str) -> SpectralShift:
    """A golden file, whose header says the version, and whose metadata is what was put in."""
    assert read_header(FILES / name).metadata["version"] == version
    shift = read_shift(FILES / name)
    told = shift.metadata
    assert (told.base, told.subset, told.seed, told.licence) == ("tiny", "unet-ca", 7, "CC0-1.0")
    assert dict(told.settings) == {"steps": 200, "lr": 0.01, "prompt": "a photo of [V1] füchse"}
    assert told.fingerprints == {key: f"{i + 1:08x}" for i, key in enumerate(sorted(shift))}
    return shift


def near(found: np.ndarray, expected: np.ndarray, error: float) -> None:
    assert np.linalg.norm(found - expected) <= error * np.linalg.norm(expected)


@pytest.mark.parametrize("precision", ["", "-float16"])
@pytest.mark.parametrize("kind", ["first", "rounded"])
def test_version_1(kind: str, precision: str, tmp_path: Path) -> None:
    shift = read(f"version-1-{kind}{precision}.safetensors", "1")
    assert {name: delta.tolist() for name, delta in shift.items()} == {
        LINEAR: numbers(24, 5).tolist(),
        NORM: numbers(8, 3).tolist(),
    }
    assert shift.metadata.parents == ("0123456789abcdef" * 2,)
    # Written anew, it says and holds the same; the first code was given the base's fingerprint, which is derived now.
    write_shift(shift, tmp_path / "again", dtype="float16" if precision else "float32")
    again = read_shift(tmp_path / "again")
    assert again == shift
    assert kind == "first" or again.metadata.content_hash == shift.metadata.content_hash


def test_version_2() -> None:
    shift = read("version-2-packed.safetensors", "2")
    near(shift[LINEAR], numbers(240, 5) / 64, ERROR)
    near(shift[NORM], numbers(8, 3), ERROR)
    assert digest(shift) == PACKED["version-2-packed.safetensors"]


@pytest.mark.parametrize("kind", ["", "-float16", "-packed"])
def test_version_3(kind: str) -> None:
    shift = read(f"version-3{kind}.safetensors", "3")
    # The error of the packed one is over everything together.
    error = 3 * ERROR if kind == "-packed" else 0.0
    sparse, leading = np.zeros(24), np.zeros(6)
    sparse[[1, 4, 9]], leading[:2] = numbers(3, 5), numbers(2, 3)
    for name, expected in ((LINEAR, sparse), (CONV, leading), (NORM, numbers(8, 3)), (WORDS, np.zeros(5))):
        near(shift[name], expected, error)
    terms = shift.outer[LINEAR]
    assert terms.kernel is None
    near(terms.a.T @ terms.b, numbers(48, 3).reshape(2, 24).T @ numbers(60, 7).reshape(2, 30), error)
    terms = shift.outer[CONV]
    assert terms.kernel is not None
    product = np.einsum("kn,km,kt->nmt", terms.a, terms.b, terms.kernel)
    near(product, np.einsum("n,m,t->nmt", numbers(6, 3), numbers(4, 7), numbers(9, 5)), max(error, 1e-6))
    word = shift.words[WORDS]
    assert (word.ids, word.text) == ((3, 39), "owl")
    near(word.vectors, numbers(10, 3).reshape(2, 5), error)
    if kind == "-packed":
        assert digest(shift) == PACKED["version-3-packed.safetensors"]


def digest(shift: SpectralShift) -> str:
    found = hashlib.sha256()
    for name in sorted(shift):
        found.update(shift[name].tobytes())
    for _, terms in sorted(shift.outer.items()):
        for each in (terms.a, terms.b, terms.kernel):
            found.update(b"" if each is None else each.tobytes())
    for _, word in sorted(shift.words.items()):
        found.update(word.vectors.tobytes())
    return found.hexdigest()[:32]


def test_entries_of_the_cache(tmp_path: Path) -> None:
    weight = torch.zeros(6, 4)
    weight[1, 0], weight[4, 2], weight[0, 3], weight[5, 1] = 4.0, -3.0, 2.0, 1.0
    digits = fingerprint(weight)
    for kind, folder in (("whole", "v1"), ("leading", "leading-v1")):
        place = tmp_path / folder / digits[:2] / f"{digits}.safetensors"
        place.parent.mkdir(parents=True)
        place.write_bytes((FILES / f"cache-{kind}.safetensors").read_bytes())
    cache = SpectrumCache(tmp_path)
    with mock.patch.object(SpectrumCache, "_compute", side_effect=AssertionError("an entry was not read")):
        spectrum = cache.spectrum(weight)
    np.testing.assert_allclose(spectrum.sigma.numpy(), [4, 3, 2, 1], rtol=1e-12)
    leading = cache.find_leading(digits, 2)
    assert leading is not None
    np.testing.assert_allclose(leading.sigma.numpy(), [4, 3], rtol=1e-12)
    along = leading.left.T @ weight @ leading.right
    np.testing.assert_allclose(along.numpy(), np.diag([4.0, 3.0]), atol=1e-6)


@pytest.mark.parametrize("name", ["recipe", "recipe-outer-rank"])
def test_recipes(name: str) -> None:
    recipe = read_recipe(FILES / f"{name}.toml")
    assert (recipe.weights, recipe.blocks, recipe.seed) == ((0.75, 0.25), ((NORM, (1.0, 0.0)),), 3)
    assert [each.scale for each in recipe.parents] == [1.0, 0.5]
    later = name != "recipe"
    assert (recipe.method, recipe.outer_rank) == (("dare", 2) if later else ("weighted", None))
    names = ("version-3", "version-3-packed") if later else ("version-1-first", "version-1-rounded")
    files = [FILES / f"{each}.safetensors" for each in names]
    assert find_parents(recipe, []) == files
    assert [read_shift(file).metadata.content_hash for file in files] == [each.content_hash for each in recipe.parents]
