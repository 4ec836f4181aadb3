"""`spectra subjects`: the list, and the instance pictures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from spectra.bases.embedded.subjects import SUBJECTS, find_subject, instance_pictures


def test_the_list_names_every_subject(spectra_cli: Any) -> None:
    ran = spectra_cli("subjects", "--json")
    assert ran.code == 0
    assert [row["name"] for row in json.loads(ran.out)["subjects"]] == [known.name for known in SUBJECTS]
    human = spectra_cli("subjects")
    assert all(known.name in human.out for known in SUBJECTS)


def test_pictures_are_those_that_training_sees(spectra_cli: Any, tmp_path: Path) -> None:
    ran = spectra_cli("subjects", "--subject", "fox", "--count", 2, "--seed", 3, "-o", tmp_path / "fox", "--json")
    [row] = json.loads(ran.out)["subjects"]
    expected = instance_pictures(find_subject("fox-noto-v1"), count=2, seed=3)
    assert len(row["pictures"]) == 2
    for path, picture in zip(row["pictures"], expected, strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(picture))


def test_several_subjects_get_a_folder_each_with_their_licences(spectra_cli: Any, tmp_path: Path) -> None:
    ran = spectra_cli("subjects", "--subject", "fox", "--subject", "key", "--count", 1, "-o", tmp_path / "s")
    assert ran.code == 0
    names = {path.relative_to(tmp_path / "s").as_posix() for path in (tmp_path / "s").rglob("*.*")}
    assert names == {".spectra.json", "subjects.txt", "fox-noto-v1/fox-noto-v1-0.png", "key-twemoji/key-twemoji-0.png"}
    assert (
        f"next: spectra train --images {tmp_path / 's' / 'fox-noto-v1'} --prompt 'a drawing of a [V1] fox'" in ran.out
    )
    assert "CC-BY-4.0" in (tmp_path / "s" / "subjects.txt").read_text()


def test_refusals(spectra_cli: Any, tmp_path: Path) -> None:
    unknown = spectra_cli("subjects", "--subject", "gryphon", "-o", tmp_path / "x")
    assert unknown.code == 1
    assert "unknown subject 'gryphon'" in unknown.err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("a")
    foreign = spectra_cli("subjects", "-o", tmp_path / "mine", "--force")
    assert foreign.code == 1
    assert "holds other files" in foreign.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_no_torch_is_needed() -> None:
    code = "import sys; from spectra.cli.app import main; main(['subjects', '--json']); print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "False"
