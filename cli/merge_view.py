"""What `spectra merge` shows of a merge: JSON values, and tables for people."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.cli import output

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from spectra.merging import Merged
    from spectra.merging.registry import Method

_FILES_SHOWN = 10

_LEGEND = """\
conflicts: coordinates where shifts pull in opposite directions; cosine: mean between two shifts, lengths counted; \
energy: of their sum, as a multiple of the sum of theirs (1: they do not meet; less: they cancel)"""


def methods(known: Iterable[Method], *, json: bool) -> None:
    """Prints the list of methods."""
    from rich.table import Table

    known = list(known)
    takes = {"alpha": "two shifts, --alpha", "each": "--weights", "none": "no weights"}

    def human(console: Console) -> None:
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column()
        for method in known:
            options = [takes[method.shares], *(f"--{name} {value:g}" for name, value in method.parameters.items())]
            options += ["--seed"] * method.random
            table.add_row(f"[bold]{method.name}[/]", f"{method.about}\n[dim]{', '.join(options)}; {method.source}[/]")
        console.print(table)

    rows = [
        {
            "name": method.name,
            "about": method.about,
            "source": method.source,
            "shares": method.shares,
            "parameters": dict(method.parameters),
            "random": method.random,
        }
        for method in known
    ]
    output.result({"methods": rows}, json=json, human=human)


def as_dict(merged: Merged) -> dict[str, Any]:
    """The merge as JSON values, without what was written."""
    cosines = merged.prediction.cosines()
    return {
        "output": None,
        "method": merged.recipe.method,
        "parameters": dict(merged.recipe.parameters),
        "shifts": [
            {
                "file": parent.file,
                "content_hash": parent.content_hash,
                "scale": parent.scale,
                "weight": weight,
                "cosine": cosine,
            }
            for parent, weight, cosine in zip(merged.recipe.parents, merged.weights, cosines, strict=True)
        ],
        "weights": len(merged.shift),
        "floats": merged.shift.floats,
        "shared": merged.shared,
        "patterns": [
            {"pattern": each.pattern, "given": list(each.given), "weights": each.weights, "floats": each.floats}
            for each in merged.touched
        ],
        **merged.prediction.as_dict(),
    }


def show(console: Console, merged: Merged, found: dict[str, Any]) -> None:
    """The same for people."""
    parameters = "".join(f", {name} {value:g}" for name, value in found["parameters"].items())
    shared = f", {found['shared']:,} of them in all" if found["shared"] < found["weights"] else ""
    count = len(found["shifts"])
    console.print(
        f"{found['method']}{parameters} of {count} shift{'s' if count != 1 else ''}: "
        f"{found['weights']:,} weights{shared}, {found['floats']:,} floats",
        markup=False,
    )
    console.print(_shifts(found))
    if found["patterns"]:
        console.print(_patterns(found))
    console.print(_blocks(found, clipping=merged.prediction.clipping_known))
    if count > 1:
        console.print(_LEGEND, style="dim")
    console.print(_clipping(found), markup=False)
    if found["output"] is None:
        console.print("dry run: nothing was written")
    else:
        console.print(f"wrote {found['output']} ({found['bytes']:,} bytes)", markup=False, soft_wrap=True)
    if "saved_recipe" in found:
        console.print(f"recipe: {found['saved_recipe']}", markup=False, soft_wrap=True)


def _table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 0, 0, 1))
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=bool(number), overflow="fold")
    return table


def _shifts(found: dict[str, Any]) -> Table:
    from rich.text import Text

    table = _table("shift", "scale", "weight", "cosine with the result")
    for shift in found["shifts"][:_FILES_SHOWN]:
        name = Path(shift["file"]).name
        table.add_row(Text(name), f"{shift['scale']:g}", f"{shift['weight']:.4g}", _number(shift["cosine"], ".3f"))
    left = len(found["shifts"]) - _FILES_SHOWN
    if left > 0:
        table.add_row(f"and {left:,} more")
    return table


def _patterns(found: dict[str, Any]) -> Table:
    from rich.text import Text

    table = _table("pattern", "alpha or weights", "touches", "floats")
    for each in found["patterns"]:
        given = ", ".join(f"{number:g}" for number in each["given"])
        table.add_row(Text(each["pattern"]), given, f"{each['weights']:,} weights", f"{each['floats']:,}")
    return table


def _blocks(found: dict[str, Any], *, clipping: bool) -> Table:
    table = _table("block", "||delta||", "conflicts", "cosine", "energy", *(("clipped", "lost") if clipping else ()))
    for part in [*found["blocks"], found["total"]]:
        cells = [
            f"{part['norm']:.4g}",
            _percent(part["conflicts"] / part["floats"]),
            _number(part["cosine"], ".3f"),
            _number(part["energy"], ".3f"),
        ]
        if clipping:
            cells += [_number(part["clipped"], ",.0f"), "" if part["lost"] is None else _percent(part["lost"])]
        table.add_row(part["name"], *cells, style="bold" if part is found["total"] else "")
    return table


def _clipping(found: dict[str, Any]) -> str:
    total = found["total"]
    if not found["singular_values"]:
        return "clipping: none, as only 1-D weights are shifted"
    if not total["known"]:
        return (
            "clipping: unknown, as the spectrum cache does not have this base's singular values; "
            "spectra decompose BASE brings them in"
        )
    part = f"; not known of {left:,} others" if (left := found["singular_values"] - total["known"]) else ""
    return (
        f"clipping: {total['clipped']:,} of {total['known']:,} singular values would fall below 0 and stay there "
        f"(in a single shift: {total['clipped_alone']:,}); Delta W loses {_percent(total['lost'] or 0.0)} of its "
        f"energy{part}"
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _percent(part: float) -> str:
    return f"{part:.1%}".replace("%", " %")
