"""`spectra mix`: content from one shift, style from another. Needs neither torch nor the base."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.cli import output
from spectra.cli.next_steps import draw_from
from spectra.cli.options import argument, command, force_option, json_option, output_option
from spectra.cli.tables import plain, table
from spectra.settings import setting

if TYPE_CHECKING:
    from spectra.combine.mixing import Mix


@dataclass(frozen=True)
class _Options:
    content: Path = argument("Shift that gives the layers of geometry.")
    style: Path = argument("Shift that gives all other layers.")
    out: Path = output_option("The mixed shift.")
    layers: str = setting(
        "",
        "Layers that come from the content shift, each as (resolution, part, number).",
        metavar="FIRST:LAST",
        default_text="those around the bottleneck: 16,down,1:8,down,0 in SD 1.x",
    )
    target: str = setting(
        "unet-2d",
        "Weights that are mixed, by subsets or patterns; others are left out. Text encoders are the content's.",
    )
    force: bool = force_option("an existing file")
    json: bool = json_option()


@command(
    _Options,
    "spectra mix fox.safetensors blueprint.safetensors -o mixed.safetensors",
    "spectra mix fox.safetensors blueprint.safetensors --layers 16,down,1:16,up,0 -o mixed.safetensors",
)
def mix(options: _Options) -> None:
    """Mixes two shifts by layers: content from one, style from the other. Shows which layer came from which."""
    from spectra.combine.mixing import mix as run
    from spectra.io.atomic_writes import check_output
    from spectra.shift.precision import kept_precision
    from spectra.shift.shift_file import read_shift, write_shift

    check_output(options.out, force=options.force)
    shifts = [read_shift(options.content), read_shift(options.style)]
    mixed = run(*shifts, layers=options.layers, target=options.target)
    dtype = kept_precision(shift.precision for shift in shifts)
    size = write_shift(mixed.shift, options.out, dtype=dtype, force=options.force)
    report = {
        "file": str(options.out),
        "bytes": size,
        "family": mixed.layout.name,
        "layers": [
            {"layer": layer.name, "from": "content" if own else "style", "weights": weights}
            | output.values_of(layer, "patterns")
            for layer, own, weights in mixed.layers
        ],
        **output.values_of(mixed, "elsewhere", "text", "left_out"),
    }
    output.result(report, json=options.json, human=lambda: _show(mixed, report))


def _show(mixed: Mix, report: dict[str, Any]) -> Iterator[output.Part]:
    rows = []
    for row in report["layers"]:
        modules = " ".join(pattern.removeprefix("unet.").removesuffix(".*") for pattern in row["patterns"])
        rows.append((row["layer"], row["from"], str(row["weights"]), modules))
    if mixed.elsewhere:
        rows.append(("none", "style", str(mixed.elsewhere), "time embedding, first and last layer, ..."))
    if mixed.text:
        rows.append(("none", "content", str(mixed.text), "text encoder"))
    yield table("layer", ("from", "weights", "modules"), rows, texts=("from", "modules"), name_width=None)
    yield plain(f"{report['file']}: {len(mixed.shift)} weights, {report['bytes']:,} bytes")
    if mixed.left_out:
        yield f"{mixed.left_out} weights that --target does not name are left out"
    yield draw_from(Path(report["file"]), mixed.shift.metadata)
