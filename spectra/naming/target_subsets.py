"""Sets of weights by name: the paper's subsets (its Table 1), and patterns.

A weight's name is `<component>.<module path>`; subsets that go by a weight's dimensions
need to be told them.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from spectra.errors import TargetError

DENOISERS = ("unet", "transformer", "transformer_2", "prior")
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
"""The parts of a pipeline that can carry a shift, by the names diffusers gives them."""


def weight_name(component: str, path: str) -> str:
    """The name of the weight of the module at `path` (or of any tensor, by its path).

    transformers 4 nests a CLIP text model one level deeper than 5 does; a shift's names must not depend on it.
    """
    path = path.removeprefix("text_model.")
    return f"{component}.{path}" if path else component


def component_of(name: str) -> str:
    """The component of a weight's name: `unet` of `unet.conv_in`."""
    return name.partition(".")[0]


def path_of(name: str) -> str:
    """The module path of a weight's name: `conv_in` of `unet.conv_in`."""
    return name.partition(".")[2]


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
    "attention": Subset(DENOISERS, r"(^|\.)(attn\d?|attention)\.(?!norm)"),
    "feed-forward": Subset(DENOISERS, r"(^|\.)(ff\w*|\w+_mlp|feed_forward)\.(?!norm)|\.proj_mlp$"),
    "text-encoder": Subset(TEXT_ENCODERS, r"^(?!(model\.)?(visual|vision_tower|multi_modal_projector)\.)(?!lm_head$)"),
}
"""The twelve rows of the paper's Table 1, the same idea for transformers and for denoisers of any family, and the text
encoders, of which prompts do not run through what sees pictures or names the next word."""


def matcher(item: str) -> Callable[[str, str, int], bool]:
    """A function that tells whether one subset or pattern means a weight of a component, module path and dimensions.

    A pattern means whole names; the name of a block, such as `unet.up_blocks.1`, means all that is inside.

    Raises:
        TargetError: neither the name of a subset nor a pattern.
    """
    if item in SUBSETS:
        return SUBSETS[item].holds
    if "." not in item and "*" not in item:
        close = difflib.get_close_matches(item, SUBSETS, n=1)
        raise TargetError(
            f"unknown target {item!r}{f', did you mean {close[0]!r}?' if close else ''}; expected one of "
            f"{', '.join(SUBSETS)}, or a pattern such as 'unet.*attn2*'"
        )
    whole = re.compile(f"({fnmatch.translate(item)})|({re.escape(item)}\\..*)")
    return lambda component, path, _: whole.fullmatch(f"{component}.{path}") is not None


def may_name(pattern: str, component: str) -> bool:
    """Whether an item of `pattern`, as `matching` takes it, can mean weights of a component, whatever its layers.

    Raises:
        TargetError: neither the name of a subset nor a pattern.
    """
    for item in (part.strip() for part in pattern.split(",")):
        matcher(item)
        literal = re.split(r"[*?\[]", item)[0]
        if item in SUBSETS:
            found = component in SUBSETS[item].components
        elif "." in literal or literal == item:
            found = component_of(literal) == component
        else:
            found = component.startswith(literal)
        if found:
            return True
    return False


def matching(names: Iterable[str], pattern: str, ndims: Mapping[str, int] | None = None) -> tuple[str, ...]:
    """The names that `pattern` means, sorted.

    Args:
        names: of weights, such as a shift's.
        pattern: subset names, blocks and glob patterns, separated by commas (`unet-ca,text-encoder`,
            `unet.up_blocks.1`, `unet.*norm*`).
        ndims: dimensions of each weight, such as `shift.metadata.ndims`; for subsets that go by them.

    Raises:
        TargetError: an unknown name, one that means none of these weights, or one that goes by dimensions that are
            not known.
    """
    known, ndims = sorted(names), ndims or {}
    found: set[str] = set()
    for item in (part.strip() for part in pattern.split(",")):
        holds = matcher(item)
        if item in SUBSETS and SUBSETS[item].ndim is not None and not ndims:
            raise TargetError(
                f"{item!r} goes by the dimensions of weights, which this shift does not tell; name weights by patterns"
            )
        chosen = []
        for name in known:
            component, path = name.split(".", 1)
            if holds(component, path, ndims.get(name, 0)):
                chosen.append(name)
        if not chosen:
            close = difflib.get_close_matches(item, known, n=1)
            raise TargetError(
                f"{item!r} matches none of {len(known)} weights; "
                + (f"the nearest is {close[0]!r}" if close else "patterns match whole names, such as 'unet.*attn2*'")
            )
        found.update(chosen)
    return tuple(sorted(found))
