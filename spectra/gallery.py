"""What `spectra generate` does: base and shifts to a folder of pictures with their settings, and a contact sheet."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.errors import InputError
from spectra.files import atomic_folder, check_output
from spectra.generation import (
    Sampling,
    best_device,
    draw,
    file_name,
    read_prompts,
    requests_for,
    save_png,
    settings_of,
    versions,
)
from spectra.outputs import check_ours
from spectra.pipeline import find_base, load_pipeline
from spectra.progress import SILENT, Progress
from spectra.scaled_files import parse_shift
from spectra.sheet import Section, contact_sheet
from spectra.shift import SpectralShift
from spectra.shift_file import read_shift

if TYPE_CHECKING:
    from collections.abc import Sequence

INDEX = "pictures.json"
"""List of the pictures and their settings; a folder that lacks it is not one of ours, and is never replaced."""


@dataclass(frozen=True)
class Order:
    """Which pictures are wanted.

    Attributes:
        base: as `spectra.pipeline.find_base` takes it; empty is the embedded base.
        shifts: each a file, or `FILE:SCALE`.
        prompts: drawn in this order, each with every seed.
        prompts_file: more prompts, one a line.
        negative: negative prompt of all of them.
        seeds: one picture of each prompt for each.
        sampling: steps, guidance, size and batch.
        dtype: of the weights, such as "bfloat16"; shifts trained in another act on a rounded copy of their base.
    """

    base: str = ""
    shifts: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    prompts_file: Path | None = None
    negative: str = ""
    seeds: tuple[int, ...] = (0,)
    sampling: Sampling = field(default_factory=Sampling)
    dtype: str = "float32"


def generate(
    order: Order, out: Path, *, force: bool = False, device: str = "", progress: Progress = SILENT
) -> dict[str, Any]:
    """Draw the pictures of an order into a folder, which appears whole.

    Args:
        order: what to draw.
        out: the folder: a PNG per picture with its settings inside, `sheet.png`, and `pictures.json`.
        force: replace the folder of an earlier order.
        device: such as "cuda"; a GPU if there is one, by default.
        progress: told of each picture.

    Returns:
        Folder, sheet, seconds, and the pictures with their settings, as JSON values.

    Raises:
        SpectraError: something given is wrong (checked before the base is loaded), or the folder cannot be written.
    """
    import torch

    began = time.perf_counter()
    prompts = [*order.prompts, *(read_prompts(order.prompts_file) if order.prompts_file else [])]
    if not prompts:
        raise InputError('nothing to draw: give --prompt "..." or --prompts FILE')
    check_output(out, force=force)
    check_ours(out, INDEX)
    location = find_base(order.base)
    chosen = [parse_shift(text) for text in order.shifts]
    shifts = [(path, scale, read_shift(path)) for path, scale in chosen]

    pipe = load_pipeline(location, getattr(torch, order.dtype), device or best_device())
    _activate(pipe, shifts, progress)
    requests = requests_for(prompts, order.seeds, order.negative)
    pictures = draw(pipe, requests, order.sampling, progress=progress)
    common = {
        "base": location.name,
        "dtype": order.dtype,
        "shifts": [
            {"file": path.name, "scale": scale, "content_hash": shift.metadata.content_hash}
            for path, scale, shift in shifts
        ],
        "versions": versions(),
    }
    listed = []
    with atomic_folder(out, force=force) as temporary:
        for number, (request, picture) in enumerate(zip(requests, pictures, strict=True)):
            settings = settings_of(request, order.sampling, picture, common)
            name = file_name(number, request)
            save_png(picture, temporary / name, settings)
            listed.append({"file": name, **settings})
        count = len(order.seeds)
        captions = [f"seed {seed}" for seed in order.seeds]
        sections = [
            Section(prompt, pictures[n * count : (n + 1) * count], captions) for n, prompt in enumerate(prompts)
        ]
        contact_sheet(sections).save(temporary / "sheet.png")
        (temporary / INDEX).write_text(json.dumps({"pictures": listed}, indent=1) + "\n", encoding="utf-8")
    return {
        "folder": str(out),
        "sheet": str(out / "sheet.png"),
        "seconds": round(time.perf_counter() - began, 3),
        "pictures": listed,
    }


def _activate(pipe: Any, shifts: Sequence[tuple[Path, float, SpectralShift]], progress: Progress) -> None:
    """Load every shift under a name of its own, and put all of them in force."""
    from spectra.serving import activate, load

    scales: dict[str, float] = {}
    for number, (path, scale, shift) in enumerate(shifts):
        name = f"{path.stem}-{number}"
        load(pipe, shift, name=name, progress=progress)
        scales[name] = scale
    if scales:
        activate(pipe, scales)
