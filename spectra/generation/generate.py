"""What `spectra generate` does: base and shifts to a folder of pictures with their settings, and a contact sheet."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.adapters.loaded_shifts import activate
from spectra.adapters.loading import load
from spectra.adapters.spectra_from import find_originals
from spectra.analysis.clipping import warn_of_clipping
from spectra.bases.pipeline import find_base, load_pipeline
from spectra.bases.prediction import AUTO
from spectra.bases.quantisation import parse_quantisation
from spectra.errors import InputError
from spectra.families.known import find_family
from spectra.families.prompt_length import warn_of_cut
from spectra.generation.contact_sheet import Section, contact_sheet
from spectra.generation.drawing import Request, best_device, draw, guidance_of, requests_for
from spectra.generation.picture_files import write_picture
from spectra.generation.prompt_words import tell_unknown_words, tell_unused_words
from spectra.generation.settings import GenerateSettings, make_generate_settings
from spectra.io.atomic_writes import atomic_folder, check_output
from spectra.progress import SILENT, Progress
from spectra.settings import whole_or_made
from spectra.shift.scaled_files import parse_scales
from spectra.shift.shift import SpectralShift, combine
from spectra.shift.shift_file import read_shift
from spectra.version import versions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image


_LOADING = ("components_from", "prediction_type", "quantize")
"""Settings of how the base is loaded that a picture records where they are given."""

KIND = "spectra generate"
INDEX = "pictures.json"
"""List of the pictures and their settings."""


def generate(
    settings: GenerateSettings | None = None,
    out: str | os.PathLike[str] = "pictures",
    *,
    force: bool = False,
    device: str = "",
    progress: Progress = SILENT,
    **given: Any,
) -> dict[str, Any]:
    """Draw the wanted pictures into a folder, which appears whole.

        spectra.generate(prompts=["a drawing of a [V1] fox"], shifts=["out/fox:0.8"], seeds=[0, 1], out="foxes")

    Args:
        settings: what is wanted, where it is not `given`.
        out: the folder: a PNG per picture with its settings inside, `sheet.png`, and `pictures.json`.
        force: replace the folder of an earlier call.
        device: such as "cuda"; by default a GPU if there is one.
        given: settings by name, those of `Sampling` too (docs/settings.md), on top of the defaults for their base.

    Returns:
        Folder, sheet, seconds, and the pictures with their settings, as JSON values.

    Raises:
        SpectraError: something given is wrong (checked before the base is loaded), or the folder cannot be written.
    """
    import torch

    began, out = time.perf_counter(), Path(out)
    settings = whole_or_made(settings, given, make_generate_settings)
    prompts = [*settings.prompts, *(read_prompts(settings.prompts_file) if settings.prompts_file else [])]
    if not prompts:
        raise InputError('nothing to draw: give --prompt "..." or --prompts FILE')
    check_output(out, force=force, folder_of=KIND)
    location = find_base(settings.base, settings.components_from, settings.prediction_type)
    if quantisation := parse_quantisation(settings.quantize):
        quantisation.require()
    scaled = [parse_scales(text) for text in settings.shifts]
    strip = _strip([scales for _, scales in scaled])
    shifts = [(path, read_shift(path)) for path, _ in scaled]
    for path, shift in shifts:
        tell_unused_words(path.stem, shift, prompts)

    pipe = load_pipeline(location, getattr(torch, settings.dtype), device or best_device(), settings.quantize)
    if shifts:
        find_originals(pipe, location, settings.spectra_from)
    names = _load_all(pipe, shifts, progress)
    tell_unknown_words(pipe, prompts)
    if (family := find_family(pipe)) is not None:
        warn_of_cut(pipe, family, [*prompts, settings.negative])
    requests = requests_for(prompts, settings.seeds, settings.negative)
    sampling = replace(settings.sampling, guidance=guidance_of(pipe, settings.sampling.guidance))
    drawn: list[list[Image]] = []  # one list of pictures for each step of the strip
    for scales in strip:
        if names:
            activate(pipe, dict(zip(names, scales, strict=True)))
            _warn_of_clipping(shifts, scales)
        drawn.append(draw(pipe, requests, sampling, progress=progress))
    common: dict[str, Any] = {"base": location.name, "dtype": settings.dtype, "versions": versions()}
    common |= {name: value for name in _LOADING if (value := getattr(settings, name)) not in ("", AUTO)}
    listed = []
    with atomic_folder(out, KIND, force=force) as temporary:
        rows = zip(requests, zip(*drawn, strict=True), strict=True)
        cells = [(request, *cell) for request, row in rows for cell in zip(row, strip, strict=True)]
        for number, (request, picture, scales) in enumerate(cells):
            active = [
                {"file": path.name, "scale": scale, "content_hash": shift.metadata.content_hash}
                for scale, (path, shift) in zip(scales, shifts, strict=True)
            ]
            recorded = {**common, "shifts": active}
            listed.append(write_picture(temporary, number, picture, request, sampling, recorded))
        sections = _sections(cells, [path.stem for path, _ in shifts], strip=len(strip) > 1)
        contact_sheet(sections).save(temporary / "sheet.png")
        (temporary / INDEX).write_text(json.dumps({"pictures": listed}, indent=1) + "\n", encoding="utf-8")
    return {
        "folder": str(out),
        "sheet": str(out / "sheet.png"),
        "seconds": round(time.perf_counter() - began, 3),
        "pictures": listed,
    }


def _sections(
    cells: Sequence[tuple[Request, Image, Sequence[float]]], names: Sequence[str], *, strip: bool
) -> list[Section]:
    """A row for each prompt, or for each strip; pictures that would stand alone in theirs are a grid, with the headings
    as captions.

    Args:
        cells: pictures, each with the scales of the shifts.
        names: of the shifts.
        strip: every request is drawn at several scales.
    """
    sheet: dict[str, tuple[list[Image], list[str]]] = {}  # pictures and captions by heading
    for request, picture, scales in cells:
        heading, caption = request.prompt, f"seed {request.seed}"
        if strip:
            heading = f"{heading}, {caption}"
            terms = [f"{name} {scale:g}" for scale, name in zip(scales, names, strict=True) if scale]
            caption = ", ".join(terms) or "base"
        pictures, captions = sheet.setdefault(heading, ([], []))
        pictures.append(picture)
        captions.append(caption)
    if len(sheet) > 1 and all(len(pictures) == 1 for pictures, _ in sheet.values()):
        return [Section("", [pictures[0] for pictures, _ in sheet.values()], list(sheet))]
    return [Section(heading, *row) for heading, row in sheet.items()]


def _warn_of_clipping(shifts: Sequence[tuple[Path, SpectralShift]], scales: Sequence[float]) -> None:
    """Warn of shifts that together cut off much of a weight's spectrum."""
    active = [(scale, path, shift) for scale, (path, shift) in zip(scales, shifts, strict=True) if scale]
    if active:
        name = " + ".join(f"{path.stem} at scale {scale:g}" for scale, path, _ in active)
        warn_of_clipping(combine([(scale, shift) for scale, _, shift in active]), name)


