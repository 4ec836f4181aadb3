"""What ComfyUI loads: any weight of its own model, by its own name or by those of diffusers and kohya's scripts.

Of a UNet's attention it does not know today's names of diffusers, of a text encoder only attention and MLP by those of
others. By its own names, those of single files, it takes norms and embeddings too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from spectra.convert.module_names import comfyui_text_name, is_embedding, peft_name
from spectra.convert.tools.reading import (
    DIFFERENCE_SUFFIXES,
    LOHA_SUFFIXES,
    LOKR_SUFFIXES,
    LORA_SUFFIXES,
    PEFT_SUFFIXES,
    Base,
    ExportedFile,
    Method,
    Module,
    Reading,
    Rules,
    kind_of_module,
    read_by,
)
from spectra.naming.original_names import OriginalPlace
from spectra.naming.target_subsets import component_of, path_of

_CLIP = re.compile(r"encoder\.layers\.\d+\.(self_attn|mlp)\.")
_FLUX_BY_DIFFUSERS = re.compile(r"transformer_blocks\.|(x|context)_embedder|time_text_embed\.|norm_out|proj_out")
"""The modules of Flux, and of what it has in common with Chroma and Flux.2, that are known by diffusers' names."""


def read(file: ExportedFile, base: Base) -> Reading:
    """What ComfyUI makes of a file."""
    if base.architecture == "unknown":
        return Reading.refused("what ComfyUI calls the modules of this base is not known here")
    return read_by(_RULES, file, base)


def _modules(base: Base) -> dict[str, Module]:
    found: dict[str, Module] = {}
    for name, place in base.originals.items():
        kind = kind_of_module(name, base, is_table=False)
        for called in (f"lora_unet_{place.module.replace('.', '_')}", f"diffusion_model.{place.module}"):
            others = found[called].places if called in found else {}
            found[called] = Module({**others, name: place}, kind)
        found |= {called: Module({name: whole}, kind) for called, whole in _by_diffusers(name, base)}
    for name in base.shapes:
        if component_of(name).startswith("text_encoder"):
            whole = OriginalPlace("", 0, base.shapes[name][0])
            kind = kind_of_module(name, base, is_embedding(name))
            found |= {called: Module({name: whole}, kind) for called in _text_names(name, base)}
    return found


def _by_diffusers(name: str, base: Base) -> Iterator[tuple[str, OriginalPlace]]:
    """The names of diffusers by which it knows a weight of the denoiser, and which rows it takes then."""
    path, known = path_of(name), base.architecture
    flat, whole = path.replace(".", "_"), OriginalPlace("", 0, base.shapes[name][0])
    if component_of(name) == "unet":
        old = re.sub(r"\.to_(\w+)(\.0)?$", r".processor.to_\1", path)
        yield from ((called, whole) for called in (f"lora_unet_{flat}", f"lycoris_{flat}", old, f"unet.{old}"))
        return
    if known in ("flux", "chroma", "flux2") and not _FLUX_BY_DIFFUSERS.search(path):
        return
    if known == "sd3" and path.endswith("norm1_context.linear") and base.originals[name].swapped:
        whole = replace(whole, swapped=True)  # the last one's scale and shift, which it takes the wrong way round
    names = [f"transformer.{path}", f"lycoris_{flat}"]
    if known in ("sd3", "flux", "chroma", "flux2"):
        names += [f"lora_transformer_{flat}"]
    if known == "sd3":
        names += [f"base_model.model.{path}"]
    if known == "z-image":
        names += [f"diffusion_model.{path}", path]
    yield from ((called, whole) for called in names)


def _text_names(name: str, base: Base) -> Iterator[str]:
    known, component, path = base.architecture, component_of(name), path_of(name)
    generic = comfyui_text_name(name, known)
    if not generic:
        return
    yield generic
    flat = base.kohya[name].module
    if generic.startswith("text_encoders.t5xxl"):
        numbers = {"sd3": (3,), "flux": (2, 3), "chroma": (1,)}[known]
        yield from (f"lora_te{number}_{path.replace('.', '_')}" for number in numbers)
    elif path == "text_projection":
        yield flat
    elif _CLIP.match(path):
        yield peft_name(name)
        yield flat
        if component == "text_encoder":
            yield f"lora_te1_{flat.partition('_te')[2].partition('_')[2]}"
            yield f"lora_te_{flat.partition('_te')[2].partition('_')[2]}"


_EVERY: tuple[Method, ...] = ("diff", "norm", "lokr", "loha", "lora")
"""The last of a module's parts that it comes to stand."""

_RULES = Rules(
    _modules,
    {
        **LORA_SUFFIXES,
        **PEFT_SUFFIXES,
        "_lora.up.weight": "up",
        "_lora.down.weight": "down",
        ".lora.up.weight": "up",
        ".lora.down.weight": "down",
        ".lora_linear_layer.up.weight": "up",
        ".lora_linear_layer.down.weight": "down",
        **LOHA_SUFFIXES,
        **LOKR_SUFFIXES,
        **DIFFERENCE_SUFFIXES,
    },
    {"matrix": _EVERY, "norm": _EVERY, "scale only": _EVERY, "table": _EVERY},
    flat=False,
)
