"""The examples that work on live pipelines, run on a tiny base: what they draw, learn and write is what they say."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import tiny_base
import torch
from PIL import Image
from small_models import random_shift

import spectra
from spectra.shift.shift import combine

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> Any:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]


@pytest.fixture
def base(tmp_path: Path) -> str:
    pipe = tiny_base.build()
    pipe.save_pretrained(tmp_path / "base")
    (tmp_path / "users").mkdir()
    for number, name in enumerate(("dog", "style")):
        shift = random_shift(pipe, "unet-ca,unet.*norm*", number, size=1.0)
        spectra.write_shift(shift, tmp_path / "users" / f"{name}.safetensors")
    return str(tmp_path / "base")


def test_a_shift_instead_of_a_lora(base: str, tmp_path: Path) -> None:
    files = [tmp_path / "users" / f"{name}.safetensors" for name in ("dog", "style")]
    torch.manual_seed(0)
    example("shift_instead_of_lora")([base, *map(str, files), str(tmp_path / "out")])
    pictures = {path.stem: path.read_bytes() for path in (tmp_path / "out").glob("*.png")}
    assert pictures.keys() == {"dog", "both", "base"} and len(set(pictures.values())) == 3
    dog, style = map(spectra.read_shift, files)
    assert spectra.read_shift(tmp_path / "out" / "both.safetensors") == combine([(1.0, dog), (0.4, style)])


def test_a_training_loop_of_ones_own(base: str, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number, colour in enumerate(("red", "navy")):
        Image.new("RGB", (40, 30), colour).save(tmp_path / "photos" / f"{number}.png")
    torch.manual_seed(0)
    out = tmp_path / "dog.safetensors"
    losses = example("training_loop")([base, str(tmp_path / "photos"), "a dog", str(out)], 40, 32)
    assert sum(losses[-10:]) < sum(losses[:10])
    shift = spectra.read_shift(out)
    assert shift.outer.keys() == set(shift) and shift.norm() > 0


def test_many_users_in_one_batch(base: str, tmp_path: Path) -> None:
    example("many_users")([base, str(tmp_path / "users"), str(tmp_path / "out")])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["base.png", "dog.png", "style.png"]
    assert len({path.read_bytes() for path in (tmp_path / "out").iterdir()}) == 3
