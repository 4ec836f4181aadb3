"""A result as a report: Markdown with the table, the goals and where it was measured, and its plots in one SVG file."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.benchmarks import machine
from spectra.benchmarks.case import Case, number, text
from spectra.io.atomic_writes import atomic_write, check_output
from spectra.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check(path: Path, *, force: bool) -> None:
    """Whether the report can be written, to be asked before slow work begins.

    Raises:
        OutputError: a file exists and `force` is not given, or cannot be written.
    """
    for file in (path, _plots(path)):
        check_output(file, force=force)


def write(case: Case, record: Mapping[str, Any], path: Path, *, force: bool = False) -> list[Path]:
    """Writes `path`, and the plots beside it if the case has any. Returns what was written.

    Raises:
        OutputError: a file exists and `force` is not given, or cannot be written.
    """
    written = [path]
    if drawn := bool(case.plots or case.draw):
        style.write(lambda: draw(case, record), _plots(path), force=force)
        written.append(_plots(path))
    with atomic_write(path, force=force) as temporary:
        temporary.write_text(markdown(case, record, _plots(path).name if drawn else ""), encoding="utf-8")
    return written


def _plots(path: Path) -> Path:
    return path.with_suffix(".svg")


def markdown(case: Case, record: Mapping[str, Any], plots: str = "") -> str:
    """The report's text.

    Args:
        plots: name of the file that holds them, empty for none.
    """
    rows = case.table(record[case.rows])
    parts = [f"# {case.title}", _explanation(case)]
    heads = [column.title for column in case.columns]
    marks = ["---:" if column.right(rows) else ":---" for column in case.columns]
    lines = [[column.text(row, ends=True) for column in case.columns] for row in rows]
    parts.append("\n".join("| " + " | ".join(cells) + " |" for cells in [heads, marks, *lines]))
    if plots:
        parts.append(f"![{', '.join(c.title for c in case.columns if c.key in case.plots) or case.title}]({plots})")
    if record["summary"]:
        parts.append("\n".join(f"- {figure}: {text(value)}" for figure, value in record["summary"].items()))
    if record["goals"]:
        verdicts = {True: "met", False: "missed", None: "not measured"}
        goals = [f"- {g['figure']} {g['asked']}: {text(g['measured'])}, {verdicts[g['met']]}" for g in record["goals"]]
        parts.append("\n".join(goals))
    if record["failures"]:
        parts.append("\n".join(f"- failed: {failure['item']}: {failure['error']}" for failure in record["failures"]))
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    parts.append(
        f"`{record['command']}`, {record['when']}, {record['seconds']} s. {machine.where(record)}. {versions}."
    )
    return "\n\n".join(parts) + "\n"


def _explanation(case: Case) -> str:
    """What the case's module says of itself; what is indented there is a block of code here."""
    return inspect.cleandoc(sys.modules[case.measure.__module__].__doc__ or "")


def draw(case: Case, record: Mapping[str, Any]) -> Figure:
    """What the case draws; by default a panel for each column of `case.plots`, with a bar for each row that has it."""
    rows = case.table(record[case.rows])
    if case.draw:
        return case.draw(rows)
    columns = [column for column in case.columns if column.key in case.plots]
    figure = style.new_figure(3.4 * len(columns), 2.4)
    for axes, column in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
        known = [row for row in rows if number(row.get(column.key)) is not None]
        values = [(number(row[column.key]) or 0.0) / column.unit for row in known]
        bars = axes.barh([row[case.key] for row in known], values)
        axes.bar_label(bars, [column.text(row) for row in known], padding=3)
        for bar, row in zip(bars, known, strict=True):
            bar.set_color(style.UP if row[case.key] == "shift" else style.PALE)
        axes.set_title(column.title)
        axes.set_xlim(0, 1.25 * max(values, default=1))
        axes.set_xticks([])
        axes.invert_yaxis()
        axes.spines["bottom"].set_visible(False)
    return figure
