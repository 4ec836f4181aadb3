"""Blocks as the rows of a picture: the network from its input above to its output below."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spectra.naming.blocks import KINDS, block_of, grouped, kind_of
from spectra.naming.target_subsets import component_of
from spectra.plots.style import INK, KIND_COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 26
"""Most rows that a picture has room for; of longer series neighbours share a row."""
_DOT_SIZES = {"o": 14, "D": 16, "*": 80}
"""Sizes of markers, in points squared, so that they look equally large."""


def row_labels(names: Iterable[str]) -> dict[str, str]:
    """The label of the row that each weight belongs to, by weight name, in the order of the rows."""
    blocks = grouped(names, block_of)
    main = Counter(map(component_of, blocks)).most_common(1)[0][0]
    width = math.ceil(len(blocks) / _MOST)
    labels: dict[str, str] = {}
    for series, members in itertools.groupby(blocks, key=_series):
        some, step = list(members), width if series else 1
        for start in range(0, len(some), step):
            shared = some[start : start + step]
            labels |= {name: _label(shared, main) for block in shared for name in blocks[block]}
    return labels


def _series(name: str) -> str:
    head, _, last = name.rpartition(".")
    return head if last.isdigit() else ""


def _label(blocks: list[str], main: str) -> str:
    """`down_blocks.0` of the main component, `text_encoder: layers.3-5`, or `unet: the rest` outside of blocks."""
    component, *path = blocks[0].split(".")
    if not path:
        return f"{component}: the rest"
    label = ".".join(path[-2:]) if path[-1].isdigit() else path[-1]
    if len(blocks) > 1:
        label += f"-{blocks[-1].rpartition('.')[2]}"
    return label if component == main else f"{component}: {label}"


def weight_label(name: str, most: int = 40) -> str:
    """A weight's name, or of a longer one its block and its end: `unet.up_blocks.1 … attn2.to_out.0`."""
    end = name.split(".")[-3 if name[-1].isdigit() else -2 :]
    return name if len(name) <= most else f"{block_of(name)} … {'.'.join(end)}"


def draw_energy(axes: Axes, squares: Mapping[str, float], title: str) -> None:
    """Draw a bar for each row, made of the kinds of layer: each as long as its share of the sum.

    Args:
        squares: the squared norm of what is drawn of each weight, by name.
    """
    place = row_labels(squares)
    labels = list(dict.fromkeys(place.values()))
    present = kinds(name for name, square in squares.items() if square) or kinds(squares)
    whole = sum(squares.values()) or 1.0
    shares = {(label, kind): 0.0 for label in labels for kind in present}
    for name, square in squares.items():
        if square:
            shares[place[name], kind_of(name)] += 100 * square / whole
    ends = np.zeros(len(labels))
    for kind in present:
        lengths = np.array([shares[label, kind] for label in labels])
        axes.barh(labels, lengths, left=ends, height=0.72, color=KIND_COLOURS[kind], label=kind)
        ends += lengths
    for row, end in enumerate(ends):
        axes.text(end, row, f" {end:.1f} %", va="center", color="0.3", fontsize="small")
    axes.set(title=title, xlim=(0, 1.14 * max(ends.max(), 1e-9)), xticks=[], ylim=(len(labels) - 0.4, -0.6))
    axes.tick_params(left=False)
    axes.spines[["left", "bottom"]].set_visible(False)


def draw_dots(axes: Axes, values: Mapping[str, float], place: Mapping[str, str], marker: str = "o") -> None:
    """Draw a dot for each weight in the row of its block, coloured by its kind of layer.

    Args:
        axes: shares its rows with those of `draw_energy`.
        values: where each dot lies, by weight name.
        place: the row's label of every weight (`row_labels`).
        marker: the dots' shape.
    """
    levels = {label: i for i, label in enumerate(dict.fromkeys(place.values()))}
    # Dots of one row are spread over its height, in the order of their names.
    heights = [levels[place[name]] + 0.3 * np.sin(2.4 * i) for i, name in enumerate(values)]
    colours = [KIND_COLOURS[kind_of(name)] for name in values]
    looks: dict[str, Any] = {"s": _DOT_SIZES[marker], "marker": marker, "edgecolor": INK, "lw": 0.2, "zorder": 2}
    axes.scatter(list(values.values()), heights, color=colours, **looks)


def draw_stripes(axes: Axes, place: Mapping[str, str]) -> None:
    """Draw every other row's background, for dots far from their label, and leave the labels out."""
    for row in range(0, len(set(place.values())), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="0.96", lw=0, zorder=-1)
    axes.tick_params(left=False, labelleft=False)
    axes.spines["left"].set_visible(False)


def kinds(names: Iterable[str]) -> list[str]:
    """The kinds of layer that these weights belong to, always in the same order."""
    present = {kind_of(name) for name in names}
    return [kind for kind in (*dict(KINDS), "other") if kind in present]


def height(count: int) -> float:
    """Height in inches of a picture with so many rows, a title and a legend."""
    return 1.3 + 0.27 * count
