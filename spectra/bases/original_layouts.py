"""Single-file checkpoints in the layouts of the original repositories: where each weight of diffusers' model lies.

The conversion is diffusers' own. It is given the numbers of each tensor's rows instead of its values; what comes out
tells which rows of which tensor became which weight, in both directions, and no weight has to be read for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from spectra.errors import BaseError

if TYPE_CHECKING:
    from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]

_PREFIX = "model.diffusion_model."

_TEXT_ENCODERS = {
    "cond_stage_model.transformer.": ("text_encoder", "clip"),
    "cond_stage_model.model.": ("text_encoder", "open_clip"),
    "conditioner.embedders.0.transformer.": ("text_encoder", "clip"),
    "conditioner.embedders.0.model.": ("text_encoder_2", "open_clip"),  # SDXL's refiner has no first one
    "conditioner.embedders.1.model.": ("text_encoder_2", "open_clip"),
    "text_encoders.clip_l.transformer.": ("text_encoder", "clip"),
    "text_encoders.clip_g.transformer.": ("text_encoder_2", "clip"),
    "text_encoders.t5xxl.transformer.": ("text_encoder_3", "t5"),
}
"""Prefix of each text encoder in checkpoints of Stable Diffusion 1.x, 2.x, SDXL, SD3 and Flux, the component that it is
and whose keys it has; only OpenCLIP's differ from transformers'."""


@dataclass(frozen=True)
class Origin:
    """Where a tensor of diffusers' model lies in an original file.

    Attributes:
        key: in the file.
        spans: rows `(start, stop)` of that tensor, one after the other; empty for all of it as it is.
        transposed: the model's tensor is the transpose.
    """

    key: str
    spans: tuple[tuple[int, int], ...] = ()
    transposed: bool = False


def original_layout(shapes: Shapes) -> dict[str, dict[str, Origin]]:
    """Where each tensor of diffusers' models lies in a file of an original layout, by component and diffusers' key.

    Args:
        shapes: the shape of each of the file's tensors, by key.

    Returns:
        Empty if the layout is none of those known.

    Raises:
        BaseError: an original layout, with tensors missing.
    """
    found: dict[str, dict[str, Origin]] = {}
    keys = {key.removeprefix(_PREFIX): key for key in shapes if key.startswith(_PREFIX)} or {key: key for key in shapes}
    for mark, (component, convert) in _DENOISERS.items():
        if mark in keys:
            found[component] = _converted(shapes, keys, partial(convert, shapes))
    for prefix, (component, kind) in _TEXT_ENCODERS.items():
        keys = {key.removeprefix(prefix): key for key in shapes if key.startswith(prefix)}
        if not keys:
            continue
        if kind == "t5" and "text_encoder_2" not in found:
            component = "text_encoder_2"  # Flux has one CLIP, SD3 has two
        if kind == "open_clip":
            found[component] = _converted(shapes, keys, partial(_open_clip, shapes, prefix))
        else:
            found[component] = {short: Origin(key) for short, key in keys.items()}
    return found


def _converted(shapes: Shapes, keys: Mapping[str, str], convert: Callable[..., Any]) -> dict[str, Origin]:
    """Where `convert` takes each tensor from, given the tensors `keys` (short name to key in the file)."""
    import torch

    names, stride = list(keys), 1 + max((shape[0] for shape in shapes.values() if shape), default=1)
    numbered: dict[str, Tensor] = {}  # row r of tensor t has the number t * stride + r
    for index, short in enumerate(names):
        shape = shapes[keys[short]]
        numbers = index * stride + torch.arange(shape[0] if shape else 1)
        numbered[short] = numbers[:, None] if len(shape) > 1 else numbers
    try:
        made = convert(numbered)
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        raise BaseError(f"an original checkpoint that is not whole: its layout cannot be read ({error})") from error
    found = {}
    for name, tensor in made.items():
        if tensor is None or not tensor.numel():
            continue
        numbers = tensor.reshape(-1)
        index = int(numbers[0]) // stride
        key, rows = keys[names[index]], numbers - index * stride
        cuts = [0, *(int(cut) + 1 for cut in (rows.diff() != 1).nonzero()), len(rows)]
        spans = tuple((int(rows[a]), int(rows[b - 1]) + 1) for a, b in pairwise(cuts))
        whole = spans == ((0, (shapes[key] or (1,))[0]),)
        transposed = tensor.ndim == 2 and tensor.shape[0] == 1 < tensor.shape[1]
        found[name] = Origin(key, () if whole else spans, transposed)
    return found


def _unet(shapes: Shapes, tensors: dict[str, Tensor]) -> Any:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    inputs = [key for key in tensors if key.startswith("input_blocks.")]
    last = [int(key.split(".")[1]) for key in inputs if key.endswith(".0.op.weight")]
    layers = min(last, default=max(int(key.split(".")[1]) for key in inputs) + 1) - 1
    config: dict[str, Any] = {"layers_per_block": layers, "num_class_embeds": 1}  # read if there is a table of classes
    if "label_emb.0.0.weight" in tensors:
        # Stable Diffusion 2.1 unCLIP and SDXL call by the same key what diffusers calls by two.
        unclip = any(key.startswith("cond_stage_model.") for key in shapes)
        config |= {"class_embed_type": "projection"} if unclip else {"addition_embed_type": "text_time"}
    return convert_ldm_unet_checkpoint({_PREFIX + key: tensor for key, tensor in tensors.items()}, config)


def _sd3(shapes: Shapes, tensors: dict[str, Tensor]) -> Any:
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    return convert_sd3_transformer_checkpoint_to_diffusers(tensors)


def _flux(shapes: Shapes, tensors: dict[str, Tensor]) -> Any:
    from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

    return convert_flux_transformer_checkpoint_to_diffusers(tensors)


def _open_clip(shapes: Shapes, prefix: str, tensors: dict[str, Tensor]) -> Any:
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    width = shapes[prefix + "positional_embedding"][1]
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=width))
    return convert_open_clip_checkpoint(model, {prefix + key: tensor for key, tensor in tensors.items()}, prefix)


_DENOISERS: dict[str, tuple[str, Callable[[Shapes, dict[str, Tensor]], Any]]] = {
    "input_blocks.0.0.weight": ("unet", _unet),
    "joint_blocks.0.x_block.attn.qkv.weight": ("transformer", _sd3),
    "double_blocks.0.img_attn.qkv.weight": ("transformer", _flux),
}
"""The key by which an original denoiser is recognised, its component and its conversion."""
