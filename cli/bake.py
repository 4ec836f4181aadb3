"""`spectra bake`: the plain model with shifts folded in, for tools that know no shifts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spectra.cli import output
from spectra.cli.quiet import quiet_libraries
from spectra.cli.sizes import readable

if TYPE_CHECKING:
    from rich.console import Console

_EXAMPLE = (
    "Example:  spectra bake ./sd15 --shift dog.safetensors:0.9 --shift style.safetensors:0.4 -o sd15-dog     |     "
    "spectra bake v1-5.safetensors --shift dog.safetensors -o v1-5-dog.safetensors"
)


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command(epilog=_EXAMPLE)
    def bake(
        shift: Annotated[
            list[str],
            typer.Option(metavar="FILE[:SCALE]", help="A shift to fold in; repeatable.", show_default=False),
        ],
        out: Annotated[
            Path,
            typer.Option("--out", "-o", metavar="PATH", help="Folder, or file if the base is one.", show_default=False),
        ],
        base: Annotated[
            str,
            typer.Argument(
                metavar="BASE",
                help="Diffusers folder, .safetensors checkpoint or hub id; without it, the embedded base.",
                show_default=False,
            ),
        ] = "",
        variant: Annotated[
            str | None, typer.Option(help="Of the weight files, such as fp16.", show_default=False)
        ] = None,
        force: Annotated[bool, typer.Option("--force", help="Replace an earlier output.")] = False,
        json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ) -> None:
        """Writes the plain model with shifts folded in: the base's files, its dtype and names, other weights."""
        quiet_libraries()
        from spectra.bases.pipeline import find_base
        from spectra.convert import baking
        from spectra.shift.scaled_files import parse_shift
        from spectra.shift.shift_file import read_shift

        start = time.perf_counter()
        shifts = [
            baking.NamedShift(path.name, read_shift(path), scale)
            for path, scale in (parse_shift(text) for text in shift)
        ]
        done = baking.bake(base, shifts, out, variant=variant, force=force, progress=output.progress())
        found = {
            "base": find_base(base).name,
            "out": str(out),
            "bytes": sum(
                file.stat().st_size for file in ([out] if out.is_file() else out.rglob("*")) if file.is_file()
            ),
            "shifts": [
                {"file": each.name, "scale": each.scale, "content_hash": each.shift.metadata.content_hash}
                for each in shifts
            ],
            "weights": done.weights,
            "dtypes": list(done.dtypes),
            "rounding": done.rounding,
            "left_out": list(done.left_out),
            "seconds": round(time.perf_counter() - start, 3),
        }
        output.result(found, json=json, human=lambda console: _show(console, found))
        if done.left_out:
            output.say("not copied, since they hold the base's weights without the shift: " + ", ".join(done.left_out))


def _show(console: Console, found: dict[str, Any]) -> None:
    console.print(f"{found['out']} ({readable(found['bytes'])})", markup=False, soft_wrap=True)
    for each in found["shifts"]:
        console.print(f"  {each['file']} at scale {each['scale']:g}", markup=False, soft_wrap=True)
    rounding = f"{100 * found['rounding']:.2g} %" if found["rounding"] else "nothing"
    console.print(
        f"{found['weights']:,} weights shifted; stored in {', '.join(found['dtypes'])}, which costs {rounding}"
    )
