"""`--quantize` in training and drawing, on the tiny base: torchao and GGUF, and a folder that is stored quantised."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import original_checkpoint
import pytest
import quantised_models
import tiny_families
import torch
from fp8_checkpoint import scaled_fp8
from PIL import Image
from trainings import quick_outputs as quick_outputs

from spectra.adapters.loaded_shifts import activate, unload
from spectra.adapters.loading import load
from spectra.adapters.spectra_from import find_originals
from spectra.bases import quantisation
from spectra.bases.pipeline import find_base, load_pipeline
from spectra.errors import InputError, RoundedCopyWarning
from spectra.layers.quantised_weights import is_quantised
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift
from spectra.training.config import make_config
from spectra.training.run import trainer
from spectra.training.run.train import train


@pytest.fixture(scope="module")
def gguf(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base's UNet as a GGUF file."""
    file = tmp_path_factory.mktemp("gguf") / "unet.gguf"
    quantised_models.write_gguf(load_pipeline(str(tiny_base)).unet, file)
    return file


@pytest.fixture(scope="module")
def stored_quantised(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base with a UNet that is stored in torchao's int8."""
    folder = tmp_path_factory.mktemp("stored") / "tiny-int8"
    load_pipeline(str(tiny_base), quantize="int8").save_pretrained(folder)
    return folder


def learnt(base: Path, out: Path, **settings: Any) -> SpectralShift:
    """The shift of three steps on a red picture."""
    images = out.parent / "images"
    images.mkdir(exist_ok=True)
    Image.new("RGB", (32, 32), "red").save(images / "red.png")
    given = {
        "base": str(base), "images": str(images), "prompt": "a un", "prior_weight": 0.0, "steps": 3,
        "validation_count": 0, "text_encoder": False, "lr_outer": 0.1,
    }  # fmt: skip
    train(make_config(given | settings), out, device="cpu")
    return read_shift(out / f"{out.name}.safetensors")


def picture(pipe: Any) -> torch.Tensor:
    drawn: torch.Tensor = pipe(
        "a un", num_inference_steps=2, height=32, width=32, generator=torch.Generator().manual_seed(0), output_type="pt"
    ).images
    return drawn


def test_a_shift_of_a_base_quantised_at_loading_is_one_of_the_base(tiny_base: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shift = learnt(tiny_base, tmp_path / "q", quantize="int8", directions="4")
        plain = learnt(tiny_base, tmp_path / "p", directions="4")
    assert shift.metadata.fingerprints == plain.metadata.fingerprints
    assert shift.metadata.base_dtype == "float32"
    assert shift.metadata.settings["quantize"] == "int8"
    for kind in ("int8", "fp8", ""):
        pipe = load_pipeline(str(tiny_base), quantize=kind)
        before = picture(pipe)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            find_originals(pipe, find_base(str(tiny_base)))
            load(pipe, shift, "it")
        activate(pipe, "it")
        assert not torch.equal(picture(pipe), before)
        unload(pipe)
        assert torch.equal(picture(pipe), before)


def test_a_gguf_file_is_the_denoiser_of_a_base(tiny_base: Path, gguf: Path, tmp_path: Path) -> None:
    pipe = load_pipeline(str(tiny_base), quantize=str(gguf))
    assert any(is_quantised(weight) for weight in pipe.unet.parameters())
    shift = learnt(tiny_base, tmp_path / "q", quantize=str(gguf), directions="2")
    assert shift.metadata.base_dtype == "float32"


def test_a_folder_that_is_stored_quantised_is_trained_as_it_is(
    tiny_base: Path, stored_quantised: Path, tmp_path: Path
) -> None:
    with pytest.warns(RoundedCopyWarning, match=r"quantised copy \(int8\).*--spectra-from"):
        shift = learnt(stored_quantised, tmp_path / "q", directions="2")
    assert shift.metadata.base_dtype == "int8"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        known = learnt(stored_quantised, tmp_path / "known", directions="2", spectra_from=str(tiny_base))
    assert known.metadata.base_dtype == "float32"


@pytest.mark.parametrize("name", ["sd3", "flux-dev"])
@pytest.mark.parametrize("kind", ["nf4", "int8", "gguf"])
def test_flow_transformers_train_draw_and_unload(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    tiny_families.build(name).save_pretrained(base)
    quantize = "int8" if kind == "int8" else ""
    if kind == "gguf":
        quantize = str(tmp_path / "model.gguf")
        quantised_models.write_gguf(load_pipeline(str(base)).transformer, Path(quantize))

    def loaded(*arguments: Any, quantize: str) -> Any:
        pipe = load_pipeline(*arguments, quantize=quantize)
        if kind == "nf4":  # by diffusers itself on a GPU only
            pipe.transformer = quantised_models.quantise(pipe.transformer, kind, tmp_path)
        return pipe

    monkeypatch.setattr(trainer, "load_pipeline", loaded)
    shift = learnt(base, tmp_path / "q", quantize=quantize, steps=20, resolution=32, directions="2", outer="1")
    assert shift.metadata.base_dtype == "float32"
    pipe = loaded(str(base), quantize=quantize)
    find_originals(pipe, find_base(str(base)))
    stored, before = quantised_models.stored_bytes(pipe.transformer), picture(pipe)
    assert any(is_quantised(weight) for weight in pipe.transformer.parameters())
    load(pipe, shift, "it")
    activate(pipe, "it")
    assert not torch.equal(picture(pipe), before)
    unload(pipe)
    assert torch.equal(picture(pipe), before)
    assert quantised_models.stored_bytes(pipe.transformer) == stored


def test_a_quantised_base_draws_with_a_shift_from_the_command_line(
    tiny_base: Path, stored_quantised: Path, tmp_path: Path, spectra_cli: Callable[..., Any]
) -> None:
    learnt(tiny_base, tmp_path / "q", directions="4")
    common = ("--shift", tmp_path / "q" / "q.safetensors", "--prompt", "a un", "--steps", "2", "--device", "cpu")
    ran = spectra_cli("generate", "--base", tiny_base, "--quantize", "fp8", *common, "-o", tmp_path / "one")
    assert ran.code == 0, ran.err
    ran = spectra_cli("generate", "--base", stored_quantised, *common, "-o", tmp_path / "two")
    assert ran.code == 0, ran.err
    assert "of which this model in int8 is a copy" in ran.err
    ran = spectra_cli(
        "generate", "--base", stored_quantised, "--spectra-from", tiny_base, *common, "-o", tmp_path / "three"
    )
    assert ran.code == 0, ran.err
    assert "a copy" not in ran.err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quantize": "int3"}, "expected one of nf4, bnb-int8, int8, fp8, FILE.gguf, got 'int3'"),
        ({"quantize": "nf4", "preset": "svdiff"}, "cannot move all directions of a weight.*--directions 32"),
        ({"quantize": "nf4", "base": ""}, "the embedded one is small enough"),
        ({"quantize": "nowhere.gguf"}, "nowhere.gguf: no such file"),
        ({"quantize": "nf4"}, "on a GPU only, and here is none; on a CPU use int8 or fp8"),
    ],
)
def test_what_cannot_be_quantised_is_refused_in_one_line(
    settings: dict[str, Any], said: str, tiny_base: Path, tmp_path: Path
) -> None:
    if settings == {"quantize": "nf4"} and torch.cuda.is_available():
        pytest.skip("a GPU is here")
    base = settings.pop("base", tiny_base)
    with pytest.raises(InputError, match=said) as caught:
        learnt(base, tmp_path / "out", **settings)
    assert "\n" not in str(caught.value)


def test_a_missing_package_is_told_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantisation.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="--quantize fp8 needs the package torchao: pip install torchao"):
        load_pipeline(quantize="fp8")


