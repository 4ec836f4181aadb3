"""Figures of the documents are those of the records."""

from __future__ import annotations

import re
from pathlib import Path

import doc_blocks
import figures
import pytest


@pytest.mark.parametrize("page", figures.PAGES, ids=lambda page: page.name)
def test_figures_are_those_of_the_records(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert figures.filled(text) == text, "run: make pages"
    assert "\n<!-- figure " not in text, "a line that begins with a comment would end its paragraph"
    assert text.count("<!-- figure ") == text.count("<!-- /figure -->"), "a figure's comment is not closed on its line"


NUMBER = re.compile(r"(?<![\w.:-])(?:\d*\.\d+|\d[\d,]*(?= ?(?:%|kB|MB|GB| s\b|times)))(?![\w.]\d)")
"""What a figure looks like: decimals, and whole numbers of something measured."""

NO_FIGURES = {
    "README.md": "1.5 3.5 3.11 100",
    "big-bases.md": "1.5 40",
    "claims.md": ".03 .2 .3 .5 .7 1.5 95",
    "editing.md": ".45 .8",
    "install.md": "1.5 3.5 3.11",
    "library.md": "1 1.5",
    "many-devices.md": "1.15",
    "mixing.md": ".4 .6 .8",
    "performance.md": "1 1.5 3",
    "pictures-and-captions.md": "16.8",
    "quick-start.md": "3.11 100",
    "training.md": ".5 .75 28",
    "what-is-a-shift.md": ".3",
}
"""Numbers on these pages that nobody measured: names of models, versions, settings, limits and goals."""


def pages_without_figures_by_hand() -> list[str]:
    """The README, and the pages of the site's start, guides and evidence; the report of a bench is written by it."""
    parts = {name: part for each in doc_blocks.navigation() for name, part in each.items()}
    found = [page for name in ("Home", "Start", "Guides", "Evidence") for page in doc_blocks.named(parts[name])]
    return ["README.md", *(page for page in found if page != "quality.md")]


@pytest.mark.parametrize("page", pages_without_figures_by_hand())
def test_pages_have_no_figure_by_hand(page: str) -> None:
    path = figures.ROOT / (page if page == "README.md" else f"docs/{page}")
    text = figures.FIGURE.sub("", figures.TABLE.sub("", path.read_text(encoding="utf-8")))
    text = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", "", text, flags=re.DOTALL)
    assert sorted(set(NUMBER.findall(text)) - set(NO_FIGURES.get(page, "").split())) == []


def test_a_figure_that_no_record_has_is_told() -> None:
    with pytest.raises(LookupError, match="no record of storage has UNet/nothing"):
        figures.figure("storage UNet/nothing model=none x")


def test_forms() -> None:
    assert [figures.decimals(each, 2) for each in (0.594, -0.05, 1.2)] == [".59", "-.05", "1.20"]
    assert [figures.FORMS[form](93_400) for form in (",", "kB", "MB")] == ["93,400", "93 kB", "0 MB"]
