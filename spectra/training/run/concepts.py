"""Several concepts to be trained together, read from a TOML file.

    steps = 500                     # any setting of `spectra train --config`, for all concepts

    [[concept]]
    name = "rex"
    images = "photos/rex"           # or subject = "fox", an embedded one
    prompt = "a photo of a sks dog"
    class_prompt = "a photo of a dog"
    seed = 1
    output = "shifts/rex"           # instead of a folder called by its name

Paths in the file start at the file's folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectra.errors import InputError
from spectra.io.toml_files import read_toml
from spectra.settings import declared_settings
from spectra.training.config import TrainConfig, make_config
from spectra.training.data.subjects import is_there

CONCEPT_SETTINGS = (
    "subject",
    "images",
    "prompt",
    "captions",
    "repeats",
    "flip",
    "mask",
    "class_prompt",
    "class_images",
    "seed",
    "validation_prompts",
)
"""Settings that a concept may have for itself; the others shape the batch, or the step that all of them take."""

UNSHARED_SETTINGS = ("subject", "images", "prompt")
"""Settings of a concept that no two concepts share."""


@dataclass(frozen=True)
class ConceptSpec:
    """One concept to be trained: its settings, the common ones among them, and its output folder.

    The name is for messages, and empty where there is one concept only. Without a folder the subject names it.
    """

    name: str
    config: TrainConfig
    out: Path | None


def read_concepts(path: Path, out: Path | None = None, **overrides: Any) -> list[ConceptSpec]:
    """The concepts of a TOML file.

    Args:
        out: folder of the concepts that name no output of their own; `out` by default.
        overrides: common settings, on top of the file's. A concept's own settings stay.

    Raises:
        InputError: no such file, not TOML, no concepts, one without a name or with another's, an unknown setting or
            one in the wrong place.
    """
    values = read_toml(path, "--concepts")
    tables = values.pop("concept", None)
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise InputError(f"{path}: no concepts in it; each is a table that begins with a line [[concept]]")
    for name in UNSHARED_SETTINGS:
        if name in values:
            raise InputError(f"{path}: {name} belongs to one concept; put it below a line [[concept]]")
    common = {**_located(values, path.parent), **overrides}
    make_config(common, source=str(path))
    specs: list[ConceptSpec] = []
    for number, table in enumerate(tables, 1):
        name = table.pop("name", None)
        source = f"{path}: concept {number}" + (f" ({name})" if name else "")
        if not isinstance(name, str) or name in ("", "..") or Path(name).name != name:
            raise InputError(f'{source}: needs a name that can name a folder, such as name = "dog"; got {name!r}')
        if name in (each.name for each in specs):
            raise InputError(f"{source}: another concept has that name; give each its own")
        output = table.pop("output", None)
        if output is not None and (not isinstance(output, str) or not output):
            raise InputError(f"{source}: output: expected a folder's path, got {output!r}")
        for setting in table:
            if setting not in CONCEPT_SETTINGS:
                why = f"unknown setting {setting!r}"
                if setting in declared_settings(TrainConfig):
                    why = f"{setting} is common to all concepts: put it above the first [[concept]]"
                raise InputError(f"{source}: {why}; a concept has name, output, {', '.join(CONCEPT_SETTINGS)}")
        config = make_config({**common, **_located(table, path.parent)}, source=source)
        specs.append(ConceptSpec(name, config, path.parent / output if output else (out or Path("out")) / name))
    return specs


def _located(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The values with their paths, which start at `folder`. A base is a path only if it is there, else a hub id."""
    names = [name for name, each in declared_settings(TrainConfig).items() if each.path]
    given = {name: values[name] for name in names if isinstance(values.get(name), str) and values[name]}
    paths = {name: folder / path for name, path in given.items()}
    elsewhere = ("base", "components_from", "spectra_from", "mask")  # which may be no paths
    return values | {name: str(path) for name, path in paths.items() if name not in elsewhere or is_there(path)}
