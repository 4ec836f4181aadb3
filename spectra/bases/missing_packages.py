"""Which package a pipeline's classes need that is not installed: its libraries stand in for such classes in silence."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

from spectra.io.foreign_values import read_json


def missing_package(index: Path) -> str:
    """What is missing for a pipeline of this `model_index.json`, and what to do, in words; empty if nothing is."""
    try:
        parts = read_json(index)
    except (OSError, ValueError):
        return ""
    for component, named in parts.items() if isinstance(parts, dict) else ():
        library, kind = named if isinstance(named, list) and len(named) == 2 else ("", "")
        if library not in ("diffusers", "transformers"):
            continue
        needs = getattr(getattr(importlib.import_module(library), str(kind), None), "_backends", ())
        # Some stand-ins name everything that they need, installed or not.
        names = [str(getattr(each, "package_name", each)) for each in needs]
        if missing := [name for name in names if importlib.util.find_spec(name) is None]:
            return (
                f"its {component}, a {kind}, needs {' and '.join(missing)}, not installed here: "
                f"pip install {' '.join(missing)}"
            )
    return ""
