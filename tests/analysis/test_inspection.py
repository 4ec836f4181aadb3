"""A shift summed up by block and by weight."""

from __future__ import annotations

import numpy as np
import pytest

from spectra.analysis.inspection import by_group, by_weight, total
from spectra.naming.blocks import block_of, kind_of
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.shift import SpectralShift

UNET = "unet.down_blocks.1.attentions.0."


def shift_of(deltas: dict[str, list[float]]) -> SpectralShift:
    arrays = {name: np.array(values) for name, values in deltas.items()}
    return SpectralShift(arrays, ShiftMetadata("b", dict.fromkeys(arrays, "0" * 8)))


def test_the_parts_add_up() -> None:
    deltas = {UNET + "proj_in": [3.0, 0.0], UNET + "norm": [0.0, -4.0, 0.0], "unet.conv_in": [12.0]}
    shift = shift_of(deltas)
    whole = total(shift)
    assert (whole.tensors, whole.floats, whole.norm, whole.largest) == (3, 6, 13.0, 12.0)
    first, second = by_group(shift, block_of)
    assert (first.name, first.norm, second.name, second.norm, second.largest) == (
        "unet",
        12,
        "unet.down_blocks.1",
        5,
        4,
    )
    for parts in (by_group(shift, block_of), by_group(shift, kind_of), by_weight(shift)):
        assert sum(part.floats for part in parts) == whole.floats
        assert sum(part.norm**2 for part in parts) == pytest.approx(whole.norm**2)


def test_numbered_blocks_come_in_numerical_order() -> None:
    shift = shift_of({f"transformer.blocks.{i}.attn.to_q": [1.0] for i in (10, 9, 1)})
    assert [part.name.rsplit(".", 1)[1] for part in by_group(shift, block_of)] == ["1", "9", "10"]


def test_the_norm_is_that_of_the_weight_change() -> None:
    """`||delta|| = ||U diag(delta) V^T||_F`, in float64."""
    rng = np.random.default_rng(0)
    left, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    right, _ = np.linalg.qr(rng.normal(size=(9, 6)))
    delta = rng.normal(size=6).astype(np.float32)
    change = left @ np.diag(delta.astype(np.float64)) @ right.T
    assert total(shift_of({"unet.a": delta.tolist()})).norm == pytest.approx(np.linalg.norm(change), rel=1e-12)
