"""Runs a case: its items in order, each row kept as it is measured, the whole recorded as one JSON line.

A row that fails does not end the run: the others are measured, the failure stands in the record, and the run
as a whole counts as failed.
"""

from __future__ import annotations

import datetime
import importlib
import importlib.util
import math
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectra.benchmarks import machine
from spectra.benchmarks.case import Bench, Case, Row, Value
from spectra.benchmarks.results import Results, results_folder
from spectra.errors import InputError, SpectraError
from spectra.progress import SILENT, Progress, working

MODULES: Mapping[str, str] = {
    "overview": "spectra.benchmarks.overview",
    "storage": "spectra.benchmarks.files.storage",
    "packing": "spectra.benchmarks.files.packing",
    "decompose": "spectra.benchmarks.files.decompose",
    "cache": "spectra.benchmarks.files.cache",
    "gradients": "spectra.benchmarks.steps.gradients",
    "exact": "spectra.benchmarks.steps.exact",
    "kernels": "spectra.benchmarks.kernels.resources",
    "subjects": "spectra.benchmarks.trainings.subjects",
    "editing": "spectra.benchmarks.trainings.editing",
    "flops": "spectra.benchmarks.steps.flops",
    "memory": "spectra.benchmarks.steps.memory",
    "plans": "spectra.benchmarks.steps.plans",
    "vram": "spectra.benchmarks.steps.vram",
    "step": "spectra.benchmarks.steps.step",
    "loading": "spectra.benchmarks.steps.loading",
    "samples": "spectra.benchmarks.steps.samples",
    "roofline": "spectra.benchmarks.kernels.roofline",
    "gpu": "spectra.benchmarks.kernels.gpu",
    "concepts": "spectra.benchmarks.trainings.concepts",
    "processes": "spectra.benchmarks.trainings.processes",
    "library": "spectra.benchmarks.files.library",
    "extract": "spectra.benchmarks.files.extract",
    "unmix": "spectra.benchmarks.trainings.unmix",
    "analysis": "spectra.benchmarks.trainings.analysis",
    "quality": "spectra.benchmarks.trainings.quality",
    "style": "spectra.benchmarks.trainings.style",
}
"""Every case: its name and the module whose `CASE` it is. A new case is a module and a line here."""


@dataclass(frozen=True)
class Outcome:
    """What a run leaves behind.

    Attributes:
        record: the whole result, as it stands in the file.
        path: the file it was appended to.
    """

    record: Mapping[str, Any]
    path: Path

    @property
    def failures(self) -> list[str]:
        """One line per row that could not be measured."""
        return [f"{failure['item']}: {failure['error']}" for failure in self.record["failures"]]


def find(name: str) -> Case:
    """The case called `name`.

    Raises:
        InputError: no such case.
    """
    if name not in MODULES:
        raise InputError(f"no benchmark is called {name!r}; there are: {', '.join(MODULES)}")
    case: Case = importlib.import_module(MODULES[name]).CASE
    return case


def cases() -> list[Case]:
    """All cases, in the order they are listed."""
    return [find(name) for name in MODULES]


