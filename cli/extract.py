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

    from spectra.convert.extraction import Extracted

_EXAMPLE = (
    "Example:  spectra extract ./sd15 ./sd15-dreambooth -o dog.safetensors     |     "
    "spectra extract ./sd15 style-lora.safetensors -o style.safetensors --json"
)


_LITTLE = 0.1
"""Below this part of the change a shift does not stand for it."""


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
        rest: Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="Write what the shift leaves, as a LoRA.", show_default=False),
        ] = None,
        rank: Annotated[int, typer.Option(min=1, help="Of that LoRA.")] = 16,
        layers: Annotated[bool, typer.Option("--layers", help="List every weight, not only blocks.")] = False,
        force: Annotated[bool, typer.Option("--force", help="Replace an earlier output.")] = False,
        json: Annotated[bool, typer.Option("--json", help="Print one JSON object, every weight in it.")] = False,
    ) -> None:
        """Finds the shift that is closest to a fully fine-tuned model, or to a LoRA, LoHa or LoKr.

        It captures u_i^T (W' - W) v_i of the change of each weight; the energy says how much of it that is.
        """
        quiet_libraries()
        from spectra.convert.extraction import extract as run
        from spectra.io.atomic_writes import check_output
        from spectra.shift.shift_file import write_shift

        start = time.perf_counter()
        for path in (out, rest):
            if path is not None:
                check_output(path, force=force)
        wanted = 0 if rest is None else rank
        done = run(base, model, target=target, dtype=dtype, variant=variant, rank=wanted, progress=output.progress())
        size = write_shift(done.shift, out, force=force)
        found = {
            "base": base,
            "model": model,
            "out": str(out),
            "bytes": size,
            "floats": done.shift.floats,
            **described(done.layers),
            "others": list(done.others),
            "rest_file": None if rest is None else _write_rest(done, rest, rank, force),
            "seconds": round(time.perf_counter() - start, 3),
        }
        output.result(found, json=json, human=lambda console: _show(console, found, layers))
        if done.others and not json:
            output.say(f"changed too, but held by no shift: {_some(done.others)}")
        if done.total.energy < _LITTLE:
            output.say(
                "the shift holds little of this change, which hardly lies along the base's singular vectors; "
                "--rest writes what is left as a LoRA"
            )


def _write_rest(done: Extracted, path: Path, rank: int, force: bool) -> dict[str, Any] | None:
    """Writes the LoRA, if there is anything for it."""
    from spectra.convert.lora.writing import write_factors

    if not done.rest:
        output.say(f"{path} is not written: the shift leaves nothing that a LoRA could hold")
        return None
    size = write_factors(done.rest, path, force=force)
    return {"file": str(path), "bytes": size, "rank": rank, "energy": done.energy_with_rest}


def _show(console: Console, found: dict[str, Any], every_layer: bool) -> None:
    show(console, found, every_layer)
    console.print(f"{found['out']}: {found['floats']:,} floats, {found['bytes']:,} bytes", markup=False, soft_wrap=True)
    if rest := found["rest_file"]:
        console.print(
            f"{rest['file']}: LoRA of rank {rest['rank']}, {rest['bytes']:,} bytes", markup=False, soft_wrap=True
        )
        console.print(f"with it {100 * rest['energy']:.1f} % is captured")


def _some(names: tuple[str, ...]) -> str:
    """The first of them, and how many there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
