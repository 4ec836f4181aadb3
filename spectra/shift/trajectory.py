"""The shifts that a training keeps on its way, and how they are named: `out/dog@300`, `out/dog@300..500`.

A training's folder `out/dog` has them in `progress/checkpoints`, that of one that is not finished in
`out/dog.progress/checkpoints`. `out/dog` by itself means the shift at the end.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from spectra.errors import InputError

PROGRESS = "progress"
"""Folder of what a training writes on its way."""

CHECKPOINTS = "checkpoints"
"""Folder in it of the shifts of some of its steps."""

_NAMED = re.compile(r"(?P<folder>.+)@(?P<first>\d{1,9})(?:\.\.(?P<last>\d{1,9}))?")


def checkpoint_name(step: int | Literal["*"]) -> str:
    """The file of the shift after so many steps, or a pattern of all such files."""
    return f"step-{step if step == '*' else f'{step:06d}'}.safetensors"


def kept_steps(folder: Path) -> dict[int, Path]:
    """The shifts that a training with this output folder has kept, by step."""
    places = (folder / PROGRESS / CHECKPOINTS, folder.with_name(f"{folder.name}.{PROGRESS}") / CHECKPOINTS)
    files = [file for place in places for file in place.glob(checkpoint_name("*"))]
    numbered = {int(digits): file for file in files if (digits := file.stem.removeprefix("step-")).isdigit()}
    return dict(sorted(numbered.items()))


def find_shifts(text: str) -> list[Path]:
    """The files that a name means: a file itself, a training's folder, one of its steps, or a range of them.

    Raises:
        InputError: there is no such file, or no such step.
    """
    path = Path(text)
    if path.is_file():
        return [path]
    final = path / f"{path.absolute().name}.safetensors"
    if final.is_file():
        return [final]
    match = _NAMED.fullmatch(text)
    if match is None:
        raise InputError(f"{text}: no such file; expected FILE or FILE:SCALE, a training's folder, or FOLDER@STEP")
    kept = kept_steps(Path(match["folder"]))
    first, last = int(match["first"]), int(match["last"] or match["first"])
    found = [file for step, file in kept.items() if first <= step <= last]
    if not found:
        there = f"there are {', '.join(map(str, kept))}" if kept else "it has kept none (--checkpoint-every)"
        wanted = f"steps {first} to {last}" if match["last"] else f"step {first}"
        raise InputError(f"{match['folder']}: no shift of {wanted}; {there}")
    return found


def find_shift(text: str) -> Path:
    """The one file that a name means.

    Raises:
        InputError: there is none, or more than one.
    """
    found = find_shifts(text)
    if len(found) > 1:
        raise InputError(
            f"{text}: expected one shift, and these are {len(found)}; name one step, such as @{_first(text)}"
        )
    return found[0]


def _first(text: str) -> str:
    return text.rpartition("@")[2].partition("..")[0]
