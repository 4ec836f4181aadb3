"""`spectra mix`: content from one shift, style from another. Needs neither torch nor the base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spectra.cli import output

if TYPE_CHECKING:
    from rich.console import Console

    from spectra.combine.mixing import Mix

_EXAMPLE = (
    "Example:  spectra mix fox.safetensors blueprint.safetensors -o mixed.safetensors     |     "
    "spectra mix fox.safetensors blueprint.safetensors --layers 16,down,1:16,up,0 -o mixed.safetensors"
)


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command(epilog=_EXAMPLE)
    def mix(
        content: Annotated[Path, typer.Argument(help="Shift that gives the layers of geometry.", show_default=False)],
        style: Annotated[Path, typer.Argument(help="Shift that gives all others.", show_default=False)],
        out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The mixed shift.", show_default=False)],
        layers: Annotated[
            str,
            typer.Option(
                metavar="FIRST:LAST",
                help="The content's layers, each as (resolution, part, number).",
                show_default="those around the bottleneck: 16,down,1:8,down,0 in SD 1.x",
            ),
        ] = "",
        target: Annotated[
            str,
            typer.Option(
                help="Weights that are mixed, by subsets or patterns; others are left out. Text encoders are the "
                "content's."
            ),
        ] = "unet-2d",
        force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
        json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ) -> None:
        """Mixes two shifts by layers: content from one, style from the other. Shows which layer came from which."""
        from spectra.combine.mixing import mix as run
        from spectra.io.atomic_writes import check_output
        from spectra.shift.shift_file import read_shift, write_shift

        check_output(out, force=force)
        shifts = [read_shift(content), read_shift(style)]
        mixed = run(*shifts, layers=layers, target=target)
        half = all(shift.precision == "float16" for shift in shifts)
        size = write_shift(mixed.shift, out, dtype="float16" if half else "float32", force=force)
        report = {
            "file": str(out),
            "bytes": size,
            "family": mixed.layout.name,
            "layers": [
                {
                    "layer": layer.name,
                    "from": "content" if own else "style",
                    "weights": weights,
                    "patterns": list(layer.patterns),
                }
                for layer, own, weights in mixed.layers
            ],
            "elsewhere": mixed.elsewhere,
            "text": mixed.text,
            "left_out": mixed.left_out,
        }
        output.result(report, json=json, human=lambda console: _show(mixed, report, console))


def _show(mixed: Mix, report: dict[str, Any], console: Console) -> None:
    """The layers, and where each came from."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("layer", "from", "weights", "modules"):
        table.add_column(name, justify="right" if name == "weights" else "left", overflow="fold")
    for row in report["layers"]:
        modules = " ".join(pattern.removeprefix("unet.").removesuffix(".*") for pattern in row["patterns"])
        table.add_row(row["layer"], row["from"], str(row["weights"]), modules)
    if mixed.elsewhere:
        table.add_row("none", "style", str(mixed.elsewhere), "time embedding, first and last layer, ...")
    if mixed.text:
        table.add_row("none", "content", str(mixed.text), "text encoder")
    console.print(table)
    console.print(f"{report['file']}: {len(mixed.shift)} weights, {report['bytes']:,} bytes", markup=False)
    if mixed.left_out:
        console.print(f"{mixed.left_out} weights that --target does not name are left out", markup=False)
