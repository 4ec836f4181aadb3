"""A file as a tool reads it: what the rules of all tools have in common.

A tool knows the modules of a model by its own names, takes some parts of some kinds of module, and passes over the
rest. `Rules` says that of a tool as data; `read_by` reads a file by them. Nothing of the tool itself is run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from spectra.convert.lora.formulas import change_of, misfit, scaled_rank
from spectra.convert.module_names import kohya_places
from spectra.io.safetensors_header import StoredTensor
from spectra.io.tensor_files import read_rows
from spectra.naming.original_names import Architecture, OriginalPlace, Shapes, architecture, original_places

Kind: TypeAlias = Literal["matrix", "norm", "scale only", "table"]
"""A linear layer or convolution; a norm with a bias; one without; an embedding."""

Method: TypeAlias = Literal["lora", "loha", "lokr", "diff", "norm"]

MODULE_UNKNOWN = "no module is called so there"
"""Why a key is passed over."""


@dataclass(frozen=True)
class Base:
    """A base, as far as tools look at it.

    Attributes:
        shapes: of its weights, by name.
        biased: the weights with a bias beside them.
    """

    shapes: Shapes
    biased: Collection[str]

    @cached_property
    def architecture(self) -> Architecture:
        """What it is."""
        return architecture(self.shapes)

    @cached_property
    def originals(self) -> Mapping[str, OriginalPlace]:
        """Where its denoiser's weights lie in the original."""
        return original_places(self.shapes)

    @cached_property
    def kohya(self) -> Mapping[str, OriginalPlace]:
        """The module that kohya's scripts write for each of its weights."""
        return kohya_places(self.shapes)


@dataclass(frozen=True)
class ExportedFile:
    """A file to be read: its tensors by key, and its metadata."""

    path: Path
    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Module:
    """A module of a tool's model: the weights of the base that it holds, each in some of its rows, and its kind."""

    places: Mapping[str, OriginalPlace]
    kind: Kind


@dataclass(frozen=True)
class Reading:
    """What a tool makes of a file.

    Attributes:
        changes: gives what the tool adds to each weight, by name: `[rows, columns]` or `[n]`.
        loaded: keys of the file that it takes.
        ignored: why it passes over each other key.
        unfit: those of them that belong to a module that it knows, and to no change that it reads of such a module.
        refusal: why it reads nothing of the file at all, or empty.
    """

    changes: Mapping[str, Callable[[], Tensor]] = field(default_factory=dict)
    loaded: frozenset[str] = frozenset()
    ignored: Mapping[str, str] = field(default_factory=dict)
    unfit: frozenset[str] = frozenset()
    refusal: str = ""

    @classmethod
    def refused(cls, why: str) -> Reading:
        """Nothing is read."""
        return cls(refusal=why)


@dataclass(frozen=True)
class Rules:
    """How a tool reads files.

    Attributes:
        modules: of its model, by the names that it looks for, given a base.
        suffixes: what it knows after a module's name, and the part that it is.
        takes: the methods that it reads for each kind of module, the first that is there.
        flat: a module's name ends at the first dot; otherwise before a suffix.
        alpha_of_zero: the scale that it makes of an alpha of zero.
        norm_with_bias: it takes a norm only with the difference of its bias.
    """

    modules: Callable[[Base], Mapping[str, Module]]
    suffixes: Mapping[str, str]
    takes: Mapping[Kind, tuple[Method, ...]]
    flat: bool = True
    alpha_of_zero: float = 0.0
    norm_with_bias: bool = False


LORA_SUFFIXES = {".lora_up.weight": "up", ".lora_down.weight": "down", ".lora_mid.weight": "mid", ".alpha": "alpha"}
PEFT_SUFFIXES = {".lora_B.weight": "up", ".lora_A.weight": "down"}
LOHA_SUFFIXES = {f".hada_{part}": f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")}
LOKR_SUFFIXES = {f".lokr_{part}": f"lokr_{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")}
DIFFERENCE_SUFFIXES = {".diff": "diff", ".diff_b": "diff_b", ".w_norm": "w_norm", ".b_norm": "b_norm"}

