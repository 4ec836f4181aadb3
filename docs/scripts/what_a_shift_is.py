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
    column, row = rng.standard_normal(ROWS), rng.standard_normal(COLUMNS)
    term = 0.55 * np.outer(column, row)

    figure = Figure(figsize=(9.6, 5.2), layout="constrained")
    axes = figure.subplots(2, 3, width_ratios=(1, 1.15, 1))
    _table(axes[0, 0], weight, "a layer of the base")
    bars = axes[0, 1]
    bars.bar(range(ROWS), sigma, color="0.8")
    bars.bar(range(ROWS), delta, bottom=sigma, color=["C0" if each > 0 else "C1" for each in delta])
    bars.set_title("the shift: a little more or less\nof directions that are there", fontsize=10)
    bars.set_xlabel("directions of the layer (blue: stronger, orange: weaker)", fontsize=9)
    bars.set_yticks([])
    bars.set_xticks([])
    _table(axes[0, 2], u * (sigma + delta) @ v, "the layer with the shift")
    _table(axes[1, 0], weight, "a layer of the base")
    _outer(axes[1, 1], column, row, term)
    _table(axes[1, 2], weight + term, "the layer with the shift")
    return figure


def _table(axis: Any, values: np.ndarray, title: str) -> None:
    axis.imshow(values, cmap="RdBu", vmin=-3, vmax=3)
    axis.set_title(title, fontsize=10)
    axis.set_axis_off()


def _outer(axis: Any, column: np.ndarray, row: np.ndarray, term: np.ndarray) -> None:
    whole = np.full((ROWS + 2, COLUMNS + 2), np.nan)
    whole[2:, 0], whole[0, 2:], whole[2:, 2:] = 1.5 * column, 1.5 * row, term
    _table(axis, whole, "the shift: a new pattern, stored\nas one column and one row (an outer term)")


if __name__ == "__main__":
    style.write(draw, PICTURE, force=True)
