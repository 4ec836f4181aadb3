"""A whole edit: check everything, learn the picture, invert it, draw every variant, write."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from spectra.bases.pipeline import find_base, load_pipeline
from spectra.editing.base_fitness import BaseFitness
from spectra.editing.session import Edited, EditSession, Inversion
from spectra.editing.settings import EditSettings, make_edit_settings
from spectra.errors import InputError, OutputError
from spectra.families.known import family_of
from spectra.generation.contact_sheet import Section, contact_sheet
from spectra.generation.drawing import best_device
from spectra.generation.picture_files import write_picture
from spectra.io.atomic_writes import atomic_folder, check_output, copy_folder
from spectra.io.own_folders import remove_own
from spectra.progress import SILENT, Progress
from spectra.settings import whole_or_made
from spectra.shift.shift_file import read_shift
from spectra.training.data.folders import picture_files
from spectra.training.data.pictures import fit
from spectra.training.data.reading import read_picture
from spectra.training.run.concepts import ConceptSpec
from spectra.training.run.inputs import resolution_of, validate_inputs
from spectra.training.run.report import Summary
from spectra.training.run.trainer import Training
from spectra.version import versions

KIND = "spectra edit"
INDEX = "edit.json"

TRAINING = "training"

UNEDITED = "unedited.png"
"""What is drawn from the caption's inversion, at guidance 1."""


def edit(
    settings: EditSettings | None = None,
    out: str | os.PathLike[str] = "edits",
    *,
    force: bool = False,
    device: str = "",
    progress: Progress = SILENT,
    **given: Any,
) -> dict[str, Any]:
    """Edit a picture into a folder, which appears whole.

        spectra.edit(image="fox.png", caption="a drawing of a fox", edits=["a fox on a blue background"], out="blue")

    Args:
        settings: what is wanted, where it is not `given`.
        out: the folder: a PNG per picture with its settings inside, `unedited.png`, `sheet.png`, `edit.json`, and
            `training/` with the shift, where it was trained here. An interrupted edit leaves that in `<out>.training`.
        force: replace the folder of an earlier edit.
        device: such as "cuda"; by default a GPU if there is one.
        given: settings by name (docs/settings.md), on top of the defaults for their base.

    Returns:
        What `edit.json` holds: paths, summary of the training, the base's fitness, inversions, and every picture's
        settings.

    Raises:
        SpectraError: something given is wrong (checked before anything slow), or the folder cannot be written.
    """
    began, out = time.perf_counter(), Path(out)
    settings = whole_or_made(settings, given, make_edit_settings)
    check_output(out, force=force, folder_of=KIND)
    config, location = settings.config, find_base(settings.base, settings.components_from, settings.prediction_type)
    files = picture_files(settings.image)
    if len(files) != 1:
        raise InputError(f"{settings.image}: expected one picture to edit, got a folder with {len(files)}; name one")
    summary: Summary | None = None
    if settings.shift is None:
        inputs = validate_inputs(ConceptSpec("", config, _unfinished(out, force=force)), force=True)
        # On the picture alone, with its caption: no special token, no prior (SVDiff, section 3.4).
        with (
            inputs.outputs.reserved(),
            contextlib.closing(Training([inputs], device=device, progress=progress)) as training,
        ):
            (picture,) = inputs.subjects[0].pictures
            session = EditSession(training.pipe, fit(picture.read(), (training.resolution,) * 2))
            fitness = session.measure_fitness(settings.caption)
            (summary,) = training.run(force=True)
        shift, file = read_shift(summary.shift), out / TRAINING / Path(summary.shift).name
    else:
        file = settings.shift
        shift, whole = read_shift(settings.shift), read_picture(files[0])
        pipe = load_pipeline(location, device=device or best_device())
        session = EditSession(pipe, fit(whole, (resolution_of(family_of(pipe), pipe, config),) * 2))
        fitness = session.measure_fitness(settings.caption)
    inversions, edited = session.draw(settings, shift, progress)

    used = {"file": file.name, "content_hash": shift.metadata.content_hash}
    with atomic_folder(out, KIND, force=force) as temporary:
        report: dict[str, Any] = {
            "folder": str(out),
            "sheet": str(out / "sheet.png"),
            "unedited": str(out / UNEDITED),
            "shift": str(file),
            "training": summary and summary.moved_to(out / TRAINING).as_dict(),
            "base_fitness": fitness.as_dict(),
            "inversions": [each.as_dict() for each in inversions],
            "pictures": _write(edited, settings, used, location.name, temporary),
        }
        inversions[0].picture.save(temporary / UNEDITED)
        _sheet(settings, session, fitness, inversions[0], edited).save(temporary / "sheet.png")
        if summary is not None:
            copy_folder(Path(summary.folder), temporary / TRAINING)
        report["seconds"] = round(time.perf_counter() - began, 3)
        (temporary / INDEX).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if summary is not None:
        remove_own(Path(summary.folder))
    return report


def _unfinished(out: Path, *, force: bool) -> Path:
    """Where the training is kept until the folder is whole.

    Raises:
        OutputError: an interrupted edit has left one there.
    """
    folder = out.with_name(f"{out.name}.{TRAINING}")
    if folder.exists() and not force:
        raise OutputError(
            f"{folder} holds what an interrupted edit has learnt; use it with "
            f"--shift {folder / out.name / out.name}.safetensors, or learn anew with --force"
        )
    return folder / out.name


def _write(
    edited: Sequence[Edited], settings: EditSettings, shift: dict[str, Any], base: str, folder: Path
) -> list[dict[str, Any]]:
    """Write a PNG of each edit with its settings inside; returns the settings."""
    listed = []
    for number, each in enumerate(edited):
        recorded = {
            "caption": settings.caption,
            "eta": each.variant.eta,
            "noise_mix": each.variant.noise_mix,
            "keep": each.variant.keep,
            "kept": each.kept,
            "base": base,
            "anchor": settings.anchor,
            "shifts": [{**shift, "scale": each.variant.scale}],
            "versions": versions(),
        }
        listed.append(write_picture(folder, number, each.picture, each.request, each.sampling, recorded))
    return listed


def _sheet(
    settings: EditSettings, session: EditSession, fitness: BaseFitness, unedited: Inversion, edited: Sequence[Edited]
) -> Image.Image:
    """The picture, what the VAE and the inversion keep of it, and every edit with what differs between variants."""
    captions = ["the picture", f"the VAE's: {fitness.vae_psnr:.1f} dB",
                f"drawn from its inversion: {unedited.psnr:.1f} dB"]  # fmt: skip
    sections = [Section(settings.caption, [session.picture, session.reconstruction, unedited.picture], captions)]
    variants = settings.variants
    if len(variants) == 1:
        sections.append(Section("Edited", [each.picture for each in edited], settings.edits))
    else:
        for prompt in settings.edits:
            own = [each for each in edited if each.request.prompt == prompt]
            words = [each.variant.differences(variants) for each in own]
            sections.append(Section(prompt, [each.picture for each in own], words))
    return contact_sheet(sections)
