"""Draws docs/pictures/what-a-shift-is.svg: a layer's weight, and the two ways in which a shift changes it.

python docs/scripts/what_a_shift_is.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from spectra.plots import style

PICTURE = Path(__file__).parents[1] / "pictures" / "what-a-shift-is.svg"
ROWS, COLUMNS = 8, 12


def draw() -> Figure:
    """Two rows: strengths of directions that change, and a new pattern that is added."""
    rng = np.random.default_rng(4)
    u, _ = np.linalg.qr(rng.standard_normal((ROWS, ROWS)))
    v, _ = np.linalg.qr(rng.standard_normal((COLUMNS, COLUMNS)))
    v = v[:ROWS]
    sigma = np.array([3.2, 2.4, 1.9, 1.5, 1.1, 0.8, 0.6, 0.4])
    delta = np.array([0.5, -0.6, 0.0, 0.7, -0.3, 0.4, 0.0, -0.2])
    weight = u * sigma @ v
    column, values = rng.standard_normal(ROWS), rng.standard_normal(COLUMNS)
    term = 0.55 * np.outer(column, values)

    figure = Figure(figsize=(10, 6.4), layout="constrained")
    rows = figure.subfigures(2, 1, hspace=0.06)
    titles = ("1. Directions that the layer has, stronger or weaker", "2. A new pattern, added")
    for row, title in zip(rows, titles, strict=True):
        row.suptitle(title, x=0.01, ha="left", fontsize=14, fontweight="bold")
    bars = _row(rows[0], weight, u * (sigma + delta) @ v)
    _bars(bars, sigma, delta)
    bars.set_title("the shift: one number for each", fontsize=12)
    outer = _row(rows[1], weight, weight + term)
    _outer(outer, column, values, term)
    outer.set_title("the shift: one column times one row", fontsize=12)
    return figure


def _row(figure: Any, weight: np.ndarray, changed: np.ndarray) -> Any:
    """The base's layer, a place for what is added, and the layer with it; returns that place."""
    axes = figure.subplots(1, 5, width_ratios=(1, 0.07, 1.1, 0.07, 1))
    _table(axes[0], weight, "a layer of the base")
    _table(axes[4], changed, "the layer with the shift")
    for place, text in ((1, "+"), (3, "=")):
        axes[place].set_axis_off()
        axes[place].text(0.5, 0.5, text, fontsize=26, ha="center", va="center", transform=axes[place].transAxes)
    return axes[2]


def _bars(axis: Any, sigma: np.ndarray, delta: np.ndarray) -> None:
    axis.bar(range(ROWS), np.minimum(sigma, sigma + delta), color=style.PALE)
    axis.bar(range(ROWS), np.maximum(delta, 0), bottom=sigma, color=style.UP)
    less = np.flatnonzero(delta < 0)
    axis.bar(less, delta[less], bottom=sigma[less], facecolor="none", edgecolor=style.DOWN, hatch="////")
    axis.set_xlabel("strength of each direction: blue is added, hatched taken away", fontsize=10)
    axis.set_yticks([])
    axis.set_xticks([])


def _table(axis: Any, values: np.ndarray, title: str) -> None:
    axis.imshow(values, cmap="RdBu", vmin=-3, vmax=3)
    axis.set_title(title, fontsize=12)
    axis.set_axis_off()


def _outer(axis: Any, column: np.ndarray, row: np.ndarray, term: np.ndarray) -> None:
    whole = np.full((ROWS + 2, COLUMNS + 2), np.nan)
    whole[2:, 0], whole[0, 2:], whole[2:, 2:] = 1.5 * column, 1.5 * row, term
    _table(axis, whole, "")


if __name__ == "__main__":
    style.write(draw, PICTURE, force=True)
