"""Which weights are trained: the paper's subset names (its Table 1), and patterns over module paths."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from spectra.errors import TargetError
from spectra.families.components import DENOISERS, TEXT_ENCODERS, components
from spectra.operators import has_spectrum


@dataclass(frozen=True, eq=False)
class Target:
    """One weight that a shift can act on.

    Attributes:
        name: `<component>.<module path>`, a shift file's key without `.delta`.
        modules: the modules that hold the weight; several where it is tied.
        weight: the parameter, frozen.
    """

    name: str
    modules: tuple[nn.Module, ...]
    weight: nn.Parameter

    @property
    def floats(self) -> int:
        """Length of this weight's delta."""
        if self.weight.ndim == 1:
            return self.weight.shape[0]
        rows = self.weight.shape[0]
        return min(rows, self.weight.numel() // max(rows, 1))


@dataclass(frozen=True)
class Subset:
    """A named set of weights: of which components, and which of their paths and dimensions."""

    components: tuple[str, ...]
    path: str = ""
    ndim: int | None = None

    def holds(self, component: str, path: str, ndim: int) -> bool:
        """Whether the weight of the module at `path` belongs to it."""
        return (
            component in self.components
            and (self.ndim is None or ndim == self.ndim)
            and re.search(self.path, path) is not None
        )


_CROSS_ATTENTION = r"attn2\.(to_q|to_k|to_v|to_out\.0)$"
_UNET = ("unet",)

SUBSETS: dict[str, Subset] = {
    "unet": Subset(_UNET),
    "unet-ca": Subset(_UNET, _CROSS_ATTENTION),
    "unet-ca-kv": Subset(_UNET, r"attn2\.(to_k|to_v)$"),
    "unet-1d": Subset(_UNET, ndim=1),
    "unet-2d": Subset(_UNET, ndim=2),
    "unet-4d": Subset(_UNET, ndim=4),
    "up-blocks": Subset(_UNET, r"^up_blocks\."),
    "down-blocks": Subset(_UNET, r"^down_blocks\."),
    "mid-block": Subset(_UNET, r"^mid_block\."),
    "up-ca": Subset(_UNET, r"^up_blocks\..*" + _CROSS_ATTENTION),
    "down-ca": Subset(_UNET, r"^down_blocks\..*" + _CROSS_ATTENTION),
    "mid-ca": Subset(_UNET, r"^mid_block\..*" + _CROSS_ATTENTION),
    "transformer": Subset(("transformer", "transformer_2")),
    "transformer-1d": Subset(("transformer", "transformer_2"), ndim=1),
    "transformer-2d": Subset(("transformer", "transformer_2"), ndim=2),
    "denoiser": Subset(DENOISERS),
    "text-encoder": Subset(TEXT_ENCODERS),
}
"""The twelve rows of the paper's Table 1, the same idea for transformers, and the text encoders."""


def targets(pipe: Any, pattern: str = "denoiser") -> tuple[Target, ...]:
    """The weights of a pipeline or model that `pattern` names, sorted by name.

    Args:
        pipe: a pipeline, a mapping of components, or a bare model.
        pattern: subset names and glob patterns over `<component>.<module path>`, separated by commas
            (`unet-ca,text-encoder`, `unet.up_blocks.1.*`).

    Raises:
        TargetError: an unknown name, or one that holds no weight of this model.
    """
    found: dict[str, Target] = {}
    parts = components(pipe)
    for item in (part.strip() for part in pattern.split(",")):
        holds = _matcher(item)
        chosen = [t for name, model in parts.items() for t in _weights(model, name, holds)]
        if not chosen:
            raise TargetError(
                f"target {item!r} holds no weight of this model, which has {', '.join(parts)}; {_nearest(item, parts)}"
            )
        found.update((t.name, t) for t in chosen)
    return tuple(found[name] for name in sorted(found))


def select(model: nn.Module, pattern: str, component: str) -> tuple[Target, ...]:
    """The weights of one model that `pattern` names; see `targets`."""
    return targets({component: model}, pattern)


def _matcher(item: str) -> Callable[[str, str, int], bool]:
    if item in SUBSETS:
        return SUBSETS[item].holds
    if "." not in item and "*" not in item:
        near = difflib.get_close_matches(item, SUBSETS, n=1)
        raise TargetError(
            f"unknown target {item!r}{f', did you mean {near[0]!r}?' if near else ''}; expected one of "
            f"{', '.join(SUBSETS)}, or a pattern such as 'unet.*attn2*'"
        )
    return lambda component, path, _: fnmatch.fnmatchcase(f"{component}.{path}", item)


def _nearest(item: str, parts: dict[str, nn.Module]) -> str:
    names = [f"{name}.{path}" for name, model in parts.items() for path, _ in model.named_modules() if path]
    near = difflib.get_close_matches(item, names, n=1)
    return f"the nearest module is {near[0]!r}" if near else "patterns match whole paths, such as 'unet.*attn2*'"


def _weights(model: nn.Module, component: str, holds: Callable[[str, str, int], bool]) -> list[Target]:
    """Every parameter called `weight` of a module that a shift knows, tied ones once, under their first path."""
    holders: dict[int, tuple[str, list[nn.Module]]] = {}
    for path, module in model.named_modules():
        weight = module._parameters.get("weight")
        if weight is None or not (weight.ndim == 1 or has_spectrum(module)):
            continue
        # transformers 4 nests a CLIP text model one level deeper than 5 does; a shift's names must not depend on it.
        holders.setdefault(id(weight), (path.removeprefix("text_model."), []))[1].append(module)
    return [
        Target(f"{component}.{path}" if path else component, tuple(modules), modules[0]._parameters["weight"])  # type: ignore[arg-type]
        for path, modules in holders.values()
        if holds(component, path, modules[0]._parameters["weight"].ndim)  # type: ignore[union-attr]
    ]
