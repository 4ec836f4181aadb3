"""`spectra diff`: how far shifts of one base are from each other, and where. Needs neither torch nor the base."""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from spectra.cli import output
from spectra.cli.exactness import exactness_line, unknown_as_dict
from spectra.cli.options import argument, command, force_option, json_option, layers_option, plot_option
from spectra.cli.tables import NAME_WIDTH, cosine, facts, length, percent, short_names, spaced, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

    from spectra.analysis.weight_changes import Changes
    from spectra.shift.shift import SpectralShift

_MOST = 5
"""Weights shown of those that moved most."""


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

    It is exact where the spectrum cache knows the base (spectra decompose BASE), and says where it is not.

    A weight that a file does not hold counts as unchanged. Of several files, each is compared with each.
    """
    if len(options.files) < 2:
        raise typer.BadParameter("expected at least two files", param_hint="A B [C...]")
    if options.layers and len(options.files) > 2:
        raise typer.BadParameter("lists the weights of two files, not of several", param_hint="--layers")
    from spectra.analysis.diffing import read_changes
    from spectra.plots import comparison, style

    if options.plot is not None:
        style.check(options.plot, force=options.force)
        if len(options.files) > 2:
            comparison.check_count(len(options.files))
    shifts, changes, unknown = read_changes(options.files)
    found: dict[str, Any] = {
        "files": [_file(file, shift) for file, shift in zip(options.files, shifts, strict=True)],
        **unknown_as_dict(unknown),
    }
    two = len(options.files) == 2
    draw = _compare_two(found, changes) if two else _compare_several(found, changes)
    if options.plot is not None:
        style.write(draw, options.plot, force=options.force)
    tables = _tables_of_two(found, options.layers) if two else _tables_of_several(found)
    output.result(found, json=options.json, human=lambda: spaced(tables))


def _file(file: Path, shift: SpectralShift) -> dict[str, Any]:
    sizes = {"file": str(file), "weights": len(shift), "floats": shift.floats}
    return sizes | output.values_of(shift.metadata, "base", "subset", "content_hash")


def _compare_two(found: dict[str, Any], changes: Sequence[Changes]) -> Callable[[], Figure]:
    """Adds the differences to what was found, and returns what draws them."""
    from spectra.analysis import diffing
    from spectra.naming.blocks import block_of, kind_of

    every = diffing.by_weight(*changes)
    total = diffing.total(every)
    parts = {
        "parts": diffing.by_part(*changes),
        "blocks": diffing.by_group(every, block_of),
        "kinds": diffing.by_group(every, kind_of),
        "layers": every,
    }
    found |= {"total": asdict(total)} | {key: [asdict(part) for part in some] for key, some in parts.items()}

    def draw() -> Figure:
        from spectra.plots.comparison import draw_difference
        from spectra.plots.style import short_name

        first, second = (short_name(name) for name in _labels(found))
        title = f"A: {first}, B: {second}   ‖A − B‖ = {total.distance:.3g}, ‖A‖ = {total.first:.3g}"
        return draw_difference(every, total, title)

    return draw


def _compare_several(found: dict[str, Any], changes: Sequence[Changes]) -> Callable[[], Figure]:
    """Adds the correlations to what was found, and returns what draws them."""
    from spectra.analysis.diffing import correlate

    correlation = correlate(changes)
    for key in ("mean_cosine", "cosine", "distance"):
        found[key] = [[None if math.isnan(value) else value for value in row] for row in getattr(correlation, key)]
    found["norms"] = correlation.norms.tolist()

    def draw() -> Figure:
        from spectra.plots.comparison import draw_correlation

        return draw_correlation(correlation, _labels(found))

    return draw


def _tables_of_two(found: dict[str, Any], every_layer: bool) -> Iterator[Table]:
    total = found["total"]
    relative = f", {total['distance'] / total['first']:.3g} of ||A||" if total["first"] else ""
    opposed = f"{total['opposed']:,} of {total['moved']:,} floats of delta that both change"
    opposed += f" ({percent(total['opposed'] / total['moved'])})" if total["moved"] else ""
    about = [
        (letter, f"{file['file']} ({file['subset'] + ', ' if file['subset'] else ''}{file['floats']:,} floats)")
        for letter, file in zip("AB", found["files"], strict=True)
    ]
    about += [
        ("base", _bases(found)),
        ("||A||, ||B||", f"{total['first']:.4g}, {total['second']:.4g}"),
        ("||A - B||", f"{total['distance']:.4g}{relative}"),
        ("cosine", f"{cosine(total['cosine'])}; mean of the cosines of weights {cosine(total['mean_cosine'])}"),
        ("opposed signs", opposed),
        exactness_line(found, "lengths and distances"),
    ]
    yield facts(about)
    if len(found["parts"]) > 1:
        yield _table("part", found["parts"])
    yield _table("block", found["blocks"])
    yield _table("kind", found["kinds"])
    if every_layer:
        yield _table("weight", found["layers"])
    else:
        yield _table("furthest apart", sorted(found["layers"], key=lambda part: -part["distance"])[:_MOST])


def _table(title: str, parts: Sequence[dict[str, Any]]) -> Table:
    single = all(part["weights"] == 1 for part in parts)  # the mean of one cosine is no news
    rows = []
    for part in parts:
        lengths = (length(part[key]) for key in ("first", "second", "distance"))
        cosines = (cosine(part[key]) for key in ("cosine", *([] if single else ["mean_cosine"])))
        rows.append(
            (part["name"], *lengths, *cosines, percent(part["opposed"] / part["moved"], 0) if part["moved"] else "")
        )
    return table(title, ["||A||", "||B||", "||A-B||", "cosine", *([] if single else ["mean"]), "opposed"], rows)


def _tables_of_several(found: dict[str, Any]) -> Iterator[Table]:
    """The matrix of cosines where it fits the terminal, else the pairs at its ends."""
    labels, cosines = _labels(found), found["mean_cosine"]
    numbers = range(len(labels))
    yield facts([("base", _bases(found)), exactness_line(found, "lengths and distances")])
    if NAME_WIDTH + 7 + 8 * len(labels) <= shutil.get_terminal_size().columns:
        lengths = [length(norm) for norm in found["norms"]]
        rows = [
            (f"{i + 1}  {labels[i]}", lengths[i], *("" if i == j else cosine(cosines[i][j]) for j in numbers))
            for i in numbers
        ]
        yield table("mean cosine of weights", ["||A||", *(str(i + 1) for i in numbers)], rows)
        return
    pairs = sorted(itertools.combinations(numbers, 2), key=lambda pair: cosines[pair[0]][pair[1]] or 0.0)
    for title, some in (("most alike", pairs[: -_MOST - 1 : -1]), ("least alike", pairs[:_MOST])):
        rows = [(f"{labels[i]}, {labels[j]}", cosine(cosines[i][j]), length(found["distance"][i][j])) for i, j in some]
        yield table(f"{title} of {len(pairs):,} pairs", ["mean cosine", "||A - B||"], rows)
    yield facts([("all of them", "--json, or --plot FILE")])


def _labels(found: dict[str, Any]) -> list[str]:
    return short_names([Path(file["file"]) for file in found["files"]])


def _bases(found: dict[str, Any]) -> str:
    return " or ".join(dict.fromkeys(file["base"] or "unnamed" for file in found["files"]))
