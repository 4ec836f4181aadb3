"""Every picture of the documents is used, and is what its maker would make now."""

from __future__ import annotations

import re

import doc_blocks
import doc_pictures
import pytest


def shown() -> set[str]:
    return {
        name
        for page in doc_blocks.pages()
        for name in re.findall(r"\]\((?:docs/)?pictures/([\w.-]+)\)", page.read_text(encoding="utf-8"))
    }


def test_every_picture_is_shown_and_has_a_maker() -> None:
    files = {path.name for path in doc_pictures.FOLDER.iterdir() if path.suffix != ".json"}
    assert files == shown() == doc_pictures.record().keys()
    by_block = doc_pictures.makers().keys()
    for picture, made in doc_pictures.record().items():
        assert ("by" in made) == (picture not in by_block), picture


@pytest.mark.parametrize("picture", sorted(doc_pictures.makers()))
def test_no_picture_is_stale(picture: str) -> None:
    assert doc_pictures.staleness(picture) == [], f"make docs-run PAGES={doc_pictures.makers()[picture].page.stem}"


def test_a_changed_default_makes_a_picture_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = "training-scales.png"
    was = doc_pictures.record()
    was[picture]["commands"][0]["settings"]["steps"] += 1
    monkeypatch.setattr(doc_pictures, "record", lambda: was)
    (why,) = doc_pictures.staleness(picture)
    assert why.startswith("steps was 26 and is 25: spectra generate")
