"""`spectra bench`: measures what this project claims, and keeps every figure with where it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from spectra.cli import output
from spectra.cli.options import add_command, force_option, json_option, output_option
from spectra.cli.tables import facts, line, table
from spectra.errors import InputError, SpectraError
from spectra.io.settings import setting

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from spectra.benchmarks.case import Case, Column, Row

_EXAMPLE = (
    "spectra bench --report bench.md     |     spectra bench flops --set model=sdxl --set batch=4 --json     |     "
    "spectra bench --list --json     (every case with its settings)"
)


@dataclass(frozen=True)
class Options:
    """What `spectra bench` takes."""

    case: str = setting("overview", "What to measure; without it, an overview on the embedded base.", positional=True)
    show: bool = setting(False, "List what there is to measure.", option="--list")
    only: tuple[str, ...] = setting(
        (), "Measure only this row of the case; repeatable.", option="--only --subject", metavar="NAME"
    )
    settings: tuple[str, ...] = setting(
        (),
        "Change a setting of the case, such as model=sdxl, batch=4 or seed=1; repeatable.",
        option="--set",
        metavar="NAME=VALUE",
    )
    resume: bool = setting(False, "Keep the rows that a stopped run has measured.")
    out: Path | None = output_option("Folder of the results.", None, "DIR")
    report: Path | None = setting(
        None, "Write a report in Markdown, with its plots beside it in FILE.svg.", metavar="FILE.md"
    )
    force: bool = force_option("an earlier report")
    json: bool = json_option(" with the result")


def register(app: typer.Typer) -> None:
    """Adds the command."""
    add_command(app, bench, Options, example=_EXAMPLE)


def bench(options: Options) -> None:
    """Measures a benchmark case, and appends the result to CASE.jsonl: in benchmarks/results of a
    checkout, else in the current folder, or in --out. Without a case: what a training step and its file cost,
    beside PEFT's LoRA, full fine-tuning and the paper's formula.
    """
    from spectra.benchmarks import reports, run

    if options.show:
        _list(run.cases(), options.json)
        return
    name, report = options.case, options.report
    if report is not None:
        reports.check(report, force=options.force)
    case = run.find(name)
    settings = dict(_pair(text) for text in options.settings)
    arguments = ["bench", name]
    arguments += [part for row in options.only for part in ("--only", row)]
    arguments += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    arguments += ["--resume"] * options.resume + ["--json"] * options.json
    try:
        outcome = run.run(
            case,
            out=options.out,
            only=options.only,
            settings=settings,
            resume=options.resume,
            arguments=arguments,
            progress=output.progress(),
        )
    except KeyboardInterrupt:
        output.say(f"stopped; what was measured is kept: spectra bench {name} --resume goes on from there")
        raise
    output.result(outcome.record, json=options.json, human=lambda console: _show(console, case, outcome.record))
    output.say(f"recorded in {outcome.path}")
    if report is not None:
        written = reports.write(case, outcome.record, report, force=options.force)
        output.say(f"report in {' and '.join(map(str, written))}")
    if outcome.failures:
        count = f"{len(outcome.failures)} of {len(outcome.failures) + len(outcome.record[case.rows])} rows"
        raise SpectraError(f"{name}: {count} could not be measured; the first: {outcome.failures[0]}")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise InputError(f"--set takes NAME=VALUE, got {text!r}")
    return name, value


def _list(cases: list[Case], json: bool) -> None:
    def human(console: Console) -> None:
        console.print(facts((case.name, case.title) for case in cases))
        console.print()
        line(console, "run one with: spectra bench NAME [--json]")

    rows = [{"name": case.name, "title": case.title, "settings": dict(case.settings)} for case in cases]
    output.result({"cases": rows}, json=json, human=human)


def _show(console: Console, case: Case, record: Mapping[str, Any]) -> None:
    """The rows as a table, then the summary, the goals and what failed."""
    from rich.markup import escape

    from spectra.benchmarks.case import text
    from spectra.benchmarks.machine import where

    rows = case.table(record[case.rows])
    console.print(f"[italic]{escape(case.title)}[/]")
    whole = _table(case.columns, rows)
    if console.measure(whole, options=console.options.update_width(10_000)).maximum <= console.width:
        console.print(whole)
    else:  # rows that have the same figures stand together, without the columns that they leave empty
        groups: dict[tuple[Column, ...], list[Row]] = {}
        for row in rows:
            groups.setdefault(tuple(c for c in case.columns if row.get(c.key) is not None), []).append(row)
        for columns, own in groups.items():
            if len(columns) > 1:  # some rows have no figure that is shown
                console.print(_table(columns, own))
    for figure, value in record["summary"].items():
        line(console, f"{figure}: {text(value)}")
    for goal in record["goals"]:
        verdict = {True: "[green]met[/]", False: "[red]missed[/]", None: "not measured"}[goal["met"]]
        console.print(f"{goal['figure']} {escape(goal['asked'])}: {verdict}")
    for failure in record["failures"]:
        console.print(f"[red]failed[/] {escape(failure['item'])}: {escape(failure['error'])}")
    console.print(f"[dim]{escape(where(record))}; {record['seconds']} s[/]")


def _table(columns: Sequence[Column], rows: Sequence[Row]) -> Table:
    first, *others = (column.title for column in columns)
    texts = [column.title for column in columns if not column.right(rows)]
    return table(
        first, others, [[column.text(row) for column in columns] for row in rows], texts=texts, name_width=None
    )
