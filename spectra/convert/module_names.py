"""How other tools call a weight.

Here a weight is `<component>.<module path>`, with diffusers' paths. PEFT writes the same with dots and sometimes
without the component; kohya's scripts flatten the path with underscores behind a prefix, and for SDXL they use the
paths of the original repository (sgm).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from spectra.naming.target_subsets import DENOISERS, component_of, path_of

_KOHYA_PREFIXES = {
    "unet": ("lora_unet",),
    "transformer": ("lora_transformer", "lora_unet"),
    "text_encoder": ("lora_te", "lora_te1"),
    "text_encoder_2": ("lora_te2",),
    "text_encoder_3": ("lora_te3",),
}
"""The first is the one to write."""

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

_EMBEDDINGS = re.compile(r"\.(token_embedding|position_embedding|shared|embed_tokens|relative_attention_bias)$")


def is_embedding(name: str) -> bool:
    """Whether the weight is a table of which rows are looked up, as the text encoders' token embedding."""
    return _EMBEDDINGS.search(name) is not None


def aliases(names: Iterable[str]) -> dict[str, str]:
    """The weight of a base that is meant by each name that PEFT, diffusers or kohya's scripts may give its module.

    A name that two of the weights could have (a path without its component) is left out.
    """
    known = set(names)
    found: dict[str, set[str]] = {}
    for name in known:
        for alias in _aliases_of(name, known):
            found.setdefault(alias, set()).add(name)
    return {alias: meant.pop() for alias, meant in found.items() if len(meant) == 1}


def peft_name(name: str) -> str:
    """The name under which diffusers looks for an adapter of this weight: transformers 4 has its `text_model`."""
    component, path = component_of(name), path_of(name)
    return f"{component}.{_text_model(component, path)}"


def kohya_names(names: Collection[str]) -> dict[str, str]:
    """The module name that kohya's scripts write for each weight, given all of a base, which tell SDXL from others."""
    sdxl = any(path_of(name).startswith("add_embedding.") for name in names)
    two_encoders = any(component_of(name) == "text_encoder_2" for name in names)
    found = {}
    for name in names:
        component, path = component_of(name), path_of(name)
        prefix = _KOHYA_PREFIXES.get(component, (f"lora_{component}",))[0]
        if component == "text_encoder" and two_encoders:
            prefix = "lora_te1"
        if component == "unet" and sdxl:
            path = original_unet_path(path, names) or path
        found[name] = f"{prefix}_{_text_model(component, path)}".replace(".", "_")
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


def _text_model(component: str, path: str) -> str:
    """CLIP's layers lie under `text_model` in the files of most tools; T5's and the projection do not."""
    inside = component.startswith("text_encoder") and path.startswith(("encoder.layers.", "embeddings.", "final_layer"))
    return f"text_model.{path}" if inside else path


def _aliases_of(name: str, names: set[str]) -> set[str]:
    component, path = component_of(name), path_of(name).removeprefix("text_model.")
    paths = {path, _text_model(component, path)}
    if component == "unet":
        original = original_unet_path(path, names)
        paths |= {original} if original else set()
    flat = {
        f"{prefix}_{p}".replace(".", "_")
        for prefix in _KOHYA_PREFIXES.get(component, (f"lora_{component}",))
        for p in paths
    }
    # diffusers before 0.22 kept the layers of attention in a processor, and called CLIP's after the UNet's.
    old = {re.sub(r"\.(attn\d?)\.(to_\w+?)(\.0)?$", r".\1.processor.\2", p) for p in paths}
    old |= {re.sub(r"self_attn\.(q|k|v|out)_proj$", r"self_attn.to_\1", p) for p in paths}
    old |= {re.sub(r"\.attention\.to_out\.0$", ".attention.out", p) for p in paths}  # Z-Image's own
    dotted = paths | old
    prefixes = {component, "diffusion_model"} if component in DENOISERS else {component}  # the second is ComfyUI's
    return flat | dotted | {f"{prefix}.{p}" for prefix in prefixes for p in dotted}
