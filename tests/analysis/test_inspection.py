"""A shift summed up by block and by weight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mixed_shifts import EMBEDDING, NumpyCache, changes, make, weights

from spectra.analysis.inspection import ChangeSummary, by_group, by_weight, stored_parts, total
from spectra.analysis.weight_changes import weight_changes
from spectra.io.safetensors_header import parse_header, read_header_text
from spectra.naming.blocks import block_of, kind_of
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift, write_shift

UNET = "unet.down_blocks.1.attentions.0."


def shift_of(deltas: dict[str, list[float]]) -> SpectralShift:
    arrays = {name: np.array(values) for name, values in deltas.items()}
    return SpectralShift(arrays, ShiftMetadata("b", dict.fromkeys(arrays, "0" * 8)))


def summaries(shift: SpectralShift) -> tuple[ChangeSummary, ...]:
    (changed,), _ = weight_changes([shift])
    return by_weight(shift, changed)


def test_the_parts_add_up() -> None:
    deltas = {UNET + "proj_in": [3.0, 0.0], UNET + "norm": [0.0, -4.0, 0.0], "unet.conv_in": [12.0]}
    shift = shift_of(deltas)
    every = summaries(shift)
    whole = total(every)
    assert (whole.weights, whole.directions, whole.norm, whole.delta, whole.largest) == (3, 3, 13.0, 13.0, 12.0)
    assert (whole.terms, whole.tokens, whole.outer, whole.word) == (0, 0, 0.0, 0.0)
    first, second = by_group(every, block_of)
    assert (first.name, first.norm, second.name, second.norm, second.largest) == (
        "unet",
        12,
        "unet.down_blocks.1",
        5,
        4,
    )
    for parts in (by_group(every, block_of), by_group(every, kind_of), every):
        assert sum(part.directions for part in parts) == whole.directions
        assert sum(part.norm**2 for part in parts) == pytest.approx(whole.norm**2)


def test_numbered_blocks_come_in_numerical_order() -> None:
    shift = shift_of({f"transformer.blocks.{i}.attn.to_q": [1.0] for i in (10, 9, 1)})
    assert [part.name.rsplit(".", 1)[1] for part in by_group(summaries(shift), block_of)] == ["1", "9", "10"]


def test_the_norm_is_that_of_the_weight_change() -> None:
    """`||delta|| = ||U diag(delta) V^T||_F`, in float64."""
    rng = np.random.default_rng(0)
    left, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    right, _ = np.linalg.qr(rng.normal(size=(9, 6)))
    delta = rng.normal(size=6).astype(np.float32)
    change = left @ np.diag(delta.astype(np.float64)) @ right.T
    (found,) = summaries(shift_of({"unet.a": delta.tolist()}))
    assert found.norm == pytest.approx(np.linalg.norm(change), rel=1e-12)


def test_every_part_is_counted_and_the_norm_is_exact() -> None:
    base = weights()
    shift = make(base, 3, directions=2)
    (changed,), _ = weight_changes([shift], cache=NumpyCache(base))  # type: ignore[arg-type]
    every = by_weight(shift, changed)
    dense = changes(base, shift)
    for part in every:
        assert part.norm == pytest.approx(np.linalg.norm(dense[part.name]), rel=1e-9)
        assert part.directions == np.count_nonzero(shift[part.name])
        assert part.terms == (shift.outer[part.name].rank if part.name in shift.outer else 0)
    whole = total(every)
    assert whole.norm == pytest.approx(np.sqrt(sum(np.sum(each**2) for each in dense.values())), rel=1e-9)
    assert whole.tokens == 2
    assert whole.word == pytest.approx(np.linalg.norm(shift.words[EMBEDDING].vectors))
    assert whole.outer == pytest.approx(np.sqrt(sum(np.sum(each.change() ** 2) for each in shift.outer.values())))
    assert whole.largest == max(np.abs(delta).max() for delta in shift.values())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_a_file_holds_of_each_part(tmp_path: Path, dtype: str) -> None:
    """Together with the header these are all its bytes."""
    path = tmp_path / "a.safetensors"
    shift = make(weights(), 3, directions=2)
    size = write_shift(shift, path, dtype=dtype)  # type: ignore[arg-type]
    stored = {part.part: part for part in stored_parts(path, read_shift(path))}
    with path.open("rb") as stream:
        header = parse_header(path, read_header_text(stream, size), size)
    assert sum(part.bytes or 0 for part in stored.values()) == size - header.data_start
    assert sum(part.floats for part in stored.values()) == shift.floats
    width = int(dtype[-2:]) // 8
    assert stored["outer"].bytes == width * stored["outer"].floats
    assert stored["outer"].floats == sum(each.floats for each in shift.outer.values())
    assert (stored["word"].weights, stored["word"].floats) == (1, 18)
    assert stored["delta"].weights == sum(bool(delta.any()) for delta in shift.values())
    plain = SpectralShift(dict(shift), shift.metadata)
    write_shift(plain, path, error=0.01, force=True)
    (packed,) = stored_parts(path, read_shift(path))
    assert (packed.part, packed.bytes) == ("delta", None)
