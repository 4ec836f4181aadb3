"""A file of fused modules holds each weight's pairs: diffusers' conversion of kohya's Flux layout gives them back."""

from __future__ import annotations

from pathlib import Path

import diffusers
import torch
from diffusers.loaders.lora_pipeline import FluxLoraLoaderMixin
from safetensors.torch import load_file

from spectra.convert.lora.file import LoraFile
from spectra.convert.lora.keys import KOHYA
from spectra.convert.lora.reading import read_lora
from spectra.families import targets


def test_flux_in_kohyas_layout(tmp_path: Path) -> None:
    with torch.device("meta"):  # diffusers' conversion knows FLUX.1's width only
        model = diffusers.FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    shapes = {each.name: tuple(each.weight.shape) for each in targets(model, "transformer")}
    ranks = {name: 1 + len(name) % 2 for name, shape in shapes.items() if len(shape) > 1}
    file = LoraFile(tmp_path / "k.safetensors", KOHYA, shapes, ranks, "float32", {})
    generator = torch.Generator().manual_seed(0)
    pairs = {}
    for name, rank in ranks.items():
        up, down = (torch.randn(n, rank, generator=generator) for n in shapes[name])
        pairs[name] = (up, down.T)
        assert file.write(name, up, down.T) < 1e-6
    assert not [key for key in load_file(tmp_path / "k.safetensors") if not key.startswith("lora_unet_")]
    read = read_lora(tmp_path / "k.safetensors", shapes)
    theirs = FluxLoraLoaderMixin.lora_state_dict(str(tmp_path), weight_name="k.safetensors")
    for name, (up, down) in pairs.items():
        mine = read.pairs(name, torch.zeros(0))
        assert float((mine[0] @ mine[1] - (up @ down).double()).abs().max()) < 1e-4, name
        key = name if name in {k.rsplit(".lora_A", 1)[0] for k in theirs} else name.removeprefix("transformer.")
        again = theirs[f"{key}.lora_B.weight"] @ theirs[f"{key}.lora_A.weight"]
        assert float((again - up @ down).abs().max()) < 1e-4, name
