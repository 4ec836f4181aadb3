"""How `convert` tells what it read and wrote, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.cli.next_steps import draw_from
from spectra.cli.tables import readable, short_percent

if TYPE_CHECKING:
    from spectra.shift.shift import SpectralShift

FORMATS = {
    "shift": "a shift",
    "svdiff-pytorch": "a folder for svdiff-pytorch and diffusers' PR 3107",
    "lora": "a LoRA for diffusers, in PEFT's layout",
    "peft": "a LoRA for PEFT alone, a folder for each component",
    "kohya": "a LoRA for kohya's scripts, ComfyUI and A1111",
    "difference": "full differences for ComfyUI, A1111 and LyCORIS",
    "embedding": "the special word's embedding (textual inversion) for diffusers, ComfyUI and A1111",
}
"""What each format is."""

_WORTH_TELLING = 1e-6


def convert_rows(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What was read and written, a heading and a text in each row."""
    read, written = found["read"], found["written"]
    what = f"{read['format']}, {read['weights']:,} weights of {' and '.join(read['components'])}"
    terms = [f"{read['outer']:,} outer terms"] if read["outer"] else []
    yield "read", "\n".join([*found["files"], what, *terms, *(f"a vector for {word!r}" for word in read["words"])])
    yield from _fit_rows(read)
    yield "written", f"{written['path']}\n{FORMATS[written['format']]}, {readable(written['bytes'])}"
    ranks = sorted(written.get("ranks", {}).values())
    spread = f"; rank {ranks[0]} to {ranks[-1]}, median {ranks[len(ranks) // 2]}" if ranks else ""
    yield "weights", f"{written['weights']:,} of {read['weights']:,}{spread}"
    if ranks:
        yield "error", f"{short_percent(written['error'])} of Delta W in the weights that a LoRA can hold"
    yield from _fit_rows(written)
    if written.get("rounding", 0) > _WORTH_TELLING:
        yield "rounding", f"{short_percent(written['rounding'])} of Delta W, by the file's dtype"
    for word, count in written.get("vectors", {}).items():
        yield "word", f"{word}, of {count} vector{'s' if count > 1 else ''}"
    if folder := written.get("words"):
        yield "embeddings", f"{folder}\nan embedding file for each special word"
    for each in written.get("left_out", ()):
        yield "left out", f"{each['weights']:,} {each['why']}; {short_percent(each['error'])} of ||Delta W||"
    for each in written.get("unread", ()):
        yield "for others", f"{each['weights']:,} {each['why']}; {short_percent(each['error'])} of ||Delta W||"


def next_step(shift: SpectralShift, written: dict[str, Any]) -> str:
    """What to do with what was written."""
    if written["format"] == "shift":
        return draw_from(Path(written["path"]), shift.metadata)
    if written["format"] in ("lora", "kohya"):
        return f"next: in diffusers, pipe.load_lora_weights({written['path']!r})"
    if written["format"] == "embedding":
        return f"next: in diffusers, pipe.load_textual_inversion({written['path']!r})"
    return f"next: give {written['path']} to one of them"


def _fit_rows(fit: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What carrying over from or to another implementation costs; nothing where none was involved."""
    if "reshape" not in fit:
        return
    worst = fit["worst"]
    yield (
        "error",
        f"{short_percent(fit['error'])} of Delta W\n{short_percent(worst['error'])} at most, {worst['weight']}",
    )
    if fit["reshape"] == "channels-last":
        sure = f"{fit['telling']} lengths say so" if fit["telling"] else "so its keys say, no length tells"
        yield "reshape", f"convolutions as (co kh kw) x ci, {sure}: the closest shift is taken"
    for what, count in fit["beside"].items():
        yield "not taken", f"{count:,} {what}"