@pytest.fixture
def bitsandbytes_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What diffusers does with bitsandbytes' weights on a GPU, done on a CPU."""
    from diffusers.quantizers.bitsandbytes import bnb_quantizer

    monkeypatch.setattr(torch, "get_device_module", lambda name: mock.Mock(is_available=lambda: True))
    # Some CPUs pack four bits anew, for layers that are wider than these.
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
    for quantizer in (bnb_quantizer.BnB4BitDiffusersQuantizer, bnb_quantizer.BnB8BitDiffusersQuantizer):
        monkeypatch.setattr(quantizer, "validate_environment", lambda *_, **__: None)
        monkeypatch.setattr(quantizer, "update_device_map", lambda *_: {"": "cpu"})


@pytest.mark.usefixtures("bitsandbytes_on_a_cpu")
@pytest.mark.parametrize("kind", ["nf4", "bnb-int8"])
def test_a_single_file_is_quantised_by_bitsandbytes_like_a_folder(kind: str, tiny_base: Path, tmp_path: Path) -> None:
    plain = load_pipeline(str(tiny_base))
    file = original_checkpoint.write(tmp_path, original_checkpoint.original_checkpoint(plain), tiny_base)
    one, other = (load_pipeline(str(base), quantize=kind) for base in (file, tiny_base))
    assert any(is_quantised(weight) for weight in one.unet.parameters())
    assert quantised_models.stored_bytes(one.unet) == quantised_models.stored_bytes(other.unet)
    assert torch.equal(picture(one), picture(other))
    shift = learnt(file, tmp_path / "q", quantize=kind, directions="2")
    assert shift.metadata.base_dtype == "float32"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
