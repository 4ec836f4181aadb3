"""Quantised weights keep their own product and their bytes; a shift beside them does what it does on what they stand
for. Of full precision and back.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import quantised_models
import torch
from torch import Tensor, nn

import spectra
from spectra.errors import BaseError, MismatchError, RoundedCopyWarning, WeightError
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift, write_shift

Quantised = Callable[[str], nn.Module]
ATTENTION = "transformer.*attn.to_q,transformer.*attn.to_v"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quantised")


@pytest.fixture(scope="module")
def quantised(folder: Path) -> Quantised:
    """Makes a model of each kind once; every test leaves it as it was."""
    made: dict[str, nn.Module] = {}

    def make(kind: str) -> nn.Module:
        if kind not in made:
            place = folder / kind
            place.mkdir()
            made[kind] = quantised_models.quantise(quantised_models.build(), kind, place)
        return made[kind]

    return make


@pytest.fixture(scope="module")
def base(folder: Path) -> Path:
    """A folder with the full-precision transformer, as far as it is read here."""
    root = folder / "base"
    quantised_models.build().save_pretrained(root / "transformer")  # type: ignore[operator]
    (root / "model_index.json").write_text("{}")
    return root


def output(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**quantised_models.inputs()).sample
    return found


def learnt(model: nn.Module, targets: str = "denoiser", steps: int = 20, **form: Any) -> SpectralShift:
    """The shift of a training towards random outputs, during which the model's answers came nearer to them."""
    adapter = spectra.attach(model, targets, **form)
    parameters = adapter.train().by_key
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2)
    wanted = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    losses = []
    for _ in range(steps):
        loss = (model(**quantised_models.inputs()).sample - wanted).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    shift = adapter.shift(base="test")
    adapter.detach()
    return shift


def random_shift(model: nn.Module, seed: int, targets: str = ATTENTION, **form: Any) -> SpectralShift:
    adapter = spectra.attach(model, targets, **form)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.by_key.values():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    shift = adapter.shift(base="test")
    adapter.detach()
    return shift


def effect(model: nn.Module, shift: SpectralShift) -> Tensor:
    """How far a shift moves the model's output."""
    before = output(model)
    spectra.load(model, shift, name="it")
    spectra.activate(model, "it")
    moved = output(model) - before
    spectra.unload(model)
    assert torch.equal(output(model), before)
    return moved


def error(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("kind", quantised_models.KINDS)
def test_trains_serves_and_unloads_beside_the_bytes_of_a_quantised_base(
    kind: str, quantised: Quantised, tmp_path: Path
) -> None:
    model = quantised(kind)
    before, stored = output(model), quantised_models.stored_bytes(model)
    with pytest.warns(RoundedCopyWarning, match=r"singular vectors of \d\d weights are those of the quantised copy"):
        shift = learnt(model, directions=8, outer=1)
    assert torch.equal(output(model), before)
    write_shift(shift, tmp_path / "s.safetensors")
    shift = read_shift(tmp_path / "s.safetensors")
    dequantised = quantised_models.dequantise(model, quantised_models.build())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert error(effect(model, shift), effect(dequantised, shift)) < 1e-5
    assert quantised_models.stored_bytes(model) == stored


def test_the_training_of_a_quantised_base_takes_the_gradients_of_the_dequantised_one(quantised: Quantised) -> None:
    model = quantised("nf4")
    dequantised = quantised_models.dequantise(model, quantised_models.build())
    gradients = []
    for each in (model, dequantised):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RoundedCopyWarning)
            adapter = spectra.attach(each, ATTENTION, directions=4, outer=2)
        parameters = adapter.train().by_key
        with torch.no_grad():
            for number, parameter in enumerate(parameters.values()):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
        each(**quantised_models.inputs()).sample.square().sum().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in parameters.values()]))  # type: ignore[union-attr]
        adapter.detach()
    assert error(*gradients) < 1e-5


@pytest.mark.parametrize("kind", ["nf4", "int8", "gguf"])
def test_several_shifts_and_one_for_each_sample(kind: str, quantised: Quantised) -> None:
    model, base = quantised(kind), output(quantised(kind))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RoundedCopyWarning)
        few, more = random_shift(model, 1, directions=2, outer=1), random_shift(model, 2, directions=6)
    spectra.load(model, few, name="few")
    spectra.activate(model, "few")
    alone = output(model)
    spectra.load(model, more, name="more", activate=False)  # knows more directions, while the first is active
    assert torch.equal(output(model), alone)
    with spectra.disabled(model):
        assert torch.equal(output(model), base)
    assert error(output(model), alone) < 1e-6
    spectra.activate(model, "more")
    other = output(model)
    with spectra.per_sample(model, ["few", "more"]):
        both = output(model)
    assert error(both[0], alone[0]) < 1e-5
    assert error(both[1], other[1]) < 1e-5
    spectra.activate(model, {"few": 0.5, "more": -0.5})
    dequantised = quantised_models.dequantise(model, quantised_models.build())
    for name, shift in (("few", few), ("more", more)):
        spectra.load(dequantised, shift, name=name)
    spectra.activate(dequantised, {"few": 0.5, "more": -0.5})
    assert error(output(model), output(dequantised)) < 1e-5
    spectra.unload(model)
    assert torch.equal(output(model), base)


