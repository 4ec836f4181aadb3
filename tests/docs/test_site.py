"""The documentation site: it builds without a broken link, shows every page, and needs nothing from elsewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import commands_page
import pytest
import python_page

import spectra

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site's folder, built as `make docs` builds it, from a copy."""
    copy = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", copy / "docs")
    (copy / "zensical.toml").write_text((ROOT / "zensical.toml").read_text())
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--clean", "--strict"], cwd=copy, capture_output=True, text=True
    )
    assert done.returncode == 0, re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    return copy / "build" / "site"


def named(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for each in (nav.values() if isinstance(nav, dict) else nav) for page in named(each)]


def test_every_page_has_its_place_in_the_navigation() -> None:
    assert sorted(named(PROJECT["nav"])) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


def test_the_site_has_every_page_and_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in named(PROJECT["nav"]):
        text = (site / page).with_suffix(".html").read_text()
        loaded = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"?((?:https?:)?//[^\" >]+)", text)
        assert loaded == [], page
    assert not (site / "scripts").exists()


def test_pages_made_from_the_code_are_current() -> None:
    for page in (commands_page, python_page):
        assert page.PAGE.read_text(encoding="utf-8") == page.page(), "run: make pages"


def test_every_public_name_is_on_the_page_of_python() -> None:
    assert sorted(re.findall(r"^### (\w+)$", python_page.page(), flags=re.MULTILINE)) == sorted(spectra.__all__)


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "SECURITY.md"])
def test_links_from_outside_of_the_site_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    links = {each for each in re.findall(r"\]\(([^)\s#]+)", text) if "://" not in each}
    assert [each for each in sorted(links) if not (ROOT / each).exists()] == []
