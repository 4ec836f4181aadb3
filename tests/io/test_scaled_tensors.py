"""Values with a scale are read as what they stand for, and written back as the nearest that the file can hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fp8_checkpoint import scaled_fp8
from safetensors.torch import load_file, save_file

from spectra.errors import BaseError
from spectra.io.tensor_files import read_rows, rounded_rows, stored_tensors, write_rows

SPANS = ((), ((2, 5),), ((6, 8), (0, 3)))


def plain() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"m.a.weight": (8, 6), "m.conv.weight": (8, 4, 3, 3), "m.norm.weight": (8,), "m.a.bias": (8,)}
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("scale", ["scale_weight", "weight_scale", "weight_scale_inv"])
@pytest.mark.parametrize("form", ["tensor", "row", "block"])
def test_values_and_scales(form: str, scale: str, dtype: torch.dtype, tmp_path: Path) -> None:
    file, meant = scaled_fp8(plain(), "m.", scale, form, dtype)
    save_file(file, tmp_path / "m.safetensors")
    stored = stored_tensors(tmp_path / "m.safetensors")
    assert stored.keys() == meant.keys()
    for key, value in meant.items():
        assert torch.equal(read_rows(stored[key]), value), key
        for spans in SPANS:
            rows = torch.cat([value[start:stop] for start, stop in spans]) if spans else value
            assert torch.equal(read_rows(stored[key], spans), rows), key


@pytest.mark.parametrize("form", ["tensor", "row", "block"])
def test_rows_are_overwritten_at_their_scale(form: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    file, meant = scaled_fp8(plain(), "m.", form=form)
    save_file(file, path)
    stored = stored_tensors(path)["m.a.weight"]
    exact = 0.9 * meant["m.a.weight"][2:5] + 0.01
    rounded = rounded_rows(stored, exact, ((2, 5),))
    assert float(((rounded - exact).abs() / exact.abs()).max()) < 2**-4 + 1e-6  # half a step of three bits
    write_rows(stored, rounded, ((2, 5),))
    assert torch.equal(read_rows(stored)[2:5], rounded)
    found = load_file(path)
    changed = {key for key in file if not torch.equal(found[key].float(), file[key].float())}
    assert changed == {"m.a.weight"}
    assert torch.equal(found["m.a.weight"].float()[:2], file["m.a.weight"].float()[:2])


def test_what_fp8_cannot_hold_is_cut_off(tmp_path: Path) -> None:
    file, meant = scaled_fp8(plain(), "m.")
    file["m.plain.weight"] = torch.ones(2, 2).to(torch.float8_e4m3fn)
    save_file(file, tmp_path / "m.safetensors")
    stored = stored_tensors(tmp_path / "m.safetensors")
    largest = meant["m.a.weight"].abs().max()
    assert torch.allclose(rounded_rows(stored["m.a.weight"], torch.full((8, 6), 1e6)), largest)
    assert rounded_rows(stored["m.plain.weight"], torch.tensor([[-1e6, 1.0], [500.0, 0.0]])).tolist() == [
        [-448, 1],
        [448, 0],
    ]


def test_scales_and_weights_in_different_shards(tmp_path: Path) -> None:
    file, meant = scaled_fp8(plain(), "m.")
    scales = {key for key in file if "scale" in key}
    save_file({key: file[key] for key in file if key not in scales}, tmp_path / "1.safetensors")
    save_file({key: file[key] for key in scales}, tmp_path / "2.safetensors")
    stored = stored_tensors(tmp_path / "1.safetensors", tmp_path / "2.safetensors")
    assert stored.keys() == meant.keys()
    assert torch.equal(read_rows(stored["m.a.weight"]), meant["m.a.weight"])


def test_a_scale_of_a_weight_that_is_not_fp8_is_a_tensor_of_its_own(tmp_path: Path) -> None:
    state = {"m.weight": torch.ones(2, 2), "m.weight_scale": torch.ones(()), "alone.scale_weight": torch.ones(2)}
    save_file(state, tmp_path / "m.safetensors")
    assert stored_tensors(tmp_path / "m.safetensors").keys() == state.keys()


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"m.weight": torch.ones(4, 4, dtype=torch.int8), "m.weight_scale": torch.ones(())}, "quantised to int8"),
        ({"m.weight": torch.ones(4, 2, dtype=torch.uint8), "m.weight_scale": torch.ones(4, 1)}, "quantised to uint8"),
        (
            {"m.weight": torch.ones(4, 64).to(torch.float8_e4m3fn), "m.weight_scale": torch.ones(4, 2).byte()},
            r"m.weight_scale is uint8 \[4, 2\]",
        ),
        ({"m.weight": torch.ones(4, 4).to(torch.float8_e4m3fn), "m.scale_weight": torch.ones(3)}, r"float32 \[3\]"),
        ({"m.weight": torch.ones(4, 4).to(torch.float8_e4m3fn), "m.scale_weight": torch.ones(0)}, r"float32 \[0\]"),
    ],
)
def test_other_quantisations_are_refused_in_one_line(
    tensors: dict[str, torch.Tensor], says: str, tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "m.safetensors")
    with pytest.raises(BaseError, match=says) as caught:
        stored_tensors(tmp_path / "m.safetensors")
    assert "\n" not in str(caught.value)
