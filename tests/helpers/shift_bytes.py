"""Shift files as their bytes say, by the library of safetensors, which knows nothing of shifts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import safe_open


def taken_apart(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """A file's strings and arrays."""
    with safe_open(path, framework="numpy") as file:
        return dict(file.metadata()), {key: file.get_tensor(key) for key in file.keys()}
