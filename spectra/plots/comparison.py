"""Pictures that compare shifts: a heat map of how alike several are; where two differ, weight by weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from spectra.analysis.diffing import Correlation, Difference
from spectra.errors import InputError
from spectra.plots.blocks import draw_dots, draw_energy, draw_stripes, height, row_labels
from spectra.plots.style import INK, new_figure, short_name
from spectra.shift.sums import Vector

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 60
"""Most shifts whose names are still readable."""
_NUMBERED = 14
"""Most shifts for which each field has its number in it."""


def check_count(count: int) -> None:
    """Refuse a number of shifts for which a heat map has no room, or fewer than two, before they are read."""
    if not 2 <= count <= MOST:
        raise InputError(
            f"a heat map shows 2 to {MOST} shifts, these are {count}; choose some (--find, --prompt, --base, --subset)"
        )


def draw_correlation(correlation: Correlation, labels: Sequence[str]) -> Figure:
    """The mean cosine of each shift with each (SVDiff, Figure 9a), from blue (opposed) over white to red (alike).

    Args:
        labels: a name for each shift, at most `MOST`.
    """
    side = min(10.0, 3.6 + 0.42 * len(labels))
    figure = new_figure(side + 0.9, side)
    axes = figure.subplots()
    axes.set_title(f"How alike {len(labels)} shifts are", fontweight="bold", fontsize=11)
    draw_cosines(axes, correlation.mean_cosine, labels)
    return figure


def draw_cosines(axes: Axes, cosines: Vector, labels: Sequence[str]) -> None:
    """Draw the heat map of cosines `[n, n]` with its colour bar."""
    count, labels = len(labels), [short_name(label) for label in labels]
    cosines = np.where(np.eye(count, dtype=bool), np.nan, cosines)
    image = axes.imshow(cosines, cmap="RdBu_r", vmin=-1, vmax=1)
    size = "medium" if count <= 24 else "x-small"
    axes.set_xticks(range(count), labels, rotation=40, ha="right", rotation_mode="anchor", fontsize=size)
    axes.set_yticks(range(count), labels, fontsize=size)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_facecolor("0.93")
    if count <= _NUMBERED:
        found = np.abs(cosines[np.isfinite(cosines)])
        digits = 2 if found.size == 0 or found.max() > 0.08 else 3
        for (i, j), cosine in np.ndenumerate(cosines):
            if np.isfinite(cosine):
                colour = "white" if abs(cosine) > 0.6 else "0.2"
                number = f"{round(cosine, digits) + 0.0:.{digits}f}"
                axes.text(j, i, number, ha="center", va="center", color=colour, size="small")
    axes.set_xticks(np.arange(1, count) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, count) - 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=1.5 if count <= 24 else 0.5)
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.75, aspect=24, pad=0.02)
    bar.set_label("mean cosine over weights")
    bar.outline.set_visible(False)


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
    _draw_weight_cosines(right, every, total, place)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize="small")
    return figure


def _draw_weight_cosines(axes: Axes, every: Sequence[Difference], total: Difference, place: dict[str, str]) -> None:
    known = {part.name: part.cosine for part in every if part.cosine is not None}
    axes.axvline(0, color="0.6", lw=0.8)
    if total.mean_cosine is not None:
        axes.axvline(total.mean_cosine, color=INK, lw=1.0, ls="--")
    draw_stripes(axes, place)
    draw_dots(axes, known, place)
    widest = 1.1 * max(map(abs, known.values()), default=0.0) or 1.0
    mean = "" if total.mean_cosine is None else f" (mean {total.mean_cosine:.3f})"
    axes.set(title=f"How alike they are: cosine, weight by weight{mean}", xlim=(-widest, widest))
