"""How `extract` and `transplant` tell what a shift captures of a change, by block and by weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from spectra.convert.closest_shift import Captured


def described(layers: Sequence[Captured]) -> dict[str, Any]:
    """What is captured, as JSON values: in all, by block and by weight. Norms are `||Delta W||`."""
    from spectra.convert.closest_shift import summed
    from spectra.naming.blocks import block_of, natural_order

    groups: dict[str, list[Captured]] = {}
    for layer in layers:
        groups.setdefault(block_of(layer.name), []).append(layer)
    whole = _row(summed("total", layers), len(layers))
    return {
        **{key: value for key, value in whole.items() if key != "name"},
        "blocks": [_row(summed(name, groups[name]), len(groups[name])) for name in natural_order(groups)],
        "layers": [_row(layer, 1) for layer in layers],
    }


def _row(captured: Captured, weights: int) -> dict[str, Any]:
    return {
        "name": captured.name,
        "weights": weights,
        "change": captured.change**0.5,
        "rest": captured.rest**0.5,
        "energy": captured.energy,
        "clipped": captured.clipped,
        "clipped_energy": captured.clipped_rest / captured.change if captured.change else 0.0,
    }


def show(console: Console, found: dict[str, Any], every_layer: bool) -> None:
    """A table of blocks, or of every weight, with the sum; and what the ReLU takes."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(show_footer=True, box=box.SIMPLE, pad_edge=False)
    table.add_column("weight" if every_layer else "block", footer="total", overflow="fold")
    for key, heading in _COLUMNS.items():
        table.add_column(heading, footer=_cell(key, found[key]), justify="right", no_wrap=True)
    for row in found["layers" if every_layer else "blocks"]:
        table.add_row(Text(row["name"]), *(_cell(key, row[key]) for key in _COLUMNS))
    console.print(table)
    if found["clipped_energy"] > _NOTICED:
        console.print(
            f"{found['clipped']:,} directions would go below zero and stop there: "
            f"{100 * found['clipped_energy']:.2g} % of the change is lost to that",
        )


_NOTICED = 5e-4
"""A smaller share of the change is not worth a line."""

_COLUMNS = {"weights": "weights", "change": "||change||", "rest": "||left||", "energy": "captured"}


def _cell(key: str, value: float) -> str:
    if key == "weights":
        return f"{value:,}"
    return f"{100 * value:.1f} %" if key == "energy" else f"{value:.4g}"
