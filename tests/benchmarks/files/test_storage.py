"""`spectra bench storage`: Table 1 exactly, and files that are really as small as they are said to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectra.benchmarks import run
from spectra.benchmarks.files.storage import CASE, PAPER, sd15_unet

# arXiv:2303.11305, Table 1, as this project's notes give it: subset, tensors, floats, KB.
TABLE = """
    UNet 391 322856 1404
    UNet-CA 64 43776 194
    UNet-CA-KV 32 18816 84.8
    UNet-1D 109 100160 430
    UNet-2D 184 140416 617
    UNet-4D 98 82280 355
    Up-Blocks 219 181568 789
    Down-Blocks 141 107072 469
    Mid-Block 26 32256 135
    Up-CA 36 23808 106
    Down-CA 24 15872 70.4
    Mid-CA 4 4096 17.7
"""


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return dict(run.run(CASE, out=tmp_path_factory.mktemp("results")).record)


def test_all_twelve_rows_are_exact_and_in_the_order_of_the_paper(record: dict[str, Any]) -> None:
    assert record["failures"] == []
    rows = [(row["subset"], row["tensors"], row["floats"], row["paper_kb"]) for row in record["rows"]]
    expected = [line.split() for line in TABLE.strip().splitlines()]
    assert rows == [(name, int(tensors), int(floats), float(kb)) for name, tensors, floats, kb in expected]


def test_a_row_has_what_was_asked_for_and_nothing_else(record: dict[str, Any]) -> None:
    fields = ["subset", "tensors", "floats", "paper_kb", "fp32_bytes", "fp16_bytes"]
    assert all(list(row) == fields for row in record["rows"])


def test_our_fp32_file_is_smaller_than_the_papers_in_every_row(record: dict[str, Any]) -> None:
    for row in record["rows"]:
        assert 4 * row["floats"] < row["fp32_bytes"] < 1000 * row["paper_kb"]
        assert 2 * row["floats"] < row["fp16_bytes"] < row["fp32_bytes"]
    assert [goal["met"] for goal in record["goals"]] == [True, True]


def test_the_unet_is_that_of_stable_diffusion_1_and_its_counts_follow_from_its_shapes() -> None:
    unet = sd15_unet()
    assert sum(parameter.numel() for parameter in unet.parameters()) == 859_520_964
    assert all(parameter.is_meta for parameter in unet.parameters())
    shapes = [p.shape for name, p in unet.named_parameters() if not name.endswith("bias")]
    assert len(shapes) == PAPER["UNet"][0]
    floats = sum(s[0] if len(s) == 1 else min(s[0], int(np.prod(s[1:]))) for s in shapes)
    assert floats == PAPER["UNet"][1]


def test_the_measured_bytes_are_those_of_a_file_with_full_metadata(tmp_path: Path) -> None:
    """The case throws its files away: one is written again here and read back."""
    from spectra.benchmarks.files.storage import sd15_metadata
    from spectra.shift.shift import SpectralShift
    from spectra.shift.shift_file import read_shift, write_shift
    from spectra.version import versions

    names = [f"unet.mid_block.attentions.0.transformer_blocks.0.attn2.{end}" for end in ("to_q", "to_k", "to_v")]
    shift = SpectralShift({name: np.full(1280, 0.5, np.float32) for name in names}, sd15_metadata(names, "mid-ca"))
    path = tmp_path / "shift.safetensors"
    write_shift(shift, path)
    metadata = read_shift(path).metadata
    assert all(len(digits) == 8 for digits in metadata.fingerprints.values())
    assert len(metadata.base_fingerprint) == 16
    assert metadata.settings["prompt"]
    assert metadata.versions == versions()  # as a training writes them
