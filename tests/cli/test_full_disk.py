"""A disk that is full at any write: one clear line, what was there before is still there, and nothing else is left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plain_base
import pytest
from full_disk import full_disk

from spectra.shift.shift_file import write_shift

FEW = 6
"""Writes at which the disk is full in the suite, the first and the last among them; `make slow` tries every one."""


@pytest.fixture
def scene(tmp_path: Path, tiny_base: Path) -> Path:
    """Two shifts of a base of plain weights, and one of a folder's."""
    from spectra.bases.weight_files import base_weights

    weights = plain_base.tensors()
    plain_base.write(tmp_path, weights)
    for seed, name in enumerate("ab"):
        write_shift(plain_base.random_shift(weights, seed=seed), tmp_path / f"{name}.safetensors")
    folder = base_weights(str(tiny_base), ("unet",), dtype="float32")
    few = {name: folder[name] for name in folder if ".attn2.to_k" in name}
    write_shift(plain_base.random_shift(few, size=0.01), tmp_path / "tiny.safetensors")
    return tmp_path


def commands(scene: Path, tiny_base: Path) -> dict[str, tuple[Any, ...]]:
    a, b, base = scene / "a.safetensors", scene / "b.safetensors", scene / "unet.safetensors"
    convert = ("convert", a, "--base", base)
    return {
        "merge": ("merge", a, b, "-o", "out.safetensors", "--save-recipe", "out.toml"),
        "pack": ("pack", a, b, "-o", "out"),
        "bake a file": ("bake", base, "--shift", a, "-o", "out.safetensors"),
        "bake a folder": ("bake", tiny_base, "--shift", scene / "tiny.safetensors", "-o", "out"),
        "svdiff": (*convert, "--to", "svdiff-pytorch", "-o", "out"),
        "lora": (*convert, "--to", "lora", "--rank", 2, "-o", "out.safetensors"),
        "difference": (*convert, "--to", "difference", "-o", "out.safetensors"),
        "subjects": ("subjects", "--subject", "fox", "--count", 2, "-o", "out"),
        "adjust": ("adjust", a, "--scale", "unet.to_q=0.5", "-o", "out.safetensors"),
    }


NAMES = tuple(commands(Path(), Path()))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fill_at_each(
    cli: Callable[..., Any], command: tuple[Any, ...], out: Path, few: int | None, extra: tuple[str, ...] = ("--force",)
) -> None:
    """Run a command over its own earlier output, with the disk full at some of its writes, or at all."""
    assert cli(*command).code == 0
    before = contents(out)
    assert before
    with full_disk(out) as writes:
        ran = cli(*command, *extra)
    assert ran.code == 0, ran.err
    count = writes.tried
    assert count
    assert set(contents(out)) == set(before)
    chosen = range(1, count + 1) if few is None else sorted({1 + n * (count - 1) // (few - 1) for n in range(few)})
    before = contents(out)
    for at in chosen:
        with full_disk(out, at):
            ran = cli(*command, *extra)
        assert ran.code == 1, (at, ran.err)
        assert "the disk is full; free some space" in ran.err
        assert ran.err.count("\n") == 1
        after = contents(out)
        assert set(after) == set(before)  # nothing is left over, nothing is gone
        # Of several files, those that were written before the disk was full are new ones, and whole.
        assert all(len(after[name]) == len(before[name]) for name in before)


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk(
    name: str, scene: Path, tiny_base: Path, spectra_cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (scene / "work").mkdir()
    monkeypatch.chdir(scene / "work")
    fill_at_each(spectra_cli, commands(scene, tiny_base)[name], scene / "work", FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_at_every_write(
    name: str, scene: Path, tiny_base: Path, spectra_cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (scene / "work").mkdir()
    monkeypatch.chdir(scene / "work")
    fill_at_each(spectra_cli, commands(scene, tiny_base)[name], scene / "work", None)


def test_decomposing_goes_on_where_nothing_can_be_kept(
    tiny_base: Path, tmp_path: Path, spectra_cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECTRA_CACHE", str(tmp_path / "cache"))
    with full_disk(tmp_path, 3):
        ran = spectra_cli("decompose", tiny_base, "--component", "text_encoder", "--json")
    assert ran.code == 0
    assert json.loads(ran.out)["total"]["misses"] > 3
    assert ran.err.count("cannot be written (No space left on device)") == 1
    kept = contents(tmp_path / "cache")
    assert len(kept) == 2
    assert not [name for name in kept if ".spectra-" in name]
    assert spectra_cli("cache", "verify").code == 0


def test_training_with_a_full_disk(tiny_base: Path, tmp_path: Path, spectra_cli: Any) -> None:
    """Its earlier folder stays; and where only the new folder could not be written, resuming makes it."""
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.effect_noise((32, 32), 60).convert("RGB").save(tmp_path / "photos" / "a.png")
    out = tmp_path / "out" / "dog"
    command = (
        "train", "--preset", "svdiff", "--base", tiny_base, "--images", tmp_path / "photos", "--prompt", "a v disc",
        "--steps", 2, "--save-every", 1, "--batch", 1, "--validation-count", 0, "--prior-weight", 0, "-o", out,
    )  # fmt: skip
    with full_disk(tmp_path) as writes:
        assert spectra_cli(*command).code == 0
    count, whole = writes.tried, contents(out)["dog.safetensors"]
    for at in (1, count // 2, count):
        with full_disk(tmp_path, at):
            ran = spectra_cli(*command, "--force")
        assert ran.code == 1
        assert "the disk is full" in ran.err
        assert contents(out)["dog.safetensors"] == whole
        assert not list(tmp_path.rglob(".spectra-*"))
    assert spectra_cli("train", "--resume", "-o", out, "--force").code == 0
    assert contents(out)["dog.safetensors"] == whole
