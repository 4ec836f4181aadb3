"""What `spectra merge` shows of a merge: JSON values, and tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.cli import output
from spectra.cli.next_steps import draw_from
from spectra.cli.tables import cosine, facts, percent, plain, plural, short_names, spaced, table

if TYPE_CHECKING:
    from rich.table import Table

    from spectra.combine.merging import Merged
    from spectra.combine.merging.registry import Method

_FILES_SHOWN = 10

_LEGEND = """\
opposed: coordinates that shifts pull in opposite directions; cosine: mean between two shifts, lengths counted; \
energy: of their sum, as a multiple of the sum of theirs (1: they do not meet; less: they cancel)"""

_TERMS_LEGEND = "error: what fewer terms than all leave out, as a part of the change that all make"


def methods(known: Iterable[Method], *, json: bool) -> None:
    """Prints the list of methods."""
    known = list(known)
    takes = {"alpha": "two shifts, --alpha", "each": "--weights", "none": "no weights"}

    def about(method: Method) -> str:
        options = [takes[method.shares], *(f"--{name} {value:g}" for name, value in method.parameters.items())]
        options += ["--seed"] * method.random
        return f"{method.about}\n{', '.join(options)}; {method.source}"

    names = ("name", "about", "source", "shares", "parameters", "random")
    rows = [output.values_of(method, *names) for method in known]
    listed = facts((method.name, about(method)) for method in known)
    output.result({"methods": rows}, json=json, human=lambda: [listed])


def as_dict(merged: Merged) -> dict[str, Any]:
    """The merge as JSON values, without what was written."""
    cosines = merged.prediction.cosines()
    return {
        "output": None,
        "method": merged.recipe.method,
        "parameters": dict(merged.recipe.parameters),
        "outer_rank": merged.recipe.outer_rank,
        "shifts": [
            output.values_of(parent, "file", "content_hash", "scale") | {"weight": weight, "cosine": cosine}
            for parent, weight, cosine in zip(merged.recipe.parents, merged.weights, cosines, strict=True)
        ],
        "weights": len(merged.shift),
        "floats": merged.shift.floats,
        "shared": merged.shared,
        "patterns": [output.values_of(each, "pattern", "given", "weights", "floats") for each in merged.touched],
        **merged.prediction.as_dict(),
    }


def show(merged: Merged, found: dict[str, Any]) -> Iterator[output.Part]:
    """Tables of what a merge did, for the terminal."""
    parameters = "".join(f", {name} {value:g}" for name, value in found["parameters"].items())
    parameters += f", outer rank {found['outer_rank']:,}" if found["outer_rank"] else ""
    shared = f", {found['shared']:,} of them in all" if found["shared"] < found["weights"] else ""
    count = len(found["shifts"])
    sizes = f"{found['weights']:,} weights{shared}, {found['floats']:,} floats"
    yield f"{found['method']}{parameters} of {plural(count, 'shift')}: {sizes}"
    yield ""
    tables = [_shifts(found), *([_patterns(found)] if found["patterns"] else []), _blocks(found)]
    if found["outer_terms"]:
        tables.append(_terms(found["outer_terms"], bool(found["outer_rank"])))
    yield from spaced(tables)
    yield ""
    if count > 1:
        yield plain(_LEGEND, "dim")
    if found["outer_terms"] and found["outer_rank"]:
        yield plain(_TERMS_LEGEND, "dim")
    for text in _collisions(found):
        yield plain(text)
    yield plain(_clipping(found))
    if found["output"] is None:
        yield "dry run: nothing was written"
    else:
        yield f"wrote {found['output']} ({found['bytes']:,} bytes)"
        yield draw_from(Path(found["output"]), merged.shift.metadata)
    if "saved_recipe" in found:
        yield f"recipe: {found['saved_recipe']}"


def _shifts(found: dict[str, Any]) -> Table:
    names = short_names([Path(shift["file"]) for shift in found["shifts"]])
    rows = [
        (name, f"{shift['scale']:g}", f"{shift['weight']:.4g}", cosine(shift["cosine"]))
        for name, shift in zip(names[:_FILES_SHOWN], found["shifts"], strict=False)
    ]
    if len(names) > _FILES_SHOWN:
        rows.append((f"and {len(names) - _FILES_SHOWN:,} more", "", "", ""))
    return table("shift", ("scale", "weight", "cosine with the result"), rows)


def _patterns(found: dict[str, Any]) -> Table:
    rows = []
    for each in found["patterns"]:
        given = ", ".join(f"{number:g}" for number in each["given"])
        rows.append((each["pattern"], given, f"{each['weights']:,} weights", f"{each['floats']:,}"))
    return table("pattern", ("alpha or weights", "touches", "floats"), rows)


def _blocks(found: dict[str, Any]) -> Table:
    known = bool(found["total"]["known"])
    rows = []
    for part in [*found["blocks"], found["total"]]:
        lost = "" if part["lost"] is None else percent(part["lost"])
        opposed = percent(part["opposed"] / part["floats"])
        numbers = (f"{part['norm']:.4g}", opposed, cosine(part["cosine"]), cosine(part["energy"]))
        rows.append((part["name"], *numbers, *([lost] if known else [])))
    headings = ("||delta||", "opposed", "cosine", "energy", *(["clipped"] if known else []))
    return table("block", headings, rows[:-1], rows[-1])


def _terms(found: dict[str, Any], few: bool) -> Table:
    rows = []
    for part in [*found["blocks"], found["total"]]:
        numbers = (f"{part['terms']:,}", f"{part['norm']:.4g}", cosine(part["cosine"]), cosine(part["energy"]))
        rows.append((part["name"], *numbers, *([percent(part["error"])] if few else [])))
    headings = ("terms", "||Delta W||", "cosine", "energy", *(["error"] if few else []))
    return table("outer terms", headings, rows[:-1], rows[-1])


def _collisions(found: dict[str, Any]) -> Iterator[str]:
    """A line for the special words of several shifts that are the same tokens."""
    names = short_names([Path(shift["file"]) for shift in found["shifts"]])
    groups: dict[tuple[str, tuple[int, ...]], list[dict[str, Any]]] = {}
    for shared in found["shared_tokens"]:
        groups.setdefault((shared["weight"], tuple(shared["shifts"])), []).append(shared)
    for (weight, shifts), tokens in groups.items():
        who = ", ".join(names[shift] or "a shift" for shift in shifts[:_FILES_SHOWN])
        ids = ", ".join(f"{each['token']} (cosine {cosine(each['cosine'])})" for each in tokens)
        yield (
            f"the special words of {who} meet in {weight}: token{'s' * (len(tokens) > 1)} {ids}; one word then calls "
            "all of them"
        )


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
        f"(in a single shift: {total['clipped_alone']:,}); Delta W loses {percent(total['lost'] or 0.0)} of its "
        f"energy{part}"
    )
