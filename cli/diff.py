"""`spectra diff`: how far shifts of one base are from each other, and where. Needs neither torch nor the base."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import typer

from spectra.cli import output
from spectra.cli.options import argument, command, force_option, json_option, layers_option, plot_option
from spectra.cli.tables import NAME_WIDTH, cosine, facts, percent, short_names, spaced, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

    from spectra.analysis.diffing import Changes, Difference
    from spectra.shift.shift import SpectralShift

_MOST = 5
"""Weights shown of those that moved most."""

_Views: TypeAlias = "tuple[Callable[[int], list[Table]], Callable[[], Figure]]"
"""What was found, as tables for a terminal of so many columns, and as a picture."""


@dataclass(frozen=True)
class _Options:
    files: tuple[Path, ...] = argument("Shift files of one base.", "A B [C...]")
    layers: bool = layers_option("List every weight of two files.")
    plot: Path | None = plot_option()
    force: bool = force_option("an earlier plot")
    json: bool = json_option(", every weight in it")


@command(
    _Options,
    "spectra diff fox.safetensors wolf.safetensors --plot diff.png",
    "spectra diff shifts/*.safetensors --json",
)
def diff(options: _Options) -> None:
    """Compares shifts: the distance of the weights they make, cosines, signs, and what moved apart most.

    A weight that a file does not hold counts as unchanged. Of several files, each is compared with each.
    """
    if len(options.files) < 2:
        raise typer.BadParameter("expected at least two files", param_hint="A B [C...]")
    if options.layers and len(options.files) > 2:
        raise typer.BadParameter("lists the weights of two files, not of several", param_hint="--layers")
    from spectra.analysis.diffing import read_changes
    from spectra.plots import correlation, style

    if options.plot is not None:
        style.check(options.plot, force=options.force)
        if len(options.files) > 2:
            correlation.check_count(len(options.files))
    shifts, changes, unknown = read_changes(options.files)
    found: dict[str, Any] = {
        "files": [_file(file, shift) for file, shift in zip(options.files, shifts, strict=True)],
        "exact": not unknown,
        "unknown_sigmas": len(unknown),
    }
    compare = _compare_two if len(options.files) == 2 else _compare_several
    tables, draw = compare(found, changes, layers=options.layers)
    if options.plot is not None:
        style.write(draw, options.plot, force=options.force)
    output.result(found, json=options.json, human=lambda: spaced(tables(shutil.get_terminal_size().columns)))


def _file(file: Path, shift: SpectralShift) -> dict[str, Any]:
    sizes = {"file": str(file), "weights": len(shift), "floats": shift.floats}
    return sizes | output.values_of(shift.metadata, "base", "subset", "content_hash")


def _compare_two(found: dict[str, Any], changes: Sequence[Changes], *, layers: bool) -> _Views:
    from spectra.analysis import diffing
    from spectra.naming.blocks import block_of, kind_of

    every = diffing.by_weight(*changes)
    total = diffing.total(every)
    blocks, kinds = diffing.by_group(every, block_of), diffing.by_group(every, kind_of)
    found |= {
        "total": asdict(total),
        "blocks": [asdict(part) for part in blocks],
        "kinds": [asdict(part) for part in kinds],
        "layers": [asdict(part) for part in every],
    }

    def tables(width: int) -> list[Table]:
        furthest = sorted(every, key=lambda part: -part.distance)[:_MOST]
        weights = _table("weight", every) if layers else _table("furthest apart", furthest)
        return [_facts(found, total), _table("block", blocks), _table("kind", kinds), weights]

    def draw() -> Figure:
        from spectra.plots.difference import draw_difference
        from spectra.plots.style import short_name

        first, second = (short_name(name) for name in _labels(found))
        title = f"A: {first}, B: {second}   ‖A − B‖ = {total.distance:.3g}, ‖A‖ = {total.first:.3g}"
        return draw_difference(every, total, title)

    return tables, draw


def _facts(found: dict[str, Any], total: Difference) -> Table:
    relative = f", {total.distance / total.first:.3g} of ||A||" if total.first else ""
    opposed = f"{total.opposed:,} of {total.moved:,} coordinates that both change"
    return facts(
        [
            *((letter, _about(file)) for letter, file in zip("AB", found["files"], strict=True)),
            ("base", _bases(found)),
            ("||A||, ||B||", f"{total.first:.4g}, {total.second:.4g}"),
            ("||A - B||", f"{total.distance:.4g}{relative}"),
            ("cosine", f"{cosine(total.cosine)}; mean of the cosines of weights {cosine(total.mean_cosine)}"),
            ("opposed signs", opposed + (f" ({percent(total.opposed / total.moved)})" if total.moved else "")),
            _measure(found),
        ]
    )


def _about(file: dict[str, Any]) -> str:
    return f"{file['file']} ({file['subset'] + ', ' if file['subset'] else ''}{file['floats']:,} floats)"


def _bases(found: dict[str, Any]) -> str:
    return " or ".join(dict.fromkeys(file["base"] or "unnamed" for file in found["files"]))


def _measure(found: dict[str, Any]) -> tuple[str, str]:
    """What the lengths and distances are."""
    if found["exact"]:
        return "exact", "lengths and distances of Delta W, with what the ReLU clips"
    return "plain", (
        f"lengths and distances of delta: the singular values of {found['unknown_sigmas']:,} weights are not in the "
        "cache (spectra decompose BASE), so what the ReLU clips is not known; it can only shorten the distance"
    )


def _length(value: float) -> str:
    return f"{value:#.3g}".rstrip(".")


def _table(title: str, parts: Sequence[Difference]) -> Table:
    single = all(part.weights == 1 for part in parts)  # the mean of one cosine is no news
    rows = []
    for part in parts:
        lengths = (_length(value) for value in (part.first, part.second, part.distance))
        cosines = [cosine(part.cosine), *([] if single else [cosine(part.mean_cosine)])]
        opposed = percent(part.opposed / part.moved, 0) if part.moved else ""
        rows.append((part.name, *lengths, *cosines, opposed))
    headings = ["||A||", "||B||", "||A - B||", "cosine", *([] if single else ["mean"]), "opposed"]
    return table(title, headings, rows)


def _compare_several(found: dict[str, Any], changes: Sequence[Changes], *, layers: bool) -> _Views:
    from spectra.analysis.diffing import correlate

    correlation = correlate(changes)
    for key in ("mean_cosine", "cosine", "distance"):
        found[key] = [[None if math.isnan(value) else value for value in row] for row in getattr(correlation, key)]
    found["norms"] = correlation.norms.tolist()

    def draw() -> Figure:
        from spectra.plots.correlation import draw_correlation

        return draw_correlation(correlation, _labels(found))

    return lambda width: _tables(found, width), draw


def _labels(found: dict[str, Any]) -> list[str]:
    return short_names([Path(file["file"]) for file in found["files"]])


def _tables(found: dict[str, Any], width: int) -> list[Table]:
    """The matrix of cosines where it fits the terminal, else the pairs at its ends."""
    labels, cosines = _labels(found), found["mean_cosine"]
    numbers = range(len(labels))
    about = facts([("base", _bases(found)), _measure(found)])
    if NAME_WIDTH + 7 + 8 * len(labels) <= width:
        lengths = [_length(norm) for norm in found["norms"]]
        rows = [
            (f"{i + 1}  {labels[i]}", lengths[i], *("" if i == j else cosine(cosines[i][j]) for j in numbers))
            for i in numbers
        ]
        return [about, table("mean cosine of weights", ["||A||", *(str(i + 1) for i in numbers)], rows)]
    pairs = sorted(itertools.combinations(numbers, 2), key=lambda pair: cosines[pair[0]][pair[1]] or 0.0)
    tables = [about]
    for title, some in (("most alike", pairs[: -_MOST - 1 : -1]), ("least alike", pairs[:_MOST])):
        rows = [(f"{labels[i]}, {labels[j]}", cosine(cosines[i][j]), _length(found["distance"][i][j])) for i, j in some]
        tables.append(table(f"{title} of {len(pairs):,} pairs", ["mean cosine", "||A - B||"], rows))
    return [*tables, facts([("all of them", "--json, or --plot FILE")])]
