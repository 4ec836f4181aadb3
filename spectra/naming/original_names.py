"""How the repositories that published a model call the modules of diffusers' denoisers, and which of them they fuse.

A fused module stacks the rows of several: `double_blocks.0.img_attn.qkv` has those of `attn.to_q`, `to_k` and `to_v`.
Most tools name the weights of a change after these modules. Works on weight names and shapes; needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from spectra.naming.original_transformers import CHROMA, FLUX, FLUX2, SAME_IN_Z_IMAGE, SD3, Z_IMAGE
from spectra.naming.target_subsets import TEXT_ENCODERS, component_of, path_of

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

Architecture: TypeAlias = Literal[
    "sd", "sd2", "sdxl", "sd3", "flux", "chroma", "flux2", "qwen-image", "z-image", "unknown"
]


@dataclass(frozen=True)
class OriginalPlace:
    """Where the rows of a weight lie in a module of the original.

    Attributes:
        module: its path there.
        start, stop: the rows.
        swapped: the two halves of its rows stand the other way round.
        alone: the module has no rows of other weights.
    """

    module: str
    start: int
    stop: int
    swapped: bool = False
    alone: bool = True

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """The module's rows `(start, stop)` in the order in which the weight has them; none where that is all of it."""
        if self.alone and not self.swapped:
            return ()
        if not self.swapped:
            return ((self.start, self.stop),)
        middle = (self.start + self.stop) // 2
        return ((middle, self.stop), (self.start, middle))


_TRANSFORMERS: dict[Architecture, tuple[str, Mapping[str, str]]] = {
    "flux2": ("single_stream_modulation.linear", FLUX2),
    "chroma": ("distilled_guidance_layer.in_proj", CHROMA),
    "flux": ("single_transformer_blocks.0.norm.linear", FLUX),
    "sd3": ("transformer_blocks.0.norm1_context.linear", SD3),
    "z-image": ("cap_embedder.1", Z_IMAGE),
    "qwen-image": ("txt_norm", {}),
}
"""A module by which each is recognised, the first that is there, and its table."""

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}

_OUTSIDE_BLOCKS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}

_IN_BLOCK = re.compile(r"(down|up|mid)_blocks?\.(?:(\d+)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")


def architecture(shapes: Shapes) -> Architecture:
    """What a base is, by the names and shapes of its weights.

    Stable Diffusion 2 is told by prompts of 1024 values, SDXL by its embedding of sizes and its text encoders.
    """
    if any(component_of(name) == "unet" for name in shapes):
        encoders = {component_of(name) for name in shapes} & {*TEXT_ENCODERS}
        if "unet.add_embedding.linear_1" in shapes and ("text_encoder_2" in encoders or not encoders):
            return "sdxl"
        wide = any(name.endswith("attn2.to_k") and shape[1] == 1024 for name, shape in shapes.items())
        return "sd2" if wide else "sd"
    for found, (mark, table) in _TRANSFORMERS.items():
        if f"transformer.{mark}" in shapes:
            paths = [path_of(name) for name in shapes if component_of(name) == "transformer"]
            return found if all(_original_path(path, found, table) for path in paths) else "unknown"
    return "unknown"


def original_places(shapes: Shapes) -> dict[str, OriginalPlace]:
    """Where each weight of a base's denoiser lies in its original; none of those that have no counterpart there."""
    known = architecture(shapes)
    if known in ("sd", "sd2", "sdxl"):
        paths = {name: original_unet_path(path_of(name), shapes) for name in shapes if component_of(name) == "unet"}
        return {name: OriginalPlace(path, 0, shapes[name][0]) for name, path in paths.items() if path}
    if known == "unknown":
        return {}
    table = _TRANSFORMERS[known][1]
    modules: dict[str, list[str]] = {}
    for name in _in_order(shapes, table):
        modules.setdefault(_original_path(path_of(name), known, table), []).append(name)
    found = {}
    for module, names in modules.items():
        start = 0
        for name in names:
            stop = start + shapes[name][0]
            swapped = _is_swapped(path_of(name), shapes[name], known)
            found[name] = OriginalPlace(module, start, stop, swapped, alone=len(names) == 1)
            start = stop
    return found


def original_unet_path(path: str, names: Collection[str]) -> str | None:
    """The path in the original repository (sgm, ldm) of a module of diffusers' UNet; None if it has no counterpart.

    Args:
        names: of all weights of the base, which tell how many layers its blocks have.
    """
    if path in _OUTSIDE_BLOCKS:
        return _OUTSIDE_BLOCKS[path]
    match = _IN_BLOCK.fullmatch(path)
    resnets = {name.split(".")[4] for name in names if name.startswith("unet.down_blocks.0.resnets.")}
    if not match or not resnets:
        return None
    side, block, kind, layer, rest = match[1], int(match[2] or 0), match[3], int(match[4]), match[5]
    if kind == "resnets":
        rest = _RESNET.get(rest, rest)
    if side == "mid":
        return f"middle_block.{layer * 2 if kind == 'resnets' else 1}.{rest}"
    if kind == "downsamplers":
        rest = "op"
    position = len(resnets) if kind.endswith("samplers") else layer
    after_attention = any(name.startswith(f"unet.up_blocks.{block}.attentions.") for name in names)
    place = {"resnets": 0, "attentions": 1, "downsamplers": 0, "upsamplers": 1 + after_attention}[kind]
    stem, first = ("input_blocks", 1) if side == "down" else ("output_blocks", 0)
    return f"{stem}.{first + block * (1 + len(resnets)) + position}.{place}.{rest}"


def _original_path(path: str, known: Architecture, table: Mapping[str, str]) -> str:
    """The path of a transformer's module in the original, or empty."""
    if known == "qwen-image" or (known == "z-image" and SAME_IN_Z_IMAGE.match(path)):
        return path  # its makers publish it with diffusers' names
    number = next((piece for piece in path.split(".") if piece.isdigit()), "")
    form = re.sub(r"(?<=\.)\d+(?=\.|$)", "{}", path, count=1)
    return table.get(path) or (table[form].replace("{}", number) if form in table else "")


def _in_order(shapes: Shapes, table: Mapping[str, str]) -> Iterable[str]:
    """The transformer's weights, those of a fused module in the order of the table: q, k, v, then the MLP's."""
    order = {form: place for place, form in enumerate(table)}
    paths = {name: path_of(name) for name in shapes if component_of(name) == "transformer"}
    forms = {name: re.sub(r"(?<=\.)\d+(?=\.|$)", "{}", path, count=1) for name, path in paths.items()}
    return sorted(paths, key=lambda name: order.get(forms[name], -1))


def _is_swapped(path: str, shape: tuple[int, ...], known: Architecture) -> bool:
    """Whether scale and shift stand the other way round in the original: where a modulation has these two alone."""
    if known not in ("sd3", "flux", "flux2"):
        return False
    return path == "norm_out.linear" or (path.endswith("norm1_context.linear") and shape[0] == 2 * shape[1])
