"""A base as one .safetensors file in the layout of the original Stable Diffusion repository."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from spectra.errors import BaseError
from spectra.pipeline import find_base, load_pipeline

UNET_TOP = {
    "time_embedding.linear_": "time_embed.", "conv_in.": "input_blocks.0.0.", "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
}  # fmt: skip
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def original_layout(pipe: Any) -> dict[str, torch.Tensor]:
    """The pipeline's weights under their original names."""
    weights = {f"model.diffusion_model.{_unet(key, pipe)}": value for key, value in pipe.unet.state_dict().items()}
    for key, value in pipe.vae.state_dict().items():
        name = _vae(key, len(pipe.vae.config.up_block_types))
        # Attention was a 1x1 convolution there.
        flat = "attn_1" in name and value.ndim == 2
        weights[f"first_stage_model.{name}"] = value[:, :, None, None] if flat else value
    for key, value in pipe.text_encoder.state_dict().items():
        whole = key if key.startswith("text_model.") else f"text_model.{key}"
        weights[f"cond_stage_model.transformer.{whole}"] = value
    return {name: value.contiguous() for name, value in weights.items()}


def _unet(key: str, pipe: Any) -> str:
    per_block = pipe.unet.config.layers_per_block + 1
    for ours, theirs in UNET_TOP.items():
        if key.startswith(ours):
            rest = key.removeprefix(ours)
            if ours.startswith("time"):
                number, kind = rest.split(".")
                return f"{theirs}{2 * (int(number) - 1)}.{kind}"
            return theirs + rest
    if mid := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", key):
        part, number, rest = mid.groups()
        place = 2 * int(number) + (part == "attentions")
        return f"middle_block.{place}.{_resnet(rest) if part == 'resnets' else rest}"
    block = re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.+)", key)
    assert block, key
    way, level, part, number, rest = block.groups()
    stem = "input_blocks" if way == "down" else "output_blocks"
    first = int(level) * per_block + (way == "down")
    if part == "downsamplers":
        return f"{stem}.{first + per_block - 1}.0.{rest.replace('conv', 'op')}"
    if part == "upsamplers":
        slot = 2 if "CrossAttn" in pipe.unet.config.up_block_types[int(level)] else 1
        return f"{stem}.{first + per_block - 1}.{slot}.{rest}"
    if part == "attentions":
        return f"{stem}.{first + int(number)}.1.{rest}"
    return f"{stem}.{first + int(number)}.0.{_resnet(rest)}"


def _resnet(rest: str) -> str:
    part, _, kind = rest.rpartition(".")
    return f"{RESNET[part]}.{kind}"


def _vae(key: str, levels: int) -> str:
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    if "mid_block.attentions.0" in key:
        key = key.replace("mid_block.attentions.0", "mid.attn_1")
        for ours, theirs in ATTENTION.items():
            key = key.replace(f".{ours}.", f".{theirs}.")
    key = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", key)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", key)


@pytest.fixture
def checkpoint(tiny_base: Path, tmp_path: Path) -> Path:
    """A single file, with the pipeline's configuration (no weights) in the folder of its name."""
    path = tmp_path / "model.safetensors"
    save_file(original_layout(load_pipeline(str(tiny_base))), path)
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
    from spectra.training.run import train

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
