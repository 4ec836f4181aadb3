"""Keys of LoRA files: what each tool calls the parts of a module's change, to read all of them and to write two."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from spectra.convert.module_names import kohya_places, peft_name
from spectra.errors import FormatError
from spectra.naming.original_names import Architecture, OriginalPlace, Shapes, architecture
from spectra.naming.target_subsets import TEXT_ENCODERS, component_of, path_of

_SUFFIXES = {
    "down": (".lora_down.weight", ".lora_A.weight", ".lora.down.weight", "_lora.down.weight"),
    "up": (".lora_up.weight", ".lora_B.weight", ".lora.up.weight", "_lora.up.weight"),
    "mid": (".lora_mid.weight",),
    "rows": (".lora_embedding_A",),
    "values": (".lora_embedding_B",),
    "diff": (".diff", ".w_norm"),
    "bias": (".diff_b", ".b_norm", ".lora_B.bias", ".lora_up.bias", ".base_layer.bias", ".bias"),
    "dora": (".dora_scale", ".lora_magnitude_vector", ".lora_magnitude_vector.weight"),
    "alpha": (".alpha",),
    **{name: (f".{name}",) for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")},
    **{name: (f".{name}",) for name in ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")},
    "lokr_t2": (".lokr_t2",),
}
"""What the key of each part ends in."""

_PART_OF = {suffix: part for part, suffixes in _SUFFIXES.items() for suffix in suffixes}
_LONGEST_FIRST = sorted(_PART_OF, key=len, reverse=True)

METADATA_KEY = "lora_adapter_metadata"
"""Metadata of a file under which diffusers keeps PEFT's configuration."""


def split_key(key: str) -> tuple[str, str]:
    """Module and part of a tensor's key, without what PEFT puts around them: its wrapper's name and the adapter's.

    Raises:
        FormatError: the key is of no known method.
    """
    plain = key.removeprefix("base_model.model.").replace(".lora_linear_layer.", ".lora.")
    plain = re.sub(r"\.default(_\d+)?(?=\.weight$|$)", "", plain)
    for suffix in _LONGEST_FIRST:
        if plain.endswith(suffix):
            return plain[: -len(suffix)], _PART_OF[suffix]
    raise FormatError(
        f"{key} is of no method that is known here (LoRA, LoHa, LoKr, differences): merge the file into its base, and "
        "take the merged model instead"
    )


@dataclass(frozen=True)
class LoraKeys:
    """Keys and metadata of one kind of file.

    Attributes:
        places: the module of each weight, and which of its rows are the weight's, given the shapes of the base.
        down, up: what a module's two keys end in.
        alpha: whether each module has its alpha in the file.
        metadata: of a file, given the rank of each of its weights and the shapes of the base.
    """

    places: Callable[[Shapes], Mapping[str, OriginalPlace]]
    down: str
    up: str
    alpha: bool
    metadata: Callable[[Mapping[str, int], Shapes], dict[str, str]]


def _peft_places(shapes: Shapes) -> dict[str, OriginalPlace]:
    return {name: OriginalPlace(peft_name(name), 0, shape[0]) for name, shape in shapes.items()}


def _peft_metadata(ranks: Mapping[str, int], shapes: Shapes) -> dict[str, str]:
    """PEFT's configuration of each component, where diffusers keeps it: every module's scale is 1."""
    config: dict[str, object] = {}
    for component in sorted({component_of(name) for name in ranks}):
        own = {_pattern(name): rank for name, rank in ranks.items() if component_of(name) == component}
        usual = max(own.values(), key=list(own.values()).count)
        others = {pattern: rank for pattern, rank in own.items() if rank != usual}
        config |= {
            f"{component}.r": usual,
            f"{component}.lora_alpha": usual,
            f"{component}.rank_pattern": others,
            f"{component}.alpha_pattern": others,
            f"{component}.target_modules": [pattern.removeprefix("^") for pattern in own],
        }
    return {METADATA_KEY: json.dumps(config, separators=(",", ":"))}


def _pattern(name: str) -> str:
    """PEFT matches the ends of paths, and `proj_out` ends others too; text models are nested differently elsewhere."""
    return path_of(name) if component_of(name) in TEXT_ENCODERS else f"^{path_of(name)}"


def _kohya_metadata(ranks: Mapping[str, int], shapes: Shapes) -> dict[str, str]:
    largest = max(ranks.values())
    about = {"ss_network_module": "networks.lora", "ss_network_dim": str(largest), "ss_network_alpha": f"{largest:.1f}"}
    return {**about, **base_metadata(shapes)}


_VERSIONS: Mapping[Architecture, str] = {
    "sd": "sd_v1",
    "sd2": "sd_v2",
    "sdxl": "sdxl_base_v1-0",
    "sd3": "sd3",
    "flux": "flux1",
    "chroma": "chroma",
}


def base_metadata(shapes: Shapes) -> dict[str, str]:
    """What kohya's scripts say of the base; A1111 offers a file that does not say so for Stable Diffusion 1 alone."""
    known = architecture(shapes)
    version = {"ss_base_model_version": _VERSIONS[known]} if known in _VERSIONS else {}
    return version | ({"ss_v2": str(known == "sd2")} if known in ("sd", "sd2") else {})


PEFT = LoraKeys(_peft_places, ".lora_A.weight", ".lora_B.weight", False, _peft_metadata)
KOHYA = LoraKeys(kohya_places, ".lora_down.weight", ".lora_up.weight", True, _kohya_metadata)
