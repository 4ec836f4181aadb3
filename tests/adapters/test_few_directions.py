"""Few directions, outer terms and words on live models: trained, taken out as a shift, loaded, per sample, unloaded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_models import MODELS, build
from torch import nn

import spectra
from spectra.adapters.live_parameters import Form, make_parameters
from spectra.errors import InputError, MismatchError
from spectra.families import Target, targets
from spectra.shift.shift import SpectralShift
from spectra.spectrum.spectrum import matrix

FORMS: dict[str, dict[str, Any]] = {
    "directions": {"directions": 3},
    "terms": {"directions": 0, "outer": 2},
    "directions and terms": {"directions": 3, "outer": 1},
    "all directions and terms": {"outer": 1},
}


def subset(kind: str) -> str:
    return "text-encoder" if kind in ("clip", "t5") else "denoiser"


def trained(model: nn.Module, pattern: str, form: dict[str, Any], seed: int, size: float = 0.1) -> SpectralShift:
    """A shift of a form with random values."""
    adapter = spectra.attach(model, pattern, **form)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, value in adapter.by_key.items():
            if key.endswith((".delta", ".outer.a", ".word")):
                value.copy_(size * torch.randn(value.shape, generator=generator))
    shift = adapter.shift(base="test", word="[V]" if form.get("words") else "")
    adapter.detach()
    return shift


def dense(model: nn.Module, pattern: str, shift: SpectralShift) -> dict[str, torch.Tensor]:
    """The changed weights by the formula, in float64."""
    made = {}
    for target in targets(model, pattern):
        if target.name not in shift:
            continue
        weight, delta = target.weight.detach().double(), torch.tensor(shift[target.name]).double()
        if weight.ndim == 1:
            made[target.name] = weight + delta
            continue
        u, sigma, vt = torch.linalg.svd(matrix(weight), full_matrices=False)
        changed = matrix(weight) + (u * (torch.relu(sigma + delta) - sigma)) @ vt
        if target.name in shift.outer:
            changed = changed + torch.tensor(shift.outer[target.name].change())
        if target.name in shift.words:
            word = shift.words[target.name]
            changed[list(word.ids)] += torch.tensor(word.vectors)
        made[target.name] = changed.reshape(weight.shape)
    return made


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", MODELS)
def test_the_whole_life(kind: str, form: str) -> None:
    model, call = build(kind)
    before = {name: (value, value.clone()) for name, value in model.named_parameters()}
    with torch.no_grad():
        base = call()
        adapter = spectra.attach(model, subset(kind), **FORMS[form])
        adapter.train()
        assert torch.equal(call(), base)
        adapter.eval()
        assert torch.equal(call(), base)
        adapter.detach()
    shift = trained(model, subset(kind), FORMS[form], 1)
    other = trained(model, subset(kind), FORMS[form], 2)
    wanted = dense(model, subset(kind), shift - 0.5 * other)
    with torch.no_grad():
        spectra.load(model, shift, "a")
        spectra.load(model, other, "b")
        spectra.activate(model, {"a": 1.0, "b": -0.5})
        served = call()
        assert not torch.allclose(served, base)
        live = {target.name: target.weight.double() for target in targets(model, subset(kind))}
        assert all(torch.allclose(live[name], wanted[name], atol=2e-6) for name in wanted)
        spectra.unload(model)
        assert torch.equal(call(), base)
    for name, value in model.named_parameters():
        assert value is before[name][0] and torch.equal(value, before[name][1])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", MODELS)
def test_training_computes_what_serving_does(kind: str, form: str) -> None:
    model, call = build(kind)
    shift = trained(model, subset(kind), FORMS[form], 1)
    adapter = spectra.attach(model, subset(kind), **FORMS[form])
    adapter.set(shift)
    adapter.train()
    y = call()
    y.square().mean().backward()
    for key, value in adapter.by_key.items():
        assert value.grad is not None and bool(torch.isfinite(value.grad).all()), key
    with torch.no_grad():
        drawn = adapter.eval() and call()
        again = adapter.shift(base="test")
        adapter.detach()
        assert all(np.array_equal(again[name], shift[name]) for name in shift) and again.outer == shift.outer
        spectra.load(model, shift, "a")
        spectra.activate(model, "a")
        served = call()
    scale = served.abs().max()
    assert float((y.detach() - served).abs().max() / scale) < 2e-4
    assert float((drawn - served).abs().max() / scale) < 2e-4
    spectra.unload(model)


@pytest.mark.parametrize("form", FORMS)
def test_samples_have_shifts_of_their_own(form: str) -> None:
    model, call = build("unet")
    shifts = {name: trained(model, "denoiser", FORMS[form], seed) for seed, name in enumerate("ab")}
    # What is loaded together may have other forms than one another.
    shifts["c"] = trained(model, "unet-ca", {"directions": 5, "outer": 3}, 7)
    alone = {}
    with torch.no_grad():
        for name, shift in shifts.items():
            spectra.load(model, shift, name)
        for name in shifts:
            spectra.activate(model, name)
            alone[name] = call()
        for pair in ("ab", "cb", "ca"):
            with spectra.per_sample(model, list(pair)):
                together = call()
            for number, name in enumerate(pair):
                assert torch.allclose(together[number], alone[name][number], atol=3e-5)
        with spectra.per_sample(model, ["a", {}]):
            assert torch.allclose(call()[0], alone["a"][0], atol=3e-5)
        spectra.unload(model)


def test_directions_that_were_chosen() -> None:
    model, _ = build("unet")
    name = next(target.name for target in targets(model, "unet-ca") if target.delta_length > 6)
    shift = trained(model, name, {"directions": {name: [1, 4, 6]}}, 3)
    assert shift[name].nonzero()[0].tolist() == [1, 4, 6]
    adapter = spectra.attach(model, name, directions={name: [1, 4, 6]})
    adapter.set(shift)
    assert np.array_equal(adapter.shift()[name], shift[name])
    adapter.detach()
    adapter = spectra.attach(model, name, directions=5)
    with pytest.raises(MismatchError, match="moves direction 6, which is not trained"):
        adapter.set(shift)
    adapter.detach()
    with pytest.raises(InputError, match="ascending numbers of directions"):
        spectra.attach(model, name, directions={name: [4, 1]})


def test_a_word_alone_changes_its_rows_alone() -> None:
    model, call = build("clip")
    embedding = next(target.name for target in targets(model, "text-encoder") if "token_embedding" in target.name)
    with torch.no_grad():
        base = call()
    shift = trained(model, "text_encoder.*q_proj", {"directions": 0, "outer": 1, "words": {embedding: [3, 7]}}, 1)
    assert shift.words[embedding].ids == (3, 7) and shift.words[embedding].text == "[V]"
    assert not shift[embedding].any() and embedding not in shift.outer
    table = dict(model.named_modules())[embedding.removeprefix("text_encoder.")]
    with torch.no_grad():
        rows = table.weight.clone()
        spectra.load(model, shift, "word")
        spectra.activate(model, "word")
        changed = (table.weight - rows).abs().amax(1).nonzero().flatten().tolist()
        assert changed == [3, 7]
        served = call()
        with spectra.per_sample(model, ["word", {}]):
            own = call()
        assert torch.allclose(own[0], served[0], atol=1e-5) and torch.allclose(own[1], base[1], atol=1e-6)
        spectra.unload(model)
        assert torch.equal(call(), base)
    with pytest.raises(InputError, match="tokens below 50"):
        spectra.attach(model, "text_encoder.*q_proj", words={embedding: [50]})


def test_a_kernel_is_trained_beside_vectors_of_more_than_one_number_alone() -> None:
    shapes = {"plain": (6, 4, 3), "pointwise": (6, 4, 1), "depthwise": (6, 1, 3)}
    forms = {}
    for name, (rows, columns, size) in shapes.items():
        conv = nn.Conv2d(6, rows, size, groups=6 // columns if columns == 1 else 1)
        conv.weight = nn.Parameter(torch.randn(rows, columns, size, size))
        target = Target(name, (conv,), conv.weight)
        forms |= make_parameters([target], {name: Form(0, 1).of(target)})
    assert {key: tuple(value.shape) for key, value in forms.items()} == {
        "plain.outer.a": (1, 6),
        "plain.outer.b": (1, 4),
        "plain.outer.kernel": (1, 9),
        "pointwise.outer.a": (1, 6),
        "pointwise.outer.b": (1, 4),
        "depthwise.outer.a": (1, 6),
        "depthwise.outer.b": (1, 9),
    }


def test_forms_that_cannot_be() -> None:
    model, _ = build("unet")
    for form, message in (
        ({"directions": -1}, "number of directions of 0 or more"),
        ({"outer": -1}, "number of outer terms of 0 or more"),
        ({"outer": 1, "low_memory": True}, "low memory keeps both sides of all directions"),
    ):
        with pytest.raises(InputError, match=message):
            spectra.attach(model, "denoiser", **form)
    spectra.attach(model, "denoiser").detach()
