"""Folders of shift files."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixed_shifts import make, weights
from safetensors.numpy import save_file

from spectra.analysis.library import SORTS, duplicates, read_entry, scan, select, sort_entries
from spectra.errors import InputError, ShiftFileError
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift, write_shift
from spectra.shift.shift_header import read_shift_header

NAMES = ("unet.conv_in", "unet.mid_block.attentions.0.norm", "unet.up_blocks.1.attentions.0.to_q")


def write(path: Path, value: float = 1.0, dtype: Any = "float32", **told: Any) -> Path:
    deltas = {name: np.full(i + 2, value) for i, name in enumerate(NAMES)}
    described = ShiftMetadata(**{"base": "sd15", "fingerprints": dict.fromkeys(NAMES, "0123abcd"), **told})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_shift(SpectralShift(deltas, described), path, dtype=dtype, force=True)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "fox.safetensors", settings={"prompt": "a [V1] fox", "class_prompt": "a fox"}, subset="unet-ca")
    write(tmp_path / "deep/er/car.safetensors", 2.0, settings={"prompt": "a [V1] car"}, subset="unet,text-encoder")
    write(tmp_path / "merged.safetensors", 3.0, recipe={"method": "add"}, base="SDXL", licence="CC0")
    return tmp_path


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_entry_is_what_a_close_look_finds(tmp_path: Path, dtype: Any) -> None:
    path = write(tmp_path / "a.safetensors", dtype=dtype, ndims=dict(zip(NAMES, (4, 1, 2), strict=True)), seed=3)
    entry, header = read_entry(path), read_shift_header(path)
    assert entry is not None
    assert (entry.weights, entry.floats) == (3, 9)
    assert (entry.bytes, entry.precision, entry.content_hash) == (
        header.bytes,
        dtype,
        read_shift(path).metadata.content_hash,
    )
    assert entry.base_fingerprint == header.metadata.base_fingerprint
    assert (entry.metadata.seed, entry.metadata.fingerprints, entry.metadata.ndims) == (3, {}, {})


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("few", [True, False])
def test_an_entry_of_a_file_with_parts_is_what_a_close_look_finds(tmp_path: Path, dtype: Any, few: bool) -> None:
    """Also where a prompt looks like a tensor, and where directions are chosen ones."""
    prompt = '"unet.x.outer":{"dtype":"U16","shape":[7]'
    shift = make(weights(), 3, directions=2, settings={"prompt": prompt})
    deltas = {name: np.roll(delta, 3) if few else delta for name, delta in shift.items()}
    shift = SpectralShift(deltas, shift.metadata, outer=shift.outer, words=shift.words)
    path = tmp_path / "a.safetensors"
    write_shift(shift, path, dtype=dtype)
    entry, header = read_entry(path), read_shift_header(path)
    assert entry is not None
    assert (b".directions" in path.read_bytes()) == few
    assert (entry.weights, entry.floats, entry.precision) == (6, shift.floats, dtype)
    assert (entry.weights, entry.floats) == (len(header.lengths), header.floats)
    assert entry.terms == sum(terms.rank for terms in shift.outer.values())
    assert entry.words == ("a word",)
    assert entry.base_fingerprint == header.metadata.base_fingerprint
    assert (entry.metadata.settings, entry.metadata.fingerprints, entry.metadata.ndims) == ({"prompt": prompt}, {}, {})
    assert select([entry], find="a word") == (entry,)


def test_a_file_laid_out_by_another_writer_gives_the_same_entry(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", settings={"prompt": "p"}, parents=("a" * 32,))
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    metadata = header.pop("__metadata__")
    again = json.dumps(header | {"__metadata__": metadata}, indent=1).encode()  # metadata last, with blanks
    other = tmp_path / "b.safetensors"
    other.write_bytes(len(again).to_bytes(8, "little") + again + raw[8 + length :])
    first, second = read_entry(path), read_entry(other)
    assert first is not None and second is not None
    for field in ("weights", "floats", "precision", "base_fingerprint", "content_hash", "metadata"):
        assert getattr(first, field) == getattr(second, field), field


def test_a_folder_is_scanned_to_its_depth(folder: Path) -> None:
    (folder / "notes.txt").write_text("x")
    (folder / ".half.safetensors").write_bytes(b"")
    write(folder / ".hidden/a.safetensors")
    save_file({"w": np.zeros(2)}, folder / "lora.safetensors")
    save_file({"w": np.zeros(2)}, folder / "other.safetensors", {"format": "pt"})
    found = scan([folder, folder / "fox.safetensors", folder / "deep"])
    assert [entry.path.name for entry in found.entries] == ["car.safetensors", "fox.safetensors", "merged.safetensors"]
    assert (found.others, found.damaged) == (3, {})
    assert scan([folder / "notes.txt"]).others == 1
    with pytest.raises(InputError, match="no such file or folder"):
        scan([folder / "absent"])


def test_damaged_files_are_told_with_their_reason(folder: Path) -> None:
    whole = (folder / "fox.safetensors").read_bytes()
    bad = {
        "cut_in_data": whole[:-3],
        "cut_in_header": whole[:100],
        "empty": b"",
        "text": b"version https://git-lfs.github.com/spec/v1\n",
        "later": whole.replace(b'"version":"1"', b'"version":"9"'),
        "foreign_dtype": whole.replace(b'"F32"', b'"I32"'),
        "no_hash": whole.replace(b'"content_hash"', b'"content_hush"'),
    }
    for name, data in bad.items():
        (folder / f"{name}.safetensors").write_bytes(data)
    (folder / "gone.safetensors").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe.safetensors")  # to open it would wait for ever
    found = scan([folder])
    assert len(found.entries) == 3
    reasons = {path.stem: reason for path, reason in found.damaged.items()}
    assert reasons.keys() == bad.keys() | {"gone", "pipe"}
    assert all("\n" not in reason and str(folder) not in reason for reason in reasons.values())
    assert "update spectra" in reasons["later"]
    assert "I32" in reasons["foreign_dtype"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_folder_is_told(folder: Path) -> None:
    (folder / "deep/er").chmod(0)
    assert "cannot be read" in scan([folder]).damaged[folder / "deep/er"]


@settings(max_examples=60)
@given(st.data())
def test_no_damage_brings_a_scan_down(tmp_path: Path, data: st.DataObject) -> None:
    """Bytes of a header changed, cut or put in: an entry, a file of another kind, or an error of ours."""
    raw = bytearray(write(tmp_path / "a.safetensors", settings={"prompt": "p"}).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.sampled_from([b"", b"0", b'"', b"]", b"{", b"\xff"]))
    path = tmp_path / "b.safetensors"
    path.write_bytes(raw)
    for read in (read_entry, read_shift_header):
        with contextlib.suppress(ShiftFileError):
            read(path)


def test_selecting(folder: Path) -> None:
    entries = scan([folder]).entries

    def chosen(**conditions: str) -> list[str]:
        return [entry.path.stem for entry in select(entries, **conditions)]

    assert chosen() == ["car", "fox", "merged"]
    assert chosen(prompt="FOX") == ["fox"]
    assert chosen(prompt="[v1]") == ["car", "fox"]
    assert chosen(base="sd1") == ["car", "fox"]
    assert chosen(base=entries[0].base_fingerprint[:6]) == ["car", "fox", "merged"]
    assert chosen(subset="unet") == ["car"]
    assert chosen(subset="unet*") == ["car", "fox"]
    assert chosen(find="er CAR") == ["car"]
    assert chosen(find="cc0") == ["merged"]
    assert chosen(find=entries[1].content_hash[:8]) == ["fox"]
    assert chosen(find="fox", base="sdxl") == []


def test_arranging(folder: Path) -> None:
    entries = scan([folder]).entries
    os.utime(folder / "merged.safetensors", (1, 1))
    os.utime(folder / "fox.safetensors", (2e9, 2e9))
    entries = scan([folder]).entries
    assert [entry.path.stem for entry in sort_entries(entries, "date")] == ["fox", "car", "merged"]
    assert [entry.path.stem for entry in sort_entries(entries, "base")] == ["merged", "car", "fox"]
    for by in SORTS:
        assert {entry.path for entry in sort_entries(entries, by)} == {entry.path for entry in entries}
    with pytest.raises(InputError, match="expected one of name"):
        sort_entries(entries, "colour")


def test_copies_are_told(folder: Path) -> None:
    (folder / "same.safetensors").write_bytes((folder / "fox.safetensors").read_bytes())
    (group,) = duplicates(scan([folder]).entries)
    assert [entry.path.stem for entry in group] == ["fox", "same"]
