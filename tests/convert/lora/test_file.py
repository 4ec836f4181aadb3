"""A file of fused modules holds each weight's pairs: diffusers' conversion of kohya's Flux layout gives them back."""

from __future__ import annotations

from pathlib import Path

import diffusers
import original_checkpoint as original
import plain_base
import pytest
import tiny_families
import torch
from diffusers.loaders.lora_pipeline import FluxLoraLoaderMixin
from safetensors.torch import load_file

from spectra.convert.full_difference import write_difference
from spectra.convert.lora.file import LoraFile
from spectra.convert.lora.keys import KOHYA
from spectra.convert.lora.reading import read_lora
from spectra.convert.lora.writing import write_lora
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


ORIGINALS = {
    "sd3": original.original_sd3,
    "flux-dev": original.original_flux,
    "chroma": original.original_chroma,
    "flux2-klein": original.original_flux2,
    "z-image": original.original_z_image,
}


@pytest.mark.parametrize("layout", ["kohya", "difference"])
@pytest.mark.parametrize("name", ORIGINALS)
def test_added_to_the_original_layout_it_is_the_shift(name: str, layout: str, tmp_path: Path) -> None:
    """As ComfyUI, kohya's scripts and LyCORIS have the model: q, k and v in one, modulations swapped."""
    pipe = tiny_families.build(name)
    pipe.save_pretrained(tmp_path / "base")
    own = {each.name: each.weight for each in targets(pipe, "transformer")}
    shift = plain_base.mixed_shift({key: weight.detach().clone() for key, weight in own.items()}, 2, 1)
    file = tmp_path / "out.safetensors"
    if layout == "kohya":
        write_lora(shift, file, base=str(tmp_path / "base"), layout="kohya")
    else:
        write_difference(shift, file, base=str(tmp_path / "base"))
    before = {key: value.clone() for key, value in ORIGINALS[name](pipe.transformer).items()}
    there = plain_base.shifted({key: weight.detach().clone() for key, weight in own.items()}, shift)
    with torch.no_grad():
        for key, weight in own.items():
            weight.copy_(there[key])
    after, tensors = ORIGINALS[name](pipe.transformer), load_file(file)
    called = {
        key.removeprefix(original.DENOISER).removesuffix(".weight").replace(".", "_"): key
        for key in before
        if key.endswith(".weight") and before[key].ndim > 1
    }
    found = 0
    for module, key in called.items():
        stem = f"lora_unet_{module}"
        if f"{stem}.lora_up.weight" in tensors:
            up, down = (tensors[f"{stem}.lora_{part}.weight"].double().flatten(1) for part in ("up", "down"))
            change = up @ down * float(tensors[f"{stem}.alpha"]) / len(down)
        elif f"{stem}.diff" in tensors:
            change = tensors[f"{stem}.diff"].double()
        else:
            assert torch.equal(before[key], after[key]), key
            continue
        found += 1
        wanted = after[key].double() - before[key]
        assert float((change.reshape(wanted.shape) - wanted).norm()) < 1e-5 * float(wanted.norm()), key
    assert found == sum(key.endswith((".alpha", ".diff")) and key.startswith("lora_unet_") for key in tensors)
