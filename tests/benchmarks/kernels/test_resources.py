"""`spectra bench kernels`: what is kept holds what is asked of it, and the audit would see it if it did not."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spectra.benchmarks import run
from spectra.benchmarks.kernels.compiled import ARCHITECTURES, _amd, compiled, occupancy
from spectra.benchmarks.kernels.resources import CASE, DTYPES, Entry, audit, entries, projection
from spectra.benchmarks.kernels.uses import USES, candidates, signature
from spectra.kernels.configurations import CONFIGURATIONS

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")

FIELDS = {"kernel", "arch", "dtype", "config", "registers", "spills", "shared_bytes", "mma", "occupancy"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "triton-cache"))


@pytest.fixture
def kernel() -> Any:
    from spectra.kernels import triton_backend

    return triton_backend.low_rank_apply


def test_every_use_has_configurations_and_all_of_them_were_tried() -> None:
    kept_entries = entries()
    for name in USES:
        for arch in ARCHITECTURES:
            dtypes = {entry.dtype for entry in kept_entries if (entry.use, entry.arch) == (name, arch)}
            assert dtypes == set(DTYPES)
    assert {entry.label for entry in kept_entries} <= {entry.label for entry in entries(every=True)}
    assert len({entry.label for entry in kept_entries}) == len(kept_entries)
    assert {arch for _, arch in CONFIGURATIONS} == {*ARCHITECTURES, "interpreter"}


def test_signatures_name_the_kernels_own_arguments(kernel: Any) -> None:
    for name, use in USES.items():
        arguments = set(kernel.arg_names)
        configuration = next(entry.configuration for entry in entries() if entry.use == name)
        asked = signature(use, "fp16", configuration)
        assert {*use.pointers, *use.ones, *use.odd, *asked.types, *asked.constants} <= arguments
        missing = arguments - set(asked.types) - set(asked.constants) - set(use.ones)
        assert not {argument for argument in missing if argument.isupper()}, "a constant has no value"


@pytest.mark.parametrize("use", USES)
def test_what_is_kept_fits_and_multiplies_on_tensor_cores(use: str) -> None:
    entry = next(e for e in entries() if (e.use, e.arch, e.dtype) == (use, "sm_90", "bf16"))
    row = audit(entry)
    assert row.keys() > FIELDS
    assert row["kept"]
    assert row["spills"] == 0
    assert 0 < row["registers"] <= 255
    assert row["shared_bytes"] <= ARCHITECTURES["sm_90"].block_shared
    assert 0 < row["occupancy"] <= 1
    assert row["mma"] > 0
    assert row["load_bytes"] == 16


@pytest.mark.parametrize("arch", ["sm_80", "sm_100", "gfx942"])
def test_the_other_architectures_compile(arch: str) -> None:
    entry = next(e for e in entries() if (e.use, e.arch, e.dtype) == ("factored backward, h <= 128", arch, "fp16"))
    row = audit(entry)
    assert row["spills"] == 0
    assert row["mma"] > 0
    assert row["load_bytes"] == 16
    if arch == "sm_80":
        assert row["shared_bytes"] <= 99 << 10  # consumer cards take these configurations


def test_a_configuration_that_spills_is_seen_and_is_not_kept() -> None:
    """Too many rows for four warps: the middle's accumulators exceed 255 registers."""
    too_wide = next(c for c in candidates(320, "sm_90") if c.label == "P64-C32-D32-w4-s2")
    assert too_wide not in CONFIGURATIONS[320, "sm_90"]
    row = audit(Entry("factored apply, h <= 320", "sm_90", "bf16", too_wide))
    assert row["spills"] > 0
    assert row["registers"] == 255
    assert not row["kept"]


