"""Plots of two shifts side by side, written where the page finds them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from spectra.analysis.diffing import Difference, by_weight, check_comparable, compare
from spectra.analysis.library import LibraryEntry
from spectra.analysis.weight_changes import known_sigmas, weight_changes
from spectra.errors import MismatchError
from spectra.plots import style
from spectra.plots.comparison import draw_difference
from spectra.plots.shift import draw_shift
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift
from spectra.studio.workspace import Workspace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ONE_AT_A_TIME = threading.Lock()
"""matplotlib's settings are those of the process."""


@dataclass(frozen=True)
class Plots:
    """Two shifts side by side.

    Attributes:
        each: a picture of where either acts, and of the singular values that it moves.
        difference: where they differ; None where they cannot be compared.
        total: the figures of that.
        exact: the figures are those of the changed weights, not of what the spectrum cache lacks.
        error: why they cannot be compared.
    """

    each: tuple[Path, Path]
    difference: Path | None = None
    total: Difference | None = None
    exact: bool = True
    error: str = ""


def plot_pair(workspace: Workspace, first: LibraryEntry, second: LibraryEntry) -> Plots:
    """Draw the plots of two shifts.

    Raises:
        ShiftFileError: a file that cannot be read.
    """
    entries = (first, second)
    names = [workspace.name_of(entry.path) for entry in entries]
    shifts = [read_shift(entry.path) for entry in entries]
    folder = workspace.hidden / "plots"
    with _ONE_AT_A_TIME:
        alone = []
        for name, entry, shift in zip(names, entries, shifts, strict=True):
            path = folder / f"{_key(entry)}.png"
            title = style.one_line(f"{name}: {shift.floats:,} floats")
            style.write(partial(_draw_one, shift, title), path, force=True)
            alone.append(path)
        pair = (alone[0], alone[1])
        try:
            check_comparable(dict(zip(names, shifts, strict=True)))
        except MismatchError as error:
            return Plots(pair, error=str(error))
        changes, unknown = weight_changes(shifts)
        every, total = by_weight(*changes), compare(*changes)
        path = folder / f"{_key(*entries)}.png"
        style.write(lambda: draw_difference(every, total, style.one_line(" and ".join(names))), path, force=True)
    return Plots(pair, path, total, not unknown)


def _draw_one(shift: SpectralShift, title: str) -> Figure:
    (changes,), _ = weight_changes([shift])
    return draw_shift(changes, known_sigmas(shift), title)


def difference_facts(total: Difference, names: Sequence[str]) -> list[tuple[str, str]]:
    """The figures of a difference, in words."""

    def shown(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    return [
        (f"length of {names[0]}", f"{total.first:.4g}"),
        (f"length of {names[1]}", f"{total.second:.4g}"),
        ("distance", f"{total.distance:.4g}"),
        ("cosine", shown(total.cosine)),
        ("mean cosine of weights", shown(total.mean_cosine)),
        ("opposed signs", f"{total.opposed:,} of {total.moved:,}" if total.moved else ""),
    ]


def _key(*entries: LibraryEntry) -> str:
    return "-".join("".join(filter(str.isalnum, entry.content_hash))[:32] or "unnamed" for entry in entries)
