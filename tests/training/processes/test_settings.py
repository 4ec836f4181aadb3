"""Everything else that a training may be asked for, in two processes as in one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from several_processes import float64_training, in_processes
from trainings import flat, read_training

from spectra.training.config import make_config
from spectra.training.run.concepts import ConceptSpec
from spectra.training.run.train import train_together

SETTINGS: dict[str, dict[str, Any]] = {
    "text encoder and word": {"text_encoder": True, "word": True, "directions": "2", "outer": "1"},
    "unmix": {"collage_prompts": ["{left} {right}", "{right} {left}"], "unmix_weight": 0.5, "collage": 0.8},
    "low memory": {"low_memory": True},
    "tune": {"tune": True},
    "fresh latents and prompts": {"cache_latents": False, "cache_prompts": False, "flip": True},
    "bf16": {"mixed_precision": "bf16"},
    "int8": {"quantize": "int8", "directions": "0", "outer": "1"},
    "prodigy": {"optimizer": "prodigy"},
    "schedule-free": {"optimizer": "adamwschedulefree"},
    "concepts": {},
}

PACKAGES = {"int8": "torchao", "prodigy": "prodigyopt", "schedule-free": "schedulefree"}
"""Those that some of them need."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_as_one(name: str, settings: dict[str, Any], photos: Path, tmp_path: Path) -> None:
    changed = SETTINGS[name]
    if name in PACKAGES and importlib.util.find_spec(PACKAGES[name]) is None:
        pytest.skip(f"{PACKAGES[name]} is not installed")
    given = {**settings, "steps": 2, "batch": 3, "lr": 1e-4, "lr_outer": 1e-4, "file_dtype": "float32", **changed}
    if name == "unmix":
        other = tmp_path / "other"
        other.mkdir()
        Image.new("RGB", (40, 40), "green").save(other / "green.png")
        for single in ("images", "prompt", "class_prompt"):
            given.pop(single)
        given["subjects"] = [f"{photos}=a [v] d", f"{other}=a [w] c"]
    configs = [make_config(given)]
    if name == "concepts":
        configs.append(make_config({**given, "seed": 5, "prompt": "a w disc"}))

    def run(folder: Path) -> None:
        specs = [ConceptSpec(str(n), config, folder / str(n)) for n, config in enumerate(configs)]
        train_together(specs, device="cpu")

    exact = not {"quantize", "mixed_precision"} & changed.keys()
    if exact:
        with float64_training():
            run(tmp_path / "one")
            ended = in_processes(2, lambda _: run(tmp_path / "two"), tmp_path / "said")
    else:
        run(tmp_path / "one")
        ended = in_processes(2, lambda _: run(tmp_path / "two"), tmp_path / "said")
    assert [each.code for each in ended] == [0, 0]
    for number in range(len(configs)):
        one, two = (read_training(tmp_path / folder / str(number))[0] for folder in ("one", "two"))
        parts = [np.concatenate([flat(each), *(o.a.ravel() for o in each.outer.values())]) for each in (one, two)]
        error = np.linalg.norm(parts[0] - parts[1]) / np.linalg.norm(parts[0])
        print(f"{name}: {error:.1e}")
        assert error < (1e-5 if exact else 0.1)
