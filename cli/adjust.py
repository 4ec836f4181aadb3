"""`spectra adjust`: edits one shift. Needs neither torch nor the base."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.cli import output
from spectra.cli.next_steps import draw_from
from spectra.cli.options import (
    FilePrecision,
    argument,
    command,
    file_dtype_option,
    force_option,
    json_option,
    output_option,
)
from spectra.errors import InputError
from spectra.settings import setting

if TYPE_CHECKING:
    from spectra.combine.adjusting import Adjusted, Step


@dataclass(frozen=True)
class _Options:
    file: Path = argument("A shift file.", "FILE")
    out: Path = output_option("The edited shift.")
    only: str = setting("", "Leave out all weights but these.", metavar="PATTERN")
    scale: tuple[str, ...] = setting(
        (), "Multiply delta of these weights, or of all. Repeatable.", metavar="[PATTERN=]X"
    )
    band: tuple[str, ...] = setting(
        (),
        "Multiply delta for a band of singular values: 0:0.1 is the largest tenth. Repeatable.",
        metavar="LOW:HIGH=X",
    )
    soft: float | None = setting(None, "Make every |delta| smaller by this much, down to 0.")
    keep: int | None = setting(None, "Keep this many directions of each weight: those of the largest |delta|.")
    keep_first: int | None = setting(
        None, "Keep this many directions of each weight: those of the largest singular values."
    )
    outer_rank: int | None = setting(None, "Keep this many outer terms of each weight: the best of that number.")
    on: str = setting(
        "", "Weights that --band, --soft, --keep and --outer-rank act on, in place of all.", metavar="PATTERN"
    )
    file_dtype: FilePrecision | None = file_dtype_option()
    force: bool = force_option("an existing file")
    json: bool = json_option()


@command(
    _Options,
    "spectra adjust dog.safetensors --scale unet.up_blocks.1=0.5 -o softer.safetensors",
    "spectra adjust dog.safetensors --keep 64 -o small.safetensors",
    "spectra adjust dog.safetensors --band 0:0.1=0 --on unet-ca -o fine.safetensors",
)
def adjust(options: _Options) -> None:
    """Edits a shift: fewer directions, a threshold, another strength by layer or by singular value.

    The edits are made in the order of the options. --scale acts on all of a weight; --band, --soft and --keep leave
    1-D weights (norms), outer terms and words alone, as these have no singular values. PATTERN is a subset, a block as
    inspect shows it, or a pattern such as 'unet.*attn2*'.
    """
    from spectra.analysis.diffing import compare
    from spectra.analysis.weight_changes import weight_changes
    from spectra.cli.exactness import unknown_as_dict
    from spectra.combine import adjusting
    from spectra.io.atomic_writes import check_output
    from spectra.shift.precision import kept_precision
    from spectra.shift.shift_file import read_shift, write_shift

    steps = _steps(options)
    check_output(options.out, force=options.force)
    shift = read_shift(options.file)
    adjusted = adjusting.adjust(shift, steps)
    changes, unknown = weight_changes([shift, adjusted.shift])
    moved = compare(*changes)
    dtype = kept_precision([shift.precision], options.file_dtype)
    size = write_shift(adjusted.shift, options.out, dtype=dtype, force=options.force)
    found = {
        "file": str(options.file),
        "output": str(options.out),
        "bytes": size,
        "weights": len(adjusted.shift),
        "floats": adjusted.shift.floats,
        "distance": moved.distance / moved.first if moved.first else 0.0,
        **unknown_as_dict(unknown),
        "steps": [
            adjusting.as_dict(effect.step) | output.values_of(effect, "weights", "changed", "energy")
            for effect in adjusted.effects
        ],
    }
    output.result(found, json=options.json, human=lambda: _show(adjusted, found))


def _steps(options: _Options) -> list[Step]:
    """The edits in their order."""
    from spectra.combine.adjusting import Band, Keep, Only, OuterRank, Scale, Soft

    on = options.on
    steps: list[Step] = [Only(options.only)] if options.only else []
    for text in options.scale:
        pattern, _, factor = text.rpartition("=")
        steps.append(Scale(_number("--scale", "[PATTERN=]X", text, factor), pattern))
    for text in options.band:
        edges, _, factor = text.rpartition("=")
        low, _, high = edges.partition(":")
        start, stop, by = (_number("--band", "LOW:HIGH=X", text, part) for part in (low, high, factor))
        steps.append(Band(start, stop, by, on))
    steps += [Soft(options.soft, on)] if options.soft is not None else []
    steps += [Keep(options.keep, on)] if options.keep is not None else []
    steps += [Keep(options.keep_first, on, first=True)] if options.keep_first is not None else []
    steps += [OuterRank(options.outer_rank, on)] if options.outer_rank is not None else []
    if not steps:
        raise InputError("nothing to do: give --only, --scale, --band, --soft, --keep, --keep-first or --outer-rank")
    if on and not any(isinstance(step, (Band, Soft, Keep, OuterRank)) for step in steps):
        raise InputError("--on says where --band, --soft, --keep and --outer-rank act; give one of them")
    return steps


def _number(option: str, form: str, text: str, part: str) -> float:
    try:
        return float(part)
    except ValueError as error:
        raise InputError(f"{option} takes {form}, got {text!r}") from error


def _show(adjusted: Adjusted, found: dict[str, Any]) -> Iterator[output.Part]:
    from spectra.cli.exactness import exactness_line
    from spectra.cli.tables import facts, percent, table

    rows = [
        (_in_words(effect.step), f"{effect.weights:,}", f"{effect.changed:,}", percent(effect.energy))
        for effect in adjusted.effects
    ]
    yield table("edit", ("weights", "floats changed", "energy left"), rows)
    yield f"Delta W changes by {percent(found['distance'])}"
    yield facts([exactness_line(found, "the change")])
    sizes = f"{found['weights']:,} weights, {found['floats']:,} floats, {found['bytes']:,} bytes"
    yield f"wrote {found['output']}: {sizes}"
    yield draw_from(Path(found["output"]), adjusted.shift.metadata)


def _in_words(step: Step) -> str:
    from spectra.combine.adjusting import Band, Keep, Only, OuterRank, Scale, Soft

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
        case OuterRank(count):
            return f"{where}keep {count:,} outer term{'s' * (count > 1)}"
