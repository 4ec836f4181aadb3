"""What to do with what a command has written: the last line that it shows."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.bases.embedded import NAME

if TYPE_CHECKING:
    from spectra.shift.metadata import ShiftMetadata


def following(*words: str) -> str:
    """The line that names a command to go on with."""
    return f"next: {shlex.join(words)}"


def draw_with(shift: Path, base: str, settings: Mapping[str, Any] | None = None) -> str:
    """Pictures with a shift that was written, by the prompt that its training's settings know."""
    prompt = (settings or {}).get("prompt")
    asked = prompt if isinstance(prompt, str) and prompt else "..."
    where = [] if base == NAME or not base else ["--base", base]
    return following("spectra", "generate", *where, "--shift", str(shift), "--prompt", asked)


def draw_from(shift: Path, metadata: ShiftMetadata) -> str:
    """The same, of a shift that fits the base that its metadata names."""
    return draw_with(shift, metadata.base, metadata.settings)
