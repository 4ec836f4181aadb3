"""A picture to be edited."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trainings import quick_outputs, whole_outputs  # noqa: F401 - fixtures


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bright disc, higher than wide."""
    y, x = np.mgrid[:60, :40]
    inside = (x - 20) ** 2 + (y - 30) ** 2 < 150
    path = tmp_path_factory.mktemp("photo") / "disc.png"
    Image.fromarray(np.where(inside[..., None], [250, 160, 20], [30, 40, 90]).astype(np.uint8)).save(path)
    return path
