"""Full differences hold all of a shift: norms and embeddings too."""

from __future__ import annotations

from pathlib import Path

import plain_base
import pytest
import small_models
import tiny_base
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from spectra.bases.pipeline import load_pipeline
from spectra.convert.full_difference import write_difference
from spectra.convert.lora.reading import read_lora
from spectra.convert.shifted_base import ShiftedBase
from spectra.errors import FormatError
from spectra.families import targets
from spectra.shift.shift import SpectralShift


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-6), ("float16", 1e-3), ("bfloat16", 5e-3)])
def test_the_differences_are_the_shift(dtype: str, error: float, tmp_path: Path) -> None:
    base = plain_base.tensors()
    shift = plain_base.random_shift(base, 0.3)
    file = tmp_path / "d.safetensors"
    done = write_difference(shift, file, base=plain_base.write(tmp_path, base), dtype=dtype)  # type: ignore[arg-type]
    found = load_file(file)
    modules = {name: f"lora_{name}".replace(".", "_") for name in base}
    parts = {name: (".w_norm", ".b_norm") if weight.ndim == 1 else (".diff",) for name, weight in base.items()}
    assert found.keys() == {modules[name] + part for name in base for part in parts[name]}
    wanted = plain_base.shifted(base, shift)
    for name, weight in base.items():
        diff = found[modules[name] + parts[name][0]]
        assert diff.shape == weight.shape
        exact = wanted[name] - weight.double()
        assert float((diff.double() - exact).norm() / exact.norm()) < error
    assert not found["lora_unet_norm.b_norm"].any()
    assert (done.rounding > 1e-5) == (dtype != "float32")
    assert done.bytes == file.stat().st_size
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["spectra_base"] == "test"


def test_all_of_a_pipeline_comes_back(tmp_path: Path) -> None:
    tiny_base.build().save_pretrained(tmp_path / "base")
    pipe = load_pipeline(str(tmp_path / "base"))
    shift = small_models.random_shift(pipe, "unet,text-encoder", seed=1)
    write_difference(shift, tmp_path / "d.safetensors", base=str(tmp_path / "base"))
    names = {target.name: tuple(target.weight.shape) for target in targets(pipe, "unet,text-encoder")}
    found = read_lora(tmp_path / "d.safetensors", names)
    assert set(found) == set(names)
    for name, each in ShiftedBase(shift, str(tmp_path / "base")).changes().items():
        assert float(found[name].double().norm()) ** 2 == pytest.approx(each.energy, rel=1e-4)
    norm = next(name for name in names if name.endswith("conv_norm_out"))
    assert torch.equal(found[norm], torch.from_numpy(shift[norm].copy()))


def test_a_shift_that_does_nothing_is_refused(tmp_path: Path) -> None:
    base = plain_base.tensors()
    shift = plain_base.random_shift(base)
    nothing = SpectralShift({name: 0 * delta for name, delta in shift.items()}, shift.metadata)
    with pytest.raises(FormatError, match="changes no weight"):
        write_difference(nothing, tmp_path / "d.safetensors", base=plain_base.write(tmp_path, base))


def test_directions_terms_and_words_are_in_it(tmp_path: Path) -> None:
    base = plain_base.tensors(plain_base.SHAPES | {"unet.token_embedding": (20, 8)})
    shift = plain_base.mixed_shift(base, 3, 2, ["unet.token_embedding"])
    done = write_difference(shift, tmp_path / "d.safetensors", base=plain_base.write(tmp_path, base))
    found, wanted = (
        read_lora(tmp_path / "d.safetensors", {n: tuple(w.shape) for n, w in base.items()}),
        plain_base.shifted(base, shift),
    )
    assert found.keys() == base.keys()
    assert done.weights == len(base)
    for name, weight in base.items():
        exact = (wanted[name] - weight.double()).reshape(found[name].shape)
        assert float((found[name].double() - exact).norm()) < 1e-6 * float(exact.norm()), name
