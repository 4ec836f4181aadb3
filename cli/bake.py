"""`spectra bake`: the plain model with shifts folded in, for tools that know no shifts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectra.bases.prediction import PREDICTION_TYPE
from spectra.cli import output
from spectra.cli.next_steps import following
from spectra.cli.options import argument, command, force_option, json_option, output_option, variant_option
from spectra.cli.tables import readable, short_percent
from spectra.settings import REQUIRED, setting


@dataclass(frozen=True, kw_only=True)
class _Options:
    base: str = argument(
        "Diffusers folder, .safetensors checkpoint or hub id; without it, the embedded base.", "BASE", ""
    )
    shift: tuple[str, ...] = setting(REQUIRED, "A shift to fold in; repeatable.", metavar="FILE[:SCALE]")
    out: Path = output_option("Folder to write, or file if the base is one.", metavar="PATH")
    variant: str | None = variant_option()
    prediction_type: str = setting(**PREDICTION_TYPE)
    force: bool = force_option()
    json: bool = json_option()


@command(
    _Options,
    "spectra bake ./sd15 --shift dog.safetensors:0.9 --shift style.safetensors:0.4 -o sd15-dog",
    "spectra bake v1-5.safetensors --shift dog.safetensors -o v1-5-dog.safetensors",
)
def bake(options: _Options) -> None:
    """Writes the plain model with shifts folded in: the base's files, its dtype and names, other weights."""
    from spectra.bases.pipeline import find_base
    from spectra.convert import baking
    from spectra.shift.scaled_files import parse_shift
    from spectra.shift.shift_file import read_shift

    start, out = time.perf_counter(), options.out
    shifts = [
        baking.NamedShift(path.name, read_shift(path), scale)
        for path, scale in (parse_shift(text) for text in options.shift)
    ]
    done = baking.bake(
        options.base,
        shifts,
        options.out,
        variant=options.variant,
        prediction_type=options.prediction_type,
        force=options.force,
        progress=output.progress(),
    )
    found = {
        "base": find_base(options.base).name,
        "out": str(out),
        "bytes": sum(file.stat().st_size for file in ([out] if out.is_file() else out.rglob("*")) if file.is_file()),
        "shifts": [
            {"file": each.name, "scale": each.scale, "content_hash": each.shift.metadata.content_hash}
            for each in shifts
        ],
        "weights": done.weights,
        "dtypes": list(done.dtypes),
        "rounding": done.rounding,
        "averages": done.averages,
        "left_out": list(done.left_out),
        "seconds": round(time.perf_counter() - start, 3),
    }
    output.result(found, json=options.json, human=lambda: _show(found))
    if done.left_out:
        output.say("not copied, since they hold the base's weights without the shift: " + ", ".join(done.left_out))


def _show(found: dict[str, Any]) -> Iterator[output.Part]:
    yield f"{found['out']} ({readable(found['bytes'])})"
    for each in found["shifts"]:
        yield f"  {each['file']} at scale {each['scale']:g}"
    rounding = short_percent(found["rounding"], 2) if found["rounding"] else "nothing"
    yield f"{found['weights']:,} weights shifted; stored in {', '.join(found['dtypes'])}, which costs {rounding}"
    if found["averages"]:
        yield f"so are the moving averages (model_ema) of {found['averages']:,} of them"
    yield following("spectra", "generate", "--base", found["out"], "--prompt", "...")
