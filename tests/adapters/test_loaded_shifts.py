"""Loading, activating, switching and unloading: strict, all or nothing, and the base comes back bit for bit."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import MODELS, build, random_shift
from torch import nn

import spectra
from spectra.errors import BaseError, MismatchError
from spectra.shift.shift import SpectralShift


def parameters(model: nn.Module) -> dict[str, tuple[int, torch.Tensor]]:
    return {name: (id(value), value.detach().clone()) for name, value in model.named_parameters()}


def assert_untouched(model: nn.Module, before: dict[str, tuple[int, torch.Tensor]]) -> None:
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()
    for name, (identity, value) in before.items():
        assert id(after[name]) == identity and torch.equal(after[name], value), name


@pytest.mark.parametrize("kind", MODELS)
def test_the_whole_life_of_a_shift(kind: str) -> None:
    model, call = build(kind)
    targets = "text-encoder" if kind in ("clip", "t5") else "denoiser"
    dog, style = random_shift(model, targets, 1), random_shift(model, targets, 2)
    before = parameters(model)
    with torch.no_grad():
        base = call()
        assert spectra.load(model, dog, "dog") == "dog"
        first = call()
        assert not torch.allclose(first, base), "loading puts a shift in force"
        spectra.load(model, style, "style", activate=False)
        assert torch.equal(call(), first)
        assert spectra.loaded(model) == {"dog": 1.0, "style": 0.0}
        spectra.activate(model, {"dog": 0.5, "style": 0.7})
        assert spectra.loaded(model) == {"dog": 0.5, "style": 0.7}
        both = call()
        assert not torch.allclose(both, first)
        with spectra.disabled(model):
            assert torch.equal(call(), base)
        assert torch.equal(call(), both)
        spectra.unload(model, "style")
        assert spectra.loaded(model) == {"dog": 0.5}
        spectra.activate(model, "dog")
        assert torch.equal(call(), first)
        spectra.activate(model, {"dog": 0.0})
        assert torch.equal(call(), base)
        spectra.activate(model, {})
        assert_untouched(model, before)
        spectra.activate(model, "dog")
        spectra.unload(model)
        assert torch.equal(call(), base)
    assert_untouched(model, before)
    assert spectra.loaded(model) == {}


def test_addition_is_the_papers_formula() -> None:
    """`U diag(ReLU(sigma + a * dog + b * style)) V^T`, with U and V from LAPACK in float64."""
    model, _ = build("unet")
    dog, style = random_shift(model, "unet", 1), random_shift(model, "unet", 2, size=0.5)
    frozen = {name: value.detach().clone() for name, value in model.named_parameters()}
    spectra.load(model, dog, "dog")
    spectra.load(model, style, "style")
    spectra.activate(model, {"dog": 1.5, "style": -0.7})
    checked = 0
    for path, module in model.named_modules():
        name = f"unet.{path}"
        if name not in dog:
            continue
        weight = frozen[f"{path}.weight"].double()
        total = torch.tensor(1.5 * dog[name].astype("float64") - 0.7 * style[name].astype("float64"))
        if weight.ndim == 1:
            expected = weight + total
        else:
            u, sigma, vt = torch.linalg.svd(weight.flatten(1), full_matrices=False)
            expected = ((u * torch.relu(sigma + total)) @ vt).reshape(weight.shape)
        torch.testing.assert_close(module.weight.double(), expected, rtol=1e-5, atol=2e-6)
        checked += 1
    assert checked == len(dog)


def test_errors_name_what_to_do_and_change_nothing() -> None:
    model, _ = build("unet")
    shift = random_shift(model, "unet-ca", 1)
    before = parameters(model)
    with pytest.raises(MismatchError, match="'dgo' is loaded; loaded: none"):
        spectra.activate(model, "dgo")
    spectra.load(model, shift, "dog", activate=False)
    with pytest.raises(MismatchError, match="no shift named 'dgo' is loaded; loaded: dog"):
        spectra.activate(model, {"dog": 1.0, "dgo": 1.0})
    with pytest.raises(MismatchError, match="finite scale"):
        spectra.activate(model, {"dog": float("nan")})
    with pytest.raises(MismatchError, match="loaded already"):
        spectra.load(model, shift, "dog")
    with pytest.raises(MismatchError, match="needs a name"):
        spectra.load(model, shift)
    with pytest.raises(MismatchError, match="'cat' is loaded; loaded: dog"):
        spectra.unload(model, "cat")
    with pytest.raises(BaseError, match="no component"):
        spectra.load(object(), shift, "x")
    assert_untouched(model, before)
    spectra.unload(model)
    spectra.unload(model)


def test_another_base_is_refused() -> None:
    model, _ = build("unet")
    shift = random_shift(model, "unet-ca", 1)
    other, _ = build("unet")
    with torch.no_grad():
        other.down_blocks[1].attentions[0].transformer_blocks[0].attn2.to_k.weight[0, 0] += 1e-3
    before = parameters(other)
    with pytest.raises(MismatchError, match=r"another base: 1 of its 16 weights differ.*to_k"):
        spectra.load(other, shift, "dog")
    with pytest.warns(UserWarning, match="another base"):
        spectra.load(other, shift, "dog", strict=False)
    spectra.unload(other)
    assert_untouched(other, before)
    with pytest.raises(MismatchError, match="in float32, this model is in float16; load that base in float32"):
        spectra.load(other.to(torch.float16), shift, "dog")


def test_missing_and_misshaped_weights_are_refused() -> None:
    model, _ = build("unet")
    shift = random_shift(model, "unet-ca-kv", 1)
    sdxl, _ = build("sdxl")
    with pytest.raises(MismatchError, match="differ|takes|are not"):
        spectra.load(sdxl, shift, "dog")
    clip, _ = build("clip")
    with pytest.raises(MismatchError, match=r"0 of its 8 weights are there, 8 are not"):
        spectra.load(clip, shift, "dog")
    name = next(iter(shift))
    long = SpectralShift({**shift, name: np.zeros(99, np.float32)}, shift.metadata)
    with pytest.raises(MismatchError, match="the shift has 99"):
        spectra.load(model, long, "dog")
    assert spectra.loaded(model) == {}
    spectra.attach(model, "unet-ca").detach()  # nothing was left claimed


def test_files_load_by_their_stem(tmp_path: Path) -> None:
    model, call = build("unet")
    shift = random_shift(model, "unet", 1)
    spectra.write_shift(shift, tmp_path / "fox.safetensors")
    assert spectra.load(model, tmp_path / "fox.safetensors") == "fox"
    spectra.activate(model, "fox")
    with torch.no_grad():
        one = call()
        spectra.unload(model)
        spectra.load(model, shift, "same")
        spectra.activate(model, "same")
        assert torch.equal(call(), one)
    spectra.unload(model)


def test_the_model_may_be_cast_while_shifts_are_active() -> None:
    model, _ = build("unet")
    shift = random_shift(model, "unet", 1)
    expected = {name: value.to(torch.float64) for name, value in model.state_dict().items()}
    spectra.load(model, shift, "dog")
    spectra.activate(model, "dog")
    model.to(torch.float64)
    spectra.unload(model)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_pipelines_and_mappings_share_what_is_loaded() -> None:
    model, _ = build("unet")
    clip, _ = build("clip")
    parts = {"unet": model, "text_encoder": clip}
    shift = random_shift(parts, "unet-ca,text-encoder", 1)
    assert any(name.startswith("text_encoder.") for name in shift)
    spectra.load(parts, shift, "dog")
    spectra.activate(parts, "dog")
    assert spectra.loaded({"unet": model}) == {"dog": 1.0}
    served = {name: value.clone() for name, value in clip.state_dict().items()}
    spectra.unload(parts)
    assert any(not torch.equal(value, served[name]) for name, value in clip.state_dict().items())


def test_unloading_a_components_last_shift_sets_it_free() -> None:
    model, _ = build("unet")
    clip, _ = build("clip")
    parts, before = {"unet": model, "text_encoder": clip}, parameters(clip)
    spectra.load(parts, random_shift(model, "unet-ca", 1), "picture")
    spectra.load(parts, random_shift(clip, "text-encoder", 2), "text")
    spectra.activate(parts, {"picture": 0.5, "text": 1.0})
    spectra.unload(parts, "text")
    assert_untouched(clip, before)
    spectra.attach(clip, "text-encoder").detach()
    assert spectra.loaded(parts) == {"picture": 0.5}
    with pytest.raises(MismatchError, match="serving; call spectra.unload"):
        spectra.attach(model, "unet-ca")


def test_a_model_that_is_dropped_with_its_shifts_is_freed() -> None:
    model, _ = build("unet")
    spectra.load(model, random_shift(model, "unet-ca", 1), "dog")
    spectra.activate(model, "dog")
    held = weakref.ref(model)
    del model, _
    gc.collect()
    assert held() is None
