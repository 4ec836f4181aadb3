"""Style mixing: content from one shift, style from another (SVDiff, section 3.3).

Of the 2-D weights, those of the layers around the bottleneck carry geometry and are the content's; all others are the
style's. Text encoders, where they are mixed, are the content's: they know what its prompt names. Works on the deltas
alone; needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from spectra.combine.deriving import derive_parts
from spectra.errors import MismatchError
from spectra.naming.target_subsets import TEXT_ENCODERS, component_of, matching
from spectra.naming.unet_layers import Layer, Layout, find_layout
from spectra.shift.metadata import JSON
from spectra.shift.provenance import recipe_reference
from spectra.shift.shift import SpectralShift
from spectra.shift.sums import Parts

TARGETS = "unet-2d"


@dataclass(frozen=True)
class Mix:
    """A mixed shift, and where its weights come from.

    Attributes:
        shift: the mix.
        layout: family of the UNet.
        layers: each with whether the content gives it, and how many weights it has in the mix.
        elsewhere: weights of the mix that belong to no layer, such as the time embedding: the style's.
        text: weights of text encoders in the mix: the content's.
        left_out: weights of the two that the targets do not name.
    """

    shift: SpectralShift
    layout: Layout
    layers: tuple[tuple[Layer, bool, int], ...]
    elsewhere: int
    text: int
    left_out: int


def mix(content: SpectralShift, style: SpectralShift, *, layers: str = "", target: str = TARGETS) -> Mix:
    """Mix two shifts of one base.

    Args:
        content: gives the weights of `layers`, and text encoders.
        style: gives all others.
        layers: a range such as `16,down,1:8,down,0`, both ends included; the family's layers of geometry by default.
        target: subset names and patterns, comma separated: the weights that are mixed. The others are left out.

    Raises:
        MismatchError: shifts of different bases, or one that gives nothing.
        InputError: no such layer, or a UNet of no known family.
        TargetError: an unknown name, or one that names no weight.
    """
    layout = find_layout([*content, *style])
    chosen = layout.between(layers or layout.geometry)
    parts: dict[str, Parts] = {}
    meant: set[str] = set()

    def of_content(name: str) -> bool:
        return component_of(name) in TEXT_ENCODERS or any(layer.holds(name) for layer in chosen)

    for giver, shift, is_content in (("content", content, True), ("style", style, False)):
        named = matching(shift, target, shift.metadata.ndims)
        meant.update(named)
        own = shift.parts()
        given = {name: own[name] for name in named if of_content(name) == is_content}
        if not given:
            where = "in" if is_content else "outside"
            raise MismatchError(
                f"the {giver} shift has none of the weights it should give: {target!r} {where} layers "
                f"{chosen[0].name} to {chosen[-1].name}; name other --layers or another --target"
            )
        parts |= given
    recipe: JSON = {
        "method": "mix",
        "shifts": [recipe_reference(content.metadata), recipe_reference(style.metadata)],
        "layers": f"{chosen[0].name}:{chosen[-1].name}",
        "target": target,
    }
    mixed = derive_parts([content, style], parts, recipe)
    held = [(layer, layer in chosen, sum(map(layer.holds, mixed))) for layer in layout.all_layers]
    text = sum(component_of(name) in TEXT_ENCODERS for name in mixed)
    return Mix(
        shift=mixed,
        layout=layout,
        layers=tuple(held),
        elsewhere=len(mixed) - text - sum(count for _, _, count in held),
        text=text,
        left_out=len((content.keys() | style.keys()) - meant),
    )
