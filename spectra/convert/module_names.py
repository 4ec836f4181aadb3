"""How other tools call a weight.

Here a weight is `<component>.<module path>`, with diffusers' paths. PEFT writes the same with dots and sometimes
without the component; kohya's scripts flatten the path with underscores behind a prefix, and for SDXL and transformers
they use the paths of the original repository, whose modules may be several of diffusers' in one (`original_names`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from spectra.naming.original_names import (
    Architecture,
    OriginalPlace,
    Shapes,
    architecture,
    original_places,
    original_unet_path,
)
from spectra.naming.target_subsets import DENOISERS, component_of, path_of

_KOHYA_PREFIXES = {
    "unet": ("lora_unet", "lycoris"),
    "transformer": ("lora_transformer", "lora_unet", "lycoris"),
    "text_encoder": ("lora_te", "lora_te1", "lora_te3", "lycoris"),
    "text_encoder_2": ("lora_te2", "lora_te3"),
    "text_encoder_3": ("lora_te3",),
}
"""Prefixes of a component's modules: of kohya's scripts, OneTrainer, and LyCORIS' wrapper of a single model."""

_WRITTEN_PREFIXES: dict[Architecture, Mapping[str, str]] = {
    "sd": {"text_encoder": "lora_te"},
    "sd2": {"text_encoder": "lora_te"},
    "flux": {"text_encoder": "lora_te1", "text_encoder_2": "lora_te3"},
    "chroma": {"text_encoder": "lora_te3"},
}
_USUAL_PREFIXES = {"text_encoder": "lora_te1", "text_encoder_2": "lora_te2", "text_encoder_3": "lora_te3"}

_COMFYUI_ENCODERS: dict[Architecture, Mapping[str, str]] = {
    "sd": {"text_encoder": "clip_l"},
    "sd2": {"text_encoder": "clip_h"},
    "sdxl": {"text_encoder": "clip_l", "text_encoder_2": "clip_g"},
    "sd3": {"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5xxl"},
    "flux": {"text_encoder": "clip_l", "text_encoder_2": "t5xxl"},
    "chroma": {"text_encoder": "t5xxl"},
}
"""What ComfyUI calls the text encoders of each base."""

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


def original_aliases(shapes: Shapes) -> dict[str, dict[str, OriginalPlace]]:
    """The weights of a base that lie in a module of the original, by the names that tools may give that module.

    Text encoders are among them by ComfyUI's names, which are those of single files, and norms by A1111's.
    """
    found: dict[str, dict[str, OriginalPlace]] = {}
    for name, place in original_places(shapes).items():
        flat = place.module.replace(".", "_")
        for alias in (f"lora_unet_{flat}", f"lycoris_{flat}", f"diffusion_model.{place.module}"):
            found.setdefault(alias, {})[name] = place
    known = architecture(shapes)
    for name, shape in shapes.items():
        others = (comfyui_text_name(name, known), a1111_text_norm(component_of(name), path_of(name), known))
        for called in filter(None, others):
            found[called] = {name: OriginalPlace(called, 0, shape[0])}
    return found


def peft_name(name: str) -> str:
    """The name under which diffusers looks for an adapter of this weight: transformers 4 has its `text_model`."""
    component, path = component_of(name), path_of(name)
    return f"{component}.{_text_model(component, path)}"


def live_path(name: str, names: Collection[str]) -> str:
    """The path of a weight's module in the model that transformers 5 makes of a base, or diffusers.

    CLIP's text model has no level of its own there, except below a projection.
    """
    component, path = component_of(name), path_of(name)
    return _text_model(component, path) if f"{component}.text_projection" in names else path


def kohya_places(shapes: Shapes) -> dict[str, OriginalPlace]:
    """The module that kohya's scripts write for each weight of a base, and which rows of it are the weight's.

    Their UNet of Stable Diffusion has diffusers' names; SDXL's and all transformers have those of the originals.
    """
    known = architecture(shapes)
    originals = {} if known in ("sd", "sd2") else original_places(shapes)
    found = {}
    for name, shape in shapes.items():
        component, path = component_of(name), path_of(name)
        place = originals.get(name) or OriginalPlace(_text_model(component, path), 0, shape[0])
        if component in ("unet", "transformer"):
            prefix = "lora_transformer" if known == "unknown" and component == "transformer" else "lora_unet"
        else:
            prefix = _WRITTEN_PREFIXES.get(known, _USUAL_PREFIXES).get(component, f"lora_{component}")
        found[name] = replace(place, module=f"{prefix}_{place.module}".replace(".", "_"))
    return found


def comfyui_text_name(name: str, known: Architecture) -> str:
    """The name under which ComfyUI takes any weight of a text encoder, norms and embeddings too, or empty."""
    component = component_of(name)
    called = _COMFYUI_ENCODERS.get(known, {}).get(component)
    return f"text_encoders.{called}.transformer.{_text_model(component, path_of(name))}" if called else ""


def a1111_text_norm(component: str, path: str, known: Architecture) -> str:
    """A1111's name of a text encoder's norm where it does not know kohya's, or empty.

    Its encoders of Stable Diffusion 2 and SDXL's second are OpenCLIP's, with OpenCLIP's names.
    """
    opened = (component, known) in (("text_encoder", "sd2"), ("text_encoder_2", "sdxl"))
    if path == "final_layer_norm":
        if opened:
            return "model_ln_final" if known == "sd2" else "1_model_ln_final"
        return "lora_te1_text_model_final_layer_norm" if known in ("sd", "sdxl") and component == "text_encoder" else ""
    match = re.fullmatch(r"encoder\.layers\.(\d+)\.layer_norm([12])", path)
    if not (match and opened):
        return ""
    prefix = "lora_te" if known == "sd2" else "lora_te2"
    return f"{prefix}_text_model_encoder_layers_{match[1]}_ln_{match[2]}"


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
