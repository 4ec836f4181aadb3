"""`spectra inspect`: what a shift file holds, and which base it fits. Needs neither torch nor the base."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spectra.cli import output

if TYPE_CHECKING:
    from rich.console import Console

    from spectra.inspection import Part
    from spectra.shift import SpectralShift

_EXAMPLE = "Example:  spectra inspect fox.safetensors     |     spectra inspect fox.safetensors --json"


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command(epilog=_EXAMPLE)
    def inspect(
        file: Annotated[Path, typer.Argument(metavar="FILE", help="A shift file.", show_default=False)],
        layers: Annotated[bool, typer.Option("--layers", help="List every weight, not only the sums.")] = False,
        json: Annotated[bool, typer.Option("--json", help="Print one JSON object, every weight in it.")] = False,
    ) -> None:
        """Shows what a shift file holds: its size by block and kind of layer, its base, settings and lineage."""
        from spectra import inspection
        from spectra.shift_file import read_shift

        shift = read_shift(file)
        size = file.stat().st_size
        found = {
            "file": str(file),
            "bytes": size,
            "precision": shift.precision,
            **_described(shift),
            "total": asdict(inspection.total(shift)),
            "blocks": [asdict(part) for part in inspection.grouped(shift, inspection.block)],
            "kinds": [asdict(part) for part in inspection.grouped(shift, inspection.kind)],
            "layers": [asdict(part) for part in inspection.layers(shift)],
        }
        output.result(found, json=json, human=lambda console: _show(console, shift, found, layers))


def _described(shift: SpectralShift) -> dict[str, Any]:
    metadata = shift.metadata
    return {
        "base": metadata.base,
        "base_fingerprint": metadata.base_fingerprint,
        "base_dtype": metadata.base_dtype,
        "reshape": metadata.reshape,
        "subset": metadata.subset,
        "settings": dict(metadata.settings),
        "seed": metadata.seed,
        "versions": dict(metadata.versions),
        "licence": metadata.licence,
        "parents": list(metadata.parents),
        "recipe": metadata.recipe,
        "content_hash": metadata.content_hash,
        "portability": _portability(shift),
    }


def _portability(shift: SpectralShift) -> str:
    """What the shift can be loaded into. The two figures were measured for random shifts (docs/algebra.md)."""
    rounding = {
        "float32": "; a float16 copy of that base changes Delta W by about 1 %, a bfloat16 copy by about 10 %",
        "float64": "; a float16 copy of that base changes Delta W by about 1 %, a bfloat16 copy by about 10 %",
    }
    return (
        f"fits a base whose {len(shift)} weights have these fingerprints in {shift.metadata.base_dtype}"
        + rounding.get(shift.metadata.base_dtype, "")
    )


def _show(console: Console, shift: SpectralShift, found: dict[str, Any], every_layer: bool) -> None:
    from rich.table import Table

    from spectra import inspection

    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("file", _plain(f"{found['file']} ({found['bytes']:,} bytes, {found['precision']})"))
    for key in _described(shift):
        if found[key] not in ("", None, [], {}):
            facts.add_row(key.replace("_", " "), _plain(_text(found[key])))
    console.print(facts)
    whole = inspection.total(shift)
    console.print(_table("block", inspection.grouped(shift, inspection.block), whole))
    console.print(_table("kind", inspection.grouped(shift, inspection.kind), whole))
    if every_layer:
        console.print(_table("weight", inspection.layers(shift), whole))


def _plain(text: str) -> Any:
    """Text that rich shows as it is: prompts hold square brackets, which are its markup."""
    from rich.text import Text

    return Text(text)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key} = {item}" for key, item in value.items())
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _table(title: str, parts: Iterable[Part], whole: Part) -> Any:
    from rich.table import Table

    table = Table(show_footer=True)
    table.add_column(title, footer="total", overflow="fold")
    for name, footer in (
        ("tensors", f"{whole.tensors:,}"),
        ("floats", f"{whole.floats:,}"),
        ("||delta||", f"{whole.norm:.4g}"),
        ("max |delta|", f"{whole.largest:.4g}"),
        ("energy", "100 %"),
    ):
        table.add_column(name, footer=footer, justify="right", no_wrap=True)
    for part in parts:
        energy = part.norm**2 / whole.norm**2 if whole.norm else 0.0
        table.add_row(
            _plain(part.name),
            f"{part.tensors:,}",
            f"{part.floats:,}",
            f"{part.norm:.4g}",
            f"{part.largest:.4g}",
            f"{energy:.1%}".replace("%", " %"),
        )
    return table
