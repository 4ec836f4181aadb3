"""`spectra inspect`: what a shift file holds, and which base it fits. Needs neither torch nor the base."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from spectra.cli import output
from spectra.cli.listing import described, drawn, listed, show_list, show_tree
from spectra.cli.tables import facts, percent, short_names, show, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

    from spectra.analysis.inspection import DeltaSummary
    from spectra.shift.shift import SpectralShift

_EXAMPLE = (
    "Example:  spectra inspect fox.safetensors --plot fox.png     |     "
    "spectra inspect shifts/ --prompt fox --sort date     |     spectra inspect shifts/ --tree"
)
_FOLDER = "Of a folder"
_LISTED = 8
"""Of a long list, as a thousand parents are, so many are shown; all are in the JSON."""


Sort = Literal["name", "date", "size", "floats", "prompt", "base", "subset"]


def _filter(text: str, metavar: str) -> Any:
    return typer.Option(metavar=metavar, help=text, show_default=False, rich_help_panel=_FOLDER)


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command(epilog=_EXAMPLE)
    def inspect(
        paths: Annotated[
            list[Path],
            typer.Argument(metavar="FILE|FOLDER...", help="Shift files, and folders of them.", show_default=False),
        ],
        layers: Annotated[bool, typer.Option("--layers", help="Of one file: list every weight.")] = False,
        find: Annotated[str, _filter("Only shifts that say all these words.", "WORDS")] = "",
        base: Annotated[str, _filter("Only of this base: a part of its name, or its fingerprint.", "NAME")] = "",
        prompt: Annotated[str, _filter("Only with this in a prompt.", "TEXT")] = "",
        subset: Annotated[str, _filter("Only of this subset, such as unet-ca or 'unet*'.", "NAME")] = "",
        parent: Annotated[str, _filter("Only what was made from this shift, or from its children.", "FILE|HASH")] = "",
        sort: Annotated[
            Sort, typer.Option(help="Text from A to Z, the newest and the largest first.", rich_help_panel=_FOLDER)
        ] = "name",
        tree: Annotated[
            bool, typer.Option("--tree", help="Draw which shifts were made from which.", rich_help_panel=_FOLDER)
        ] = False,
        everything: Annotated[bool, typer.Option("--all", help="Show all rows.", rich_help_panel=_FOLDER)] = False,
        plot: Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="Draw a picture, as .png or .svg.", show_default=False),
        ] = None,
        force: Annotated[bool, typer.Option("--force", help="Replace an earlier picture.")] = False,
        json: Annotated[bool, typer.Option("--json", help="Print one JSON object, everything in it.")] = False,
    ) -> None:
        """Shows what a shift file holds, or lists the shifts of a folder; needs neither torch nor the base.

        One file: its size by block and kind of layer, its base, settings and lineage.

        Folders, however deep: a table or a family tree, from headers alone; --plot draws how alike the shifts are.
        """
        filters = {"find": find, "base": base, "prompt": prompt, "subset": subset}
        if len(paths) == 1 and not paths[0].is_dir() and not (any(filters.values()) or parent or tree):
            _inspect_file(paths[0], layers=layers, plot=plot, force=force, json=json)
            return
        if layers:
            raise typer.BadParameter("lists the weights of one file, not of several", param_hint="--layers")
        _inspect_folders(
            paths,
            filters,
            parent=parent,
            sort=sort,
            tree=tree,
            everything=everything,
            plot=plot,
            force=force,
            json=json,
        )


def _inspect_file(file: Path, *, layers: bool, plot: Path | None, force: bool, json: bool) -> None:
    from spectra.analysis import inspection
    from spectra.naming.blocks import block_of, kind_of
    from spectra.plots import style
    from spectra.shift.packing.arrays import stated_error
    from spectra.shift.shift_file import read_shift

    if plot is not None:
        style.check(plot, force=force)
    shift = read_shift(file)
    found = {
        "file": str(file),
        "bytes": file.stat().st_size,
        "precision": shift.precision,
        "error": stated_error(shift.metadata) if shift.precision == "packed" else None,
        **described(shift.metadata, shift.metadata.base_fingerprint),
        "portability": _portability(shift),
        "total": asdict(inspection.total(shift)),
        "blocks": [asdict(part) for part in inspection.by_group(shift, block_of)],
        "kinds": [asdict(part) for part in inspection.by_group(shift, kind_of)],
        "layers": [asdict(part) for part in inspection.by_weight(shift)],
    }
    if plot is not None:
        style.write(lambda: _draw(shift, file), plot, force=force)
    output.result(found, json=json, human=lambda console: show(console, *_tables(shift, found, layers)))


def _draw(shift: SpectralShift, file: Path) -> Figure:
    from spectra.plots.shift import draw_shift
    from spectra.plots.style import one_line
    from spectra.shift.sigmas import read_sigmas

    prompt = shift.metadata.settings.get("prompt")
    about = f"“{prompt}”, " if isinstance(prompt, str) else ""
    return draw_shift(shift, read_sigmas(shift.metadata), one_line(f"{file.stem}: {about}{shift.floats:,} floats"))


def _inspect_folders(
    paths: list[Path],
    filters: dict[str, str],
    *,
    parent: str,
    sort: Sort,
    tree: bool,
    everything: bool,
    plot: Path | None,
    force: bool,
    json: bool,
) -> None:
    from spectra.analysis import library, lineage
    from spectra.plots import style

    if plot is not None:
        style.check(plot, force=force)
    held = library.scan(paths, output.progress())
    chosen = library.sort_entries(library.select(held.entries, **filters), sort)
    if parent:
        made = {entry.path for entry in lineage.descendants(held.entries, lineage.find_hash(held.entries, parent))}
        chosen = tuple(entry for entry in chosen if entry.path in made)
    if plot is not None:
        style.write(lambda: _draw_alike([entry.path for entry in chosen]), plot, force=force)
    found = listed(held, chosen)
    root = paths[0] if len(paths) == 1 else Path()
    if not tree:
        output.result(
            found, json=json, human=lambda console: show_list(console, held, chosen, root, everything=everything)
        )
        return
    branches = lineage.family(held.entries, chosen)
    output.result(
        found | {"tree": drawn(branches)},
        json=json,
        human=lambda console: show_tree(console, held, branches, len(chosen), root),
    )


def _draw_alike(files: list[Path]) -> Figure:
    from spectra.analysis.diffing import correlate, read_changes
    from spectra.plots.correlation import check_count, draw_correlation

    check_count(len(files))
    return draw_correlation(correlate(read_changes(files)[1]), short_names(files))


def _portability(shift: SpectralShift) -> str:
    """What the shift can be loaded into."""
    from spectra.compatibility.rounded_bases import EXPECTED_ERROR

    metadata = shift.metadata
    fits = f"fits a base whose {len(shift)} weights have these fingerprints in {metadata.base_dtype}"
    copies = [dtype for dtype in metadata.rounded if dtype != metadata.base_dtype]
    if not copies:
        return fits
    errors = " and ".join(f"{EXPECTED_ERROR[dtype]} in {dtype}" for dtype in copies)
    return (
        f"{fits}, and its copies: Delta W changes by about {errors}, and only by the weights' own rounding where the "
        f"spectra of the {metadata.base_dtype} base are in the cache"
    )


def _tables(shift: SpectralShift, found: dict[str, Any], every_layer: bool) -> list[Table]:
    from spectra.analysis import inspection
    from spectra.naming.blocks import block_of, kind_of

    told = [("file", f"{found['file']} ({found['bytes']:,} bytes, {_precision(found)})")]
    told += [
        (key.replace("_", " "), _text(found[key]))
        for key in (*described(shift.metadata, ""), "portability")
        if found[key] not in ("", None, [], {})
    ]
    whole = inspection.total(shift)
    parts = {"block": inspection.by_group(shift, block_of), "kind": inspection.by_group(shift, kind_of)}
    if every_layer:
        parts["weight"] = inspection.by_weight(shift)
    return [facts(told), *(_table(title, some, whole) for title, some in parts.items())]


def _precision(found: dict[str, Any]) -> str:
    error = found["error"]
    return str(found["precision"]) + ("" if error is None else f", error of Delta W at most {100 * error:g} %")


def _text(value: Any) -> str:
    """Data in lines: an entry each, the last of many left out."""
    if isinstance(value, dict):
        return "\n".join(line for key, item in value.items() for line in _entry(key, item))
    return "\n".join(_first(value)) if isinstance(value, list) else str(value)


def _entry(key: str, item: Any) -> list[str]:
    """One entry of a dictionary; the tables of a list stand below its name."""
    if isinstance(item, list) and any(isinstance(each, dict) for each in item):
        return [f"{key}:", *(f"  {line}" for line in _first(item))]
    return [f"{key} = {', '.join(_first(item)) if isinstance(item, list) else item}"]


def _first(items: list[Any]) -> list[str]:
    lines = [
        ", ".join(f"{key} {value}" for key, value in item.items()) if isinstance(item, dict) else str(item)
        for item in items[:_LISTED]
    ]
    return [*lines, f"and {len(items) - _LISTED:,} more"] if len(items) > _LISTED else lines


def _table(title: str, parts: Iterable[DeltaSummary], whole: DeltaSummary) -> Table:
    def row(part: DeltaSummary) -> tuple[str, ...]:
        energy = percent(part.norm**2 / whole.norm**2) if whole.norm else ""
        sizes = f"{part.tensors:,}", f"{part.floats:,}", f"{part.norm:.4g}", f"{part.largest:.4g}"
        return (part.name, *sizes, energy)

    headings = ["tensors", "floats", "||delta||", "largest", "energy"]
    return table(title, headings, map(row, parts), footer=row(whole))
