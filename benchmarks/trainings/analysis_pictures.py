"""Pictures of `spectra bench analysis`: the four panels of its report, and sheets of what was drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from spectra.plots.comparison import draw_cosines
from spectra.plots.style import INK, LINES, PALE, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

Rows: TypeAlias = Sequence[Mapping[str, Any]]

SHEETS = {"scale": ("scale",), "rank": ("sigma", "delta")}
"""Sheets of pictures, by the panels whose rows they show."""

_SAYS = {
    "scale": "{}: scale of the shift",
    "sigma": "{}: only the K largest singular values keep their shift",
    "delta": "{}: only the K largest shifts are kept",
}


def keep(folder: Path, item: str, subject: str, picture: Image) -> None:
    """Keeps a picture of a row, and brings the sheet that it belongs to up to date; nothing if it belongs to none."""
    from PIL import Image as Pillow

    from spectra.generation.contact_sheet import Section, contact_sheet
    from spectra.io.atomic_writes import atomic_write

    panel, _, value = item.partition(" ")
    name = next((name for name, panels in SHEETS.items() if panel in panels), "")
    if not name:
        return
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    with atomic_write(pictures / f"{subject} {panel} {value}.png", force=True) as temporary:
        picture.save(temporary, "PNG")
    sections = []
    for known in sorted({path.name.split()[0] for path in pictures.iterdir()}):
        for each in SHEETS[name]:
            found = {float(path.stem.split()[2]): path for path in pictures.glob(f"{known} {each} *.png")}
            values = sorted(found)
            drawn = [Pillow.open(found[value]).convert("RGB") for value in values]
            if drawn:
                sections.append(Section(_SAYS[each].format(known), drawn, [f"{value:g}" for value in values]))
    with atomic_write(folder / f"{name}.png", force=True) as temporary:
        # Few colours are enough for drawings, and make a third of the bytes.
        contact_sheet(sections).quantize(256).save(temporary, "PNG", optimize=True)


def draw_figure(rows: Rows) -> Figure:
    """Scale, rank, subsets and correlations, a panel each; those without rows are left out."""
    panels = (
        (_draw_scale, ("scale",)),
        (_draw_rank, ("sigma", "delta")),
        (_draw_subsets, ("subset", "trained")),
        (_draw_correlation, ("correlation",)),
    )
    measured = {row["panel"] for row in rows}
    wanted = [(draw, names) for draw, names in panels if measured & set(names)]
    high, wide = max(1, (len(wanted) + 1) // 2), max(1, min(2, len(wanted)))
    figure = new_figure(5 * wide, 4.2 * high)
    grid = list(figure.subplots(high, wide, squeeze=False).flat)
    for axes, (draw, names) in zip(grid, wanted, strict=False):
        draw(axes, [row for row in rows if row["panel"] in names], rows)
    for axes in grid[len(wanted) :]:
        axes.set_axis_off()
    return figure


def _value(row: Mapping[str, Any]) -> float:
    return float(row["item"].split()[1])


def _draw_scale(axes: Axes, rows: Rows, every: Rows) -> None:
    for figure, label, colour in zip(
        ("similarity", "class", "edit", "edit_similarity", "leak"),
        ("similarity to the subject", "class kept", "edit: asked colour comes", "edit: similarity", "leak"),
        LINES,
        strict=False,
    ):
        axes.plot([_value(row) for row in rows], [row[figure] for row in rows], "o-", color=colour, label=label, ms=3)
    axes.set_title("Scale of the shift")
    axes.set_xlabel("scale")
    axes.set_ylim(0, 1.5)  # room for the legend above shares
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.legend(fontsize="small", ncols=2, loc="upper center")


def _draw_rank(axes: Axes, rows: Rows, every: Rows) -> None:
    """Beside the whole shift and none, which are two of the scales."""
    labels = {"sigma": "those of largest σ", "delta": "those of largest |δ|"}
    figures = {"similarity": "-", "edit_similarity": "--"}
    for (panel, label), colour in zip(labels.items(), LINES, strict=False):
        own = [row for row in rows if row["panel"] == panel and _value(row) > 0]
        for figure, line in figures.items():
            points = [row[figure] for row in own]
            axes.plot([_value(row) for row in own], points, line, marker="o", ms=3, color=colour,
                      label=label if line == "-" else None)  # fmt: skip
    for item, label, colour in (("scale 1", "all", INK), ("scale 0", "base", PALE)):
        for row in (row for row in every if row["item"] == item):
            for figure, line in figures.items():
                axes.axhline(row[figure], color=colour, ls=line, lw=1, zorder=0, label=label if line == "-" else None)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_title("Directions of each weight that keep their shift")
    axes.set_xlabel("directions")
    axes.set_ylabel("similarity (dashed: of edits)")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")


def _draw_subsets(axes: Axes, rows: Rows, every: Rows) -> None:
    """Subsets, and the whole with few directions."""
    places = np.arange(len(rows))
    names = [
        f"{row['item'].split()[1]}, {row['bytes'] / 1e3:.0f} kB"
        if row["panel"] == "subset"
        else f"all, {row['item'].split()[1]} of each weight's directions"
        for row in rows
    ]
    for figure, label, shift, colour in (("similarity", "similarity", -0.2, LINES[0]), ("leak", "leak", 0.2, PALE)):
        axes.barh(places + shift, [row[figure] for row in rows], 0.38, color=colour, label=label)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_title("What is trained")
    axes.set_xlim(right=1.3 * max(max(row["similarity"], row["leak"]) for row in rows))
    axes.legend(fontsize="small", loc="lower right")


def _draw_correlation(axes: Axes, rows: Rows, every: Rows) -> None:
    (row,) = rows
    draw_cosines(axes, np.array(row["cosines"]), row["labels"])
    axes.set_title("Mean cosine over weights between shifts")
