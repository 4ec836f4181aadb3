"""`spectra adjust`: edits one shift. Needs neither torch nor the base."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spectra.cli import output
from spectra.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from spectra.combine.adjusting import Adjusted, Step

_EXAMPLE = (
    "Example:  spectra adjust dog.safetensors --scale unet.up_blocks.1=0.5 -o softer.safetensors     |     "
    "spectra adjust dog.safetensors --keep 64 -o small.safetensors     |     "
    "spectra adjust dog.safetensors --band 0:0.1=0 --on unet-ca -o fine.safetensors"
)


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command(epilog=_EXAMPLE)
    def adjust(
        file: Annotated[Path, typer.Argument(metavar="FILE", help="A shift file.", show_default=False)],
        out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The edited shift.", show_default=False)],
        only: Annotated[str, typer.Option(metavar="PATTERN", help="Leave out all other weights.")] = "",
        scale: Annotated[
            list[str] | None,
            typer.Option(
                metavar="[PATTERN=]X",
                help="Multiply delta of these weights, or of all. Repeatable.",
                show_default=False,
            ),
        ] = None,
        band: Annotated[
            list[str] | None,
            typer.Option(
                metavar="LOW:HIGH=X",
                help="Multiply delta for a band of singular values: 0:0.1 is the largest tenth. Repeatable.",
                show_default=False,
            ),
        ] = None,
        soft: Annotated[
            float | None, typer.Option(help="Make every |delta| smaller by this much, down to 0.", show_default=False)
        ] = None,
        keep: Annotated[
            int | None,
            typer.Option(help="Keep this many directions of each weight: the largest |delta|.", show_default=False),
        ] = None,
        keep_first: Annotated[
            int | None,
            typer.Option(help="The same, but those of the largest singular values.", show_default=False),
        ] = None,
        on: Annotated[
            str, typer.Option(metavar="PATTERN", help="--band, --soft and --keep act on these weights alone.")
        ] = "",
        file_dtype: Annotated[str, typer.Option(help="float32, or float16 for half the bytes.")] = "float32",
        force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
        json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ) -> None:
        """Edits a shift: fewer directions, a threshold, another strength by layer or by singular value.

        The edits are made in the order of the options above. --band, --soft and --keep leave 1-D weights (norms)
        alone, as these have no singular values. PATTERN is a subset, a block as inspect shows it, or a pattern such
        as 'unet.*attn2*'.
        """
        from spectra.analysis import diffing
        from spectra.combine import adjusting
        from spectra.io.atomic_writes import check_output
        from spectra.shift.shift_file import file_precision, read_shift, write_shift
        from spectra.shift.sigmas import read_sigmas

        steps: list[Step] = [adjusting.Only(only)] if only else []
        steps += [_scale(text) for text in scale or []]
        steps += [_band(text, on) for text in band or []]
        steps += [adjusting.Soft(soft, on)] if soft is not None else []
        steps += [adjusting.Keep(keep, on)] if keep is not None else []
        steps += [adjusting.Keep(keep_first, on, first=True)] if keep_first is not None else []
        if not steps:
            raise InputError("nothing to do: give --only, --scale, --band, --soft, --keep or --keep-first")
        if on and not any(isinstance(step, (adjusting.Band, adjusting.Soft, adjusting.Keep)) for step in steps):
            raise InputError("--on says where --band, --soft and --keep act; give one of them")
        precision = file_precision(file_dtype)
        check_output(out, force=force)
        shift = read_shift(file)
        adjusted = adjusting.adjust(shift, steps)
        sigmas = read_sigmas(shift.metadata)
        moved = diffing.compare(*(diffing.singular_value_changes(each, sigmas) for each in (shift, adjusted.shift)))
        size = write_shift(adjusted.shift, out, dtype=precision, force=force)
        found = {
            "file": str(file),
            "output": str(out),
            "bytes": size,
            "weights": len(adjusted.shift),
            "floats": adjusted.shift.floats,
            "distance": moved.distance / moved.first if moved.first else 0.0,
            "exact": not diffing.unknown_clipping(shift, sigmas),
            "steps": [
                {
                    **adjusting.as_dict(effect.step),
                    "weights": effect.weights,
                    "changed": effect.changed,
                    "energy": effect.energy,
                }
                for effect in adjusted.effects
            ],
        }
        output.result(found, json=json, human=lambda console: _show(console, adjusted, found))


def _scale(text: str) -> Step:
    from spectra.combine.adjusting import Scale

    pattern, _, factor = text.rpartition("=")
    return Scale(_number("--scale", "[PATTERN=]X", text, factor), pattern)


def _band(text: str, on: str) -> Step:
    from spectra.combine.adjusting import Band

    edges, _, factor = text.rpartition("=")
    low, _, high = edges.partition(":")
    start, stop, by = (_number("--band", "LOW:HIGH=X", text, part) for part in (low, high, factor))
    return Band(start, stop, by, on)


def _number(option: str, form: str, text: str, part: str) -> float:
    try:
        return float(part)
    except ValueError as error:
        raise InputError(f"{option} takes {form}, got {text!r}") from error


def _show(console: Console, adjusted: Adjusted, found: dict[str, Any]) -> None:
    from spectra.cli.tables import percent, show, table

    rows = [
        (_told(effect.step), f"{effect.weights:,}", f"{effect.changed:,}", percent(effect.energy))
        for effect in adjusted.effects
    ]
    show(console, table("edit", ("weights", "floats changed", "energy left"), rows))
    clipped = "with what the ReLU clips" if found["exact"] else "as far as no singular value is clipped"
    console.print(f"Delta W changes by {percent(found['distance'])}, {clipped}")
    console.print(
        f"wrote {found['output']}: {found['weights']:,} weights, {found['floats']:,} floats, {found['bytes']:,} bytes",
        markup=False,
        soft_wrap=True,
    )


def _told(step: Step) -> str:
    from spectra.combine.adjusting import Band, Keep, Only, Scale, Soft

    where = f"{step.pattern}: " if step.pattern else ""
    match step:
        case Only(pattern):
            return f"only {pattern}"
        case Scale(factor):
            return f"{where}scale by {factor:g}"
        case Band(start, stop, factor):
            return f"{where}band {start:g}:{stop:g} by {factor:g}"
        case Soft(threshold):
            return f"{where}soft {threshold:g}"
        case Keep(count, first=first):
            return f"{where}keep {'first' if first else 'largest'} {count:,}"
