"""`spectra bench`: measures what this project claims, and keeps every figure with where it came from."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.cli import output
from spectra.cli.options import argument, command, force_option, json_option, output_option
from spectra.cli.tables import facts, plain, table
from spectra.errors import InputError, SpectraError
from spectra.settings import setting

if TYPE_CHECKING:
    from rich.table import Table

    from spectra.benchmarks.case import Case, Column, Row


@dataclass(frozen=True)
class _Options:
    case: str = argument("What to measure; without it, an overview on the embedded base.", "CASE", "overview")
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


@command(
    _Options,
    "spectra bench --report bench.md",
    "spectra bench flops --set model=sdxl --set batch=4 --json",
    "spectra bench --list --json     (every case with its settings)",
)
def bench(options: _Options) -> None:
    """Measures a benchmark case, and appends the result to CASE.jsonl: in benchmarks/results of a
    checkout, else in the current folder, or in --out. Without a case: what a training step and its file cost,
    beside PEFT's LoRA, full fine-tuning and the paper's formula.
    """
    from spectra.benchmarks import reports, run

    if options.show:
        known = run.cases()
        rows = [{"name": case.name, "title": case.title, "settings": dict(case.settings)} for case in known]
        hint = "run one with: spectra bench NAME [--json]"
        listed = facts((case.name, case.title) for case in known)
        output.result({"cases": rows}, json=options.json, human=lambda: [listed, "", hint])
        return
    name, report = options.case, options.report
    if report is not None:
        reports.check(report, force=options.force)
    case = run.find(name)
    settings = dict(_pair(text) for text in options.settings)
    arguments = ["bench", name]
    arguments += [part for row in options.only for part in ("--only", row)]
    arguments += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    place = [] if options.out is None else ["--out", str(options.out)]
    try:
        outcome = run.run(
            case,
            out=options.out,
            only=options.only,
            settings=settings,
            resume=options.resume,
            arguments=[*arguments, *["--resume"] * options.resume, *["--json"] * options.json],
            progress=output.progress(),
        )
    except KeyboardInterrupt:
        again = shlex.join(["spectra", *arguments, *place, "--resume"])
        output.say(f"stopped; what was measured is kept: {again} goes on from there")
        raise
    output.result(outcome.record, json=options.json, human=lambda: _show(case, outcome.record))
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


def _show(case: Case, record: Mapping[str, Any]) -> Iterator[output.Part]:
    """The rows as a table, then the summary, the goals and what failed."""
    from rich.console import Console

    from spectra.benchmarks.case import text
    from spectra.benchmarks.machine import where

    rows = case.table(record[case.rows])
    yield plain(case.title, "italic")
    whole = _table(case.columns, rows)
    if Console(width=10_000).measure(whole).maximum <= shutil.get_terminal_size().columns:
        yield whole
    else:  # rows that have the same figures stand together, without the columns that they leave empty
        groups: dict[tuple[Column, ...], list[Row]] = {}
        for row in rows:
            groups.setdefault(tuple(c for c in case.columns if row.get(c.key) is not None), []).append(row)
        for columns, own in groups.items():
            if len(columns) > 1:  # some rows have no figure that is shown
                yield _table(columns, own)
    for figure, value in record["summary"].items():
        yield f"{figure}: {text(value)}"
    for goal in record["goals"]:
        verdict = {True: ("met", "green"), False: ("missed", "red"), None: ("not measured", "")}[goal["met"]]
        yield plain(f"{goal['figure']} {goal['asked']}: ").append(*verdict)
    for failure in record["failures"]:
        yield plain("failed", "red").append(f" {failure['item']}: {failure['error']}", "default")
    yield plain(f"{where(record)}; {record['seconds']} s", "dim")


def _table(columns: Sequence[Column], rows: Sequence[Row]) -> Table:
    first, *others = (column.title for column in columns)
    texts = [column.title for column in columns if not column.right(rows)]
    return table(
        first, others, [[column.text(row) for column in columns] for row in rows], texts=texts, name_width=None
    )
