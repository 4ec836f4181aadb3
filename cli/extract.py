"""`spectra extract`: the closest shift to a fine-tuned model or a LoRA, with what it captures."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from spectra.settings import setting

if TYPE_CHECKING:
    from spectra.convert.extraction import Extracted


@dataclass(frozen=True)
class _Options:
    base: str = argument(
        "Diffusers folder, .safetensors checkpoint or hub id; spectra-base is the embedded one.", "BASE"
    )
    model: str = argument(
        "Model that was fine-tuned from the base: likewise, or one component's folder or file; or a LoRA.", "MODEL"
    )
    out: Path = output_option("The shift to write.")
    target: str = setting("", "Only these weights: subset names and patterns.", default_text="all that changed")
    dtype: Precision = setting("float32", "Precision in which the base will be loaded with the shift.")
    variant: str | None = variant_option()
    directions: int | None = setting(
        None, "Leading directions of each weight that have a delta.", least=0, default_text="all; of a LoRA none"
    )
    outer: int | None = setting(
        None, "Outer terms of each weight beside them.", least=0, default_text="none; of a LoRA all its pairs"
    )
    separable: bool = setting(False, "Let a convolution's terms be output x input x kernel, in fewer floats each.")
    rest: Path | None = setting(None, "Write what the shift leaves, as a LoRA.", metavar="FILE")
    rank: int = setting(16, "Rank of the LoRA that --rest writes.", least=1)
    file_dtype: FilePrecision | None = file_dtype_option()
    layers: bool = layers_option()
    force: bool = force_option()
    json: bool = json_option(", every weight in it")


@command(
    _Options,
    "spectra extract ./sd15 ./sd15-dreambooth -o dog.safetensors",
    "spectra extract ./sd15 style-lora.safetensors -o style.safetensors",
    "spectra extract ./sd15 ./sd15-dreambooth --directions 32 --outer 4 -o dog.safetensors",
)
def extract(options: _Options) -> None:
    """Finds the shift that is closest to a fully fine-tuned model, or to a LoRA, LoHa or LoKr.

    It captures u_i^T (W' - W) v_i of the change of each weight, with --outer also the best pairs of what that leaves.
    The error is what is left of it, as a part of ||W' - W||. A LoRA's own pairs are outer terms, and are taken as they
    are.
    """
    from spectra.convert.extraction import extract as run
    from spectra.io.atomic_writes import check_output
    from spectra.shift.precision import kept_precision
    from spectra.shift.shift_file import write_shift

    start, rest = time.perf_counter(), options.rest
    for path in (options.out, rest):
        if path is not None:
            check_output(path, force=options.force)
    done = run(
        options.base,
        options.model,
        target=options.target,
        dtype=options.dtype,
        variant=options.variant,
        directions=options.directions,
        outer=options.outer,
        separable=options.separable,
        rank=0 if rest is None else options.rank,
        progress=output.progress(),
    )
    dtype = kept_precision([_precision_of(Path(options.model))], options.file_dtype)
    size = write_shift(done.shift, options.out, dtype=dtype, force=options.force)
    found = {
        "base": options.base,
        "model": options.model,
        "out": str(options.out),
        "bytes": size,
        "floats": done.shift.floats,
        "outer": sum(each.rank for each in done.shift.outer.values()),
        **as_dict(done.layers),
        "others": list(done.others),
        "rest_file": None if rest is None else _write_rest(done, rest, options),
        "seconds": round(time.perf_counter() - start, 3),
    }
    output.result(found, json=options.json, human=lambda: _show(found, options.layers))
    if done.others and not options.json:
        more = f" and {len(done.others) - 3} more" if len(done.others) > 3 else ""
        output.say(f"changed too, but held by no shift: {', '.join(done.others[:3])}{more}")
    if done.total.error > LITTLE_LEFT:
        output.say(
            "the shift holds little of this change, which hardly lies along the base's singular vectors; "
            "--outer takes the best outer terms too, --rest writes what is left as a LoRA"
        )


def _precision_of(model: Path) -> FilePrecision:
    """Float16 of a file that has nothing else, such as a LoRA."""
    from spectra.io.safetensors_header import read_header

    codes = {each.code for each in read_header(model).tensors.values()} if model.is_file() else set()
    return "float16" if codes == {"F16"} else "float32"


def _write_rest(done: Extracted, path: Path, options: _Options) -> dict[str, Any] | None:
    """Writes the LoRA, if there is anything for it."""
    from spectra.convert.lora.writing import write_factors

    if not done.rest:
        output.say(f"{path} is not written: the shift leaves nothing that a LoRA could hold")
        return None
    size = write_factors(done.rest, path, force=options.force)
    return {"file": str(path), "bytes": size, "rank": options.rank, "error": done.error_with_rest}


def _show(found: dict[str, Any], every_layer: bool) -> Iterator[output.Part]:
    yield from show_captured(found, every_layer)
    terms = f"{found['outer']:,} outer terms, " if found["outer"] else ""
    yield f"{found['out']}: {terms}{found['floats']:,} floats, {found['bytes']:,} bytes"
    if rest := found["rest_file"]:
        yield f"{rest['file']}: LoRA of rank {rest['rank']}, {rest['bytes']:,} bytes"
        yield f"with it the error is {short_percent(rest['error'])}"
    yield draw_with(Path(found["out"]), found["base"])
