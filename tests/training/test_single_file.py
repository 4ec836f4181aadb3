"""A base as one .safetensors file in the layout of the original Stable Diffusion repository."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from original_checkpoint import original_checkpoint
from safetensors.torch import save_file

from spectra.bases.pipeline import find_base, load_pipeline
from spectra.errors import BaseError


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
