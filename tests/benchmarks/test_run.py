"""The frame: rows in order, records as JSON lines, failures reported, stopped runs resumed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from spectra.benchmarks import machine, run
from spectra.benchmarks.case import Bench, Case, Column, Goal, Row
from spectra.benchmarks.results import results_folder
from spectra.errors import InputError, OutputError, WeightError


def squares(calls: list[str], broken: dict[str, Exception] | None = None, **fields: Any) -> Case:
    """A case that squares its items, notes which it was asked for, and fails on those in `broken`."""

    def measure(bench: Bench, item: str) -> Row:
        calls.append(item)
        if broken and item in broken:
            raise broken[item]
        return {"n": item, "square": int(item) ** 2 * bench.integer("factor")}

    def summarise(bench: Bench, rows: Sequence[Row]) -> Row:
        return {"total": sum(row["square"] for row in rows)}

    return Case(
        name="squares",
        title="squares",
        key="n",
        items=lambda bench: ["1", "2", "3"],
        measure=measure,
        summarise=summarise,
        columns=(Column("n"), Column("square")),
        settings={"factor": 1, "fast": False},
        **({"goals": (Goal("total", ">=", 14), Goal("total", "<", 14))} | fields),
    )


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_record_says_what_was_measured_where_and_how(tmp_path: Path) -> None:
    calls: list[str] = []
    outcome = run.run(squares(calls), out=tmp_path, arguments=["bench", "squares", "--json"])
    assert calls == ["1", "2", "3"]
    (record,) = lines(tmp_path / "squares.jsonl")
    assert record == outcome.record
    assert record["rows"] == [{"n": "1", "square": 1}, {"n": "2", "square": 4}, {"n": "3", "square": 9}]
    assert record["summary"] == {"total": 14}
    assert [goal["met"] for goal in record["goals"]] == [True, False]
    assert record["command"] == "spectra bench squares --json"
    assert record["complete"]
    assert record["failures"] == []
    assert record["machine"]["cores"] >= 1
    assert record["versions"]["torch"]
    assert {"when", "seconds", "settings", "commit"} <= record.keys()
    assert not list(tmp_path.glob("*.partial.jsonl"))


def test_results_are_appended(tmp_path: Path) -> None:
    run.run(squares([]), out=tmp_path)
    run.run(squares([]), out=tmp_path, settings={"factor": "2"})
    assert [line["summary"]["total"] for line in lines(tmp_path / "squares.jsonl")] == [14, 28]


def test_a_failing_row_is_reported_and_the_others_are_measured(tmp_path: Path) -> None:
    calls: list[str] = []
    broken = {"1": WeightError("a clear line"), "3": KeyError("x")}
    outcome = run.run(squares(calls, broken), out=tmp_path)
    assert calls == ["1", "2", "3"]
    assert outcome.record["rows"] == [{"n": "2", "square": 4}]
    assert outcome.failures[0] == "1: a clear line"
    assert "KeyError: 'x' (test_run.py, line" in outcome.failures[1]
    assert not outcome.record["complete"]
    assert outcome.record["goals"] == []
    assert lines(tmp_path / "squares.jsonl") == [outcome.record]


def test_a_figure_that_is_not_finite_is_a_failure(tmp_path: Path) -> None:
    case = squares([])
    bad = Case(**{**case.__dict__, "measure": lambda bench, item: {"n": item, "square": float("nan")}})
    outcome = run.run(bad, out=tmp_path)
    assert "square came out as nan" in outcome.failures[0]


def test_a_stopped_run_is_resumed(tmp_path: Path) -> None:
    calls: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run.run(squares(calls, {"3": KeyboardInterrupt()}), out=tmp_path)  # type: ignore[dict-item]
    partial = tmp_path / "squares.partial.jsonl"
    with partial.open("a") as file:
        file.write('{"item": "3", "under"')  # a stop in the middle of a line
    assert not (tmp_path / "squares.jsonl").exists()

    again: list[str] = []
    outcome = run.run(squares(again), out=tmp_path, resume=True)
    assert again == ["3"]
    assert outcome.record["summary"] == {"total": 14}
    assert outcome.record["resumed"] == 2
    assert not partial.exists()


def test_rows_of_other_settings_or_another_stamp_are_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run.run(squares([], {"3": KeyboardInterrupt()}), out=tmp_path)  # type: ignore[dict-item]
    calls: list[str] = []
    run.run(squares(calls), out=tmp_path, only=["1"], settings={"factor": "3"}, resume=True)
    assert calls == ["1"]
    run.run(squares(calls, stamp=lambda bench: "another base"), out=tmp_path, only=["2"], resume=True)
    assert calls == ["1", "2"]
    run.run(squares(calls), out=tmp_path, resume=True)  # what was kept at first is still there
    assert calls == ["1", "2", "3"]


def test_results_go_to_the_checkout_or_else_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert results_folder() == Path(__file__).parents[2] / "benchmarks" / "results"
    assert results_folder(tmp_path / "there") == tmp_path / "there"
    monkeypatch.setattr(machine, "checkout", lambda: None)  # as installed from a wheel
    assert results_folder() == tmp_path
    assert run.run(squares([])).path == tmp_path / "squares.jsonl"


def test_only_measures_what_is_named_and_judges_no_goal(tmp_path: Path) -> None:
    calls: list[str] = []
    outcome = run.run(squares(calls), out=tmp_path, only=["3", "1"])
    assert calls == ["1", "3"]
    assert outcome.record["goals"] == []
    assert not outcome.record["complete"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"only": ["4"]}, "no row '4'; it has: 1, 2, 3"),
        ({"settings": {"speed": "1"}}, "no setting 'speed'; it has: factor, fast"),
        ({"settings": {"factor": "two"}}, "factor takes int such as 1, got 'two'"),
        ({"settings": {"fast": "perhaps"}}, "fast takes bool such as False, got 'perhaps'"),
    ],
)
def test_unknown_rows_and_settings(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    calls: list[str] = []
    with pytest.raises(InputError, match=message):
        run.run(squares(calls), out=tmp_path, **arguments)
    assert calls == []
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_before_anything_runs(tmp_path: Path) -> None:
    calls: list[str] = []
    with pytest.raises(InputError, match=r"needs no_such_package.*pip install"):
        run.run(squares(calls, needs=("no_such_package",)), out=tmp_path)
    assert calls == []


def test_an_unwritable_folder_is_one_clear_error_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    calls: list[str] = []
    with pytest.raises(OutputError, match="choose another folder with --out"):
        run.run(squares(calls), out=tmp_path / "file" / "results")
    assert calls == []


def test_every_case_is_listed_under_its_own_name_and_declares_its_columns() -> None:
    for name, case in zip(run.MODULES, run.cases(), strict=True):
        assert case.name == name
        assert 0 < len(case.title) <= 69  # one line of the list, at 80 columns
        assert case.columns[0].key == case.key or case.table is not Case.table


def test_unknown_case() -> None:
    with pytest.raises(InputError, match="no benchmark is called 'nothing'; there are: overview"):
        run.find("nothing")


def test_the_command_names_no_place_on_this_machine(tmp_path: Path) -> None:
    arguments = ["bench", "x", "--out", str(tmp_path / "a b"), f"--out={tmp_path / 'c'}", "--only", "fox"]
    assert machine.command(arguments) == "spectra bench x --out 'a b' --out=c --only fox"
