"""`spectra decompose`: fills the spectrum cache for a base, so that training and loading find it warm."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from spectra.bases.embedded import NAME
from spectra.cli import output
from spectra.cli.next_steps import following
from spectra.cli.options import argument, check_device, command, device_option, json_option, variant_option
from spectra.cli.tables import readable, table
from spectra.settings import setting

_COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "weights": ("weights", "{:,}".format),
    "weight_floats": ("floats", lambda count: f"{count / 1e6:,.2f} M"),
    "ratio": ("stored", "{:.3f}".format),
    "bytes": ("size", readable),
    "hits": ("found", "{:,}".format),
    "misses": ("new", "{:,}".format),
    "full": ("in full", "{:,}".format),
    "seconds": ("time, s", "{:.1f}".format),
}
"""Keys of a row, with their headings and how their values are written; `full` only with `--directions`."""


@dataclass(frozen=True)
class _Options:
    base: str = argument("Diffusers folder, .safetensors file or hub id; without it, the embedded base.", "BASE", "")
    component: tuple[str, ...] = setting((), "Only this component, such as unet; repeatable.", metavar="NAME")
    dtype: Literal["float32", "float16", "bfloat16", "file"] = setting(
        "float32", "Precision in which the base will be loaded, to which a spectrum belongs; file is the stored one."
    )
    directions: int | None = setting(
        None,
        "Find only so many leading directions of each weight, with both sides; those of a smaller number are gone on "
        "from. A few are many times quicker and smaller than all.",
        least=1,
        metavar="K",
        default_text="all",
    )
    variant: str | None = variant_option()
    device: str = device_option("compute on", default="a CUDA device if there is one")
    json: bool = json_option()


@command(_Options, "spectra decompose ./sd15 --component unet", "spectra decompose ./sdxl --directions 64 --json")
def decompose(options: _Options) -> None:
    """Decomposes every weight of a base once, and keeps the spectra for all later commands."""
    import torch

    from spectra.bases.weight_files import base_weights
    from spectra.spectrum.cache.spectrum_cache import default_cache

    cast = "" if options.dtype == "file" else options.dtype
    cache = default_cache()
    parts = base_weights(options.base, options.component, variant=options.variant, dtype=cast).by_component()
    check_device(options.device)
    where = options.device or ("cuda" if torch.cuda.is_available() else None)
    rows: list[dict[str, Any]] = []
    for name, every in parts.items():
        weights = every.matrices()
        start = time.perf_counter()
        usage = cache.fill(weights, output.progress(), device=where, directions=options.directions)
        row: dict[str, Any] = {"component": name, "weights": len(weights)}
        row |= output.values_of(usage, "hits", "misses", "full", "damaged", "weight_floats", "spectrum_floats", "bytes")
        rows.append(row | {"seconds": round(time.perf_counter() - start, 3)})
    total: dict[str, Any] = {key: sum(row[key] for row in rows) for key in rows[0] if key != "component"}
    for row in (*rows, total):
        row["ratio"] = round(row["spectrum_floats"] / max(row["weight_floats"], 1), 4)
    found = {
        "base": options.base or NAME,
        "dtype": options.dtype,
        "device": where or "cpu",
        "directions": options.directions,
        "cache": str(cache.path),
        "components": rows,
        "total": total,
    }
    output.result(found, json=options.json, human=lambda: _show(found))
    if total["bytes"] > cache.max_bytes:
        output.say(
            f"the spectra take {readable(total['bytes'])}, the cache keeps {readable(cache.max_bytes)}: "
            "raise SPECTRA_CACHE_LIMIT, or they are computed again"
        )


def _show(found: dict[str, Any]) -> Iterator[output.Part]:
    few = found["directions"] is not None
    columns = {key: column for key, column in _COLUMNS.items() if key != "full" or few}
    *rows, total = (
        (row.get("component", "total"), *(text(row[key]) for key, (_, text) in columns.items()))
        for row in (*found["components"], found["total"])
    )
    headings = [heading for heading, _ in columns.values()]
    yield table("component", headings, rows, total if len(rows) > 1 else (), name_width=None)
    yield f"stored: floats of the spectra per float of the weights; in {found['cache']}"
    if few:
        yield "in full: cut from all directions, where the leading ones alone were not quicker, or not found"
    base = [] if found["base"] == NAME else ["--base", found["base"]]
    yield following("spectra", "train", *base, "--images", "DIR", "--prompt", "a photo of a [V1] dog")
