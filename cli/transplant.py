"""`spectra transplant`: carries a shift over to a related base, with a score."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spectra.cli import output
from spectra.cli.captured import described, show
from spectra.cli.precision import Precision
from spectra.cli.quiet import quiet_libraries

if TYPE_CHECKING:
    from rich.console import Console

_EXAMPLE = (
    "Example:  spectra transplant dog.safetensors --from ./sd15 --to ./dreamshaper -o dog-dreamshaper.safetensors     |"
    "     spectra transplant dog.safetensors --to ./sd15 --dtype float16 -o dog-fp16.safetensors"
)

_HOPELESS = 0.1
"""Below this score little of a shift is left."""


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command(epilog=_EXAMPLE)
    def transplant(
        shift: Annotated[Path, typer.Argument(metavar="SHIFT", help="A shift file.", show_default=False)],
        to: Annotated[str, typer.Option("--to", metavar="BASE", help="The new base: folder, file or hub id.")],
        out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The shift to write.")],
        source: Annotated[
            str | None,
            typer.Option(
                "--from",
                metavar="BASE",
                help="The base it was trained on; its weights are needed.",
                show_default="as the shift names it",
            ),
        ] = None,
        dtype: Annotated[
            Precision | None,
            typer.Option(help="As which the new base will be loaded.", show_default="as the shift's"),
        ] = None,
        variant: Annotated[
            str | None, typer.Option(help="Of the new base's weight files, such as fp16.", show_default=False)
        ] = None,
        min_score: Annotated[
            float, typer.Option(min=0, max=1, help="Refuse a result that keeps less of the energy than this.")
        ] = 0.0,
        layers: Annotated[bool, typer.Option("--layers", help="List every weight, not only blocks.")] = False,
        force: Annotated[bool, typer.Option("--force", help="Replace an earlier output.")] = False,
        json: Annotated[bool, typer.Option("--json", help="Print one JSON object, every weight in it.")] = False,
    ) -> None:
        """Carries a shift over to a related base, or to a rounded copy of its own.

        On the new base it is the shift whose change of the weights is closest; the score says how much of it is kept.
        """
        quiet_libraries()
        from spectra.convert.transplanting import transplant as run
        from spectra.io.atomic_writes import check_output
        from spectra.shift.shift_file import write_shift

        start = time.perf_counter()
        check_output(out, force=force)
        done = run(
            shift,
            to,
            source=source,
            dtype=dtype or "",
            variant=variant,
            min_score=min_score,
            progress=output.progress(),
        )
        size = write_shift(done.shift, out, force=force)
        found = {
            "shift": str(shift),
            "to": to,
            "out": str(out),
            "bytes": size,
            "floats": done.shift.floats,
            "score": done.score,
            **described(done.layers),
            "missing": list(done.missing),
            "seconds": round(time.perf_counter() - start, 3),
        }
        output.result(found, json=json, human=lambda console: _show(console, found, layers))
        if done.missing and not json:
            output.say(
                f"{len(done.missing)} weights stay behind, which the new base has not, such as {done.missing[0]}"
            )
        if done.score < _HOPELESS:
            output.say("little of this shift is left: these bases are hardly related, train it on the new one")


def _show(console: Console, found: dict[str, Any], every_layer: bool) -> None:
    show(console, found, every_layer)
    console.print(f"score {100 * found['score']:.1f} %: the energy kept of the matrices; norms go over as they are")
    console.print(f"{found['out']}: {found['floats']:,} floats, {found['bytes']:,} bytes", markup=False, soft_wrap=True)
