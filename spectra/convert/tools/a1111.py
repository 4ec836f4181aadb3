"""What A1111's web UI loads for Stable Diffusion 1, 2 and SDXL: changes of layers and norms of the original model.

It turns kohya's names into those of the original repositories by rules that count two residual blocks to a level. Its
encoders of Stable Diffusion 2 and SDXL's second are OpenCLIP's, whose attention is one module: of its four matrices
none is changed without the others. A norm is read only with the difference of its bias; a file with one alone, or with
anything else that it matches and cannot read, is refused whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from spectra.convert.module_names import a1111_text_norm, is_embedding
from spectra.convert.tools.reading import (
    DIFFERENCE_SUFFIXES,
    LOHA_SUFFIXES,
    LOKR_SUFFIXES,
    LORA_SUFFIXES,
    PEFT_SUFFIXES,
    Base,
    ExportedFile,
    Module,
    Reading,
    Rules,
    kind_of_module,
    read_by,
)
from spectra.naming.original_names import OriginalPlace
from spectra.naming.target_subsets import component_of, path_of

_SUFFIXES = {
    "conv1": "in_layers_2",
    "conv2": "out_layers_3",
    "norm1": "in_layers_0",
    "norm2": "out_layers_0",
    "time_emb_proj": "emb_layers_1",
    "conv_shortcut": "skip_connection",
}
_BLOCK = re.compile(r"(down|mid|up)_blocks?_(?:(\d+)_)?(attentions|resnets)_(\d+)_(.+)")
_SAMPLER = re.compile(r"(?:down_blocks_(\d+)_downsamplers|up_blocks_(\d+)_upsamplers)_0_conv")
_ATTENTION = re.compile(r"(.+encoder\.layers\.\d+\.self_attn)\.(?:q|k|v|out)_proj$")


def read(file: ExportedFile, base: Base) -> Reading:
    """What A1111 makes of a file."""
    if base.architecture not in ("sd", "sd2", "sdxl"):
        return Reading.refused(f"its rules are known here for Stable Diffusion 1, 2 and SDXL, not {base.architecture}")
    found = read_by(_RULES, file, base)
    known = _modules(base)
    unfit = [key for key in sorted(found.unfit) if known[key.partition(".")[0]].kind != "table"]
    if unfit:
        return Reading.refused(f"{unfit[0]}: it knows the module and no such change of it, and stops")
    return _whole_attention(found, base)


def _whole_attention(found: Reading, base: Base) -> Reading:
    """Without what OpenCLIP's attention has of only some of its four matrices."""
    opened = "text_encoder_2" if base.architecture == "sdxl" else "text_encoder"
    if base.architecture == "sd":
        return found
    groups: dict[str, list[str]] = {}
    for name in found.changes:
        if component_of(name) == opened and (match := _ATTENTION.match(name)):
            groups.setdefault(match[1], []).append(name)
    partly = {name for names in groups.values() if len(names) < 4 for name in names}
    known = _modules(base)
    keys = {
        key for key in found.loaded if (module := known.get(key.partition(".")[0])) and partly & module.places.keys()
    }
    why = "OpenCLIP's attention is changed only with all of its four matrices"
    return replace(
        found,
        changes={name: change for name, change in found.changes.items() if name not in partly},
        loaded=found.loaded - keys,
        ignored={**found.ignored, **dict.fromkeys(sorted(keys), why)},
    )


def _modules(base: Base) -> dict[str, Module]:
    flat = {place.module.replace(".", "_"): name for name, place in base.originals.items()}
    found: dict[str, Module] = {}

    def add(called: str, name: str) -> None:
        kind = kind_of_module(name, base, is_embedding(name))
        found[called] = Module({name: OriginalPlace("", 0, base.shapes[name][0])}, kind)

    for name in base.shapes:
        if component_of(name) == "unet":
            diffusers = path_of(name).replace(".", "_")
            if (meant := flat.get(_converted(diffusers))) is not None:
                add(f"lora_unet_{diffusers}", meant)
        elif component_of(name).startswith("text_encoder"):
            for called in _text_names(name, base):
                add(called, name)
    for original, name in flat.items():
        add(f"lora_unet_{original}", name)
    return found


def _converted(flat: str) -> str:
    """What it makes of diffusers' name of a UNet's module: that of the original, if a level has two residual blocks."""
    if match := re.fullmatch(r"time_embedding_linear_(\d)", flat):
        return f"time_embed_{2 * int(match[1]) - 2}"
    if match := _SAMPLER.match(flat):
        if match[1] is not None:
            return f"input_blocks_{3 + 3 * int(match[1])}_0_op"
        return f"output_blocks_{2 + 3 * int(match[2])}_{2 if int(match[2]) else 1}_conv"
    match = _BLOCK.fullmatch(flat)
    if match is None:
        return {"conv_in": "input_blocks_0_0", "conv_out": "out_2"}.get(flat, flat)
    side, level, kind, number, rest = match[1], int(match[2] or 0), match[3], int(match[4]), match[5]
    rest = _SUFFIXES.get(rest, rest) if kind == "resnets" else rest
    attention = int(kind == "attentions")
    if side == "mid":
        return f"middle_block_{1 if attention else 2 * number}_{rest}"
    first, stem = (1, "input_blocks") if side == "down" else (0, "output_blocks")
    return f"{stem}_{first + 3 * level + number}_{attention}_{rest}"


def _text_names(name: str, base: Base) -> Iterator[str]:
    component, path, known = component_of(name), path_of(name), base.architecture
    flat = f"text_model_{path.replace('.', '_')}"
    inside = path.startswith("encoder.layers.")
    if other := a1111_text_norm(component, path, known):
        yield other
    if component == "text_encoder_2" or known == "sd2":  # OpenCLIP's
        if inside and ".layer_norm" not in path:
            yield f"lora_te{2 if component == 'text_encoder_2' else ''}_{flat}"
    elif known == "sd":
        yield f"lora_te1_{flat}"
        if inside:
            yield f"lora_te_{flat}"
    else:
        yield f"lora_te1_{flat}"


_RULES = Rules(
    _modules,
    {**LORA_SUFFIXES, **PEFT_SUFFIXES, **LOHA_SUFFIXES, **LOKR_SUFFIXES, **DIFFERENCE_SUFFIXES},
    {"matrix": ("lora", "loha", "lokr", "diff"), "norm": ("diff", "norm"), "scale only": ("diff",), "table": ()},
    norm_with_bias=True,
)