_PARTS: Mapping[Method, tuple[str, ...]] = {
    "lora": ("up", "down", "mid", "alpha"),
    "loha": (*LOHA_SUFFIXES.values(), "alpha"),
    "lokr": (*LOKR_SUFFIXES.values(), "alpha"),
    "diff": ("diff", "diff_b"),
    "norm": ("w_norm", "b_norm"),
}
_TELLS: Mapping[Method, tuple[str, ...]] = {
    "lora": ("up", "down"),
    "loha": ("hada_w1_a",),
    "lokr": ("lokr_w1", "lokr_w1_a"),
    "diff": ("diff",),
    "norm": ("w_norm",),
}
"""The parts that tell each method."""


def read_by(rules: Rules, file: ExportedFile, base: Base) -> Reading:
    """What a tool with these rules makes of a file for a base."""
    known = rules.modules(base)
    by_module: dict[str, dict[str, StoredTensor]] = {}
    ignored: dict[str, str] = {}
    for key, stored in file.tensors.items():
        called, part = _split(key, rules)
        if called not in known:
            ignored[key] = MODULE_UNKNOWN
        elif not part:
            ignored[key] = "it knows no such part of a module"
        else:
            by_module.setdefault(called, {})[part] = stored
    changes: dict[str, Callable[[], Tensor]] = {}
    loaded: set[str] = set()
    unfit: set[str] = set()
    for name, parts in by_module.items():
        module = known[name]
        method = next((each for each in rules.takes[module.kind] if _is_there(each, parts, rules)), None)
        if method is None:
            ignored |= {each.key: f"not read of a {_KINDS[module.kind]}" for each in parts.values()}
            unfit |= {each.key for each in parts.values()}
            continue
        taken = {part: each for part, each in parts.items() if part in _PARTS[method]}
        other = (each.key for part, each in parts.items() if part not in taken)
        ignored |= dict.fromkeys(other, f"it reads the module's {method}")
        if wrong := misfit({part: each.shape for part, each in taken.items()}):
            return Reading.refused(f"{name}: {wrong}")
        loaded |= {each.key for each in taken.values()}
        for weight, place in module.places.items():
            changes[weight] = _change(taken, place, rules.alpha_of_zero)
    return Reading(changes, frozenset(loaded), ignored, frozenset(unfit))


_KINDS: Mapping[Kind, str] = {
    "matrix": "layer",
    "norm": "norm",
    "scale only": "norm without a bias",
    "table": "table of embeddings",
}


def kind_of_module(name: str, base: Base, is_table: bool) -> Kind:
    """The kind of module that holds a weight of the base."""
    if is_table:
        return "table"
    if len(base.shapes[name]) > 1:
        return "matrix"
    return "norm" if name in base.biased else "scale only"


def _split(key: str, rules: Rules) -> tuple[str, str]:
    if rules.flat:
        module, dot, rest = key.partition(".")
        return module, rules.suffixes.get(dot + rest, "")
    suffix = max((each for each in rules.suffixes if key.endswith(each)), key=len, default="")
    return (key.removesuffix(suffix), rules.suffixes[suffix]) if suffix else (key, "")


def _is_there(method: Method, parts: Collection[str], rules: Rules) -> bool:
    if method == "norm" and rules.norm_with_bias and "b_norm" not in parts:
        return False
    if method == "lora":
        return {"up", "down"} <= set(parts)
    return any(part in parts for part in _TELLS[method])


def _change(parts: Mapping[str, StoredTensor], place: OriginalPlace, alpha_of_zero: float) -> Callable[[], Tensor]:
    """What gives the rows of a module's change that are a weight's."""

    def compute() -> Tensor:
        read = {part: read_rows(each).to(torch.float32) for part, each in parts.items()}
        whole = change_of(_as_formulas_have_them(read)) * _scale(read, alpha_of_zero)
        return torch.cat([whole[start:stop] for start, stop in place.spans]) if place.spans else whole

    return compute


def _as_formulas_have_them(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"diff": parts["w_norm"]} if "w_norm" in parts else {k: v for k, v in parts.items() if k != "diff_b"}


def _scale(parts: Mapping[str, Tensor], alpha_of_zero: float) -> float:
    rank = scaled_rank(parts)
    if rank is None or "alpha" not in parts:
        return 1.0
    alpha = float(parts["alpha"])
    return alpha / rank if alpha else alpha_of_zero
