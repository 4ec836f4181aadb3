"""Fingerprints: the address of an entry, and what a shift file says of its base."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from spectra.errors import WeightError
from spectra.spectrum.fingerprint import fingerprint


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_fingerprint_of_the_file_is_that_of_the_live_weight(tmp_path: Path, dtype: torch.dtype) -> None:
    layer = nn.Conv2d(4, 6, 3).to(dtype).to(memory_format=torch.channels_last)
    save_file({"w": layer.weight.detach().contiguous()}, tmp_path / "w.safetensors")
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        assert fingerprint(file.get_tensor("w")) == fingerprint(layer.weight)


def test_fingerprint_is_fixed() -> None:
    """It is part of the shift file's format: another value would orphan every file and entry there is."""
    said = b'["first-dim","float32",[2,3]]\n' + np.arange(6, dtype="<f4").tobytes()
    expected = hashlib.sha256(said).hexdigest()
    assert fingerprint(torch.arange(6, dtype=torch.float32).reshape(2, 3)) == expected


def test_fingerprint_tells_values_shapes_and_dtypes_apart() -> None:
    plain = torch.arange(6, dtype=torch.float32)
    others = [
        plain.reshape(2, 3),
        plain.reshape(3, 2),
        plain.reshape(6, 1),
        plain,
        plain.reshape(2, 3).to(torch.float16),
        plain.reshape(2, 3).view(torch.int32),
        plain.reshape(2, 3).flip(0),
        torch.zeros(0, 3),
        torch.zeros(3, 0),
    ]
    assert len({fingerprint(other) for other in others}) == len(others)


def test_fingerprint_refuses_what_has_no_bytes() -> None:
    with pytest.raises(WeightError, match=r"unet\.w: .*meta device"):
        fingerprint(torch.ones(2, 2, device="meta"), name="unet.w")
    with pytest.raises(WeightError, match="dense"):
        fingerprint(torch.ones(2, 2).to_sparse())
