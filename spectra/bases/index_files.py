"""The JSON files of a pipeline's folder: its index, which names a class for each component, and configurations."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from spectra.errors import BaseError
from spectra.io.foreign_values import read_json

INDEX = "model_index.json"


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        BaseError: it cannot be read, or is none.
    """
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise BaseError(f"{path}: cannot be read as JSON ({error}); the folder may be damaged or incomplete") from error
    if not isinstance(found, dict):
        raise BaseError(f"{path}: expected a JSON object; the folder may be damaged or incomplete")
    return found


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a pipeline's folder, whose components' names are those of folders in it.

    Raises:
        BaseError: there is none, or a name that leads elsewhere.
    """
    found = read_object(folder / INDEX)
    for name in found:
        if not re.fullmatch(r"\w[\w-]{0,99}", name):
            raise BaseError(f"{folder / INDEX}: {name!r} is no name of a component; the file is damaged or foreign")
    return found
