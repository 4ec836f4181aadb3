"""What a shift captures of a change of weights, by block and by weight, as `extract` and `transplant` show it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from spectra.cli.output import Part
from spectra.cli.tables import short_percent, table

if TYPE_CHECKING:
    from spectra.convert.closest_shift import Captured

LITTLE_LEFT = 0.95
"""A shift with a larger error does not stand for the change."""
_NOTICED = 0.02
"""A smaller part of the change is not worth a line."""


def as_dict(layers: Sequence[Captured]) -> dict[str, Any]:
    """What is captured, as JSON values: in all, by block and by weight. Norms are `||Delta W||`, errors
    parts of them.
    """
    from spectra.convert.closest_shift import summed
    from spectra.naming.blocks import block_of, grouped

    named = {layer.name: layer for layer in layers}
    groups = grouped(named, block_of)
    return {
        **_row(summed("total", layers), len(layers)),
        "blocks": [
            {"name": block, **_row(summed(block, [named[name] for name in names]), len(names))}
            for block, names in groups.items()
        ],
        "layers": [{"name": layer.name, **_row(layer, 1)} for layer in layers],
    }


def _row(captured: Captured, weights: int) -> dict[str, Any]:
    return {
        "weights": weights,
        "change": captured.change**0.5,
        "rest": captured.rest**0.5,
        "error": captured.error,
        "clipped": captured.clipped,
        "clipped_error": math.sqrt(captured.clipped_rest / captured.change) if captured.change else 0.0,
    }


def show_captured(found: dict[str, Any], every_layer: bool) -> Iterator[Part]:
    """A table of blocks, or of every weight, with the sum; and what the ReLU takes."""
    rows = found["layers" if every_layer else "blocks"]
    headings = ("weights", "||change||", "||left||", "error")
    yield table("weight" if every_layer else "block", headings, map(_cells, rows), _cells(found))
    if found["clipped_error"] > _NOTICED:
        lost = short_percent(found["clipped_error"], 2)
        count = f"{found['clipped']:,} directions"
        yield f"{count} would go below zero and stop there: {lost} of ||change|| is lost to that"


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    norms = (f"{row[key]:.4g}" for key in ("change", "rest"))
    return (row.get("name", "total"), f"{row['weights']:,}", *norms, short_percent(row["error"]))
