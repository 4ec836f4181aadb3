"""Folders of a tiny base, and pictures for it to learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_base import build
from trainings import quick_outputs, whole_outputs  # noqa: F401 - fixtures


@pytest.fixture
def build_tiny() -> Callable[..., Any]:
    """Makes a tiny pipeline anew, to be changed."""
    return build


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three pictures of one kind: a bright disc."""
    folder = tmp_path_factory.mktemp("photos")
    y, x = np.mgrid[:48, :40]
    for number in range(3):
        inside = (x - 16 - 4 * number) ** 2 + (y - 24) ** 2 < 120
        array = np.where(inside[..., None], [250, 160, 20], [30, 40, 90 + 30 * number]).astype(np.uint8)
        Image.fromarray(array).save(folder / f"disc{number}.png")
    return folder


@pytest.fixture
def settings(tiny_base: Path, photos: Path) -> dict[str, Any]:
    """Settings of a training of few steps, as `make_config` takes them."""
    return {
        "preset": "svdiff",
        "base": str(tiny_base),
        "images": str(photos),
        "prompt": "a v disc",
        "class_prompt": "a disc",
        "prior_count": 3,
        "prior_steps": 2,
        "prior_guidance": 1.0,
        "steps": 4,
        "batch": 2,
        "lr": 0.01,
        "validation_steps": 2,
        "validation_count": 0,
        "validation_guidance": 1.0,
    }