@pytest.mark.parametrize("kind", ["nf4", "bnb-int8"])
def test_a_single_file_is_not_quantised_by_bitsandbytes_without_a_gpu(
    kind: str, tiny_base: Path, tmp_path: Path
) -> None:
    plain = load_pipeline(str(tiny_base))
    file = original_checkpoint.write(tmp_path, original_checkpoint.original_checkpoint(plain), tiny_base)
    with pytest.raises(InputError, match=f"--quantize {kind}: diffusers loads weights of bitsandbytes on a GPU only"):
        load_pipeline(str(file), quantize=kind)


@pytest.mark.parametrize("kind", ["int8", "fp8", "gguf"])
def test_the_denoiser_of_a_single_file_is_quantised_like_that_of_a_folder(
    kind: str, tiny_base: Path, gguf: Path, tmp_path: Path
) -> None:
    plain = load_pipeline(str(tiny_base))
    file = original_checkpoint.write(tmp_path, original_checkpoint.original_checkpoint(plain), tiny_base)
    quantize = str(gguf) if kind == "gguf" else kind
    one, other = (load_pipeline(str(base), quantize=quantize) for base in (file, tiny_base))
    assert any(is_quantised(weight) for weight in one.unet.parameters())
    assert torch.equal(picture(one), picture(other))
    shift = learnt(file, tmp_path / "q", quantize=quantize, directions="2")
    assert shift.metadata.base_dtype == "float32"
    assert shift.metadata.fingerprints == learnt(tiny_base, tmp_path / "p", directions="2").metadata.fingerprints


def test_scaled_fp8_is_quantised_as_what_it_stands_for(tiny_base: Path, tmp_path: Path) -> None:
    plain = original_checkpoint.original_checkpoint(load_pipeline(str(tiny_base)))
    scaled, meant = scaled_fp8(plain, original_checkpoint.DENOISER)
    (tmp_path / "meant").mkdir()
    files = (
        original_checkpoint.write(tmp_path, scaled, tiny_base),
        original_checkpoint.write(tmp_path / "meant", meant, tiny_base),
    )
    one, other = (load_pipeline(str(file), quantize="int8") for file in files)
    assert torch.equal(picture(one), picture(other))
