"""The functions that users call with plain values: what they take, and what they say of values that are none."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import spectra
from spectra.errors import InputError
from spectra.generation.settings import GenerateSettings
from spectra.training.config import TrainConfig


def test_pictures_from_plain_values(tiny_base: Path, tmp_path: Path) -> None:
    found = spectra.generate(
        base=tiny_base, prompts=["a disc"], seeds=[3, 4], steps=2, guidance=1, out=str(tmp_path / "pictures")
    )
    assert [each["seed"] for each in found["pictures"]] == [3, 4]
    assert {each["guidance"] for each in found["pictures"]} == {1.0}
    assert Path(found["sheet"]).is_file()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: spectra.generate(prompts="a fox"), "generate: prompts: expected a list of strings, got 'a fox'"),
        (lambda: spectra.generate(prompt=["a fox"]), "generate: unknown setting 'prompt'; did you mean prompts"),
        (lambda: spectra.generate(seeds=["1"]), "generate: seeds: expected int, got '1'"),
        (
            lambda: spectra.generate(GenerateSettings(), steps=3),
            "expected a GenerateSettings or settings by name, got both, with steps",
        ),
        (lambda: spectra.train(stepps=3), "train: unknown setting 'stepps'; did you mean steps"),
        (
            lambda: spectra.train(TrainConfig(), steps=3),
            "expected a TrainConfig or settings by name, got both, with steps",
        ),
        (lambda: spectra.train(images=Path("none"), prompt="a [V1] dog", out="x"), "none: "),
        (lambda: spectra.edit(image="a.png"), "edit: expected caption and edits, which are missing"),
        (lambda: spectra.edit(image="a.png", caption="a", edits=["b"], shift="s", lr=1e-3), "trains nothing"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_done(
    call: Callable[[], Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=re.escape(says)):
        call()
    assert list(tmp_path.iterdir()) == []


def test_one_file_or_several_or_a_folder_are_verified(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"no shift")
    for files in (str(tmp_path / "a.safetensors"), [tmp_path / "a.safetensors"], tmp_path):
        [verdict] = spectra.verify(files)
        assert (verdict.file.name, verdict.ok) == ("a.safetensors", False)
