"""A case: one measurement of `spectra bench`, declared as data.

A case names its items, says how one item is measured into a row, and how rows become a summary that is held
against goals. The frame (`run.py`) owns everything else: order, repetition, interleaving, resuming,
recording, printing. A case module imports nothing heavy at its top, since listing the cases must stay
instant; torch comes inside the functions.

    from spectra.benchmarks.case import Bench, Case, Column, Goal, Row

    def items(bench: Bench) -> list[str]:
        return ["320x320", "1280x1280"]

    def measure(bench: Bench, item: str) -> Row:
        import torch
        from spectra.spectrum.decomposition import decompose
        rows, columns = map(int, item.split("x"))
        weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(bench.seed))
        times = bench.time({                                     # interleaved: a, b, b, a, a, b ...
            "ours": lambda: decompose(weight),
            "svd": lambda: torch.linalg.svd(weight, full_matrices=False),
        })
        return {"shape": item, "ours_s": times["ours"].row(), "svd_s": times["svd"].row(),
                "ratio": times["svd"].median / times["ours"].median}

    def summarise(bench: Bench, rows: Sequence[Row]) -> Row:
        return {"worst_ratio": min(row["ratio"] for row in rows)}

    CASE = Case(
        name="decompose", title="decomposition against torch.linalg.svd: time and error of sigma",
        key="shape", items=items, measure=measure, summarise=summarise,
        settings={"repetitions": 3, "seed": 0},
        columns=(Column("shape"), Column("ours_s", "ours, s", ".3f"), Column("ratio", form=".1f")),
        goals=(Goal("worst_ratio", ">=", 5.0),),
    )

A new case is this module plus one line in `run.py`'s table.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from spectra.benchmarks.timing import Spread, interleaved
from spectra.progress import SILENT, Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Value = bool | int | float | str
"""What a setting can be; its default's type is its type."""

Row = Mapping[str, Any]
"""One line of a result: names to JSON values. A timing is stored as `Spread.row()`."""

_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "<": operator.lt,
    ">": operator.gt,
    "==": operator.eq,
}


def number(value: object) -> float | None:
    """A figure, the median of a timing, or the mean of an interval; None for what is no number."""
    if isinstance(value, Mapping):
        value = value.get("median", value.get("mean"))
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def text(value: object, form: str = "", unit: float = 1, *, ends: bool = False) -> str:
    """A value for a human: a number in multiples of `unit` and by `form`, or with 4 digits.

    Args:
        ends: tell an interval's ends, too.
    """
    figure = number(value)
    if figure is None:
        return "" if value is None else str(value)
    if ends and isinstance(value, Mapping) and "low" in value:
        low, high = (text(value[name], form, unit) for name in ("low", "high"))
        return f"{text(figure, form, unit)} ({low} to {high})"
    if form:
        return format(figure / unit, form)
    return f"{int(figure):,}" if figure == int(figure) else f"{figure:.4g}"


@dataclass(frozen=True)
class Column:
    """One column of the human table: the row's key, its heading and the format of its numbers.

    A timing (`Spread.row()`) shows its median; numbers are shown in multiples of `unit`.
    """

    key: str
    heading: str = ""
    form: str = ""
    unit: float = 1

    @property
    def title(self) -> str:
        """What stands above it."""
        return self.heading or self.key

    def text(self, row: Row, *, ends: bool = False) -> str:
        """The row's cell; with `ends`, those of an interval stand beside its mean."""
        return text(row.get(self.key), self.form, self.unit, ends=ends)

    def right(self, rows: Sequence[Row]) -> bool:
        """Whether it holds numbers alone, which stand at the right."""
        values = [row.get(self.key) for row in rows]
        return all(value is None or number(value) is not None for value in values)


