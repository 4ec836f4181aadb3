"""`spectra extract`: the closest shift to a fine-tuned model or a LoRA, with what it captures."""

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
    "Example:  spectra extract ./sd15 ./sd15-dreambooth -o dog.safetensors     |     "
    "spectra extract ./sd15 style-lora.safetensors -o style.safetensors --json"
)


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command(epilog=_EXAMPLE)
    def extract(
        base: Annotated[
            str,
            typer.Argument(
                metavar="BASE",
                help="Diffusers folder, .safetensors checkpoint or hub id; spectra-base is the embedded one.",
            ),
        ],
        model: Annotated[
            str,
            typer.Argument(
                metavar="MODEL", help="Fine-tuned from it: likewise, or one component's folder or file; or a LoRA."
            ),
        ],
        out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The shift to write.")],
        target: Annotated[
            str, typer.Option(help="Only these weights: subset names and patterns.", show_default="all that changed")
        ] = "",
        dtype: Annotated[Precision, typer.Option(help="As which the base will be loaded with the shift.")] = "float32",
        variant: Annotated[
            str | None, typer.Option(help="Of the base's weight files, such as fp16.", show_default=False)
        ] = None,
        layers: Annotated[bool, typer.Option("--layers", help="List every weight, not only blocks.")] = False,
        force: Annotated[bool, typer.Option("--force", help="Replace an earlier output.")] = False,
        json: Annotated[bool, typer.Option("--json", help="Print one JSON object, every weight in it.")] = False,
    ) -> None:
        """Finds the shift that is closest to a fully fine-tuned model, or to a LoRA, LoHa or LoKr.

        It captures u_i^T (W' - W) v_i of the change of each weight; the energy says how much of it that is.
        """
        quiet_libraries()
        from spectra.extraction import extract as run
        from spectra.files import check_output
        from spectra.shift_file import write_shift

        start = time.perf_counter()
        check_output(out, force=force)
        done = run(base, model, target=target, dtype=dtype, variant=variant, progress=output.progress())
        size = write_shift(done.shift, out, force=force)
        found = {
            "base": base,
            "model": model,
            "out": str(out),
            "bytes": size,
            "floats": done.shift.floats,
            **described(done.layers),
            "others": list(done.others),
            "seconds": round(time.perf_counter() - start, 3),
        }
        output.result(found, json=json, human=lambda console: _show(console, found, layers))
        if done.others and not json:
            output.say(f"changed too, but held by no shift: {_some(done.others)}")


def _show(console: Console, found: dict[str, Any], every_layer: bool) -> None:
    show(console, found, every_layer)
    console.print(f"{found['out']}: {found['floats']:,} floats, {found['bytes']:,} bytes", markup=False, soft_wrap=True)


def _some(names: tuple[str, ...]) -> str:
    """The first of them, and how many there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
