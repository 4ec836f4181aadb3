"""A recipe: everything that decides what a merge gives. Kept in the result, written as TOML, replayed.

method = "weighted"
weights = [0.7, 0.3]

[[shifts]]
file = "dog.safetensors"            # from this file's folder
content_hash = "0f3c..."            # what was merged; another file of that name is refused
scale = 1.0

[[shifts]]
...

[[blocks]]
pattern = "unet.up_blocks.1"
weights = [1.0, 0.0]
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from spectra.combine.merge_settings import PARAMETERS
from spectra.errors import InputError
from spectra.io.toml_files import read_toml, toml_value
from spectra.shift.metadata import JSON
from spectra.shift.shift_header import read_shift_header

T = TypeVar("T")


@dataclass(frozen=True)
class Parent:
    """One of the shifts of a recipe.

    Attributes:
        content_hash: of its file; empty for a shift that was never in one.
        scale: a factor on all of it, as `spectra generate --shift FILE:SCALE` takes it.
        file: where it was; not part of what is kept in the result, which the shifts' content alone decides.
        recipe: of a shift that was never in a file.
    """

    content_hash: str = ""
    scale: float = 1.0
    file: str = ""
    recipe: JSON = None


@dataclass(frozen=True)
class Recipe:
    """A merge: the method, its parameters, and what it is applied to.

    Attributes:
        method: its name.
        parents: in order.
        weights: none for the method's own, one number for all, or one each; alpha for methods that take that.
        blocks: patterns with the weights that hold for the layers they mean, in place of `weights`; of two that mean
            the same layer the later one holds.
        parameters: of the method, those not at their defaults or all of them.
        seed: of what the method draws at random; None where it draws nothing.
        outer_rank: outer terms that are kept of each weight; None for all.
    """

    method: str
    parents: tuple[Parent, ...]
    weights: tuple[float, ...] = ()
    blocks: tuple[tuple[str, tuple[float, ...]], ...] = ()
    parameters: Mapping[str, float] = field(default_factory=dict)
    seed: int | None = 0
    outer_rank: int | None = None

    def as_dict(self, *, files: bool = False) -> dict[str, Any]:
        """The recipe as JSON values; with the files' names if `files`."""
        recipe: dict[str, Any] = {"method": self.method, **self.parameters, "seed": self.seed}
        recipe["outer_rank"] = self.outer_rank
        recipe["weights"] = list(self.weights)
        recipe["shifts"] = [_parent(parent, files) for parent in self.parents]
        recipe["blocks"] = [{"pattern": pattern, "weights": list(weights)} for pattern, weights in self.blocks]
        return {key: value for key, value in recipe.items() if value not in ([], None)}

    def to_toml(self, folder: Path) -> str:
        """The recipe as TOML, to be written into `folder`, from which its files are found again.

        Raises:
            InputError: a file whose name is not Unicode text.
        """
        lines = ["# spectra merge --recipe THIS_FILE -o OUT   repeats this merge."]
        tables: list[str] = []
        for key, value in self.as_dict(files=True).items():
            if key in ("shifts", "blocks"):
                for entry in value:
                    if "file" in entry:
                        entry["file"] = _from_folder(entry["file"], folder)
                    tables += ["", f"[[{key}]]", *(f"{name} = {toml_value(item)}" for name, item in entry.items())]
            else:
                lines.append(f"{key} = {toml_value(value)}")
        return "\n".join([*lines, *tables]) + "\n"


def read_recipe(path: Path) -> Recipe:
    """A recipe from a TOML file, or from a shift that was merged.

    Paths in a TOML file are made to start where it lies. A shift keeps none: what it was made from is known by content
    alone (`find_parents`).

    Raises:
        InputError: no such file, not TOML, or no recipe of a merge.
        ShiftFileError: a file that is no shift.
    """
    if path.suffix != ".toml":
        return parse_recipe(read_shift_header(path).metadata.recipe, source=str(path))
    recipe = parse_recipe(read_toml(path, "--recipe"), source=str(path))
    placed = (replace(each, file=str(path.parent / each.file) if each.file else "") for each in recipe.parents)
    return replace(recipe, parents=tuple(placed))


