"""What `spectra train` is given wrong: one clear line, exit code 1, nothing slow, nothing left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image


@pytest.fixture
def given(tiny_base: Path, photos: Path) -> dict[str, Any]:
    """Options of a training that would work."""
    return {
        "--base": tiny_base,
        "--images": photos,
        "--prompt": "a v disc",
        "--class-prompt": "a disc",
        "--steps": 1,
        "--prior-count": 1,
        "--prior-steps": 1,
    }


@pytest.fixture
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a picture and a file that only claims to be one."""
    folder = tmp_path_factory.mktemp("broken")
    Image.new("RGB", (40, 40)).save(folder / "a.png")
    (folder / "b.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    return folder


CASES = {
    "no folder": ({"--images": "none"}, "expected a folder of pictures"),
    "no pictures": ({"--images": "EMPTY"}, "no pictures in it"),
    "broken picture": ({"--images": "BROKEN"}, "b.jpg: cannot be read as a picture"),
    "broken class picture": ({"--class-images": "BROKEN"}, "b.jpg: cannot be read as a picture"),
    "no base": ({"--base": "./nowhere"}, "no base there"),
    "not a base": ({"--base": "EMPTY"}, "not a diffusers pipeline folder"),
    "unknown target": ({"--target": "unet-cb"}, "unet-cb"),
    "no prompt": ({"--prompt": None}, "--images needs --prompt"),
    "no class prompt": ({"--class-prompt": None}, "needs --class-prompt"),
    "no pictures for a base": ({"--images": None, "--prompt": None}, "--base needs --images"),
    "no steps": ({"--steps": 0}, "steps: expected a number of at least 1"),
    "odd resolution": ({"--resolution": 34}, "multiples of 8 pixels, got 34"),
    "precision": ({"--mixed-precision": "half"}, "expected one of no, fp16, bf16"),
    "fp16 on a cpu": ({"--mixed-precision": "fp16", "--device": "cpu"}, "needs a GPU"),
    "no such device": ({"--device": "nowhere"}, "--device nowhere: cannot be used"),
    "no configuration": ({"--config": "none.toml"}, "none.toml: cannot be read"),
    "nothing to resume": ({"--resume": ""}, "nothing to resume"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input(
    spectra_cli: Any, given: dict[str, Any], broken: Path, tmp_path: Path, tmp_path_factory: Any, case: str
) -> None:
    changed, says = CASES[case]
    places = {"BROKEN": broken, "EMPTY": tmp_path_factory.mktemp("empty")}
    options = {**given, **{name: places.get(value, value) for name, value in changed.items()}}
    arguments = [part for name, value in options.items() if value is not None for part in (name, value) if part != ""]
    ran = spectra_cli("train", *arguments, "-o", tmp_path / "out" / "x")
    assert ran.code == 1, ran.err
    assert says in ran.err
    assert ran.err.count("\n") == 1
    assert ran.out == ""
    assert list(tmp_path.iterdir()) == []


def test_outputs_in_the_way(spectra_cli: Any, given: dict[str, Any], tmp_path: Path) -> None:
    arguments = [part for option in given.items() for part in option]
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years")
    kept = spectra_cli("train", *arguments, "-o", precious)
    forced = spectra_cli("train", *arguments, "-o", precious, "--force")
    file = spectra_cli("train", *arguments, "-o", precious / "thesis.txt", "--force")
    below = spectra_cli("train", *arguments, "-o", precious / "thesis.txt" / "x")
    assert [ran.code for ran in (kept, forced, file, below)] == [1, 1, 1, 1]
    assert "exists already" in kept.err
    assert "holds other files" in forced.err
    assert "name a folder" in file.err
    assert "not a folder" in below.err
    assert (precious / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize(
    ("option", "value", "package"),
    [
        ("--report-to", "tensorboard", "tensorboard"),
        ("--report-to", "wandb", "wandb"),
        ("--optimizer", "prodigy", "prodigyopt"),
        ("--optimizer", "adamw8bit", "bitsandbytes"),
        ("--optimizer", "adamwschedulefree", "schedulefree"),
    ],
)
def test_what_is_not_installed_is_asked_for_by_name(
    spectra_cli: Any,
    given: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    value: str,
    package: str,
) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == package else real(name, *a))
    arguments = [part for option in given.items() for part in option]
    ran = spectra_cli("train", *arguments, option, value, "-o", tmp_path / "x")
    assert ran.code == 1
    assert f"pip install {package}" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(
    spectra_cli: Any, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("spectra.training.run.files.write_log", full)
    arguments = [part for option in given.items() for part in option]
    ran = spectra_cli("train", *arguments, "--validation-steps", 1, "--validation-count", 1, "-o", tmp_path / "x")
    assert ran.code == 1
    assert "the disk is full" in ran.err
    assert ran.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_summary_is_one_json_object(spectra_cli: Any, given: dict[str, Any], tmp_path: Path) -> None:
    import json

    arguments = [part for option in given.items() for part in option]
    few = ("--validation-steps", 1, "--validation-count", 1, "--validation-prompt", "a disc")
    ran = spectra_cli("train", *arguments, *few, "-o", tmp_path / "x", "--json")
    assert ran.code == 0, ran.err
    summary = json.loads(ran.out)
    assert summary["steps"] == 1
    assert Path(summary["shift"]).stat().st_size == summary["bytes"]
    human = spectra_cli("train", "--config", tmp_path / "x" / "x.toml", "-o", tmp_path / "y")
    assert human.code == 0, human.err
    assert "spectra generate" in human.out
    one, two = (
        [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()] for name in "xy"
    )
    assert one == two


def test_everything_that_is_wrong_is_told_at_once(spectra_cli: Any, given: dict[str, Any], tmp_path: Path) -> None:
    arguments = [part for option in {**given, "--images": tmp_path / "none"}.items() for part in option]
    ran = spectra_cli("train", *arguments, "--lr", -1, "--ema-decay", 2, "--init-shift", tmp_path / "x.safetensors")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert ran.err.startswith("error: 4 mistakes: (1) lr: expected a number of at least 0, got -1.0; (2) ema decay: ")
    assert f"{tmp_path / 'none'}: expected a folder of pictures" in ran.err
    assert str(tmp_path / "x.safetensors") in ran.err


def test_brackets_tell_the_class_prompt(given: dict[str, Any], photos: Path) -> None:
    from spectra.errors import InputError
    from spectra.training.config import make_config
    from spectra.training.data.subjects import fill_in_subjects

    config = make_config({"base": "x/y", "images": str(photos), "prompt": "a photo of an [V1] red disc"})
    assert fill_in_subjects(config).class_prompt == "a photo of a red disc"
    config = make_config({"base": "x/y", "images": str(photos), "prompt": "a photo of a sks disc"})
    with pytest.raises(InputError, match=r"needs --class-prompt, .* as in \"a \[V1\] dog\""):
        fill_in_subjects(config)
