"""A tiny base and a picture to be edited."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_base import build


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny pipeline."""
    folder = tmp_path_factory.mktemp("base") / "tiny"
    build().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bright disc, higher than wide."""
    y, x = np.mgrid[:60, :40]
    inside = (x - 20) ** 2 + (y - 30) ** 2 < 150
    path = tmp_path_factory.mktemp("photo") / "disc.png"
    Image.fromarray(np.where(inside[..., None], [250, 160, 20], [30, 40, 90]).astype(np.uint8)).save(path)
    return path
