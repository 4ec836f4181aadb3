"""What kohya's scripts (sd-scripts) load: LoRA of the modules for which their networks have one.

Their network of Stable Diffusion and SDXL has attention and residual blocks alone; that of Flux has no last layer.
"""

from __future__ import annotations

import re

from spectra.convert.module_names import is_embedding
from spectra.convert.tools.reading import Base, ExportedFile, Module, Reading, Rules, kind_of_module, read_by
from spectra.naming.original_names import Architecture, Shapes, architecture
from spectra.naming.target_subsets import component_of, path_of

_IN_UNET = re.compile(r"\.(attentions|resnets|downsamplers|upsamplers)\.")
_IN_TEXT = re.compile(r"\.self_attn\.|\.mlp\.|\.SelfAttention\.|\.DenseReluDense\.wi_[01]|\.DenseReluDense\.wo")
_IN_TRANSFORMER: dict[Architecture, re.Pattern[str]] = {
    "sd3": re.compile(""),
    "flux": re.compile(r"transformer_blocks\.|x_embedder|context_embedder|time_text_embed\."),
    "chroma": re.compile(r"transformer_blocks\.|x_embedder|context_embedder"),
}


def has_lora(name: str, known: Architecture) -> bool:
    """Whether the network of kohya's scripts has a LoRA for a weight of two or more dimensions."""
    component, path = component_of(name), path_of(name)
    if is_embedding(name):
        return False
    if component == "unet":
        return _IN_UNET.search(path) is not None
    if component == "transformer":
        return known in _IN_TRANSFORMER and _IN_TRANSFORMER[known].search(path) is not None
    return _IN_TEXT.search(path) is not None


def unread(shapes: Shapes) -> frozenset[str]:
    """The matrices of a base for which kohya's scripts load no LoRA, though others do."""
    known = architecture(shapes)
    return frozenset(name for name, shape in shapes.items() if len(shape) > 1 and not has_lora(name, known))


def read(file: ExportedFile, base: Base) -> Reading:
    """What kohya's scripts make of a file."""
    if base.architecture not in ("sd", "sd2", "sdxl", *_IN_TRANSFORMER):
        return Reading.refused(f"kohya's scripts have no network for this base ({base.architecture})")
    return read_by(_RULES, file, base)


def _modules(base: Base) -> dict[str, Module]:
    found: dict[str, Module] = {}
    for name, place in base.kohya.items():
        if len(base.shapes[name]) > 1 and has_lora(name, base.architecture):
            others = found[place.module].places if place.module in found else {}
            kind = kind_of_module(name, base, is_table=False)
            found[place.module] = Module({**others, name: place}, kind)
    return found


_RULES = Rules(
    _modules,
    {".lora_up.weight": "up", ".lora_down.weight": "down", ".alpha": "alpha"},
    {"matrix": ("lora",), "norm": (), "scale only": (), "table": ()},
    alpha_of_zero=1.0,
)