@dataclass(frozen=True)
class Goal:
    """What is asked of one figure of the summary, e.g. `Goal("worst_ratio", ">=", 5.0)`.

    With `under`, it is asked only where each setting named there has one of its values.
    """

    figure: str
    relation: Literal[">=", "<=", "<", ">", "=="]
    asked: Value
    under: Mapping[str, Sequence[Value]] = field(default_factory=dict)

    def applies(self, settings: Mapping[str, Value]) -> bool:
        """Whether it is asked under these settings."""
        return all(settings.get(name) in values for name, values in self.under.items())

    def judge(self, summary: Row) -> dict[str, Any]:
        """The goal beside what was measured; `met` is None where the run has no such figure."""
        measured = summary.get(self.figure)
        met = None if measured is None else bool(_COMPARE[self.relation](measured, self.asked))
        return {
            "figure": self.figure,
            "asked": f"{self.relation} {self.asked}",
            "measured": measured,
            "met": met,
        }


@dataclass
class Bench:
    """What a running case is handed: its settings, a place for what its items share, and the stopwatch.

    Attributes:
        settings: the case's defaults, overridden by the caller.
        progress: where the case reports a long measurement of its own.
        shared: free for the case: what `measure` builds once and uses for every item.
        rows: what has been measured so far, by item, also by a stopped run that this one resumes.
    """

    settings: Mapping[str, Value]
    progress: Progress = SILENT
    shared: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """The setting `seed`, 0 where the case has none."""
        return int(self.settings.get("seed", 0))

    def integer(self, name: str) -> int:
        """The setting `name` as an integer; KeyError if the case does not declare it."""
        return int(self.settings[name])

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """`shared[name]`, made the first time it is asked for."""
        if name not in self.shared:
            self.shared[name] = make()
        return self.shared[name]

    def time(self, variants: Mapping[str, Callable[[], object]], *, warm_up: int = 1) -> dict[str, Spread]:
        """Times the variants, interleaved, as often as the setting `repetitions` says (without it, 5)."""
        return interleaved(variants, repetitions=int(self.settings.get("repetitions", 5)), warm_up=warm_up)


def _no_summary(bench: Bench, rows: Sequence[Row]) -> Row:
    return {}


def _all(rows: Sequence[Row]) -> Sequence[Row]:
    return rows


def _no_stamp(bench: Bench) -> str:
    return ""


@dataclass(frozen=True)
class Case:
    """One measurement of a benchmark, declared.

    Attributes:
        name: what `spectra bench NAME` calls it.
        title: one line for the list.
        key: the field of a row that holds its item, so that a stopped run can be resumed.
        items: the names of the rows, in order. `--only` picks among them.
        measure: one item to its row.
        rows: what the record calls its list of rows.
        figure: the field of the rows that the record also gives as an object under its own name, item to value.
        columns: of the human table; those of a row that are not listed appear in the JSON alone.
        summarise: all rows to the figures that goals speak of.
        settings: every setting with its default.
        goals: what is asked of the summary. They are judged only on a complete run (no `--only`).
        needs: import names of optional packages, checked before anything slow starts.
        plots: columns that a report draws, a bar for each row.
        table: rows of a record to those that a human sees, where there are too many; the rows themselves by default.
        draw: what a report draws of the table's rows, instead of bars.
        stamp: what else a row depends on, such as a fingerprint of the base: rows kept under another are not
            resumed.
    """

    name: str
    title: str
    key: str
    items: Callable[[Bench], Sequence[str]]
    measure: Callable[[Bench, str], Row]
    columns: tuple[Column, ...]
    summarise: Callable[[Bench, Sequence[Row]], Row] = _no_summary
    settings: Mapping[str, Value] = field(default_factory=dict)
    goals: tuple[Goal, ...] = ()
    needs: tuple[str, ...] = ()
    rows: str = "rows"
    figure: str = ""
    plots: tuple[str, ...] = ()
    table: Callable[[Sequence[Row]], Sequence[Row]] = _all
    draw: Callable[[Sequence[Row]], Figure] | None = None
    stamp: Callable[[Bench], str] = _no_stamp
