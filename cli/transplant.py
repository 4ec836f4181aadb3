"""`spectra transplant`: carries a shift over to a related base, with its error."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectra.cli import output
from spectra.cli.captured_change import LITTLE_LEFT, as_dict, show_captured
from spectra.cli.next_steps import draw_with
from spectra.cli.options import (
    FilePrecision,
    Precision,
    argument,
    command,
    file_dtype_option,
    force_option,
    json_option,
    layers_option,
    output_option,
    variant_option,
)
from spectra.cli.tables import short_percent
from spectra.settings import REQUIRED, SHARE, setting


@dataclass(frozen=True)
class _Options:
    shift: Path = argument("A shift file.", "SHIFT")
    to: str = setting(REQUIRED, "New base: diffusers folder, .safetensors file or hub id.", metavar="BASE")
    out: Path = output_option("The shift to write.")
    source: str | None = setting(
        None,
        "Base that the shift was trained on; its weights are needed.",
        option="--from",
        metavar="BASE",
        default_text="as the shift names it",
    )
    dtype: Precision | None = setting(
        None, "Precision in which the new base will be loaded.", default_text="as the shift's"
    )
    variant: str | None = variant_option("the new base")
    max_error: float | None = setting(
        None, "Refuse a result whose relative error of Delta W is larger, such as 0.5.", default_text="any", **SHARE
    )
    file_dtype: FilePrecision | None = file_dtype_option()
    layers: bool = layers_option()
    force: bool = force_option()
    json: bool = json_option(", every weight in it")


@command(
    _Options,
    "spectra transplant dog.safetensors --from ./sd15 --to ./dreamshaper -o dog-dreamshaper.safetensors",
    "spectra transplant dog.safetensors --to ./sd15 --dtype float16 -o dog-fp16.safetensors",
)
def transplant(options: _Options) -> None:
    """Carries a shift over to a related base, or to a rounded copy of its own.

    On the new base it is the shift whose change of the weights is closest; the error says how far that is from the old
    one, as a part of ||Delta W||.
    """
    from spectra.convert.transplanting import transplant as run
    from spectra.io.atomic_writes import check_output
    from spectra.shift.precision import kept_precision
    from spectra.shift.shift_file import write_shift
    from spectra.shift.shift_header import read_shift_header

    start = time.perf_counter()
    check_output(options.out, force=options.force)
    done = run(
        options.shift,
        options.to,
        source=options.source,
        dtype=options.dtype or "",
        variant=options.variant,
        max_error=options.max_error,
        progress=output.progress(),
    )
    dtype = kept_precision([read_shift_header(options.shift).precision], options.file_dtype)
    size = write_shift(done.shift, options.out, dtype=dtype, force=options.force)
    found = {
        "shift": str(options.shift),
        "to": options.to,
        "out": str(options.out),
        "bytes": size,
        "floats": done.shift.floats,
        "matrices_error": done.error,
        **as_dict(done.layers),
        "missing": list(done.missing),
        "seconds": round(time.perf_counter() - start, 3),
    }
    output.result(found, json=options.json, human=lambda: _show(found, options.layers))
    if done.missing and not options.json:
        output.say(f"{len(done.missing)} weights stay behind, which the new base has not, such as {done.missing[0]}")
    if done.error > LITTLE_LEFT:
        output.say("little of this shift is left: these bases are hardly related, train it on the new one")


def _show(found: dict[str, Any], every_layer: bool) -> Iterator[output.Part]:
    yield from show_captured(found, every_layer)
    yield f"error {short_percent(found['matrices_error'])} of Delta W in the matrices; norms go over as they are"
    yield f"{found['out']}: {found['floats']:,} floats, {found['bytes']:,} bytes"
    yield draw_with(Path(found["out"]), found["to"])
