"""`spectra decompose`: fills the spectrum cache for a base, so that training and loading find it warm."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from spectra.cli import output
from spectra.cli.quiet import quiet_libraries
from spectra.cli.sizes import readable

if TYPE_CHECKING:
    from rich.console import Console

_EXAMPLE = "Example:  spectra decompose ./sd15 --component unet     |     spectra decompose unet.safetensors --json"

_COLUMNS = {
    "weights": "weights",
    "weight_floats": "floats",
    "ratio": "stored",
    "bytes": "size",
    "hits": "found",
    "misses": "new",
    "seconds": "time, s",
}

Precision = Literal["float32", "float16", "bfloat16", "file"]


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command(epilog=_EXAMPLE)
    def decompose(
        base: Annotated[
            str,
            typer.Argument(
                metavar="BASE",
                help="Diffusers folder, .safetensors file or hub id; without it, the embedded base.",
                show_default=False,
            ),
        ] = "",
        component: Annotated[
            list[str] | None,
            typer.Option("--component", metavar="NAME", help="Only this one, such as unet; can be repeated."),
        ] = None,
        dtype: Annotated[
            Precision,
            typer.Option(help="As which the base will be loaded; a spectrum belongs to one. file: as it is stored."),
        ] = "float32",
        variant: Annotated[
            str | None, typer.Option(help="Of the weight files, such as fp16.", show_default=False)
        ] = None,
        device: Annotated[
            str | None, typer.Option(help="Where to compute; by default a CUDA device if there is one.")
        ] = None,
        json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ) -> None:
        """Decomposes every weight of a base once, and keeps the spectra for all later commands."""
        quiet_libraries()
        from spectra.bases.embedded import NAME
        from spectra.bases.weight_files import base_weights
        from spectra.spectrum.cache.spectrum_cache import default_cache

        cast = "" if dtype == "file" else dtype
        cache = default_cache()
        parts = base_weights(base, component or [], variant=variant, dtype=cast).by_component()
        where = _device(device)
        rows: list[dict[str, Any]] = []
        for name, every in parts.items():
            weights = every.matrices()
            start = time.perf_counter()
            usage = cache.fill(weights, output.progress(), device=where)
            row: dict[str, Any] = {
                "component": name,
                "weights": len(weights),
                "hits": usage.hits,
                "misses": usage.misses,
            }
            row |= {"damaged": usage.damaged, "weight_floats": usage.weight_floats}
            row |= {"spectrum_floats": usage.spectrum_floats, "bytes": usage.bytes}
            rows.append(row | {"seconds": round(time.perf_counter() - start, 3)})
        total: dict[str, Any] = {key: sum(row[key] for row in rows) for key in rows[0] if key != "component"}
        for row in (*rows, total):
            row["ratio"] = round(row["spectrum_floats"] / max(row["weight_floats"], 1), 4)
        found = {
            "base": base or NAME,
            "dtype": dtype,
            "device": where or "cpu",
            "cache": str(cache.path),
            "components": rows,
            "total": total,
        }
        output.result(found, json=json, human=lambda console: _show(console, found))
        if total["bytes"] > cache.max_bytes:
            output.say(
                f"the spectra take {readable(total['bytes'])}, the cache keeps {readable(cache.max_bytes)}: "
                "raise SPECTRA_CACHE_LIMIT, or they are computed again"
            )


def _device(asked: str | None) -> str | None:
    import torch

    from spectra.errors import InputError

    if asked is None:
        return "cuda" if torch.cuda.is_available() else None
    try:
        torch.empty(1, device=asked)
    except Exception as error:  # RuntimeError, AssertionError, ... each backend has its own
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"--device {asked}: cannot be used ({reason}); try --device cpu") from error
    return asked


def _show(console: Console, found: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    total = found["total"]
    table = Table(show_footer=len(found["components"]) > 1, box=box.SIMPLE, pad_edge=False)
    table.add_column("component", footer="total", no_wrap=True)
    for key, heading in _COLUMNS.items():
        table.add_column(heading, footer=_cell(key, total[key]), justify="right", no_wrap=True)
    for row in found["components"]:
        table.add_row(row["component"], *(_cell(key, row[key]) for key in _COLUMNS))
    console.print(table)
    console.print(f"stored: floats of the spectra per float of the weights; in {found['cache']}", soft_wrap=True)


def _cell(key: str, value: float) -> str:
    if key == "bytes":
        return readable(int(value))
    if key == "weight_floats":
        return f"{value / 1e6:,.2f} M"
    if key == "ratio":
        return f"{value:.3f}"
    return f"{value:.1f}" if key == "seconds" else f"{value:,}"
