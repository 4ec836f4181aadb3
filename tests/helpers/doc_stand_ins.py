"""Random shifts in place of those that the documents speak of: a reader's own, and what slow blocks would leave."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import doc_blocks
import random_shifts

_OF_PIPELINE = re.compile(r"<!-- files of the pipeline: (.+?) -->")


def place(page: Path, folder: Path) -> None:
    """Write what a page's commands read; a pipeline is not needed."""
    for seed, name in enumerate([*doc_blocks.given_files(page), *doc_blocks.shifts_of_trainings(page)]):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        settings = {"prompt": f"a drawing of a [V1] {path.stem}"}
        random_shifts.saved(random_shifts.make(seed, size=0.1, settings=settings), path)


def place_missing(page: Path, folder: Path) -> None:
    """Write those that a reader is taken to have, where nothing has made them."""
    for seed, name in enumerate(doc_blocks.given_files(page)):
        if not (folder / name).exists():
            random_shifts.saved(random_shifts.make(seed, size=0.1), folder / name)


def place_for(pipe: Any, page: Path, folder: Path) -> None:
    """Write the shifts of a pipeline that a page's Python loads into it."""
    import torch

    import spectra

    for found in _OF_PIPELINE.findall(page.read_text(encoding="utf-8")):
        for name in found.split():
            adapter = spectra.attach(pipe, "unet,text-encoder", outer=1)
            with torch.no_grad():
                for parameter in adapter.parameters():
                    parameter.normal_(std=0.01)
            spectra.write_shift(adapter.shift(base="tiny"), folder / name)
            adapter.detach()