def find_parents(recipe: Recipe, files: Iterable[Path]) -> list[Path]:
    """The file of each shift of a recipe: of those given the one with its content, else the one it names.

    Raises:
        InputError: a shift that is found in neither way.
        ShiftFileError: a file given that is no shift.
    """
    given = {read_shift_header(file).metadata.content_hash: file for file in files}
    found: list[Path] = []
    for number, parent in enumerate(recipe.parents, 1):
        if parent.content_hash in given:
            found.append(given[parent.content_hash])
        elif parent.file and _is_file(parent.file):
            found.append(Path(parent.file))
        else:
            wanted = f"content {parent.content_hash}" if parent.content_hash else "never in a file"
            place = f", which is not at {parent.file}" if parent.file else ""
            raise InputError(f"shift {number} of the recipe ({wanted}){place}: give its file as an argument")
    return found


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except OSError:  # a name that is too long
        return False


def parse_recipe(values: Any, *, source: str) -> Recipe:
    """A recipe from JSON values, such as those in a shift's metadata.

    Raises:
        InputError: it is none, naming `source`.
    """
    if not isinstance(values, dict) or "method" not in values or not isinstance(values.get("shifts"), list):
        raise InputError(f"{source}: holds no recipe of a merge (a method, and a list of shifts)")
    known = ("method", "shifts", "weights", "blocks", "seed", "outer_rank", *PARAMETERS)
    unknown = sorted(values.keys() - set(known))
    if unknown:
        raise InputError(f"{source}: a recipe has no {unknown[0]!r}; it has {', '.join(known)}")

    def typed(table: Mapping[str, Any], name: str, default: T, expected: str) -> T:
        value = table.get(name, default)
        if type(value) is not type(default):
            raise InputError(f"{source}: {name}: expected {expected}, got {value!r}")
        return value

    def text(table: Mapping[str, Any], name: str) -> str:
        return typed(table, name, "", "text")

    def number(value: Any, name: str) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise InputError(f"{source}: {name}: expected a finite number, got {value!r}")
        return float(value)

    def numbers(table: Mapping[str, Any]) -> tuple[float, ...]:
        given: list[Any] = typed(table, "weights", [], "a list of numbers")
        return tuple(number(value, "weights") for value in given)

    def tables(name: str) -> list[dict[str, Any]]:
        given: list[Any] = typed(values, name, [], "a list of tables")
        return [typed({name: each}, name, {}, "a list of tables") for each in given]

    return Recipe(
        method=text(values, "method"),
        parents=tuple(
            Parent(text(each, "content_hash"), number(each.get("scale", 1.0), "scale"), text(each, "file"))
            for each in tables("shifts")
        ),
        weights=numbers(values),
        blocks=tuple((text(each, "pattern"), numbers(each)) for each in tables("blocks")),
        parameters={name: number(values[name], name) for name in PARAMETERS if name in values},
        seed=typed(values, "seed", 0, "a whole number"),
        outer_rank=typed(values, "outer_rank", 0, "a whole number") if "outer_rank" in values else None,
    )


def _parent(parent: Parent, files: bool) -> dict[str, Any]:
    named = {"content_hash": parent.content_hash} if parent.content_hash else {"recipe": parent.recipe}
    return {**({"file": parent.file} if files and parent.file else {}), **named, "scale": parent.scale}


def _from_folder(file: str, folder: Path) -> str:
    """The path of a file as seen from a folder, with `/` on every system; absolute where there is no such path."""
    try:
        file.encode()
        return Path(os.path.relpath(file, folder)).as_posix()
    except UnicodeEncodeError as error:  # a TOML file is Unicode; a name need not be
        raise InputError(f"{file!r}: its name is not Unicode text, which a recipe is; rename it") from error
    except ValueError:  # another drive
        return Path(file).resolve().as_posix()
