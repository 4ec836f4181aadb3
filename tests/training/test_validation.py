"""What training draws to show what was learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import spectra
from spectra.bases.pipeline import load_pipeline
from spectra.generation.drawing import Request, draw
from spectra.generation.settings import Sampling
from spectra.training.config import make_config
from spectra.training.run.train import train
from spectra.training.run.validation import Validation


def test_a_trained_shift_draws_the_same_once_loaded(
    settings: dict[str, Any], tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What training drew at its end through routed forwards, and what the file gives through swapped weights."""
    drawn: list[dict[str, list[Image.Image]]] = []
    original = Validation.draw

    def recorded(self: Validation, *args: Any) -> dict[str, list[Image.Image]]:
        drawn.append(original(self, *args))
        return drawn[-1]

    monkeypatch.setattr(Validation, "draw", recorded)
    train(make_config({**settings, "lr": 0.05, "text_encoder": True, "validation_count": 1}), tmp_path / "t")
    pipe = load_pipeline(str(tiny_base))
    spectra.load(pipe, tmp_path / "t" / "t.safetensors", name="t")
    spectra.activate(pipe, "t")
    [loaded] = draw(pipe, [Request("a v disc", 0)], Sampling(2, 1.0))
    before, after = (np.asarray(stage["a v disc"][0], np.int64) for stage in drawn)
    assert np.abs(np.asarray(loaded, np.int64) - after).max() <= 1
    assert np.abs(before - after).max() > 5
