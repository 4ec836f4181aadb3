"""Loading and storing spectra, and sigma alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from spectra.errors import WeightError
from spectra.spectrum.cache.spectrum_cache import SpectrumCache
from spectra.spectrum.decomposition import decompose
from spectra.spectrum.fingerprint import fingerprint
from spectra.spectrum.spectrum import Spectrum


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (6, 3, 3, 3), (1, 5), (7, 7)])
def test_what_is_loaded_is_what_was_computed(
    cache: SpectrumCache, shape: tuple[int, ...], same: Callable[[Spectrum, Spectrum], bool]
) -> None:
    w = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    first = cache.spectrum(w)
    again = SpectrumCache(cache.path).spectrum(w)
    assert same(first, decompose(w))
    assert same(again, first)
    assert first.fingerprint == again.fingerprint == fingerprint(w)


def test_the_second_time_nothing_is_computed(
    cache: SpectrumCache, no_decompose: Callable[[], None], weight: Callable[..., Tensor]
) -> None:
    w = weight()
    cache.spectrum(w)
    no_decompose()
    other = SpectrumCache(cache.path)
    other.spectrum(w.clone().requires_grad_(), name="another model's name")
    assert (other.usage.hits, other.usage.misses) == (1, 0)


def test_spectra_of_a_model(
    cache: SpectrumCache, weights: Callable[[int], dict[str, Tensor]], weight: Callable[..., Tensor]
) -> None:
    given = {**weights(5), "norm": torch.ones(7), "tied": weight(seed=2)}
    found = cache.spectra(given)
    assert list(found) == ["layer0", "layer1", "layer2", "layer3", "layer4", "tied"]
    for name, spectrum in found.items():
        torch.testing.assert_close(spectrum.sigma, torch.linalg.svdvals(given[name].double()), rtol=1e-12, atol=1e-12)
    assert len(cache.entries()) == 5


def test_fill_counts_these_weights_alone(
    cache: SpectrumCache, weights: Callable[[int], dict[str, Tensor]], weight: Callable[..., Tensor]
) -> None:
    cache.spectrum(weight(seed=0))
    usage = cache.fill(weights(3))
    assert (usage.hits, usage.misses, usage.weight_floats) == (1, 2, 3 * 12 * 20)
    assert usage.spectrum_floats >= 3 * (12 * 12 + 12)
    assert (cache.usage.hits, cache.usage.misses) == (1, 3)


def test_progress_is_advanced_once_per_weight_and_finished_on_failure(
    cache: SpectrumCache, weights: Callable[[int], dict[str, Tensor]]
) -> None:
    seen: list[Any] = []

    class Recorded:
        def start(self, label: str, total: int) -> None:
            seen.append(total)

        def advance(self, n: int = 1, note: str = "") -> None:
            seen.append(note)

        def finish(self) -> None:
            seen.append("finished")

    cache.spectra({**weights(3), "norm": torch.ones(4)}, Recorded())
    assert seen[0] == 4
    assert sorted(seen[1:-1]) == ["layer0", "layer1", "layer2", "norm"]
    assert seen[-1] == "finished"
    seen.clear()
    with pytest.raises(WeightError, match=r"bad: 1 of 4 values"):
        cache.spectra({"bad": torch.tensor([[1.0, float("nan")], [0.0, 1.0]])}, Recorded())
    assert seen[-1] == "finished"


def test_torch_threads_are_as_before(cache: SpectrumCache, weights: Callable[[int], dict[str, Tensor]]) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        cache.spectra(weights(4))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_nothing_is_made_before_it_is_needed(tmp_path: Path) -> None:
    cache = SpectrumCache(tmp_path / "cache")
    assert cache.entries() == []
    assert cache.sigma("0" * 64) is None
    assert cache.verify().checked == 0
    assert cache.gc().kept == 0
    assert not cache.path.exists()


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_empty_weights_pass_through(cache: SpectrumCache, shape: tuple[int, int]) -> None:
    assert cache.spectrum(torch.zeros(shape)).rank == 0
    assert cache.entries() == []


def test_an_entry_is_an_ordinary_safetensors_file(cache: SpectrumCache, weight: Callable[..., Tensor]) -> None:
    w = weight(20, 12)
    spectrum = cache.spectrum(w)
    (entry,) = cache.entries()
    assert entry.path == cache.path / "v1" / fingerprint(w)[:2] / f"{fingerprint(w)}.safetensors"
    tensors = load_file(entry.path)
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {
        "sigma": torch.float64,
        "basis": torch.float32,
        "tail": torch.float32,
    }
    assert torch.equal(tensors["basis"], spectrum.basis)
    assert (entry.shape, entry.side, entry.rank, entry.tail) == ((20, 12), "right", 12, 12 - spectrum.one_sided)
    assert entry.size == entry.path.stat().st_size


def test_a_spectrum_in_use_does_not_depend_on_its_file(
    cache: SpectrumCache, weight: Callable[..., Tensor], same: Callable[[Spectrum, Spectrum], bool]
) -> None:
    """Whether it was computed or loaded: bytes that are flipped, or cut off, reach neither."""
    w = weight()
    found = [cache.spectrum(w), SpectrumCache(cache.path).spectrum(w)]
    few = [SpectrumCache(cache.path).leading({"w": w}, 3)["w"] for _ in range(2)]
    for entry in cache.entries():
        with entry.path.open("r+b") as file:
            file.seek(200)
            file.write(bytes(entry.size - 200))
            file.truncate(300)
    assert all(same(each, decompose(w)) for each in found)
    assert torch.equal(few[0].left, few[1].left)
    assert (few[0].left.stride(), few[0].right.stride()) == (few[1].left.stride(), few[1].right.stride())
    assert (few[0].left * few[0].sigma.float() @ few[0].right.T - w).norm() < w.norm()


def test_sigma_by_fingerprint_and_prefix(cache: SpectrumCache, weight: Callable[..., Tensor]) -> None:
    w = weight()
    spectrum = cache.spectrum(w)
    for digits in (64, 16, 8):
        sigma = cache.sigma(fingerprint(w)[:digits])
        assert sigma is not None
        assert sigma.dtype == np.float64
        assert np.array_equal(sigma, spectrum.sigma.numpy())
    for unknown in (fingerprint(w)[:7], "f" * 64, "", "../../etc", "*" * 8):
        assert cache.sigma(unknown) is None


def test_sigma_of_an_ambiguous_prefix_is_unknown(cache: SpectrumCache, weight: Callable[..., Tensor]) -> None:
    cache.spectrum(weight())
    (entry,) = cache.entries()
    twin = entry.path.with_name(entry.fingerprint[:8] + "0" * 56 + ".safetensors")
    twin.write_bytes(entry.path.read_bytes())
    assert cache.sigma(entry.fingerprint[:8]) is None
    assert cache.sigma(entry.fingerprint) is not None


def test_sigma_needs_no_torch(cache: SpectrumCache, weight: Callable[..., Tensor]) -> None:
    w = weight()
    cache.spectrum(w)
    code = (
        "import sys; from pathlib import Path; from spectra.spectrum.cache.spectrum_cache import SpectrumCache\n"
        "cache = SpectrumCache(Path(sys.argv[1])); print(len(cache.sigma(sys.argv[2])), cache.verify().checked)\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, cache.path, fingerprint(w)], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "12 1\n", "")
