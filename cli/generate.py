"""`spectra generate`: pictures from a base and any number of shifts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spectra.bases.embedded import GUIDANCE, NAME
from spectra.cli import output
from spectra.cli.precision import Precision
from spectra.cli.quiet import quiet_libraries

if TYPE_CHECKING:
    from rich.console import Console

_EXAMPLE = (
    'Example:  spectra generate --prompt "a drawing of a fox" --count 4 -o foxes     |     '
    'spectra generate --shift out/fox/fox.safetensors:0.8 --prompt "a drawing of a \\[V1] fox" --seed 7 -o pictures'
    "     |     spectra generate --shift fox.safetensors:1,.5,0 --shift wolf.safetensors:0,.5,1 "
    '--prompt "a drawing of a \\[V1] fox" -o from-fox-to-wolf'
)


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command(epilog=_EXAMPLE)
    def generate(
        base: Annotated[
            str, typer.Option(help="Diffusers folder, .safetensors checkpoint or hub id.", show_default="embedded")
        ] = "",
        shift: Annotated[
            list[str] | None,
            typer.Option(
                metavar="FILE[:SCALE,...]",
                help="A shift to use; repeatable. With several scales each picture becomes a strip of them; those of "
                "several shifts go together.",
                show_default=False,
            ),
        ] = None,
        prompt: Annotated[list[str] | None, typer.Option(help="Repeatable.", show_default=False)] = None,
        prompts: Annotated[
            Path | None, typer.Option(metavar="FILE", help="Text file, a prompt a line.", show_default=False)
        ] = None,
        negative: Annotated[str, typer.Option(help="Negative prompt.")] = "",
        seed: Annotated[list[int] | None, typer.Option(help="Repeatable.", show_default="0")] = None,
        count: Annotated[
            int, typer.Option(min=1, help="Pictures per prompt and seed, from seeds that follow each.")
        ] = 1,
        steps: Annotated[int, typer.Option(help="Denoising steps.")] = 25,
        guidance: Annotated[
            float | None, typer.Option(help="Guidance scale.", show_default=f"{GUIDANCE:g} embedded, else 5")
        ] = None,
        width: Annotated[int, typer.Option(help="Pixels.", show_default="the base's")] = 0,
        height: Annotated[int, typer.Option(help="Pixels.", show_default="the base's")] = 0,
        batch: Annotated[int, typer.Option(help="Pictures at once.")] = 8,
        dtype: Annotated[
            Precision, typer.Option(help="Of the weights; in another than a shift's, its base is a rounded copy.")
        ] = "float32",
        device: Annotated[str, typer.Option(help="Such as cpu or cuda.", show_default="a GPU if there is one")] = "",
        out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Output folder.")] = Path("pictures"),
        force: Annotated[bool, typer.Option("--force", help="Replace an earlier output folder.")] = False,
        json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ) -> None:
        """Draws every prompt with every seed: PNGs with their settings inside, and a contact sheet."""
        quiet_libraries()
        from spectra.generate.drawing import Sampling
        from spectra.generate.run import Order
        from spectra.generate.run import generate as run

        seeds = [first + number for first in seed or [0] for number in range(count)]
        order = Order(
            base=base,
            shifts=tuple(shift or ()),
            prompts=tuple(prompt or ()),
            prompts_file=prompts,
            negative=negative,
            seeds=tuple(dict.fromkeys(seeds)),
            sampling=Sampling(steps, _guidance(base) if guidance is None else guidance, width, height, batch),
            dtype=dtype,
        )
        found = run(order, out, force=force, device=device, progress=output.progress())
        output.result(found, json=json, human=lambda console: _show(found, console))


def _guidance(base: str) -> float:
    """The scale where none is given."""
    from spectra.generate.drawing import Sampling

    return GUIDANCE if base in ("", NAME) else Sampling().guidance


def _show(found: dict[str, Any], console: Console) -> None:
    number = len(found["pictures"])
    seconds = f"{found['seconds']:.1f} s"
    console.print(f"{number} picture{'s' if number != 1 else ''} in {found['folder']} ({seconds})", markup=False)
    console.print(f"contact sheet: {found['sheet']}", markup=False, soft_wrap=True)
