"""The page about one shift: whole, safe with strangers' text, refused by one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import random_shifts
from PIL import Image


@pytest.fixture
def shift(tmp_path: Path) -> Path:
    """A shift file whose metadata would like to be HTML."""
    path = tmp_path / "fox.safetensors"
    settings = {"prompt": "<script>alert(1)</script> fox", "steps": 3}
    random_shifts.saved(random_shifts.make(0, settings=settings, base='"><b>base'), path)
    return path


def test_a_card_holds_all_it_shows_and_obeys_no_stranger(spectra_cli: Callable[..., Any], shift: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(shift.parent / "before-after.png")
    page = shift.parent / "fox.html"
    assert spectra_cli("inspect", shift, "--card", page).code == 0
    text = page.read_text()
    assert "<script" not in text and "&lt;script&gt;alert(1)&lt;/script&gt; fox" in text
    assert "<b>base" not in text
    assert re.findall(r'src="([^,]+),', text) == ["data:image/png;base64", "data:image/svg+xml;base64"]
    assert f"fox.safetensors, {shift.stat().st_size:,} bytes" in text and ">steps</th><td>3<" in text
    assert not re.search(r"(?:src|href)=\"?(?:https?:)?//", text)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--card", "fox.pdf"), "expected a page's name that ends in .html"),
        (("--card", "fox.html", "--picture", "fox.txt"), "expected a picture that ends in .png"),
        (("--card", "fox.html", "--picture", "none.png"), "cannot be read"),
    ],
)
def test_what_cannot_be_a_card_is_refused(
    arguments: tuple[str, ...],
    told: str,
    spectra_cli: Callable[..., Any],
    shift: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(shift.parent)
    ran = spectra_cli("inspect", shift, *arguments)
    assert ran.code == 1 and told in ran.err
    assert not (shift.parent / "fox.html").exists()


def test_a_folder_has_no_card(spectra_cli: Callable[..., Any], shift: Path) -> None:
    assert spectra_cli("inspect", shift.parent, "--card", "fox.html").code == 2
