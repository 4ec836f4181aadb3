"""`spectra bench library`, on shifts of four weights."""

from __future__ import annotations

from pathlib import Path

from spectra.benchmarks import run
from spectra.benchmarks.files.library import CASE, COMMANDS


def test_commands_are_measured_as_whole_processes(tmp_path: Path) -> None:
    settings = {"many": 2, "folder": 3, "repetitions": 1, "target": "mid-ca"}
    some = ["inspect-folder", "merge-many", "merge-terms"]
    assert set(some) < set(COMMANDS)
    record = run.run(CASE, out=tmp_path, settings=settings, only=some).record
    assert record["failures"] == []
    assert [row["command"] for row in record["rows"]] == some
    for row in record["rows"]:
        assert row["cpu_s"]["median"] > 0
        assert 20 < row["peak_mb"] < 1000
    expected = {"folder_seconds", "many_seconds", "many_peak_mb", "terms_seconds", "terms_peak_mb"}
    assert set(record["summary"]) == expected
