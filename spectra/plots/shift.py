"""A picture of one shift: where it acts, what it is made of, and the singular values that it moves most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from spectra.analysis.weight_changes import Changes
from spectra.naming.blocks import kind_of
from spectra.plots.blocks import draw_dots, draw_energy, draw_stripes, height, kinds, row_labels, weight_label
from spectra.plots.style import DOWN, INK, PALE, UP, new_figure
from spectra.shift.singular_values import Sigmas
from spectra.shift.sums import Vector

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_PANELS = 4
_BARS = 160
"""Most bars in a panel; of more directions neighbours share one, which shows how far the farthest goes."""
_TOWERING = 3.0
"""Singular values above this multiple of their 95th percentile are cut off at the top of a panel."""
_ENERGY = "Where it acts: share of ‖ΔW‖²"
_PART_MARKERS = {"delta": ("o", "delta"), "outer": ("D", "outer terms"), "word": ("*", "word")}
"""How a dot of each part of `PARTS` looks, and what it is called."""
_PANEL_HEIGHT = 1.5
"""Inches of a panel below the rows of blocks."""


def draw_shift(changes: Changes, sigmas: Sigmas, title: str) -> Figure:
    """The energy `||Delta W||^2` by block and kind of layer, and the spectra of a few weights that delta moves.

    A shift with outer terms or a word shows the norm of each part in each weight, too.

    Args:
        changes: what the shift adds to each weight.
        sigmas: the base's singular values, as far as they are known (`weight_changes.known_sigmas`).
        title: of the picture.
    """
    squares = {name: change.norm() ** 2 for name, change in changes.items()}
    moved = {name: change.d for name, change in changes.items() if change.d.any()}
    chosen = most_moved(moved, {name: sigma for name, sigma in sigmas.items() if name in moved})
    shown = {name: moved[name] for name in chosen}
    rows = max(height(len(set(row_labels(squares).values()))), 4.8)
    if any(change.terms or change.word for change in changes.values()):
        spectra = _PANEL_HEIGHT * -(-len(shown) // 2) + 0.9
        figure = new_figure(10, rows + spectra if shown else rows)
        above, below = figure, None
        if shown:
            above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=(rows, spectra))[:, 0]
        left, right = above.subplots(1, 2, sharey=True)
        draw_energy(left, squares, _ENERGY)
        _draw_parts(right, changes)
        above.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize="small")
        if below:
            _draw_spectra(below, shown, sigmas, columns=2)
    else:
        figure = new_figure(10, rows)
        above, below = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 1.1))[0]
        left = above.subplots()
        draw_energy(left, squares, _ENERGY)
        above.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
        if shown:
            _draw_spectra(below, shown, sigmas, columns=1)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def _draw_parts(axes: Axes, changes: Changes) -> None:
    """The norm of each part in each weight."""
    from matplotlib.lines import Line2D
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    place = row_labels(changes)
    draw_stripes(axes, place)
    shown = []
    for part, (marker, label) in _PART_MARKERS.items():
        norms = {name: change.only(part).norm() for name, change in changes.items()}
        if any(norms.values()):
            draw_dots(axes, {name: norm for name, norm in norms.items() if norm}, place, marker)
            shown.append(Line2D([], [], marker=marker, ls="", color="0.4", label=label))
    axes.set(title="What it is made of: norms, weight by weight", xscale="log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axes.legend(handles=shown, loc="best", fontsize="small")


def most_moved(moved: Mapping[str, Vector], sigmas: Sigmas, count: int = _PANELS) -> list[str]:
    """The weight whose singular values move most for their size, in each of the kinds of layer with most energy.

    That is `||d|| / ||sigma||`.

    Args:
        moved: the change of each singular value, by weight name.
        sigmas: singular values of the weights to choose from; if empty, all of `moved`, as if equally large.
        count: of kinds, if there are so many.
    """
    names = list(sigmas or moved)
    energy = {kind: sum(_length(moved[name]) ** 2 for name in names if kind_of(name) == kind) for kind in kinds(names)}
    by_ratio = sorted(names, key=lambda name: _relative(moved[name], sigmas.get(name, np.ones(1))))
    best = {kind_of(name): name for name in by_ratio}
    return [best[kind] for kind in sorted(energy, key=lambda kind: -energy[kind])[:count]]


def _length(values: Vector) -> float:
    return float(np.linalg.norm(values))


def _relative(change: Vector, sigma: Vector) -> float:
    return _length(change) / (_length(sigma) or 1.0)


def _draw_spectra(figure: SubFigure, moved: Mapping[str, Vector], sigmas: Sigmas, columns: int) -> None:
    """A panel for each weight, in so many columns."""
    from matplotlib.patches import Patch

    known = [name for name in moved if name in sigmas]
    figure.suptitle(
        "Singular values of the weights that move most for their size"
        if known
        else "δ of the weights that move most; σ is not in the cache",
        x=0.02,
        ha="left",
        fontsize=10,
    )
    panels = figure.subplots(-(-len(moved) // columns), columns, squeeze=False)
    for axes in panels.flat[len(moved) :]:
        axes.remove()
    for axes, name in zip(panels.flat, moved, strict=False):
        _draw_spectrum(axes, name, moved[name], sigmas.get(name))
    for axes in panels[-1, : len(moved)]:
        axes.set_xlabel("direction, the largest singular value first" if known else "direction")
    patches = [Patch(color=colour, label=label) for colour, label in ((UP, "raised by the shift"), (DOWN, "lowered"))]
    base = [Patch(facecolor=PALE, edgecolor=INK, lw=0.8, label="σ of the base")] if known else []
    figure.legend(handles=base + patches, loc="outside lower center", ncols=3, fontsize="small")


def _draw_spectrum(axes: Axes, name: str, change: Vector, sigma: Vector | None) -> None:
    """The directions of one weight: those whose singular value is known, else those up to the last that is moved."""
    from matplotlib.ticker import MaxNLocator

    every = change.size
    change = change[: int(np.flatnonzero(change)[-1]) + 1 if sigma is None else sigma.size]
    width = -(-change.size // _BARS)
    starts = np.arange(0, change.size, width)
    edges = np.append(starts, change.size) + 0.5
    base = np.zeros(starts.size) if sigma is None else sigma[starts]
    axes.stairs(base, edges, fill=True, color=PALE)
    axes.stairs(base + np.maximum.reduceat(change, starts).clip(min=0), edges, baseline=base, fill=True, color=UP)
    axes.stairs(base + np.minimum.reduceat(change, starts).clip(max=0), edges, baseline=base, fill=True, color=DOWN)
    axes.stairs(base, edges, color=INK, lw=0.8)
    axes.set_title(weight_label(name), fontsize="small", loc="left")
    axes.set_xlim(edges[0], edges[-1])
    axes.margins(y=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    about = [f"first {change.size:,} of {every:,}"] if change.size < every else []
    if sigma is not None:
        about.append(f"‖δ‖/‖σ‖ = {_relative(change, sigma):.2g}")
    axes.set_title(", ".join(about), fontsize="small", loc="right", color="0.4")
    if sigma is None:
        return
    usual = sigma[sigma.size // 20]
    if sigma[0] <= _TOWERING * usual or not usual:
        axes.set_ylim(bottom=0)
        return
    top = 1.5 * usual
    axes.set_ylim(0, top)
    beside = edges[np.argmax(base < 0.75 * top)]
    axes.annotate(f"σ₁ = {sigma[0]:.3g}", (beside, top), (2, -1), textcoords="offset points", va="top", size="small")
