"""A base as one .safetensors file in the layout of the original Stable Diffusion repository."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from original_checkpoint import original_checkpoint
from PIL import Image
from safetensors.torch import load_file, save_file

from spectra.bases.pipeline import find_base, load_pipeline
from spectra.bases.prediction import marked_prediction
from spectra.errors import BaseError
from spectra.io.safetensors_header import read_header


@pytest.fixture
def checkpoint(tiny_base: Path, tmp_path: Path) -> Path:
    """A single file, with the pipeline's configuration (no weights) in the folder of its name."""
    path = tmp_path / "model.safetensors"
    save_file(original_checkpoint(load_pipeline(str(tiny_base))), path)
    shutil.copytree(tiny_base, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    return path


def test_a_single_file_is_the_same_base(tiny_base: Path, checkpoint: Path) -> None:
    folder, single = load_pipeline(str(tiny_base)), load_pipeline(str(checkpoint))
    for part in ("unet", "vae", "text_encoder"):
        ours, theirs = getattr(folder, part).state_dict(), getattr(single, part).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), part
    assert find_base(str(checkpoint)).bytes == checkpoint.stat().st_size


def test_a_shift_trained_on_the_file_fits_the_folder(
    spectra_cli: Any, settings: dict[str, Any], tiny_base: Path, checkpoint: Path, tmp_path: Path
) -> None:
    from spectra.training.config import make_config
    from spectra.training.run.train import train

    train(make_config({**settings, "base": str(checkpoint), "steps": 1}), tmp_path / "x")
    ran = spectra_cli(
        "generate", "--base", tiny_base, "--shift", tmp_path / "x" / "x.safetensors", "--prompt", "a v disc",
        "--steps", 1, "-o", tmp_path / "pictures",
    )  # fmt: skip
    assert ran.code == 0, ran.err


def test_a_single_file_without_configuration_or_network_says_what_to_do(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint.with_suffix(""))
    with pytest.raises(BaseError, match=r"put the pipeline's configuration and tokenizer into the folder .*model"):
        load_pipeline(str(checkpoint))


def test_a_marked_file_is_trained_edited_baked_and_drawn_as_v(
    settings: dict[str, Any], checkpoint: Path, tmp_path: Path, spectra_cli: Any
) -> None:
    path = checkpoint
    save_file(load_file(path) | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, path)
    from spectra.training.config import make_config
    from spectra.training.run.train import train

    marked = train(make_config({**settings, "base": str(path), "steps": 2}), tmp_path / "v")
    other = {**settings, "base": str(path), "steps": 2, "prediction_type": "epsilon"}
    overridden = train(make_config(other), tmp_path / "e")
    assert "--prediction-type epsilon" in overridden.next_commands()[0]
    assert np.isfinite(marked.loss_after)
    assert marked.loss_after != overridden.loss_after
    shift = tmp_path / "v" / "v.safetensors"
    ran = spectra_cli("bake", path, "--shift", shift, "-o", tmp_path / "baked.safetensors")
    assert ran.code == 0, ran.err
    assert marked_prediction(tmp_path / "baked.safetensors") == ("v_prediction", True)
    assert list(read_header(tmp_path / "baked.safetensors").tensors) == list(read_header(path).tensors)
    for kind, expected in (("epsilon", ("epsilon", False)), ("v_prediction", ("v_prediction", True))):
        other = tmp_path / f"{kind}.safetensors"
        ran = spectra_cli("bake", path, "--shift", shift, "--prediction-type", kind, "-o", other)
        assert ran.code == 0, ran.err
        assert marked_prediction(other) == expected
        ours, theirs = load_file(other), load_file(tmp_path / "baked.safetensors")
        assert set(ours) == set(theirs) - ({"v_pred", "ztsnr"} if kind == "epsilon" else set())
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    given = ["--base", path, "--shift", shift, "--prompt", "a sun", "--steps", 3, "-o"]
    assert spectra_cli("generate", *given, tmp_path / "as-v").code == 0
    assert spectra_cli("generate", *given, tmp_path / "as-e", "--prediction-type", "epsilon").code == 0
    pictures = [np.array(Image.open(next((tmp_path / name).glob("0000*.png")))) for name in ("as-v", "as-e")]
    assert not np.array_equal(*pictures)
    Image.fromarray(pictures[0]).save(tmp_path / "picture.png")
    ran = spectra_cli(
        "edit", tmp_path / "picture.png", "--base", path, "--shift", shift, "--caption", "a sun", "--edit", "a moon",
        "--steps", 3, "-o", tmp_path / "edited",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    (inversion, *_) = json.loads((tmp_path / "edited" / "edit.json").read_text())["inversions"]
    assert np.isfinite(inversion["error"])