def run(
    case: Case,
    *,
    out: Path | None = None,
    only: Sequence[str] = (),
    settings: Mapping[str, Value | str] | None = None,
    resume: bool = False,
    arguments: Sequence[str] = (),
    progress: Progress = SILENT,
) -> Outcome:
    """Measures a case and appends the record to `<folder>/<case>.jsonl`.

    Args:
        case: what to measure.
        out: folder of the results (`results.results_folder`).
        only: items to measure; all of them when empty.
        settings: overrides; text is read as the type of the default.
        resume: take the rows that stopped runs under the same conditions have kept.
        arguments: of the command line, for the record.
        progress: advanced by one per item.

    Raises:
        InputError: an unknown item or setting, or a package that the case needs is missing.
        OutputError: the folder cannot be written.
    """
    _need(case)
    chosen = _settings(case, settings or {})
    bench = Bench(chosen, progress)
    every = list(case.items(bench))
    items = _pick(case, every, only)
    results = Results(case.name, results_folder(out))
    results.open()
    under = {
        "settings": chosen,
        "stamp": case.stamp(bench),
        "spectra": machine.versions().get("spectra-diffusion"),
    }
    kept = results.kept(under) if resume else {}
    bench.rows.update(kept)
    start = time.perf_counter()
    rows, failures = _measure(case, bench, items, results, under, kept)
    complete = not failures and items == every
    summary = dict(case.summarise(bench, rows)) if rows else {}
    figures = {case.figure: {row[case.key]: row[case.figure] for row in rows}} if case.figure else {}
    record = {
        case.rows: rows,
        **figures,
        "case": case.name,
        "summary": summary,
        "goals": [g.judge(summary) for g in case.goals if g.applies(chosen)] if complete else [],
        "failures": failures,
        "complete": complete,
        "resumed": sum(item in kept for item in items),
        "settings": chosen,
        "command": machine.command(arguments or ("bench", case.name)),
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - start, 2),
        "machine": machine.machine(),
        "versions": machine.versions(),
        "commit": machine.commit(),
    }
    results.record(record)
    if complete:
        results.forget()
    return Outcome(record, results.path)


def _measure(
    case: Case, bench: Bench, items: Sequence[str], results: Results, under: Mapping[str, Any], kept: Mapping[str, Row]
) -> tuple[list[Row], list[dict[str, str]]]:
    """The rows of the items, each kept as it is measured under these conditions; and what could not be measured."""
    rows: list[Row] = []
    failures: list[dict[str, str]] = []
    with working(bench.progress, case.name, len(items)):
        for item in items:
            if item in kept:
                rows.append(kept[item])
            else:
                try:
                    row = _finite(case.measure(bench, item))
                except Exception as error:  # a row that fails must not cost the others theirs
                    failures.append({"item": item, "error": _line(error)})
                else:
                    results.keep(item, under, row)
                    bench.rows[item] = row
                    rows.append(row)
            bench.progress.advance(1, item)
    return rows, failures


def _need(case: Case) -> None:
    missing = [name for name in case.needs if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"benchmark {case.name} needs {', '.join(missing)}, which is not installed; "
            "install it with: pip install 'spectra-diffusion[bench]'"
        )


def _settings(case: Case, given: Mapping[str, Value | str]) -> dict[str, Value]:
    chosen = dict(case.settings)
    for name, value in given.items():
        if name not in chosen:
            known = ", ".join(chosen) or "none"
            raise InputError(f"benchmark {case.name} has no setting {name!r}; it has: {known}")
        chosen[name] = _read(case, name, value)
    return chosen


def _read(case: Case, name: str, value: Value | str) -> Value:
    default = case.settings[name]
    kind = type(default)
    try:
        if kind is bool:
            return {"true": True, "false": False}[str(value).lower()]
        return kind(value)
    except (KeyError, ValueError) as error:
        raise InputError(
            f"benchmark {case.name}: setting {name} takes {kind.__name__} such as {default}, got {value!r}"
        ) from error


def _pick(case: Case, every: list[str], only: Sequence[str]) -> list[str]:
    unknown = [item for item in only if item not in every]
    if unknown:
        raise InputError(f"benchmark {case.name} has no row {unknown[0]!r}; it has: {', '.join(every)}")
    return [item for item in every if not only or item in only]


def _finite(row: Row) -> Row:
    """The row itself; a figure that is not finite is a failed measurement (and no JSON)."""
    bad = [name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
    if bad:
        raise ValueError(f"{bad[0]} came out as {row[bad[0]]}")
    return row


def _line(error: Exception) -> str:
    """The error in one line; where it is no expected one, with the place it came from."""
    text = " ".join(str(error).split()) or "no message"
    if isinstance(error, SpectraError):
        return text
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({Path(place.filename).name}, line {place.lineno})"