def test_a_configuration_that_exceeds_the_shared_memory_is_an_error_or_has_no_occupancy() -> None:
    (first, *_) = CONFIGURATIONS[128, "sm_90"]
    huge = first._replace(c=256, stages=5)
    row = audit(Entry("factored apply, h <= 128", "sm_90", "bf16", huge))
    assert row["shared_bytes"] > ARCHITECTURES["sm_90"].block_shared
    assert row["occupancy"] == 0


def test_narrow_loads_are_seen(kernel: Any) -> None:
    """Without aligned strides a thread may load no more than one element at a time."""
    use = USES["factored apply, h <= 128"]
    (*_, small) = CONFIGURATIONS[128, "sm_90"]
    unaligned = replace(signature(use, "bf16", small), aligned=())
    assert compiled(kernel, unaligned, "sm_90", warps=small.warps, stages=1).load_bytes < 16


@pytest.mark.parametrize("use", ["factored backward, h <= 128", "batched apply, h <= 320"])
def test_extents_of_one_compile(use: str, kernel: Any) -> None:
    """Triton makes a constant of every integer that is 1: a single sample, row, direction or block."""
    entry = next(e for e in entries() if (e.use, e.arch) == (use, "sm_90"))
    asked = signature(USES[use], entry.dtype, entry.configuration)
    ones = {"P", "h", "adapters", *USES[use].ones} & set(asked.types)
    found = compiled(kernel, replace(asked, ones=tuple(ones)), "sm_90", warps=4, stages=1)
    assert found.registers > 0


def test_occupancy_is_the_tightest_limit() -> None:
    # 168 registers of 128 threads: 12 warps of registers, 3 blocks of them; shared memory would allow 4.
    assert occupancy("sm_90", 168, 57_344, 4) == 3 * 4 / 64
    assert occupancy("sm_90", 32, 57_344, 4) == 4 * 4 / 64
    assert occupancy("sm_90", 32, 0, 4) == 1
    assert occupancy("sm_90", 255, 228 << 10, 8) == 0
    assert occupancy("sm_100", 32, 0, 4, tensor_memory=256) == 2 * 4 / 64
    assert occupancy("gfx942", 128, 0, 4) == 0.5


def test_amds_assembly_is_read() -> None:
    code = """
        global_load_dwordx2 v[2:3], v1, s[4:5]
        v_mfma_f32_32x32x8_bf16_1k a[0:15], v[2:3], v[4:5], a[0:15]
        .vgpr_count:     70
        .vgpr_spill_count: 2
        .sgpr_spill_count: 1
    """
    assert _amd(code) == (70, 3, 1, 8)


def test_a_projection_is_the_longer_of_arithmetic_and_traffic() -> None:
    use = "factored apply, h <= 320"
    work, elements = USES[use].work()
    quick = projection(use, flops=1e20, bandwidth=3e12)
    assert quick == {"projection_us": pytest.approx(1e6 * 2 * elements / 3e12, abs=0.01), "projection_bound": "memory"}
    slow = projection(use, flops=1e12, bandwidth=3e12)
    assert slow == {"projection_us": pytest.approx(1e6 * work / 1e12, abs=0.01), "projection_bound": "arithmetic"}


def test_the_record_has_the_rows_under_kernels(tmp_path: Path) -> None:
    label = next(
        entry.label for entry in entries() if entry.use == "factored apply, h <= 128" and entry.arch == "sm_80"
    )
    outcome = run.run(CASE, out=tmp_path, only=[label])
    record = json.loads((tmp_path / "kernels.jsonl").read_text())
    assert outcome.failures == []
    assert [row["item"] for row in record["kernels"]] == [label]
    assert "rows" not in record
    assert record["summary"]["kept"] == record["summary"]["compiled"] == 1


@pytest.mark.slow
def test_the_whole_audit_passes_within_five_minutes(tmp_path: Path) -> None:
    record = run.run(CASE, out=tmp_path).record
    assert record["failures"] == []
    assert all(goal["met"] for goal in record["goals"])
    assert record["summary"]["compiled"] == len(entries())
    assert record["seconds"] < 300
