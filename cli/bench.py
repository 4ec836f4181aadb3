"""`spectra bench`: measures what this project claims, and keeps every figure with where it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spectra.cli import output
from spectra.errors import InputError, SpectraError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from spectra.benchmarks.case import Case, Column, Row

_EXAMPLE = "Example:  spectra bench --report bench.md     |     spectra bench flops --model sdxl --batch 4 --json"


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command(epilog=_EXAMPLE)
    def bench(
        case: Annotated[
            str, typer.Argument(help="What to measure; without it, an overview on the embedded base.")
        ] = "overview",
        show: Annotated[bool, typer.Option("--list", help="List what there is to measure.")] = False,
        only: Annotated[
            list[str] | None,
            typer.Option("--only", "--subject", metavar="NAME", help="Measure only this row; can be repeated."),
        ] = None,
        model: Annotated[
            str | None, typer.Option(help="Short for --set model=NAME: sd15, sdxl, sd3, flux or embedded.")
        ] = None,
        resolution: Annotated[int | None, typer.Option(min=1, help="Short for --set resolution=N.")] = None,
        batch: Annotated[int | None, typer.Option(min=1, help="Short for --set batch=N.")] = None,
        steps: Annotated[int | None, typer.Option(min=1, help="Short for --set steps=N.", show_default=False)] = None,
        repetitions: Annotated[
            int | None, typer.Option(min=1, help="Short for --set repetitions=N.", show_default=False)
        ] = None,
        seed: Annotated[int | None, typer.Option(help="Short for --set seed=N.", show_default=False)] = None,
        setting: Annotated[
            list[str] | None,
            typer.Option("--set", metavar="NAME=VALUE", help="A setting of the case; repeatable."),
        ] = None,
        resume: Annotated[bool, typer.Option("--resume", help="Keep the rows a stopped run has measured.")] = False,
        out: Annotated[
            Path | None,
            typer.Option("--out", "-o", metavar="DIR", help="Folder of the results.", show_default=False),
        ] = None,
        report: Annotated[
            Path | None,
            typer.Option(metavar="FILE.md", help="Write a report in Markdown, with its plots beside it in FILE.svg."),
        ] = None,
        force: Annotated[bool, typer.Option("--force", help="Replace an earlier report.")] = False,
        json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
    ) -> None:
        """Measures a benchmark case, and appends the result to CASE.jsonl: in benchmarks/results of a
        checkout, else in the current folder, or in --out. Without a case: what a training step and its file cost,
        beside PEFT's LoRA, full fine-tuning and the paper's formula.
        """
        from spectra.benchmarks import reports, run

        if show:
            _list(run.cases(), json)
            return
        if report is not None:
            reports.check(report, force=force)
        named = {
            "model": model,
            "resolution": resolution,
            "batch": batch,
            "steps": steps,
            "repetitions": repetitions,
            "seed": seed,
        }
        settings = {name: str(value) for name, value in named.items() if value is not None}
        settings |= dict(_pair(text) for text in setting or [])
        chosen = run.find(case)
        arguments = ["bench", case]
        arguments += [part for name in only or [] for part in ("--only", name)]
        arguments += [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
        arguments += ["--resume"] * resume + ["--json"] * json
        try:
            outcome = run.run(
                chosen,
                out=out,
                only=only or [],
                settings=settings,
                resume=resume,
                arguments=arguments,
                progress=output.progress(),
            )
        except KeyboardInterrupt:
            output.say(f"stopped; what was measured is kept: spectra bench {case} --resume goes on from there")
            raise
        output.result(outcome.record, json=json, human=lambda console: _show(console, chosen, outcome.record))
        output.say(f"recorded in {outcome.path}")
        if report is not None:
            written = reports.write(chosen, outcome.record, report, force=force)
            output.say(f"report in {' and '.join(map(str, written))}")
        if outcome.failures:
            count = f"{len(outcome.failures)} of {len(outcome.failures) + len(outcome.record[chosen.rows])} rows"
            raise SpectraError(f"{case}: {count} could not be measured; the first: {outcome.failures[0]}")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise InputError(f"--set takes NAME=VALUE, got {text!r}")
    return name, value


def _list(cases: list[Case], json: bool) -> None:
    def human(console: Console) -> None:
        from rich.table import Table

        table = Table(box=None, pad_edge=False, show_header=False)
        for case in cases:
            table.add_row(f"[bold]{case.name}[/]", case.title)
        console.print(table)
        console.print("\nrun one with: spectra bench NAME [--json]")

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
        console.print(f"{figure}: {escape(text(value))}")
    for goal in record["goals"]:
        verdict = {True: "[green]met[/]", False: "[red]missed[/]", None: "not measured"}[goal["met"]]
        console.print(f"{goal['figure']} {escape(goal['asked'])}: {verdict}")
    for failure in record["failures"]:
        console.print(f"[red]failed[/] {escape(failure['item'])}: {escape(failure['error'])}")
    console.print(f"[dim]{escape(where(record))}; {record['seconds']} s[/]")


def _table(columns: Sequence[Column], rows: Sequence[Row]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.title, justify="right" if column.right(rows) else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(column.text(row)) for column in columns))
    return table
