"""What LyCORIS loads beside kohya's scripts: changes of any layer and norm that they call by their name.

It makes an adapter for each module of the model that the file names, and stops at one that it cannot make: a table of
embeddings, a norm without a bias, a difference of a norm that is called `diff`.
"""

from __future__ import annotations

from spectra.convert.module_names import is_embedding
from spectra.convert.tools.reading import (
    DIFFERENCE_SUFFIXES,
    LOHA_SUFFIXES,
    LOKR_SUFFIXES,
    LORA_SUFFIXES,
    Base,
    ExportedFile,
    Module,
    Reading,
    Rules,
    kind_of_module,
    read_by,
)
from spectra.naming.target_subsets import component_of

_UP = ".lora_up.weight"


def read(file: ExportedFile, base: Base) -> Reading:
    """What LyCORIS makes of a file, loaded into the models of kohya's scripts."""
    if base.architecture not in ("sd", "sd2", "sdxl", "sd3", "flux", "chroma"):
        return Reading.refused(f"kohya's scripts, into which it loads, have no such base ({base.architecture})")
    found = read_by(_RULES, file, base)
    if found.unfit:
        return Reading.refused(f"{min(found.unfit)}: it cannot make an adapter for this kind of module, and stops")
    ups = {key.removesuffix(_UP) for key in found.loaded if key.endswith(_UP)}
    if without := [module for module in sorted(ups) if f"{module}.alpha" not in file.tensors]:
        return Reading.refused(f"{without[0]}: it reads no LoRA without an alpha, and stops")
    return found


def _modules(base: Base) -> dict[str, Module]:
    found: dict[str, Module] = {}
    for name, place in base.kohya.items():
        if component_of(name) == "text_encoder_2" and base.architecture == "flux":
            module = place.module.replace("lora_te3", "lora_te2", 1)  # it numbers them in their order
        else:
            module = place.module
        others = found[module].places if module in found else {}
        found[module] = Module({**others, name: place}, kind_of_module(name, base, is_embedding(name)))
    return found


_RULES = Rules(
    _modules,
    {**LORA_SUFFIXES, **LOHA_SUFFIXES, **LOKR_SUFFIXES, **DIFFERENCE_SUFFIXES},
    {"matrix": ("lora", "loha", "lokr", "diff"), "norm": ("norm",), "scale only": (), "table": ()},
    alpha_of_zero=1.0,
)
