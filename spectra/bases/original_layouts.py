"""Single-file checkpoints in the layouts of the original repositories: where each weight of diffusers' model lies.

The conversion is diffusers' own. It is given the numbers of each tensor's rows instead of its values; what comes out
tells which rows of which tensor became which weight, in both directions, and no weight has to be read for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

from spectra.errors import BaseError
from spectra.io.safetensors_header import StoredTensor
from spectra.io.tensor_files import Spans, read_rows, rounded_rows, write_rows

if TYPE_CHECKING:
    from torch import Tensor

Stored: TypeAlias = Mapping[str, StoredTensor]

_PREFIX = "model.diffusion_model."

_SD3 = "joint_blocks.0.x_block.attn.qkv.weight"

_CHROMA = "distilled_guidance_layer.in_proj.weight"

_AVERAGED = "model_ema."

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
"""Prefix of each text encoder in checkpoints of Stable Diffusion 1.x, 2.x, SDXL, SD3, Flux and Chroma, the component
that it is and whose keys it has; only OpenCLIP's differ from transformers'."""


@dataclass(frozen=True)
class Place:
    """Where a tensor of diffusers' model lies in a base's files.

    Attributes:
        stored: the tensor of the file that it is, or is a part of.
        spans: its rows `(start, stop)` there, one span after the other; empty for all rows.
        transposed: the model's tensor is the transpose.
    """

    stored: StoredTensor
    spans: Spans = ()
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the model's tensor."""
        shape = self.stored.shape
        if self.spans:
            shape = (sum(stop - start for start, stop in self.spans), *shape[1:])
        return shape[::-1] if self.transposed else shape

    @property
    def dtype(self) -> str:
        """Name of the dtype that `read` returns: the file's, or float32 for values with a scale."""
        return self.stored.dtype if self.stored.scale is None else "float32"

    def read(self) -> Tensor:
        """The model's tensor."""
        tensor = read_rows(self.stored, self.spans)
        return tensor.T.contiguous() if self.transposed else tensor

    def rounded(self, exact: Tensor) -> Tensor:
        """What `read` would return, had the file this tensor instead: rounded to what the file can hold."""
        tensor = rounded_rows(self.stored, exact.T if self.transposed else exact, self.spans)
        return tensor.T.contiguous() if self.transposed else tensor

    def write(self, tensor: Tensor, copy: Path) -> None:
        """Overwrite the model's tensor in a copy of the file, with one that `rounded` made."""
        write_rows(self.stored._replace(path=copy), tensor.T if self.transposed else tensor, self.spans)


def original_layout(stored: Stored) -> dict[str, dict[str, Place]]:
    """Where each tensor of diffusers' models lies in a file of an original layout, by component and diffusers' key.

    Returns an empty dict if the file's tensors `stored`, by key, have no layout that is known.

    Raises:
        BaseError: an original layout, with tensors missing.
    """
    found: dict[str, dict[str, Place]] = {}
    denoiser = {
        key.removeprefix(_PREFIX): tensor for key, tensor in stored.items() if key.startswith(_PREFIX)
    } or stored
    mark = next((mark for mark in _DENOISERS if mark in denoiser), None)
    if mark:
        component, convert = _DENOISERS[mark]
        found[component] = _converted(denoiser, partial(convert, stored))
    for prefix, (component, kind) in _TEXT_ENCODERS.items():
        tensors = {key.removeprefix(prefix): tensor for key, tensor in stored.items() if key.startswith(prefix)}
        if not tensors:
            continue
        if kind == "t5" and "text_encoder_2" not in found and mark != _SD3:
            component = "text_encoder" if mark == _CHROMA else "text_encoder_2"  # Flux has a CLIP, Chroma none
        if kind == "open_clip":
            found[component] = _converted(tensors, partial(_open_clip, stored, prefix))
        else:
            found[component] = {key: Place(tensor) for key, tensor in tensors.items()}
    return found


def averaged_copies(stored: Stored) -> dict[str, StoredTensor]:
    """The moving averages (EMA) of its denoiser's tensors that a checkpoint holds too, by the key of those."""
    found = {}
    for key, tensor in stored.items():
        if key.startswith("model."):
            average = stored.get(_AVERAGED + key.removeprefix("model.").replace(".", ""))
            if average is not None and average.shape == tensor.shape:
                found[key] = average
    return found


