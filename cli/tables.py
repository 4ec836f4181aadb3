"""What people see: tables that fit a terminal of 80 columns, plain text, and numbers as they are written."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spectra.visible_text import visible

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

TERMINAL = 80
"""Columns of a terminal that every table fits into."""

NAME_WIDTH = 30
"""Columns for names; a longer one, as a weight's mostly is, goes on in the next line after a dot."""


def table(
    title: str,
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    footer: Sequence[str] = (),
    *,
    texts: Collection[str] = (),
    name_width: int | None = NAME_WIDTH,
) -> Table:
    """A table of a name and then numbers in each row.

    Args:
        title: heading of the names.
        headings: of the other columns.
        rows: their cells, the name first.
        footer: one more row, set apart.
        texts: headings of columns that hold text, which stands on the left.
        name_width: columns for the names, more where that spares the longest a second line; None for as many as they
            and the terminal take.
    """
    from rich.table import Table

    rows = [*rows]
    if name_width == NAME_WIDTH:
        name_width = _room(headings, [*rows, footer] if footer else rows)
    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_footer=bool(footer), header_style="bold")
    made.add_column(plain(title), footer=plain(footer[0] if footer else ""), width=name_width, overflow="fold")
    for i, heading in enumerate(headings, 1):
        made.add_column(
            plain(heading),
            footer=plain(footer[i] if footer else ""),
            justify="left" if heading in texts else "right",
            no_wrap=name_width is not None,
            overflow="fold",
        )
    for name, *cells in rows:
        made.add_row(plain(folded(name, name_width) if name_width else name), *map(plain, cells))
    return made


def _room(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Columns for the names of these rows: as many as the longest has, if a terminal takes that beside the numbers."""
    longest = max((len(visible(row[0])) for row in rows), default=0)
    beside = sum(2 + max(map(len, column)) for column in zip(headings, *(row[1:] for row in rows), strict=False))
    return longest if NAME_WIDTH < longest <= TERMINAL - beside else NAME_WIDTH


def spaced(tables: Iterable[Table]) -> Iterator[Table | str]:
    """Tables with an empty line between them."""
    for i, each in enumerate(tables):
        if i:
            yield ""
        yield each


def facts(rows: Iterable[tuple[str, str]]) -> Table:
    """What is known of one thing: a heading and a text in each row; those without a text are left out."""
    from rich.table import Table

    made = Table.grid(padding=(0, 2))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for heading, text in rows:
        if text:
            made.add_row(heading, plain(text))
    return made


def plain(text: str, style: str = "") -> Text:
    """Text that is shown as it is, wrapped between words: prompts hold square brackets, which are rich's markup, and
    names and metadata of strangers what a terminal would obey.
    """
    from rich.text import Text

    return Text(visible(text, keep="\n"), style=style)


def folded(name: str, width: int = NAME_WIDTH) -> str:
    """A dotted name in lines of at most `width` columns, broken after dots as far as that is possible."""
    lines = [""]
    for piece in re.findall(r"[^.]+\.?|\.", name):
        if lines[-1] and len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


def percent(part: float, digits: int = 1) -> str:
    """A share of 1 as `12.3 %`."""
    return f"{100 * part:.{digits}f} %"


def short_percent(part: float, digits: int = 3) -> str:
    """A share of 1 with so many significant digits, for shares that may be tiny: `0.0123 %`."""
    return f"{100 * part:.{digits}g} %" if part else "0 %"


def cosine(value: float | None) -> str:
    """A cosine with three digits, never `-0.000`; empty where there is none."""
    return "" if value is None else f"{round(value, 3) + 0.0:.3f}"


def length(value: float) -> str:
    """A norm or distance with three digits."""
    return f"{value:#.3g}".rstrip(".")


def readable(count: int) -> str:
    """Bytes with three digits and a decimal unit: 850 bytes, 17.7 kB, 889 MB."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 99.95 else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def plural(count: int, noun: str) -> str:
    """A count and its noun: 1 shift, 2 shifts."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def short_names(paths: Sequence[Path]) -> list[str]:
    """File names without suffix where that tells the files apart, else the paths below the folder they share."""
    if len({path.stem for path in paths}) == len({path.absolute() for path in paths}):
        return [path.stem for path in paths]
    shared = os.path.commonpath([path.absolute().parent for path in paths])
    return [str(path.absolute().relative_to(shared).with_suffix("")) for path in paths]
