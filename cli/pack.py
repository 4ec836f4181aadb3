"""`spectra pack`: shift files at a fifth of their size, for a stated error of Delta W. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spectra.cli import output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

_EXAMPLE = (
    "Example:  spectra pack fox.safetensors -o fox-small.safetensors     |     "
    "spectra pack shifts/*.safetensors -o packed --error 0.03"
)


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command(epilog=_EXAMPLE)
    def pack(
        files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Shift files.", show_default=False)],
        out: Annotated[
            Path, typer.Option("--out", "-o", metavar="PATH", help="Output file; for several files, a folder.")
        ],
        error: Annotated[
            float,
            typer.Option(help="Allowed of Delta W, for all matrices and for all 1-D weights: 0.01 is 1 %."),
        ] = 0.01,
        force: Annotated[bool, typer.Option("--force", help="Replace outputs that exist.")] = False,
        json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ) -> None:
        """Packs shifts: values are rounded to a stated error and entropy-coded. Every command reads the result."""
        from spectra.errors import InputError
        from spectra.io.atomic_writes import check_output
        from spectra.progress import working
        from spectra.shift.shift_file import read_shift, write_shift
        from spectra.shift.shift_header import read_shift_header

        targets = _targets(files, out)
        for file in files:
            if read_shift_header(file).precision == "packed":
                raise InputError(f"{file} is packed already, and errors would add up; pack what it was made from")
        for target in targets:
            check_output(target, force=force)
        progress, rows = output.progress(), []
        with working(progress, "packing", len(files)):
            for file, target in zip(files, targets, strict=True):
                shift = read_shift(file)
                size = write_shift(shift, target, error=error, force=force)
                told: Any = read_shift_header(target).metadata.recipe
                row = {"file": str(file), "packed": str(target), "floats": shift.floats}
                row |= {"bytes": file.stat().st_size, "packed_bytes": size, "errors": told["errors"]}
                rows.append(row)
                progress.advance(1, file.name)
        found = {"error": error, "files": rows}
        output.result(found, json=json, human=lambda console: _show(console, rows, targets))


def _targets(files: Sequence[Path], out: Path) -> list[Path]:
    """Where each file goes."""
    from spectra.errors import InputError

    if len(files) == 1 and not out.is_dir():
        return [out]
    if out.is_file():
        raise InputError(f"{out} is a file; for several files -o names a folder")
    names = [file.name for file in files]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise InputError(f"two of the files are called {twice}; pack them into different folders")
    return [out / name for name in names]


def _show(console: Console, rows: Sequence[dict[str, Any]], targets: Sequence[Path]) -> None:
    from spectra.cli.tables import percent, short_names, show, table

    lines = [
        (
            name,
            f"{row['bytes']:,}",
            f"{row['packed_bytes']:,}",
            percent(row["packed_bytes"] / row["bytes"], 0),
            f"{8 * row['packed_bytes'] / row['floats']:.2f}",
            percent(max(row["errors"].values()), 2),
        )
        for name, row in zip(short_names(targets), rows, strict=True)
    ]
    show(console, table("packed", ("bytes", "after", "", "bits/float", "error"), lines))
    console.print(f"in {targets[0].parent}", markup=False, soft_wrap=True)
