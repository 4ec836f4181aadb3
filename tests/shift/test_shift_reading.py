"""Reading a shift file is strict: nothing doubtful is taken for a shift."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from shift_bytes import taken_apart

from spectra.errors import ShiftFileError
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift, write_shift
from spectra.shift.shift_header import read_shift_header

NAMES = ("unet.conv_in", "unet.mid_block.attentions.0.proj_in", "unet.conv_norm_out")


def example() -> SpectralShift:
    deltas = {name: np.linspace(-0.25, 0.25, 3 + i) for i, name in enumerate(NAMES)}
    return SpectralShift(deltas, ShiftMetadata("tiny", dict.fromkeys(NAMES, "0123abcd"), subset="unet"))


def broken(path: Path, change: Callable[[dict[str, str], dict[str, np.ndarray]], None]) -> Path:
    """A shift file whose parts were changed by someone who knows safetensors, but not our hash."""
    write_shift(example(), path, force=True)
    strings, tensors = taken_apart(path)
    change(strings, tensors)
    save_file(tensors, path, metadata=strings)
    return path


def drop(key: str) -> Callable[..., None]:
    return lambda strings, tensors: strings.pop(key)


def put(key: str, value: str) -> Callable[..., None]:
    return lambda strings, tensors: strings.update({key: value})


def tensor(key: str, value: np.ndarray) -> Callable[..., None]:
    return lambda strings, tensors: tensors.update({key: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("format"), "expected a spectral shift"),
        (put("format", "lora"), "expected a spectral shift"),
        (put("version", "4"), "format version 4.*update spectra"),
        (put("version", "one"), "'version' should be a whole number"),
        (put("version", "0"), "'version' should be a whole number"),
        (drop("fingerprints"), "lacks fingerprints"),
        (drop("content_hash"), "lacks content_hash"),
        (drop("base"), "lacks base"),
        (put("colour", "red"), "'colour', which format version 1 does not know"),
        (put("reshape", "last-dim"), "reshape rule 'last-dim'"),
        (put("fingerprints", "0123abcd"), "8 hex digits for each of 3 weights"),
        (put("base_fingerprint", "zz"), "16 hex digits"),
        (put("seed", "3.5"), "'seed' should be a whole number"),
        (put("settings", "[1]"), "'settings' should be a JSON object"),
        (put("settings", "{"), "'settings' should be JSON"),
        (put("settings", '{"lr": NaN}'), "'settings' should be JSON"),
        (put("recipe", "[" * 100_000), "'recipe' should be JSON"),
        (put("parents", "me,you"), "'parents' should be content hashes"),
        (put("versions", '{"torch": 2}'), "'versions' should be a JSON object of strings"),
        (put("subset", "unet-ca"), "content hash"),
        (tensor("unet.conv_in.delta", np.zeros(3, np.float32)), "content hash"),
        (tensor("unet.conv_in.delta", np.zeros(3, np.float64)), "expected F32 or F16, got F64"),
        (tensor("unet.conv_in.delta", np.zeros(3, np.float16)), "got both F16 and F32"),
        (tensor("unet.conv_in.delta", np.zeros((3, 1), np.float32)), r"shape \[3, 1\]"),
        (tensor("unet.conv_in.lora_up", np.zeros(3, np.float32)), "end in '.delta'.*lora_up"),
        (tensor("unet.extra.delta", np.zeros(3, np.float32)), "for each of 4 weights"),
    ],
)
def test_a_changed_file_is_refused(change: Callable[..., None], message: str, tmp_path: Path) -> None:
    path = broken(tmp_path / "a.safetensors", change)
    with pytest.raises(ShiftFileError, match=message) as caught:
        read_shift(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_non_finite_values_are_refused_even_under_a_right_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = broken(tmp_path / "a.safetensors", tensor("unet.conv_in.delta", np.full(3, np.nan, np.float32)))
    monkeypatch.setattr("spectra.shift.shift_file._content_hash", lambda strings, tensors: strings["content_hash"])
    with pytest.raises(ShiftFileError, match=r"unet\.conv_in: 3 of 3 values"):
        read_shift(path)


def test_what_is_no_file_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text(json.dumps({"a": 1}) * 20)
    for name in ("", "absent", "empty", "text", "text/below", "x" * 300):
        path = tmp_path / name
        with pytest.raises(ShiftFileError) as caught:
            read_shift(path)
        assert str(caught.value).startswith(f"{path}: ")


def test_the_header_alone_says_the_same(tmp_path: Path) -> None:
    size = write_shift(example(), tmp_path / "a.safetensors", dtype="float16")
    header = read_shift_header(tmp_path / "a.safetensors")
    whole = read_shift(tmp_path / "a.safetensors")
    assert header.metadata == whole.metadata
    assert header.metadata.content_hash == whole.metadata.content_hash
    assert header.lengths == {name: delta.size for name, delta in whole.items()}
    assert (header.precision, header.bytes) == ("float16", size)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_header_of_a_file_that_is_cut_short_is_refused(tmp_path: Path, keep: int) -> None:
    write_shift(example(), tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "b.safetensors").write_bytes(content[:keep])
    with pytest.raises(ShiftFileError, match="b.safetensors: .*make it again"):
        read_shift_header(tmp_path / "b.safetensors")
