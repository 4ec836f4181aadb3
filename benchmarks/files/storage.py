"""Bytes of a shift of Stable Diffusion 1.x's UNet, per trainable subset, beside the paper's Table 1.

The UNet is built on the meta device: the counts follow from the shapes, and no weights are needed. The files
are really written, with the metadata that a training writes, so the bytes are those of a user's file.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.benchmarks import machine
from spectra.benchmarks.case import Bench, Case, Column, Goal, Row

if TYPE_CHECKING:
    import torch

    from spectra.shift.metadata import ShiftMetadata
    from spectra.shift.shift import SpectralShift

PAPER: Mapping[str, tuple[int, int, float]] = {
    "UNet": (391, 322_856, 1404),
    "UNet-CA": (64, 43_776, 194),
    "UNet-CA-KV": (32, 18_816, 84.8),
    "UNet-1D": (109, 100_160, 430),
    "UNet-2D": (184, 140_416, 617),
    "UNet-4D": (98, 82_280, 355),
    "Up-Blocks": (219, 181_568, 789),
    "Down-Blocks": (141, 107_072, 469),
    "Mid-Block": (26, 32_256, 135),
    "Up-CA": (36, 23_808, 106),
    "Down-CA": (24, 15_872, 70.4),
    "Mid-CA": (4, 4_096, 17.7),
}
"""arXiv:2303.11305, Table 1: the file's KB, and the tensors and floats that its definitions give on this
UNet.

A subset's name in lower case is what `--target` calls it.
"""

_PACKAGES = {"spectra": "spectra-diffusion", "torch": "torch", "diffusers": "diffusers"}


def sd15_unet() -> torch.nn.Module:
    """Stable Diffusion 1.x's UNet (859,520,964 parameters) on the meta device: shapes without values."""
    import torch
    from diffusers import UNet2DConditionModel

    build: Any = UNet2DConditionModel  # diffusers is untyped here
    with torch.device("meta"):
        unet: torch.nn.Module = build(cross_attention_dim=768)
    return unet


def _items(bench: Bench) -> list[str]:
    return list(PAPER)


def _measure(bench: Bench, item: str) -> Row:
    from spectra.families import targets as targets_of

    targets = targets_of(bench.once("unet", sd15_unet), item.lower())
    lengths = {target.name: target.delta_length for target in targets}
    return {
        "subset": item,
        "tensors": len(lengths),
        "floats": sum(lengths.values()),
        "paper_kb": PAPER[item][2],
        "fp32_bytes": written(lengths, item.lower(), "float32", bench.seed),
        "fp16_bytes": written(lengths, item.lower(), "float16", bench.seed),
    }


def written(lengths: Mapping[str, int], subset: str, dtype: Any, seed: int) -> int:
    """Bytes on disk of a shift with random deltas of these lengths, with a training's metadata."""
    return file_bytes(gaussian_shift(lengths, dict.fromkeys(lengths, 2), subset, seed), dtype)


def file_bytes(shift: SpectralShift, dtype: Any = "float32") -> int:
    """Bytes on disk of a shift."""
    from spectra.shift.shift_file import write_shift

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shift.safetensors"
        write_shift(shift, path, dtype=dtype)
        return path.stat().st_size


def gaussian_shift(lengths: Mapping[str, int], ndims: Mapping[str, int], subset: str, seed: int) -> SpectralShift:
    """A shift with normal deltas of these lengths, with a training's metadata."""
    import numpy as np

    from spectra.shift.shift import SpectralShift

    rng = np.random.default_rng(seed)
    deltas = {name: (0.05 * rng.standard_normal(length)).astype(np.float32) for name, length in lengths.items()}
    return SpectralShift(deltas, replace(sd15_metadata(list(lengths), subset), ndims=ndims))


def sd15_metadata(names: Sequence[str], subset: str) -> ShiftMetadata:
    """What a training of one subject on a local Stable Diffusion folder writes, of the same length.

    The fingerprints have real length and no meaning: there are no weights to take them from.
    """
    from spectra.shift.metadata import FINGERPRINT_DIGITS, ROUNDED, ROUNDED_DIGITS, ShiftMetadata

    installed = machine.versions()
    return ShiftMetadata(
        base="stable-diffusion-v1-5/stable-diffusion-v1-5",
        fingerprints={name: _digits(name)[:FINGERPRINT_DIGITS] for name in names},
        base_dtype="float16",
        ndims=dict.fromkeys(names, 2),
        rounded={dtype: {name: _digits(name + dtype)[:ROUNDED_DIGITS] for name in names} for dtype in ROUNDED},
        subset=subset,
        settings={
            "base": "stable-diffusion-v1-5/stable-diffusion-v1-5",
            "images": "pictures/dog",
            "prompt": "photo of a sks dog",
            "class_prompt": "photo of a dog",
            "targets": subset,
            "steps": 1000,
            "seed": 1,
        },
        seed=1,
        versions={name: installed.get(package, "0.1.0") for name, package in _PACKAGES.items()},
    )


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    exact = [row for row in rows if (row["tensors"], row["floats"]) == PAPER[row["subset"]][:2]]
    smaller = [row for row in rows if row["fp32_bytes"] < 1000 * row["paper_kb"]]
    return {
        "rows_exact": len(exact),
        "rows_smaller_than_paper": len(smaller),
        "largest_part_of_paper": round(max(row["fp32_bytes"] / (1000 * row["paper_kb"]) for row in rows), 4),
    }


CASE = Case(
    name="storage",
    title="bytes per subset of SD 1.x's UNet, beside the paper's Table 1",
    key="subset",
    items=_items,
    measure=_measure,
    summarise=_summarise,
    settings={"seed": 0},
    columns=(
        Column("subset"),
        Column("tensors"),
        Column("floats", form=",.0f"),
        Column("paper_kb", "paper, KB", "g"),
        Column("fp32_bytes", "fp32, bytes", ",.0f"),
        Column("fp16_bytes", "fp16, bytes", ",.0f"),
    ),
    goals=(Goal("rows_exact", "==", len(PAPER)), Goal("rows_smaller_than_paper", "==", len(PAPER))),
)
