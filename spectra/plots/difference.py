"""A picture of how two shifts differ: where, and how far they point the same way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from spectra.analysis.diffing import Difference
from spectra.naming.blocks import kind_of
from spectra.plots.blocks import draw_energy, height, row_labels
from spectra.plots.style import INK, KIND_COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_difference(every: Sequence[Difference], total: Difference, title: str) -> Figure:
    """The distance of the two Delta W, squared, by block and kind of layer, beside the cosine of each weight.

    Args:
        every: the difference of each weight (`spectra.analysis.diffing.by_weight`).
        total: the difference of all weights together.
    """
    place = row_labels(part.name for part in every)
    figure = new_figure(10, max(height(len(set(place.values()))), 4.0))
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    left, right = figure.subplots(1, 2, sharey=True)
    draw_energy(left, {part.name: part.distance**2 for part in every}, "Where they differ: share of ‖A − B‖²")
    _draw_cosines(right, every, total, place)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize="small")
    return figure


def _draw_cosines(axes: Axes, every: Sequence[Difference], total: Difference, place: dict[str, str]) -> None:
    known = {part.name: part.cosine for part in every if part.cosine is not None}
    levels = {label: i for i, label in enumerate(dict.fromkeys(place.values()))}
    axes.axvline(0, color="0.6", lw=0.8)
    if total.mean_cosine is not None:
        axes.axvline(total.mean_cosine, color=INK, lw=1.0, ls="--")
    for row in range(0, len(levels), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="0.96", lw=0, zorder=-1)
    # Dots of one row are spread over its height, in the order of their names.
    heights = [levels[place[name]] + 0.3 * np.sin(2.4 * i) for i, name in enumerate(known)]
    colours = [KIND_COLOURS[kind_of(name)] for name in known]
    axes.scatter(list(known.values()), heights, s=14, color=colours, edgecolor="white", lw=0.3, zorder=2)
    widest = 1.1 * max(map(abs, known.values()), default=0.0) or 1.0
    mean = "" if total.mean_cosine is None else f" (mean {total.mean_cosine:.3f})"
    axes.set(title=f"How alike they are: cosine, weight by weight{mean}", xlim=(-widest, widest))
    axes.tick_params(left=False, labelleft=False)
    axes.spines["left"].set_visible(False)
