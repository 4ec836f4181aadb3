"""`spectra inspect`: what a shift file holds, and which base it fits. Needs neither torch nor the base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from spectra.cli import output
from spectra.cli.exactness import unknown_as_dict
from spectra.cli.inspect_view import tables
from spectra.cli.listing import library_as_dict, metadata_as_dict, show_library, show_tree
from spectra.cli.options import argument, command, force_option, json_option, layers_option, plot_option
from spectra.cli.tables import short_names, spaced
from spectra.settings import setting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from spectra.shift.shift import SpectralShift

Sort = Literal["name", "date", "size", "floats", "prompt", "base", "subset"]

_FOLDER = "Of a folder"
_of_folder = partial(setting, panel=_FOLDER)


@dataclass(frozen=True)
class _Options:
    paths: tuple[Path, ...] = argument("Shift files, and folders of them.", "FILE|FOLDER...")
    layers: bool = layers_option("List every weight of one file.")
    find: str = _of_folder("", "Only shifts that say all these words.", metavar="WORDS")
    base: str = _of_folder("", "Only shifts of this base: a part of its name, or its fingerprint.", metavar="NAME")
    prompt: str = _of_folder("", "Only shifts with this in a prompt.", metavar="TEXT")
    subset: str = _of_folder("", "Only shifts of this subset, such as unet-ca or 'unet*'.", metavar="NAME")
    parent: str = _of_folder("", "Only what was made from this shift, or from its children.", metavar="FILE|HASH")
    sort: Sort = setting(
        "name", "Order of the rows: text from A to Z, the newest and the largest first.", panel=_FOLDER
    )
    tree: bool = _of_folder(False, "Draw which shifts were made from which.")
    everything: bool = _of_folder(False, "Show all rows.", option="--all")
    plot: Path | None = plot_option()
    card: Path | None = setting(
        None, "Write one page about one file, with pictures, that needs nothing else: .html.", metavar="FILE"
    )
    pictures: tuple[Path, ...] = setting(
        (),
        "A picture for the card. Repeatable.",
        option="--picture",
        metavar="FILE",
        default_text="the sheet that a training left beside the shift",
    )
    force: bool = force_option("an earlier picture")
    json: bool = json_option(", everything in it")


@command(
    _Options,
    "spectra inspect fox.safetensors --plot fox.png",
    "spectra inspect shifts/ --prompt fox --sort date",
    "spectra inspect shifts/ --tree",
    "spectra inspect out/fox/fox.safetensors --card fox.html",
)
def inspect(options: _Options) -> None:
    """Shows what a shift file holds, or lists the shifts of a folder; needs neither torch nor the base.

    One file: what its deltas, outer terms and word take and add, by block and kind of layer; its base and lineage.

    Norms are those of Delta W where the spectrum cache knows the base (spectra decompose BASE).

    Folders, however deep: a table or a family tree, from headers alone; --plot draws how alike the shifts are.
    """
    from spectra.plots import card_page, style

    filters = {name: getattr(options, name) for name in ("find", "base", "prompt", "subset")}
    single = len(options.paths) == 1 and not options.paths[0].is_dir()
    of_file = single and not (any(filters.values()) or options.parent or options.tree)
    if options.layers and not of_file:
        raise typer.BadParameter("lists the weights of one file, not of several", param_hint="--layers")
    if options.card is not None and not of_file:
        raise typer.BadParameter("is about one file, not several", param_hint="--card")
    if options.plot is not None:
        style.check(options.plot, force=options.force)
    if options.card is not None:
        card_page.check(options.card, force=options.force)
    if of_file:
        _inspect_file(options.paths[0], options)
    else:
        _inspect_folders(options, filters)


def _inspect_file(file: Path, options: _Options) -> None:
    from spectra.analysis import inspection
    from spectra.analysis.weight_changes import known_sigmas, weight_changes
    from spectra.naming.blocks import block_of, kind_of
    from spectra.plots import card_page, style
    from spectra.shift.packing.arrays import stated_error
    from spectra.shift.shift_file import read_shift
    from spectra.training.config import chosen_settings

    shift = read_shift(file)
    chosen = chosen_settings(shift.metadata.settings)
    (changes,), unknown = weight_changes([shift])
    every = inspection.by_weight(shift, changes)
    found = {
        "file": str(file),
        "bytes": file.stat().st_size,
        "precision": shift.precision,
        "error": stated_error(shift.metadata) if shift.precision == "packed" else None,
        **metadata_as_dict(shift.metadata, shift.metadata.base_fingerprint),
        "portability": _portability(shift),
        "words": {name: {"text": word.text, "ids": list(word.ids)} for name, word in shift.words.items()},
        "stored": {each.part: asdict(each) for each in inspection.stored_parts(file, shift)},
        **unknown_as_dict(unknown),
        "total": asdict(inspection.total(every)),
        "blocks": [asdict(part) for part in inspection.by_group(every, block_of)],
        "kinds": [asdict(part) for part in inspection.by_group(every, kind_of)],
        "layers": [asdict(part) for part in every],
    }

    def draw() -> Figure:
        from spectra.plots.shift import draw_shift

        prompt = shift.metadata.settings.get("prompt")
        about = f"“{prompt}”, " if isinstance(prompt, str) else ""
        title = style.one_line(f"{file.stem}: {about}{shift.floats:,} floats")
        return draw_shift(changes, known_sigmas(shift), title)

    if options.plot is not None:
        style.write(draw, options.plot, force=options.force)
    if options.card is not None:
        shown = options.pictures or card_page.pictures_of(file)
        card_page.write(draw, shift, file, options.card, pictures=shown, chosen=chosen, force=options.force)
    headings = [*metadata_as_dict(shift.metadata, ""), "portability"]
    told = found | {"settings": _told(shift.metadata.settings, chosen)}
    written = [f"wrote {path}" for path in (options.plot, options.card) if path is not None]
    output.result(found, json=options.json, human=lambda: (*spaced(tables(told, headings, options.layers)), *written))


def _told(settings: Mapping[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    """The settings that people see: those of the preset are left to --json."""
    others = len(settings) - len(chosen)
    return chosen | ({f"the other {others}": "those of the preset (--json has them)"} if others else {})


def _inspect_folders(options: _Options, filters: dict[str, str]) -> None:
    from spectra.analysis import library, lineage
    from spectra.plots import style

    held = library.scan(options.paths, output.progress())
    chosen = library.sort_entries(library.select(held.entries, **filters), options.sort)
    if options.parent:
        parent = lineage.find_hash(held.entries, options.parent)
        made = {entry.path for entry in lineage.descendants(held.entries, parent)}
        chosen = tuple(entry for entry in chosen if entry.path in made)
    if options.plot is not None:
        style.write(lambda: _draw_alike([entry.path for entry in chosen]), options.plot, force=options.force)
    found = library_as_dict(held, chosen) if options.json else {}  # thousands of entries that a table does not need
    root = options.paths[0] if len(options.paths) == 1 else Path()
    shown = show_library(held, chosen, root, everything=options.everything)
    if options.tree:
        branches = lineage.family(held.entries, chosen)
        found["tree"] = [
            output.values_of(each, "depth", "content_hash") | {"files": [str(entry.path) for entry in each.entries]}
            for each in branches
        ]
        shown = show_tree(held, branches, len(chosen), root)
    output.result(found, json=options.json, human=lambda: shown)


def _draw_alike(files: list[Path]) -> Figure:
    from spectra.analysis.diffing import correlate, read_changes
    from spectra.plots.comparison import check_count, draw_correlation

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
    if not any(delta.any() and metadata.ndims.get(name) != 1 for name, delta in shift.items()):
        return f"{fits}, and its copies in {' and '.join(copies)}: it needs no singular vectors"
    errors = [f"{EXPECTED_ERROR[dtype]} in {dtype}" for dtype in copies]
    return (
        f"{fits}, and its copies: Delta W changes by about {' and '.join(errors)}, and only by the weights' own "
        f"rounding where the spectra of the {metadata.base_dtype} base are in the cache"
    )
