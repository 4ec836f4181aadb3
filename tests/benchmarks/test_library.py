"""`spectra bench library`, on shifts of four weights."""

from __future__ import annotations

from pathlib import Path

from spectra.benchmarks import run
from spectra.benchmarks.library import CASE, COMMANDS


def test_every_command_is_measured_as_a_whole_process(tmp_path: Path) -> None:
    settings = {"many": 2, "folder": 3, "repetitions": 1, "target": "mid-ca"}
    record = run.run(CASE, out=tmp_path, settings=settings).record
    assert record["failures"] == []
    assert [row["command"] for row in record["rows"]] == list(COMMANDS)
    for row in record["rows"]:
        assert row["cpu_s"]["median"] > 0
        assert 20 < row["peak_mb"] < 1000
    assert record["goals"] == []
    assert set(record["summary"]) == {
        "one_or_two_files_seconds",
        "folder_seconds",
        "many_seconds",
        "many_peak_mb",
    }
