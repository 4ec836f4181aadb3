"""What a form comes to is a command line, and the command line means what the form said."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from PIL import Image

from spectra.errors import SpectraError
from spectra.studio.commands import EditForm, TrainForm, edit_command, train_command, train_config
from spectra.studio.settings import StudioSettings


@pytest.fixture
def settings(tmp_path: Path) -> StudioSettings:
    return StudioSettings(folder=tmp_path / "out")


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    made = [tmp_path / name for name in ("fox", "wolf")]
    for number, folder in enumerate(made):
        folder.mkdir()
        Image.new("RGB", (64, 64), ("orange", "grey")[number]).save(folder / "a.png")
    return made


FORMS = [
    TrainForm("fox", ("a" * 12,), ("a [V1] fox -o x",), preset="tiny", steps=100, seed=7, sheets=5),
    TrainForm("fox", ("a" * 12,), ("--images",), class_prompt="a fox", prior_weight=0.25, sheets=0),
    TrainForm("both", ("a" * 12, "b" * 12), ("a drawing of a [V1] fox", "a drawing of a [V2] wolf"), steps=50),
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_a_training_is_what_its_form_says(
    form: TrainForm, settings: StudioSettings, folders: list[Path], spectra_cli: Any, tmp_path: Path
) -> None:
    used, out = folders[: len(form.trays)], tmp_path / "out" / form.name
    arguments = train_command(form, settings, used, out)
    with mock.patch("spectra.training.run.train.train_together", side_effect=SpectraError("enough")) as trained:
        assert spectra_cli(*arguments).err == "error: enough\n"
    ((concept,),) = trained.call_args.args
    meant = train_config(form, settings, used)
    assert concept.out == out
    on_the_way = {"save_every": max(1, min(100, meant.steps // 20))}
    on_the_way |= {"validation_every": meant.steps // form.sheets} if form.sheets else {}
    assert concept.config.as_dict() == meant.as_dict() | on_the_way
    assert TrainForm.of({**vars(form), "trays": list(form.trays), "all_steps": 3}) == form
    with pytest.raises(SpectraError, match="no pictures"):
        train_command(form, settings, [tmp_path / "gone"], out)


def test_the_first_of_two_subjects_is_on_the_left(settings: StudioSettings, folders: list[Path]) -> None:
    subjects = train_config(FORMS[-1], settings, folders).subjects
    assert [Path(each.partition("=")[0]).name for each in subjects] == ["fox", "wolf"]


def test_an_edit_is_what_its_form_says(
    settings: StudioSettings, folders: list[Path], spectra_cli: Any, tmp_path: Path
) -> None:
    form = EditForm("red", "a" * 12, "a fox", "a red fox", "0, 0.5", "", "0.25", "", train_steps=9, seed=3)
    picture, out = folders[0] / "a.png", tmp_path / "red"
    arguments = edit_command(form, settings, picture, out)
    with mock.patch("spectra.editing.edit.edit", side_effect=SpectraError("enough")) as edited:
        assert spectra_cli(*arguments).err == "error: enough\n"
    asked = edited.call_args.args[0]
    assert (asked.image, asked.caption, asked.edits) == (picture, "a fox", ("a red fox",))
    assert (asked.noise_mixes, asked.keeps, asked.seeds) == ((0.0, 0.5), (0.25,), (3,))
    assert (asked.config.steps, asked.config.seed) == (9, 3)
    with pytest.raises(SpectraError, match="guidances: expected numbers"):
        edit_command(EditForm(guidances="1;2", caption="a", edit="b"), settings, picture, out)
