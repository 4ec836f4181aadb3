"""The layers of a UNet as the paper counts them, for each family: (resolution, part, number).

A layer is a residual block with the attention block behind it; its resolution is that of the latents it works on, at
the size the family was made for. Residual blocks without attention, at the lowest resolution of Stable Diffusion,
belong to the layer that follows them: so its middle block is (8, down, 0), as in the papers (P+, arXiv:2303.09522;
SVDiff). Where the resolution above it has attention, its name is (resolution, mid, 0).

Works on weight names alone; needs no torch.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from dataclasses import dataclass

from spectra.errors import InputError


@dataclass(frozen=True)
class Layer:
    """One layer: its name, such as `16,down,1`, and the patterns that its weights' names match."""

    name: str
    patterns: tuple[str, ...]

    def holds(self, weight: str) -> bool:
        """Whether the weight of that name belongs to it."""
        return any(fnmatch.fnmatchcase(weight, pattern) for pattern in self.patterns)


@dataclass(frozen=True)
class Layout:
    """The blocks of a family's UNet.

    Attributes:
        name: of the family.
        resolutions: of the latents in each block, on the way down.
        attention: which of these blocks have attention.
        layers: in each block on the way down; one more on the way up.
    """

    name: str
    resolutions: tuple[int, ...]
    attention: tuple[bool, ...]
    layers: int

    @property
    def all_layers(self) -> tuple[Layer, ...]:
        """Every layer, from the picture's side to the noise's."""
        found: list[Layer] = []
        waiting: list[str] = []  # blocks without attention, for the layer that follows
        last = len(self.resolutions) - 1

        def add(part: str, block: int, count: int, resolution: int, attention: bool, joint: str) -> None:
            path = f"unet.{part}_blocks.{block}"
            if not attention:
                waiting.append(f"{path}.*")
                return
            for number in range(count):
                own = [f"{path}.{kind}.{number}.*" for kind in ("resnets", "attentions")]
                own += [f"{path}.{joint}.*"] if number == count - 1 else []
                found.append(Layer(f"{resolution},{part},{number}", (*waiting, *own)))
                waiting.clear()

        for block, resolution in enumerate(self.resolutions):
            add("down", block, self.layers, resolution, self.attention[block], "downsamplers")
        middle = "mid" if self.attention[last] else "down"
        found.append(Layer(f"{self.resolutions[last]},{middle},0", (*waiting, "unet.mid_block.*")))
        waiting.clear()
        for block, level in enumerate(reversed(range(last + 1))):
            add("up", block, self.layers + 1, self.resolutions[level], self.attention[level], "upsamplers")
        if waiting:
            found[-1] = Layer(found[-1].name, (*found[-1].patterns, *waiting))
        return tuple(found)

    @property
    def geometry(self) -> str:
        """The range around the bottleneck that carries geometry; in Stable Diffusion `16,down,1:8,down,0`."""
        layers = self.all_layers
        middle = next(number for number, layer in enumerate(layers) if layer.holds("unet.mid_block."))
        return f"{layers[middle - 1].name}:{layers[middle].name}"

    def between(self, span: str) -> tuple[Layer, ...]:
        """The layers of a range such as `16,down,1:8,down,0`, both ends included; or of one layer.

        Raises:
            InputError: no such layer, or the ends in the wrong order.
        """
        layers = self.all_layers
        names = [layer.name for layer in layers]
        ends = [re.sub(r"[\s()]", "", end) for end in span.split(":")]
        for end in ends:
            if end not in names:
                raise InputError(f"layers: {self.name} has no {end!r}; it has {' '.join(names)}")
        first, last = names.index(ends[0]), names.index(ends[-1])
        if len(ends) > 2 or first > last:
            raise InputError(f"layers: expected FIRST:LAST such as {self.geometry}, got {span!r}")
        return layers[first : last + 1]


LAYOUTS = (
    Layout("sd", (64, 32, 16, 8), (True, True, True, False), 2),
    Layout("sdxl", (128, 64, 32), (False, True, True), 2),
    Layout("embedded", (16, 8, 4), (False, True, True), 1),
)
"""Stable Diffusion 1.x and 2.x, SDXL, and the embedded base."""


def find_layout(names: Iterable[str]) -> Layout:
    """The family whose UNet has the attention blocks that these weights belong to.

    Raises:
        InputError: none has, or there are none.
    """
    found = [re.match(r"(unet\.(?:down|up)_blocks\.)\d+\.attentions\.\d+\.", name) for name in names]
    blocks = {f"{match[0]}*" for match in found if match}
    parts = tuple({match[1] for match in found if match})
    for layout in LAYOUTS:
        patterns = {pattern for layer in layout.all_layers for pattern in layer.patterns if ".attentions." in pattern}
        if blocks and blocks == {pattern for pattern in patterns if pattern.startswith(parts)}:
            return layout
    raise InputError(
        "cannot tell by its weights which family this shift belongs to; expected one with attention blocks of "
        + ", ".join(layout.name for layout in LAYOUTS)
    )
