"""The picture on each shift's card: drawn once with its own prompt, and kept by its content."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from spectra.analysis.library import LibraryEntry
from spectra.io.atomic_writes import atomic_write
from spectra.shift.trajectory import CHECKPOINTS
from spectra.studio.drawer import Cell, Drawing
from spectra.studio.workspace import Workspace
from spectra.training.run.outputs import SHEET

CARD_STEPS = 15
"""Denoising steps of a card's picture."""


def kept_picture(workspace: Workspace, entry: LibraryEntry) -> Path | None:
    """The picture that was drawn for a shift, or else the sheet of its training; None where there is neither."""
    for path in (_place(workspace, entry), entry.path.with_name(SHEET)):
        if path.is_file():
            return path
    return None


def is_drawn(workspace: Workspace, entry: LibraryEntry) -> bool:
    """Whether a picture was drawn for the shift."""
    return _place(workspace, entry).is_file()


def keep_picture(workspace: Workspace, entry: LibraryEntry, png: bytes) -> None:
    """Keep the picture that was drawn for a shift."""
    place = _place(workspace, entry)
    place.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(place, force=True) as temporary:
        temporary.write_bytes(png)


def is_step(entry: LibraryEntry) -> bool:
    """Whether a file is what a training was at one of its steps."""
    return entry.path.parent.name == CHECKPOINTS


def card_drawing(entries: Sequence[LibraryEntry], every: Sequence[LibraryEntry]) -> Drawing:
    """A picture of each of these shifts, by itself.

    Args:
        entries: the shifts.
        every: the library, in which the prompts of a merged shift's parents are looked up.
    """
    cells = [Cell(prompt_of(entry, every), 0, {entry.path: 1.0}) for entry in entries]
    return Drawing(cells, CARD_STEPS, quick=False)


def prompt_of(entry: LibraryEntry, every: Sequence[LibraryEntry]) -> str:
    """What a shift draws: its own prompt, or one of its ancestors'; else its special words."""
    known = {each.content_hash: each for each in every}
    seen, ahead = set(), [entry]
    while ahead:
        here = ahead.pop(0)
        if here.prompt:
            return here.prompt
        parents = [each for each in here.metadata.parents if each in known and each not in seen]
        seen.update(parents)
        ahead += [known[each] for each in parents]
    return " ".join(entry.words)


def _place(workspace: Workspace, entry: LibraryEntry) -> Path:
    key = re.sub(r"[^0-9a-f]", "", entry.content_hash.lower())[:64]
    return workspace.hidden / "cards" / f"{key or 'unnamed'}.png"
