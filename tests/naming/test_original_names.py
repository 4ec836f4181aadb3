"""The original names are those that diffusers' own conversions take: they make the model again of what is named so."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import small_models
import tiny_families
import torch
from diffusers.loaders import single_file_utils
from torch import Tensor

from spectra.families import targets
from spectra.naming.original_names import OriginalPlace, architecture, original_places, original_unet_path
from spectra.naming.target_subsets import path_of

CONVERSIONS: dict[str, Callable[..., Any]] = {
    "sd3": single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers,
    "flux": single_file_utils.convert_flux_transformer_checkpoint_to_diffusers,
    "chroma": single_file_utils.convert_chroma_transformer_checkpoint_to_diffusers,
    "flux2": single_file_utils.convert_flux2_transformer_checkpoint_to_diffusers,
    "z-image": single_file_utils.convert_z_image_transformer_checkpoint_to_diffusers,
}


def shapes_of(model: Any, target: str) -> dict[str, tuple[int, ...]]:
    return {each.name: tuple(each.weight.shape) for each in targets(model, target)}


def original(state: dict[str, Tensor], places: dict[str, OriginalPlace]) -> dict[str, Tensor]:
    """A transformer's tensors, weights and biases, as the places say that the original has them."""
    modules: dict[str, list[tuple[int, Tensor]]] = {}
    left = {}
    for key, tensor in state.items():
        path, _, kind = key.rpartition(".")
        place = places.get(f"transformer.{path}")
        if place is None or kind not in ("weight", "bias"):
            left[key] = tensor
            continue
        shape = state[f"{path}.weight"].shape
        kind = "scale" if len(shape) == 1 and re.search(r"(_norm|norms\.\d+)$", place.module) else kind
        kind = "weight" if place.module.endswith((".q_norm", ".k_norm")) else kind
        own = torch.cat([*tensor.chunk(2)][::-1]) if place.swapped else tensor
        assert place.stop - place.start == len(tensor)
        modules.setdefault(f"{place.module}.{kind}", []).append((place.start, own))
    joined = {key: torch.cat([each for _, each in sorted(parts, key=lambda p: p[0])]) for key, parts in modules.items()}
    return left | joined


def transformer_of(name: str) -> Any:
    """A small transformer; of Flux and Chroma one of two blocks that has the width that their conversions expect."""
    kinds = {"flux": diffusers.FluxTransformer2DModel, "chroma": diffusers.ChromaTransformer2DModel}
    if name in kinds:
        with torch.device("meta"):
            more = {"guidance_embeds": True} if name == "flux" else {}
            return kinds[name](num_layers=1, num_single_layers=1, **more)
    return tiny_families.build({"flux2": "flux2-klein"}.get(name, name)).transformer


@pytest.mark.parametrize("name", CONVERSIONS)
def test_diffusers_makes_the_transformer_again(name: str) -> None:
    transformer = transformer_of(name)
    shapes = shapes_of(transformer, "transformer")
    assert architecture(shapes) == name
    places = original_places(shapes)
    assert places.keys() == shapes.keys()
    numbered: dict[str, Tensor] = {}  # every row of every tensor has a number of its own
    for index, (key, tensor) in enumerate(transformer.state_dict().items()):
        rows = 1e6 * index + torch.arange(len(tensor), dtype=torch.float64)
        numbered[key] = rows[:, None] if tensor.ndim > 1 else rows
    state = numbered
    made = original(state, places)
    made |= {key.replace("pos_embed.pos_embed", "pos_embed"): value for key, value in made.items()}
    again = CONVERSIONS[name](made)
    names = [f"{path_of(each)}.{kind}" for each in shapes for kind in ("weight", "bias")]
    for key in filter(state.__contains__, names):
        assert torch.equal(again[key], state[key]), key


@pytest.mark.parametrize("kind", ["unet", "sdxl"])
def test_diffusers_makes_the_unet_again(kind: str) -> None:
    model, _ = small_models.build(kind)
    names = [target.name for target in targets(model, "unet")]
    numbers = {name: torch.tensor([float(number)]) for number, name in enumerate(names)}
    prefix = "model.diffusion_model."
    originals = {
        f"{prefix}{original_unet_path(path_of(name), names)}.{part}": number
        for name, number in numbers.items()
        for part in ("weight", "bias")
    }
    converted = single_file_utils.convert_ldm_unet_checkpoint(originals, dict(model.config))
    assert {f"unet.{key[:-7]}": number for key, number in converted.items() if key.endswith(".weight")} == numbers


def test_what_a_base_is() -> None:
    unet = {"unet.conv_in": (4, 4, 3, 3), "unet.down_blocks.0.attentions.0.attn2.to_k": (8, 768)}
    assert architecture(unet) == "sd"
    assert architecture(unet | {"unet.down_blocks.0.attentions.0.attn2.to_k": (8, 1024)}) == "sd2"
    added = unet | {"unet.add_embedding.linear_1": (8, 8)}
    assert architecture(added) == "sdxl"
    assert architecture(added | {"text_encoder.final_layer_norm": (8,)}) == "sd"
    both = added | {"text_encoder.final_layer_norm": (8,), "text_encoder_2.final_layer_norm": (8,)}
    assert architecture(both) == "sdxl"
    assert architecture({"transformer.blocks.0.attn.to_q": (4, 4)}) == "unknown"
    flux = shapes_of(small_models.build("flux")[0], "transformer")
    assert architecture(flux | {"transformer.x_embedder.proj": (4, 4)}) == "unknown"  # another that is like it