def _load_all(pipe: Any, shifts: Sequence[tuple[Path, SpectralShift]], progress: Progress) -> list[str]:
    """Load shifts under the names of their files, which are returned; those of one name are numbered."""
    stems = [path.stem for path, _ in shifts]
    labels = [stem if stems.count(stem) == 1 else f"{stem}-{number}" for number, stem in enumerate(stems)]
    return [
        load(pipe, shift, name=label, activate=False, progress=progress)
        for label, (_, shift) in zip(labels, shifts, strict=True)
    ]


def read_prompts(path: Path) -> list[str]:
    """The prompts in a text file, one a line; blank lines and lines that begin with # are left out.

    Raises:
        InputError: no such file, not text, or no prompt in it.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a text file, a prompt a line") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a UTF-8 text file; expected a prompt a line") from error
    prompts = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not prompts:
        raise InputError(f"{path}: no prompts in it; expected one a line")
    return prompts


def _strip(scales: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    """The scales of all shifts together, one tuple for each picture of a strip; a single empty one without shifts."""
    counts = {len(own) for own in scales if len(own) > 1}
    if len(counts) > 1:
        raise InputError(f"expected as many scales of each shift, or one, got {' and '.join(map(str, sorted(counts)))}")
    length = max(counts, default=1)
    return [tuple(own[step if len(own) > 1 else 0] for own in scales) for step in range(length)]
