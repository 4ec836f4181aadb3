"""What the documents name exists: paths, commands, options, public names."""

from __future__ import annotations

import re
from pathlib import Path

import architecture
import pytest
from source_tree import FLOORS

import spectra

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ORDER = [room for floor in FLOORS.values() for room in floor]
FOLDERS = ("spectra", "kernels", "cli", "benchmarks", "recipe", "tests", "docs", "examples")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_paths_exist(document: Path) -> None:
    text = document.read_text()
    paths = set(re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*|(?!FILE)[\w-]+\.(?:toml|txt|md))`", text))
    links = {link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link}
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
    assert [link for link in sorted(links) if not (document.parent / link).exists()] == []


def test_the_picture_of_the_rooms_is_current() -> None:
    assert architecture.svg() == architecture.PICTURE.read_text(), "draw it again: make architecture"


def test_the_picture_shows_each_room_with_what_it_builds_on() -> None:
    below = architecture.direct({room: set() for room in ORDER} | {"io": {"errors"}, "shift": {"io", "errors"}})
    assert (below["io"], below["shift"], below["cli"]) == (["errors"], ["io"], [])
    text = architecture.svg()
    assert all(f">{room}</text>" in text for room in ORDER)
    assert "on naming, spectrum" in text


def test_the_page_has_a_line_for_each_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rooms = set(re.findall(r"^\| `(?:spectra/)?(\w+)/`", page, flags=re.MULTILINE))
    assert {room for room in ORDER if not (ROOT / "spectra" / f"{room}.py").exists()} - rooms == set()


def test_every_public_name_is_lazy_in_one_table() -> None:
    assert set(spectra._HOME) == set(spectra.__all__)
