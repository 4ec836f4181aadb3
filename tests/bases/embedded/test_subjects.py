"""The embedded subjects: what is listed, what their pictures look like, and what importing them costs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from spectra.bases.embedded import subjects
from spectra.bases.embedded.subjects import SUBJECTS, cutout, find_subject, instance_pictures
from spectra.errors import SpectraError

ROOT = Path(__file__).parents[3]
DRAWINGS = json.loads((ROOT / "recipe" / "drawings.json").read_text())


def test_subjects_are_the_held_out_drawings_of_the_data_list() -> None:
    held_out = {(row["concept"], row["icon_set"]) for row in DRAWINGS if row["held_out"]}
    assert {(s.concept, s.icon_set) for s in SUBJECTS} == held_out
    assert len(SUBJECTS) == len({s.name for s in SUBJECTS}) == 24


def test_every_class_is_known_from_four_other_icon_sets() -> None:
    known = Counter(row["concept"] for row in DRAWINGS if not row["held_out"])
    assert min(known[s.concept] for s in SUBJECTS) >= 4


def test_licences_follow_the_icon_set() -> None:
    licences = {s.icon_set: s.licence for s in SUBJECTS}
    assert set(licences) == {"noto", "noto-v1", "fxemoji", "twemoji", "emojione"}
    assert {icon_set for icon_set, licence in licences.items() if licence == "CC-BY-4.0"} == {"twemoji", "emojione"}


@pytest.mark.parametrize("known", SUBJECTS, ids=lambda s: s.name)
def test_pictures_hold_the_whole_drawing(known: subjects.EmbeddedSubject) -> None:
    drawing = cutout(known)
    assert drawing.mode == "RGBA"
    assert drawing.size == (192, 192)
    pictures = instance_pictures(known, count=5, size=64)
    assert [(p.size, p.mode) for p in pictures] == [((64, 64), "RGB")] * 5
    assert len({p.getpixel((0, 63)) for p in pictures}) >= 4  # backgrounds differ
    assert all(np.asarray(p).std() > 10 for p in pictures)


def test_pictures_depend_on_the_arguments_alone() -> None:
    fox = find_subject("fox-noto-v1")
    first, again, other = (instance_pictures(fox, seed=seed) for seed in (0, 0, 1))
    assert [p.tobytes() for p in first] == [p.tobytes() for p in again]
    assert [p.tobytes() for p in first[1:]] != [p.tobytes() for p in other[1:]]
    assert [p.tobytes() for p in instance_pictures(fox, count=2)] == [p.tobytes() for p in first[:2]]


def test_unknown_subject_and_bad_counts_say_what_to_do() -> None:
    with pytest.raises(SpectraError, match="'unknown'; the embedded ones are dog-emojione"):
        find_subject("unknown")
    with pytest.raises(ValueError, match="count=0"):
        instance_pictures(SUBJECTS[0], count=0)


def test_importing_costs_neither_torch_nor_diffusers() -> None:
    code = "import sys, spectra.bases.embedded.subjects as s; s.instance_pictures(s.SUBJECTS[0])\n"
    code += "print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
