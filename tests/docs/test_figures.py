"""Figures of the documents are those of the records."""

from __future__ import annotations

import re
from pathlib import Path

import figures
import pytest


@pytest.mark.parametrize("page", figures.PAGES, ids=lambda page: page.name)
def test_figures_are_those_of_the_records(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert figures.filled(text) == text, "run: make pages"
    assert "\n<!-- figure " not in text, "a line that begins with a comment would end its paragraph"
    assert text.count("<!-- figure ") == text.count("<!-- /figure -->"), "a figure's comment is not closed on its line"


@pytest.mark.parametrize("page", ["README.md", "docs/performance.md"])
def test_tables_of_figures_have_none_by_hand(page: str) -> None:
    rows = [line for line in (figures.ROOT / page).read_text(encoding="utf-8").splitlines() if "<!-- figure " in line]
    assert len(rows) > 8
    for line in rows:
        if line.startswith("| "):
            cells = [figures.FIGURE.sub("", cell) for cell in line.strip("|").split("|")[1:]]
            words = [re.sub(r"`[^`]*`|rank \d+|of (?:12|96)|asked for: \d+", "", cell) for cell in cells]
            assert [each for each in words if re.search(r"\d", each)] == [], line


def test_a_figure_that_no_record_has_is_told() -> None:
    with pytest.raises(LookupError, match="no record of storage has UNet/nothing"):
        figures.figure("storage UNet/nothing model=none x")


def test_forms() -> None:
    assert [figures.decimals(each, 2) for each in (0.594, -0.05, 1.2)] == [".59", "-.05", "1.20"]
    assert [figures.FORMS[form](93_400) for form in (",", "kB", "MB")] == ["93,400", "93 kB", "0 MB"]
