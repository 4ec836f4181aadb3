"""Fills the figures of README.md and docs/*.md in from the records of the benches, benchmarks/results/*.jsonl.

python docs/scripts/figures.py

A figure stands between two comments, of which the first says where it is from:

    <!-- figure CASE PLACE [SETTING=VALUE ...] FORM -->.59<!-- /figure -->

CASE is the record's file; of its records the latest counts that has the place and these settings ("-" for a setting
that did not exist when it was made). PLACE is a key of the record's summary, or ROW/KEY, with ROW a name that stands
in the row (underscores for blanks) and further keys behind slashes; a number picks an element of a list. `quality`
has the rows of the report, method/axis/mean, and single trainings, item/axis. FORM is `.2` (two decimals, no zero
before the point), `,` (a whole number), `%`, `kB`, `MB`, `GB` (of bytes), `e` (4e-07), `x` (as is).

A table that is made as a whole stands between `<!-- table NAME -->` and `<!-- /table -->`; TABLES has them.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from spectra.benchmarks.results import Results
from spectra.benchmarks.trainings import quality_table

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

FIGURE = re.compile(r"<!-- figure (?!CASE)(.+?) -->.*?<!-- /figure -->")
TABLE = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- /table -->)", flags=re.DOTALL)

FORMS: dict[str, Callable[[Any], str]] = {
    ",": lambda value: f"{value:,.0f}",
    "%": lambda value: f"{100 * value:.0f} %",
    "kB": lambda value: f"{value / 1e3:,.0f} kB",
    "MB": lambda value: f"{value / 1e6:,.0f} MB",
    "GB": lambda value: f"{value / 1e9:.1f} GB",
    "e": "{:.0e}".format,
    "x": str,
}

METHODS = {
    "full": "full fine-tuning",
    "lora-16": "LoRA of rank 16",
    "lora-4": "LoRA of rank 4",
    "lora-1": "LoRA of rank 1",
    "lora-bytes": "LoRA of rank 1, few layers",
    "lokr": "LoKr of rank 8",
    "ia3": "IA3",
    "shift": "all singular values (`svdiff`)",
    "balanced": "**`balanced`, the default**",
    "likeness": "**`likeness`**, 800 steps",
    "tiny": "**`tiny`**",
}
"""Methods of the quality bench that its tables name, in plain words."""


def figure(query: str) -> str:
    """The text of one figure.

    Raises:
        LookupError: no record has it.
    """
    case, place, *settings, form = query.split()
    value = _value(case, place, dict(each.split("=", 1) for each in settings))
    return decimals(value, int(form[1:])) if form.startswith(".") else FORMS[form](value)


def decimals(value: float, places: int) -> str:
    """A number with so many decimals, without a zero before the point."""
    return re.sub(r"^(-?)0(?=\.)", r"\1", f"{value:.{places}f}")


def filled(text: str) -> str:
    """A page with every figure and table as the records have them now."""
    text = FIGURE.sub(lambda found: f"<!-- figure {found[1]} -->{figure(found[1])}<!-- /figure -->", text)
    return TABLE.sub(lambda found: f"{found[1]}\n" + "\n".join(TABLES[found[2]]()) + f"\n\n{found[3]}", text)


def _value(case: str, place: str, settings: dict[str, str]) -> Any:
    keys = [each.replace("_", " ") if number == 0 else each for number, each in enumerate(place.split("/"))]
    if case == "quality" and len(keys) > 1:
        rows = {row["method"]: row for row in _quality()} | {row["item"]: row for row in _trainings()}
        return _walk(rows[keys[0]], keys[1:])
    for record in reversed(_records(case)):
        of_record = {name: str(value) for name, value in record.get("settings", {}).items()}
        if any(of_record.get(name, "-") != value for name, value in settings.items()):
            continue
        if len(keys) == 1 and place in record.get("summary", {}):
            return record["summary"][place]
        for row in record.get("rows", ()):
            if len(keys) > 1 and keys[0] in row.values():
                return _walk(row, keys[1:])
    raise LookupError(f"no record of {case} has {place} {settings}")


def _walk(value: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        value = value[int(key)] if isinstance(value, list) else value[key]
    return value


@functools.cache
def _records(case: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RESULTS / f"{case}.jsonl").read_text(encoding="utf-8").splitlines()]


@functools.cache
def _quality() -> list[dict[str, Any]]:
    return quality_table.table(_trainings())


def _trainings() -> list[dict[str, Any]]:
    return Results("quality", RESULTS).recorded_rows("item")


def _quality_table() -> Iterator[str]:
    yield "| | likeness | drift | asked grounds | file |"
    yield "|---|---|---|---|---|"
    rows = {row["method"]: row for row in _quality()}
    for method, name in METHODS.items():
        axes = [decimals(rows[method][axis]["mean"], 2) for axis in ("similarity", "drift", "background")]
        yield f"| {name} | {' | '.join(axes)} | {FORMS['kB'](rows[method]['bytes'])} |"


def _methods_table() -> Iterator[str]:
    names = METHODS | {"shift-ca": "shift, cross-attention", "shift-ca-kv": "shift, its keys and values"}
    yield "| | rate | held | likeness | drift | background | second thing | moved | kB | CPU s |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    rows = {row["method"]: row for row in _quality()}
    for method, name in names.items():
        row = rows[method]
        axes = {axis: {end: decimals(row[axis][end], 2) for end in row[axis]} for axis in ("similarity", "drift")}
        cells = [f"{row['rate']:g}", "yes" if row["held"] else "no"]
        cells += [f"{each['mean']} ({each['low']} to {each['high']})" for each in axes.values()]
        cells += [decimals(row[axis]["mean"], 2) for axis in ("background", "second")]
        cells += [f"{100 * row['moved']['mean']:.1f} %", f"{row['bytes'] / 1e3:,.0f}", f"{row['cpu']:.0f}"]
        yield f"| {name} | {' | '.join(cells)} |"


def _flops_table() -> Iterator[str]:
    models = {"sd15": "SD 1.5, 512 px, batch 2", "sdxl": "SDXL, 1024 px", "sd3": "SD3, 1024 px"}
    models["flux"] = "FLUX.1, 1024 px"
    yield "| | 32 directions and one outer term | 16 directions and one | LoRA of rank 16 | of rank 4 |"
    yield "|---|---|---|---|---|"
    for model, name in models.items():
        made = f"model={model} batch={2 if model == 'sd15' else 1} outer=1"
        cells = [f"shift {made} directions=32", f"shift {made} directions=16"]
        cells += [f"{lora} {made} directions=32" for lora in ("lora-16", "lora-4")]
        yield f"| {name} | {' | '.join(figure(f'flops {each} .3') for each in cells)} |"


def _vram_table() -> Iterator[str]:
    models = {"sd15": "Stable Diffusion 1.5", "sdxl": "SDXL", "sd3": "Stable Diffusion 3", "flux": "FLUX.1 dev"}
    four_bits = "and the denoiser in 4 bits (`--quantize nf4`)"
    yield f"| model | picture | memory of a step | with checkpointing | {four_bits} | shift file |"
    yield "|---|---|---|---|---|---|"
    for model, name in models.items():
        pixels = figure(f"vram {model}/pixels x")
        cells = [f"{pixels} px", *(figure(f"vram {model}/{each} GB") for each in ("step", "checkpointed", "nf4"))]
        yield f"| {name} | {' | '.join(cells)} | {figure(f'vram {model}/file MB')} |"


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "quality": _quality_table,
    "methods": _methods_table,
    "flops": _flops_table,
    "vram": _vram_table,
}


if __name__ == "__main__":
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        try:
            new = filled(text)
        except LookupError as error:
            sys.exit(f"{page.name}: {error}")
        if new != text:
            page.write_text(new, encoding="utf-8")
