"""Tables of names and numbers that fit a terminal of 80 columns, and text that rich shows as it is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

NAME_WIDTH = 30
"""Columns for names; a longer one, as a weight's mostly is, goes on in the next line after a dot."""


def table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], footer: Sequence[str] = ()) -> Table:
    """A name and then numbers in each row, and in the footer if there is one."""
    from rich.table import Table

    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_footer=bool(footer), header_style="bold")
    made.add_column(title, footer=footer[0] if footer else "", width=NAME_WIDTH)
    for i, heading in enumerate(headings, 1):
        made.add_column(heading, footer=footer[i] if footer else "", justify="right", no_wrap=True)
    for name, *numbers in rows:
        made.add_row(plain(folded(name)), *numbers)
    return made


def show(console: Console, *parts: Table) -> None:
    """Tables with an empty line between them."""
    for i, part in enumerate(parts):
        if i:
            console.print()
        console.print(part)


def facts(rows: Iterable[tuple[str, str]]) -> Table:
    """What is said of one thing: a heading and a text in each row; those without a text are left out."""
    from rich.table import Table

    made = Table.grid(padding=(0, 2))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for heading, text in rows:
        if text:
            made.add_row(heading, plain(text))
    return made


def plain(text: str) -> Text:
    """Text that is shown as it is: prompts hold square brackets, which are rich's markup."""
    from rich.text import Text

    return Text(text)


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


def short_names(paths: Sequence[Path]) -> list[str]:
    """File names without suffix where that tells the files apart, else the paths below the folder they share."""
    if len({path.stem for path in paths}) == len({path.absolute() for path in paths}):
        return [path.stem for path in paths]
    shared = os.path.commonpath([path.absolute().parent for path in paths])
    return [str(path.absolute().relative_to(shared).with_suffix("")) for path in paths]
