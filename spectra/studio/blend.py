"""Several shifts in force together, each at its scale and with factors for groups of blocks: to draw, and to keep.

In an address one stands as `fox/fox;0.8;unet.up_blocks=0.5`.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from spectra.errors import InputError
from spectra.naming.blocks import natural_order, series_of
from spectra.shift.shift_header import read_shift_header

if TYPE_CHECKING:
    from spectra.adapters.adapter_weights import AdapterWeights


@dataclass(frozen=True)
class Part:
    """One shift of a blend.

    Attributes:
        path: of its file.
        groups: factors on the scale, by group of blocks; all that the shift has.
    """

    path: Path
    scale: float = 1.0
    groups: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path, text: str = "") -> Part:
        """A shift's part, with what an address says behind its name.

        Raises:
            InputError: no numbers there.
            ShiftFileError: no shift there.
        """
        groups = dict.fromkeys(groups_of(path), 1.0)
        scale = 1.0
        for piece in filter(None, text.split(";")):
            name, equals, number = piece.rpartition("=")
            value = _number(number)
            if not equals:
                scale = value
            elif name in groups:
                groups[name] = value
        return cls(path, scale, groups)

    def text(self, name: str) -> str:
        """How an address says it, with the name by which the page calls the file."""
        changed = [f"{group}={factor:g}" for group, factor in self.groups.items() if factor != 1]
        return ";".join([name, f"{self.scale:g}", *changed])

    @property
    def weights(self) -> AdapterWeights:
        """The scale as `spectra.activate` takes it."""
        if all(factor == 1 for factor in self.groups.values()):
            return self.scale
        return {group: self.scale * factor for group, factor in self.groups.items()}


def groups_of(path: Path) -> list[str]:
    """The groups of blocks that a shift changes: series of numbered blocks, and what stands alone."""
    return natural_order({series_of(name) for name in read_shift_header(path).lengths})


def between(first: Part, second: Part, count: int) -> list[tuple[Part, Part]]:
    """A strip: from the first alone to the second alone, each at its scale, or whole where that is 0."""
    steps = [step / (count - 1) for step in range(count)]
    ends = first.scale or 1.0, second.scale or 1.0
    return [(replace(first, scale=ends[0] * (1 - t)), replace(second, scale=ends[1] * t)) for t in steps]


def merge_options(parts: Sequence[Part]) -> tuple[list[float], dict[str, list[float]]]:
    """Scales and block weights of the merge that does what a blend does."""
    blocks: dict[str, list[float]] = {}
    if any(factor != 1 for part in parts for factor in part.groups.values()):
        names = sorted({name for part in parts for name in part.groups}, key=lambda name: (name.count("."), name))
        # Of two patterns that mean a weight the later one holds: what is inside a component comes after it.
        for name in names:
            pattern = name if "." in name else f"{name}.*"
            blocks[pattern] = [part.groups.get(name, 1.0) for part in parts]
    return [part.scale for part in parts], blocks


def merge_command(parts: Sequence[Part], out: Path) -> str:
    """The command line that writes a blend as one shift."""
    scales, blocks = merge_options(parts)
    words = ["spectra", "merge", *(f"{part.path}:{scale:g}" for part, scale in zip(parts, scales, strict=True))]
    for pattern, weights in blocks.items():
        words += ["--block-weights", f"{pattern}={','.join(f'{weight:g}' for weight in weights)}"]
    return shlex.join([*words, "-o", str(out)])


def write_blend(parts: Sequence[Part], out: Path) -> None:
    """Write a blend as one shift, with its recipe inside.

    Raises:
        SpectraError: shifts of different bases, nothing to merge, or the file is there already.
    """
    from spectra.combine.merging import merge
    from spectra.io.atomic_writes import check_output
    from spectra.shift.precision import kept_precision
    from spectra.shift.shift_file import write_shift

    if not parts:
        raise InputError("nothing to save: choose a shift first")
    check_output(out)
    scales, blocks = merge_options(parts)
    paths = [part.path for part in parts]
    merged = merge(paths, "add", scales=scales, blocks=blocks)
    precision = kept_precision((read_shift_header(path).precision for path in paths), None)
    write_shift(merged.shift, out, dtype=precision)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(f"scale: expected a number, got {text!r}") from error
    if not math.isfinite(value) or abs(value) > 100:
        raise InputError(f"scale: expected a number from -100 to 100, got {text!r}")
    return value