def _converted(tensors: Stored, convert: Callable[..., Any]) -> dict[str, Place]:
    """Where `convert` takes each tensor of diffusers' model from, given those of a file by what it calls them."""
    import torch

    origins = list(tensors.values())
    heights = [tensor.shape[0] if tensor.shape else 1 for tensor in origins]
    stride = 1 + max(heights)
    numbered: dict[str, Tensor] = {}  # row r of tensor t has the number t * stride + r
    for index, (key, tensor) in enumerate(tensors.items()):
        numbers = index * stride + torch.arange(heights[index])
        numbered[key] = numbers[:, None] if len(tensor.shape) > 1 else numbers
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
        rows = numbers - index * stride
        cuts = [0, *(int(cut) + 1 for cut in (rows.diff() != 1).nonzero()), len(rows)]
        spans = tuple((int(rows[a]), int(rows[b - 1]) + 1) for a, b in pairwise(cuts))
        whole = spans == ((0, heights[index]),)
        transposed = tensor.ndim == 2 and tensor.shape[0] == 1 < tensor.shape[1]
        found[name] = Place(origins[index], () if whole else spans, transposed)
    return found


def _unet(stored: Stored, tensors: dict[str, Tensor]) -> Any:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    inputs = [key for key in tensors if key.startswith("input_blocks.")]
    last = [int(key.split(".")[1]) for key in inputs if key.endswith(".0.op.weight")]
    layers = min(last, default=max(int(key.split(".")[1]) for key in inputs) + 1) - 1
    config: dict[str, Any] = {"layers_per_block": layers, "num_class_embeds": 1}  # read if there is a table of classes
    if "label_emb.0.0.weight" in tensors:
        # Stable Diffusion 2.1 unCLIP and SDXL call by the same key what diffusers calls by two.
        unclip = any(key.startswith("cond_stage_model.") for key in stored)
        config |= {"class_embed_type": "projection"} if unclip else {"addition_embed_type": "text_time"}
    return convert_ldm_unet_checkpoint({_PREFIX + key: tensor for key, tensor in tensors.items()}, config)


def _sd3(stored: Stored, tensors: dict[str, Tensor]) -> Any:
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    return convert_sd3_transformer_checkpoint_to_diffusers(tensors)


def _flux(stored: Stored, tensors: dict[str, Tensor]) -> Any:
    from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

    return convert_flux_transformer_checkpoint_to_diffusers(tensors)


def _chroma(stored: Stored, tensors: dict[str, Tensor]) -> Any:
    from diffusers.loaders.single_file_utils import convert_chroma_transformer_checkpoint_to_diffusers

    return convert_chroma_transformer_checkpoint_to_diffusers(tensors)


def _flux2(stored: Stored, tensors: dict[str, Tensor]) -> Any:
    from diffusers.loaders.single_file_utils import convert_flux2_transformer_checkpoint_to_diffusers

    return convert_flux2_transformer_checkpoint_to_diffusers(tensors)


def _z_image(stored: Stored, tensors: dict[str, Tensor]) -> Any:
    from diffusers.loaders.single_file_utils import convert_z_image_transformer_checkpoint_to_diffusers

    return convert_z_image_transformer_checkpoint_to_diffusers(tensors)


def _qwen_image(stored: Stored, tensors: dict[str, Tensor]) -> Any:
    return tensors  # its makers publish it with diffusers' keys


def _open_clip(stored: Stored, prefix: str, tensors: dict[str, Tensor]) -> Any:
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    model = SimpleNamespace(config=SimpleNamespace(hidden_size=stored[prefix + "positional_embedding"].shape[1]))
    return convert_open_clip_checkpoint(model, {prefix + key: tensor for key, tensor in tensors.items()}, prefix)


_DENOISERS: dict[str, tuple[str, Callable[[Stored, dict[str, Tensor]], Any]]] = {
    "input_blocks.0.0.weight": ("unet", _unet),
    _SD3: ("transformer", _sd3),
    "single_stream_modulation.lin.weight": ("transformer", _flux2),
    _CHROMA: ("transformer", _chroma),
    "double_blocks.0.img_attn.qkv.weight": ("transformer", _flux),
    "layers.0.adaLN_modulation.0.weight": ("transformer", _z_image),
    "transformer_blocks.0.img_mod.1.weight": ("transformer", _qwen_image),
}
"""The key by which an original denoiser is recognised, its component and its conversion; the first that is there."""