def test_all_directions_of_a_quantised_weight_are_refused_in_training_and_serving(quantised: Quantised) -> None:
    model = quantised("nf4")
    with pytest.raises(WeightError, match=r"all directions of a quantised weight \(nf4\).*--directions K"):
        spectra.attach(model, ATTENTION)
    whole = random_shift(quantised_models.build(), 1)
    with (
        warnings.catch_warnings(),
        pytest.raises(WeightError, match="all directions of a quantised weight"),
    ):
        warnings.simplefilter("ignore", RoundedCopyWarning)
        spectra.load(model, whole, name="whole")


def test_with_the_full_precision_base_at_hand_a_shift_is_one_of_that_base(quantised: Quantised, base: Path) -> None:
    original, model = quantised_models.build(), quantised("nf4")
    spectra.spectra_from(model, str(base))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            shift = random_shift(model, 1, directions=4, outer=1)
            assert shift.metadata == random_shift(original, 1, directions=4, outer=1).metadata
            moved = effect(model, shift)
            exact = effect(original, shift)
        assert error(moved, exact) < 0.4  # the layers between are quantised
    finally:
        _forget_original(model)


def _forget_original(model: nn.Module) -> None:
    from spectra.families import full_precision

    full_precision._NOTED.pop(model)


def test_spectra_from_another_base_are_refused(quantised: Quantised, base: Path, tmp_path: Path) -> None:
    model = quantised("int8")
    quantised_models.build(seed=1).save_pretrained(tmp_path / "transformer")  # type: ignore[operator]
    (tmp_path / "model_index.json").write_text("{}")
    spectra.spectra_from(model, str(tmp_path))
    try:
        with pytest.raises(MismatchError, match="is another weight than the one that was quantised"):
            spectra.attach(model, ATTENTION, directions=2)
    finally:
        _forget_original(model)
    for file in (tmp_path / "transformer").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(BaseError):
        spectra.spectra_from(model, str(tmp_path))


def test_a_shift_of_the_full_precision_base_loads_on_its_quantised_copy(
    quantised: Quantised, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, model = quantised_models.build(), quantised("nf4")
    monkeypatch.setenv("SPECTRA_CACHE", str(tmp_path / "knows the original"))
    shift = random_shift(original, 3, directions=4, outer=1)
    with pytest.warns(RoundedCopyWarning, match="this model in nf4 is a copy$"):
        with_originals = effect(model, shift)
    assert error(with_originals, effect(original, shift)) < 0.2
    with pytest.warns(RoundedCopyWarning, match="this model in nf4 is a copy$"):
        spectra.load(model, shift, name="it")
    spectra.unload(model)

    monkeypatch.setenv("SPECTRA_CACHE", str(tmp_path / "knows nothing"))
    with pytest.warns(RoundedCopyWarning, match=r"may be a copy.*14 to 93 %; give the full-precision base"):
        assert error(effect(model, shift), with_originals) < 2
    terms = random_shift(original, 3, directions=0, outer=1)
    with pytest.warns(RoundedCopyWarning, match="may be a copy: no weight says so"):
        assert error(effect(model, terms), effect(original, terms)) < 0.2


def test_a_shift_of_another_base_is_refused_where_the_cache_knows_its_spectra(quantised: Quantised) -> None:
    shift = random_shift(quantised_models.build(seed=1), 3, directions=4)
    with pytest.raises(MismatchError, match="was trained on another base: 4 of its 4 weights differ"):
        spectra.load(quantised("nf4"), shift, name="it")


def test_a_shift_of_a_quantised_base_loads_on_its_original(quantised: Quantised) -> None:
    model, original = quantised("int8"), quantised_models.build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RoundedCopyWarning)
        shift = random_shift(model, 3, directions=4, outer=1)
    assert shift.metadata.base_dtype == "int8"
    with pytest.warns(RoundedCopyWarning, match="test in int8, of which this model in float32 is a copy$"):
        spectra.load(original, shift, name="it")
    spectra.unload(original)
    assert error(effect_of(original, shift), effect(model, shift)) < 0.1


def effect_of(model: nn.Module, shift: SpectralShift) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RoundedCopyWarning)
        return effect(model, shift)
