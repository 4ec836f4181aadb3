"""`spectra bench` from the command line: what goes to stdout, to stderr and into the exit code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_denoiser

from spectra.benchmarks import run
from spectra.benchmarks.case import Bench, Case, Column, Goal, Row
from spectra.benchmarks.steps import models
from spectra.cli import output
from spectra.cli.app import main
from spectra.cli.bench import _show


def measure(bench: Bench, item: str) -> Row:
    if item == "bad":
        raise RuntimeError("out of\nluck")
    return {"item": item, "seconds": bench.time({"a": lambda: None})["a"].row(), "seed": bench.seed}


CASE = Case(
    name="tiny",
    title="a tiny case",
    key="item",
    items=lambda bench: ["good", "bad"],
    measure=measure,
    summarise=lambda bench, rows: {"count": len(rows)},
    settings={"repetitions": 2, "seed": 0},
    columns=(Column("item"), Column("seconds", form=".2e"), Column("seed")),
    goals=(Goal("count", ">=", 2),),
)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "find", lambda name: CASE)


def test_list_shows_the_cases(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in run.MODULES)
    assert all(len(line) <= 80 for line in out.splitlines())
    assert main(["bench", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [case["name"] for case in listed["cases"]] == list(run.MODULES)


def test_a_table_too_wide_is_cut_where_other_figures_begin(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"a_rather_long_figure_{n}" for n in range(6)]
    rows = [{"item": f"row {n}", names[n % 2]: n, names[2 + n % 2]: 10 * n} for n in range(4)]
    case = replace(CASE, columns=tuple(map(Column, ["item", *names])))
    record = {"rows": [*rows, {"item": "bare"}], "summary": {}, "goals": [], "failures": [], "seconds": 1.0}
    record |= {"machine": {"processor": "one", "cores": 1}, "commit": None}
    output.result({}, json=False, human=lambda: _show(case, record))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:7] == [
        ["item", names[0], names[2]], ["row", "0", "0", "0"], ["row", "2", "2", "20"],
        ["item", names[1], names[3]], ["row", "1", "1", "10"], ["row", "3", "3", "30"],
    ]  # fmt: skip
    assert ["bare"] not in lines


def test_bare_bench_compares_the_methods_in_80_columns_and_writes_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(models.MODELS, "embedded", (64, tiny_denoiser.build))  # type: ignore[arg-type]
    report = tmp_path / "report.md"
    arguments = ["bench", "--set", "repetitions=1", "--set", "batch=1", "--out", str(tmp_path), "--report", str(report)]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert all(len(line) <= 80 for line in out.splitlines())
    rows = {line.split()[0]: line.split() for line in out.splitlines()[2:9]}
    assert list(rows) == ["frozen", "lora-4", "lora-16", "full", "paper", "svdiff", "shift"]
    kilobytes = {name: int(row[2].replace(",", "")) for name, row in rows.items() if name != "frozen"}
    assert 0 < kilobytes["lora-4"] < min(kilobytes["lora-16"], kilobytes["full"])
    assert all(int(rows[name][1].replace(",", "")) > 0 for name in kilobytes)
    text = report.read_text()
    assert f"| shift | {rows['shift'][1]} |" in text
    assert "![file, kB, memory, MB, step, s](report.svg)" in text
    assert report.with_suffix(".svg").read_text().count("svdiff") == 3

    record = (tmp_path / "overview.jsonl").read_text()
    assert main(arguments) == 1  # before anything is measured
    assert "report.md exists already" in capsys.readouterr().err
    assert (tmp_path / "overview.jsonl").read_text() == record


def test_json_is_one_object_on_stdout_and_the_record_in_the_file(
    tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["bench", "tiny", "--only", "good", "--set", "seed=7", "--out", str(tmp_path), "--json"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert record["rows"][0]["seed"] == 7
    assert record["rows"][0]["seconds"]["repetitions"] == 2
    assert record["command"] == "spectra bench tiny --only good --set seed=7 --json"
    assert captured.err == f"recorded in {tmp_path / 'tiny.jsonl'}\n"
    assert json.loads((tmp_path / "tiny.jsonl").read_text()) == record


def test_a_failed_row_gives_the_result_one_line_and_exit_code_1(
    tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "tiny", "--out", str(tmp_path), "--json"]) == 1
    captured = capsys.readouterr()
    assert [row["item"] for row in json.loads(captured.out)["rows"]] == ["good"]
    last = captured.err.splitlines()[-1]
    assert last.startswith("error: tiny: 1 of 2 rows could not be measured; the first: bad: RuntimeError: out of luck")


def test_a_stopped_run_says_how_to_go_on(
    tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(bench: Bench, item: str) -> Row:
        raise KeyboardInterrupt

    stopped = Case(**{**CASE.__dict__, "measure": stop})
    monkeypatch.setattr(run, "find", lambda name: stopped)
    here = tmp_path / "with blanks"
    assert main(["bench", "tiny", "--set", "seed=7", "--out", str(here), "--json"]) == 130
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"spectra bench tiny --set seed=7 --out '{here}' --resume" in captured.err


def test_the_table_fits_80_columns(tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["bench", "tiny", "--out", str(tmp_path)])
    out = capsys.readouterr().out
    assert "a tiny case" in out
    assert "failed bad" in out
    assert all(len(line) <= 80 for line in out.splitlines())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "nothing"], "no benchmark is called 'nothing'"),
        (["bench", "storage", "--only", "VAE"], "no row 'VAE'"),
        (["bench", "storage", "--set", "seed"], "--set takes NAME=VALUE"),
        (["bench", "storage", "--set", "steps=3"], "no setting 'steps'"),
        (["bench", "storage", "--set", "seed=x"], "seed takes int such as 0, got 'x'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--out", str(tmp_path / "out"), "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert message in captured.err
    assert not (tmp_path / "out").exists()


def test_an_unwritable_folder_is_one_line_and_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["bench", "storage", "--out", str(tmp_path / "file"), "--json"]) == 1
    assert "choose another folder with --out" in capsys.readouterr().err
