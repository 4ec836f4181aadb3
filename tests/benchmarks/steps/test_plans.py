"""What a step loses without one plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from spectra.benchmarks import run


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_nothing_is_gained_by_leaving_a_plan_out(device: str, tmp_path: Path) -> None:
    settings = {"model": "tiny", "batch": "1", "device": device}
    record = run.run(run.find("plans"), out=tmp_path, settings=settings).record
    assert record["failures"] == []
    rows = {row["without"]: row for row in record["rows"]}
    assert rows["nothing left out"]["flops_lost"] == rows["nothing left out"]["numbers_lost"] == 0
    # What the count of flops falls by is paid for in numbers.
    assert all(row["flops_lost"] >= 0 or row["numbers_lost"] > 0 for row in record["rows"])
    assert rows["factored"]["flops_lost"] > 0 or rows["factored"]["numbers_lost"] > 0
