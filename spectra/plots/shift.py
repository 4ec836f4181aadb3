"""A picture of one shift: where it acts, and what it does to the singular values of the weights that it moves most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from spectra.analysis.diffing import singular_value_changes
from spectra.naming.blocks import kind_of
from spectra.plots.blocks import draw_energy, height, kinds, row_labels
from spectra.plots.style import DOWN, INK, PALE, UP, new_figure
from spectra.shift.shift import SpectralShift
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


def draw_shift(shift: SpectralShift, sigmas: Sigmas, title: str) -> Figure:
    """The energy `||Delta W||^2` by block and kind of layer, beside the spectra of a few weights.

    Args:
        sigmas: the base's singular values, as far as they are known (`spectra.shift.singular_values.read_sigmas`).
    """
    moved = singular_value_changes(shift, sigmas)
    squares = {name: float(np.square(change).sum()) for name, change in moved.items()}
    figure = new_figure(10, max(height(len(set(row_labels(squares).values()))), 4.8))
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(1, 1.1))[0]
    axes = left.subplots()
    draw_energy(axes, squares, "Where it acts: share of ‖ΔW‖²")
    left.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    _draw_spectra(right, moved, {name: sigma for name, sigma in sigmas.items() if name in moved})
    return figure


def most_moved(moved: Mapping[str, Vector], sigmas: Sigmas, count: int = _PANELS) -> list[str]:
    """The weight that moves most for its size, `||Delta W|| / ||W||`, in each of the kinds of layer with most energy.

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


def _draw_spectra(figure: SubFigure, moved: Mapping[str, Vector], sigmas: Sigmas) -> None:
    from matplotlib.patches import Patch

    chosen = most_moved(moved, sigmas)
    figure.suptitle(
        "Singular values of the weights that move most for their size"
        if sigmas
        else "δ of the weights that move most; σ is not in the cache",
        x=0.02,
        ha="left",
        fontsize=10,
    )
    panels = figure.subplots(len(chosen), 1, squeeze=False)[:, 0]
    for axes, name in zip(panels, chosen, strict=True):
        _draw_spectrum(axes, name, moved[name], sigmas.get(name))
    panels[-1].set_xlabel("direction, the largest singular value first" if sigmas else "direction")
    patches = [Patch(color=colour, label=label) for colour, label in ((UP, "raised by the shift"), (DOWN, "lowered"))]
    base = [Patch(facecolor=PALE, edgecolor=INK, lw=0.8, label="σ of the base")] if sigmas else []
    figure.legend(handles=base + patches, loc="outside lower center", ncols=3, fontsize="small")


def _draw_spectrum(axes: Axes, name: str, change: Vector, sigma: Vector | None) -> None:
    width = -(-change.size // _BARS)
    starts = np.arange(0, change.size, width)
    edges = np.append(starts, change.size) + 0.5
    base = np.zeros(starts.size) if sigma is None else sigma[starts]
    axes.stairs(base, edges, fill=True, color=PALE)
    axes.stairs(base + np.maximum.reduceat(change, starts).clip(min=0), edges, baseline=base, fill=True, color=UP)
    axes.stairs(base + np.minimum.reduceat(change, starts).clip(max=0), edges, baseline=base, fill=True, color=DOWN)
    axes.stairs(base, edges, color=INK, lw=0.8)
    axes.set_title(name, fontsize="small", loc="left")
    axes.set_xlim(edges[0], edges[-1])
    axes.margins(y=0.08)
    if sigma is None:
        return
    axes.set_title(f"‖ΔW‖/‖W‖ = {_relative(change, sigma):.2g}", fontsize="small", loc="right", color="0.4")
    usual = sigma[sigma.size // 20]
    if sigma[0] <= _TOWERING * usual or not usual:
        axes.set_ylim(bottom=0)
        return
    top = 1.5 * usual
    axes.set_ylim(0, top)
    beside = edges[np.argmax(base < 0.75 * top)]
    axes.annotate(f"σ₁ = {sigma[0]:.3g}", (beside, top), (2, -1), textcoords="offset points", va="top", size="small")
