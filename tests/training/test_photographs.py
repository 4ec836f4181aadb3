"""Trainings on folders as people have them: exact resume with all of it, by content; and what stays in memory."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from trainings import interrupted_after, read_training

from spectra.errors import InputError, PictureWarning
from spectra.training.config import make_config
from spectra.training.data import pictures as module
from spectra.training.data.subjects import fill_in_subjects, read_subjects, split_subject
from spectra.training.run.train import train


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures of three shapes with captions, repeats and opacity."""
    place = tmp_path / "mixed"
    rng = np.random.default_rng(0)
    sizes = {"a.png": (48, 32), "b.jpg": (40, 60), "2_more/c.png": (64, 64), "2_more/d.webp": (90, 60)}
    for name, (width, height) in sizes.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (height, width, 3), np.uint8)
        picture = Image.fromarray(pixels)
        if name == "a.png":
            picture.putalpha(Image.fromarray((pixels[..., 0] > 60).astype(np.uint8) * 255))
        picture.save(place / name)
    (place / "a.txt").write_text("on grass")
    (place / "2_more" / "metadata.jsonl").write_text('{"file_name": "c.png", "text": "in snow"}\n')
    return place


@pytest.fixture
def given(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Settings that use everything at once."""
    mine = {"images": str(folder), "prompt": "a v disc, {caption}", "flip": True, "mask": "alpha"}
    return {**settings, **mine, "repeats": ["2_more=3"], "batch": 2, "accumulation": 2, "steps": 6}


@pytest.mark.parametrize("cached", [True, False])
def test_an_interrupted_training_goes_on_bit_for_bit(given: dict[str, Any], tmp_path: Path, cached: bool) -> None:
    given = {**given, "cache_latents": cached, "cache_prompts": cached}
    train(make_config(given), tmp_path / "whole")
    with interrupted_after(3):
        train(make_config({**given, "save_every": 1}), tmp_path / "part")
    summary = train(make_config({**given, "save_every": 1}), tmp_path / "part", resume=True)
    assert summary.resumed_at == 3
    (whole, losses), (part, again) = read_training(tmp_path / "whole"), read_training(tmp_path / "part")
    assert losses == again
    assert all(np.array_equal(whole[name], part[name]) for name in whole)


def test_the_summary_counts_what_was_used(
    spectra_cli: Any, given: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    (folder / "notes.pdf").write_bytes(b"x")
    with pytest.warns(PictureWarning, match="passed over notes.pdf"):
        summary = train(make_config({**given, "steps": 1}), tmp_path / "out")
    assert summary.pictures == {
        "used": 4,
        "captions": 2,
        "masks": 1,
        "round": 2 * (1 + 1 + 3 + 3),
        "sizes": {"40 x 24": 2, "24 x 40": 1, "32 x 32": 1},
        "passed_over": ["notes.pdf"],
    }
    assert json.loads(json.dumps(summary.as_dict()))["pictures"] == summary.pictures
    ran = spectra_cli("train", "--config", tmp_path / "out" / "out.toml", "-o", tmp_path / "again")
    assert ran.code == 0, ran.err
    assert "4 pictures, 2 with captions of their own, 1 with masks of their own; " in ran.out
    assert "16 samples a round; passed over: 1" in ran.out
    assert "warning: " in ran.err and "passed over notes.pdf" in ran.err


@pytest.mark.filterwarnings("ignore:.*passed over")
def test_a_training_is_resumed_however_its_paths_are_written(
    given: dict[str, Any], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(photos, tmp_path / "classes")
    given = {**given, "images": "mixed", "class_images": "classes", "save_every": 1, "steps": 1}
    train(make_config(given), tmp_path / "out")

    def resumed(steps: int, **changed: Any) -> int:
        return train(make_config({**given, "steps": steps, **changed}), tmp_path / "out", resume=True, force=True).steps

    assert resumed(2, images="./mixed/", class_images=str(tmp_path / "classes")) == 2
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert resumed(3, images="../mixed", class_images="../classes") == 3
    folder.rename(tmp_path / "moved")
    assert resumed(4, images=str(tmp_path / "moved"), class_images="../classes") == 4
    for change, says in (
        ({"mask": ""}, "the instance pictures are not those .* captions, masks or repeats|mask was"),
        ({"repeats": []}, "repeats was"),
        ({"class_images": str(tmp_path / "moved")}, "the class pictures are not those"),
        ({"class_images": ""}, "class_images was"),
    ):
        with pytest.raises(InputError, match=says):
            resumed(5, images="../moved", **{"class_images": "../classes", **change})
    (tmp_path / "classes" / "disc0.txt").write_text("a disc on sand")
    with pytest.raises(InputError, match="class pictures are not those .*, or have other captions"):
        resumed(5, images="../moved", class_images="../classes")
    (tmp_path / "classes" / "disc0.txt").unlink()
    (tmp_path / "moved" / "a.txt").write_text("on sand")
    with pytest.raises(InputError, match="instance pictures are not those"):
        resumed(5, images="../moved", class_images="../classes")


def test_a_relative_path_is_found_again_from_another_folder(
    spectra_cli: Any, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train(make_config({**given, "images": "mixed", "save_every": 1, "steps": 1}), tmp_path / "out")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    ran = spectra_cli("train", "--resume", "-o", "../out", "--force", "--steps", 2, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["resumed_at"] == 1


def test_no_more_than_a_few_pictures_are_alive(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are: each is read, shrunk and forgotten. The slow test below has the figure."""
    place = tmp_path / "many"
    place.mkdir()
    for number in range(24):
        Image.effect_noise((300, 200 + number), 60).save(place / f"{number:02d}.png")
    alive: list[weakref.ref[Image.Image]] = []
    most = 0
    real = module.read_picture

    def counted(path: Path) -> Image.Image:
        nonlocal most
        picture = real(path)
        alive.append(weakref.ref(picture))
        gc.collect()
        most = max(most, sum(each() is not None for each in alive))
        return picture

    monkeypatch.setattr(module, "read_picture", counted)
    train(make_config({**settings, "images": str(place), "steps": 1}), tmp_path / "out")
    assert len(alive) >= 24 * 2
    assert most <= 2


def test_a_place_may_have_the_sign_between_place_and_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert split_subject("dogs=a [V1] dog") == ("dogs", "a [V1] dog")
    assert split_subject("dogs = a [V1] dog, f=2") == ("dogs", "a [V1] dog, f=2")
    assert split_subject("fox") == ("fox", "")
    (tmp_path / "a=b").mkdir()
    assert split_subject("a=b=a [V1] dog = x") == ("a=b", "a [V1] dog = x")
    assert split_subject("a=b") == ("a=b", "")
    (tmp_path / "a").mkdir()
    assert split_subject("a=b=a [V1] dog") == ("a=b", "a [V1] dog")
    assert split_subject("a=c") == ("a", "c")


def test_captions_must_have_the_special_word(settings: dict[str, Any], folder: Path) -> None:
    def read(**changed: Any) -> list[str]:
        config = make_config({**settings, "images": str(folder), "prompt": "a [v] disc", **changed})
        (subject,) = read_subjects(fill_in_subjects(config))
        return list(subject.prompts)

    with pytest.warns(PictureWarning, match=r"2 of 4 captions have not the special word '\[v\]': 'in snow'"):
        assert read() == ["in snow", "a [v] disc", "on grass", "a [v] disc"]
    assert read(prompt="a [v] disc, {caption}") == [
        "a [v] disc, in snow", "a [v] disc", "a [v] disc, on grass", "a [v] disc",
    ]  # fmt: skip
    assert read(captions=True, prompt="a disc, {caption}", word=False)[1] == "a disc"
    with pytest.raises(InputError, match="has no caption, and prompt '{caption}' is nothing without one"):
        read(prompt="{caption}")
    (folder / "b.txt").write_text("in rain")
    (folder / "2_more" / "d.txt").write_text("in fog")
    assert read(prompt="{caption}") == ["in snow", "in fog", "on grass", "in rain"]
    with pytest.raises(InputError, match=r"no caption has the special word '\[v\]'"):
        read()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_photographs(settings: dict[str, Any], tmp_path: Path) -> None:
    """12 and 100 of 24 megapixels: within 100 MB of each other."""
    peaks = {}
    y, x = np.mgrid[:4000, :6000]
    pixels = np.stack([x // 24, y // 16, (x + y) // 40], -1).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg", quality=85)
    for count in (12, 100):
        place = tmp_path / f"of-{count}"
        place.mkdir()
        for number in range(count):
            (place / f"{number:03d}.jpg").hardlink_to(tmp_path / "photo.jpg")
        config = make_config({**settings, "images": str(place), "steps": 1})
        (tmp_path / f"{count}.toml").write_text(config.to_toml())
        code = (
            "import resource, sys; from spectra.cli.app import main; code = main(sys.argv[1:]); "
            "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
        )
        asked = ["train", "--config", str(tmp_path / f"{count}.toml"), "-o", str(tmp_path / f"out-{count}")]
        ran = subprocess.run([sys.executable, "-c", code, *asked], capture_output=True, text=True, timeout=3000)
        assert ran.returncode == 0, ran.stderr[-500:]
        peaks[count] = int(ran.stdout.split("peak")[-1]) / 1000
    assert peaks[100] - peaks[12] < 100, peaks
