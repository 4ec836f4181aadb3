"""What the documents say of memory is what a plan says now."""

from __future__ import annotations

from pathlib import Path

from spectra.benchmarks import run
from spectra.benchmarks.results import Results


def test_the_recorded_memory_is_what_plans_say_now(tmp_path: Path) -> None:
    folder = Path(__file__).parents[3] / "benchmarks" / "results"
    recorded = {row["model"]: row for row in Results("vram", folder).recorded_rows("model")}
    (row,) = run.run(run.find("vram"), out=tmp_path, only=["sd15"]).record["rows"]
    assert row == recorded["sd15"]
