"""Settings that are declared once: each is a field of a frozen dataclass, with its default, its range and its help.

    @dataclass(frozen=True)
    class TrainConfig:
        steps: int = setting(500, "Optimizer steps.", least=1)

Options of the command line, type checks of TOML files, checks of ranges and docs/settings.md are made from that.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from spectra.errors import InputError, Mistakes

Settings = TypeVar("Settings")

SHARE = {"least": 0, "most": 1}
"""The range of a share of something."""

LARGEST_SEED = (1 << 63) - 1
"""What every generator of random numbers takes."""

_KINDS = {str: "strings", Path: "paths"}
"""What the values of a list are called, if not numbers."""

REQUIRED: Any = dataclasses.MISSING
"""In place of a default: the setting has to be given."""


@dataclass(frozen=True)
class Setting:
    """Everything that is known of one setting.

    Attributes:
        default: its value where none is given, or `REQUIRED`.
        help: plain sentences for its user.
        panel: heading under which `--help` lists it.
        brief: one short line instead of `help`, for what most users need: where a command has such settings, its
            `--help` lists them alone, and `--help-all` all.
        embedded: default on the embedded base; None where that is `default` too.
        least, most, above, below: ends of its range, `least` and `most` included; None for no end.
        choices: the values it can have; empty for any.
        option: names on the command line, separated by blanks, where its own name does not do.
        metavar: what stands for the value in `--help`.
        default_text: the default in words, where the value says nothing.
        positional: an argument of the command line rather than an option.
        resumable: may change when a training is resumed, since it moves no delta.
        path: names a file or a folder; where a training is resumed its content counts, not how it is written.
        formerly: its names in older files, separated by blanks.
        elsewhere: its names in other trainers, separated by blanks: who gives one is told this one.
        name, type: of the field, filled in by `declared_settings`.
    """

    default: Any
    help: str
    panel: str = ""
    brief: str = ""
    embedded: Any = None
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    option: str = ""
    metavar: str = ""
    default_text: str = ""
    positional: bool = False
    resumable: bool = False
    path: bool = False
    formerly: str = ""
    elsewhere: str = ""
    name: str = ""
    type: Any = None

    @property
    def label(self) -> str:
        """Its name in messages: as on the command line, with blanks."""
        long = next((name for name in self.option.split() if name.startswith("--")), self.name)
        return long.removeprefix("--").replace("_", " ").replace("-", " ")

    @property
    def expected(self) -> str:
        """What a value has to be, as messages and documents say it."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if (self.least, self.most) == (0, 1):
            return "a share from 0 to 1"
        ends = [("at least", self.least), ("above", self.above), ("at most", self.most), ("below", self.below)]
        bounds = ", ".join(f"{words} {end:g}" for words, end in ends if end is not None)
        return f"a number {'of ' if bounds.startswith('at') else ''}{bounds}" if bounds else "a finite number"

    def check(self, value: Any) -> None:
        """Check a value, or each of several.

        Raises:
            InputError: it is none of the choices, not finite, or out of range.
        """
        for each in value if isinstance(value, tuple) else (value,):
            number = isinstance(each, (int, float)) and not isinstance(each, bool)
            if each not in self.choices if self.choices else number and not self._in_range(each):
                raise InputError(f"{self.label}: expected {self.expected}, got {each!r}")

    def _in_range(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )


def setting(default: Any, help: str, **more: Any) -> Any:
    """A dataclass field that is a setting; `more` are attributes of `Setting`."""
    return dataclasses.field(default=default, metadata={"setting": Setting(default, help, **more)})


def declared_settings(declared: type) -> dict[str, Setting]:
    """The settings of a dataclass by name; fields that are no settings are left out."""
    types = get_type_hints(declared)
    found: dict[str, Setting] = {}
    for field in dataclasses.fields(declared):
        if "setting" in field.metadata:
            kind, given = types[field.name], field.metadata["setting"]
            choices = next((get_args(each) for each in (kind, *get_args(kind)) if get_origin(each) is Literal), ())
            found[field.name] = dataclasses.replace(given, name=field.name, type=kind, choices=choices or given.choices)
    return found


def embedded_defaults(declared: type) -> dict[str, Any]:
    """The defaults that are others on the embedded base."""
    return {name: each.embedded for name, each in declared_settings(declared).items() if each.embedded is not None}


def check_ranges(values: Any) -> None:
    """Check every setting of a dataclass's instance.

    Raises:
        InputError: values are none of the choices, not finite, or out of range.
    """
    mistakes = Mistakes()
    for name, each in declared_settings(type(values)).items():
        with mistakes.noted():
            each.check(getattr(values, name))
    mistakes.tell()


def meant(name: str, known: Mapping[str, Setting]) -> list[str]:
    """The settings that somebody may have meant by a name that is none: that of another trainer, or one that is close.

    Args:
        name: as in a file or on the command line, without leading hyphens.
        known: the settings by name.
    """
    wanted = name.replace("-", "_").lower()
    if wanted in known:
        return [wanted]
    if found := [own for own, each in known.items() if wanted in (*each.formerly.split(), *each.elsewhere.split())]:
        return found
    return difflib.get_close_matches(wanted, known, n=2, cutoff=0.7)


def check_types(declared: type | Mapping[str, Setting], values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Values from a file or a caller, as their settings' types: lists become tuples, whole numbers floats, and paths
    what the setting has for one.

    Args:
        declared: the dataclass of the settings, or settings by name.

    Raises:
        InputError: unknown settings, old names, or values of another type; it names `source`.
    """
    known = declared if isinstance(declared, Mapping) else declared_settings(declared)
    renamed = {old: name for name, each in known.items() for old in each.formerly.split()}
    checked: dict[str, Any] = {}
    mistakes = Mistakes()
    for name, value in values.items():
        with mistakes.noted():
            if name in renamed:
                raise InputError(f"{source}: {name} is called {renamed[name]} now; rename it there")
            if name not in known:
                hint = " or ".join(meant(name, known))
                hint = f"did you mean {hint}?" if hint else f"known are {', '.join(known)}"
                raise InputError(f"{source}: unknown setting {name!r}; {hint}")
            checked[name] = _typed(value, known[name].type, f"{source}: {name}")
    mistakes.tell()
    return checked


def whole_or_made(whole: Settings | None, given: Mapping[str, Any], make: Callable[..., Settings]) -> Settings:
    """Settings that came whole, or else those that `make` makes of what was given by name.

    Raises:
        InputError: both came, or as `make` raises it.
    """
    if whole is None:
        return make(**given)
    if given:
        raise InputError(f"expected a {type(whole).__name__} or settings by name, got both, with {', '.join(given)}")
    return whole


def _typed(value: Any, wanted: Any, name: str) -> Any:
    if type(None) in get_args(wanted):
        if value is None:
            return None
        wanted = get_args(wanted)[0]
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if get_origin(wanted) is tuple:  # tuple[str, ...]
        kind = get_args(wanted)[0]
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{name}: expected a list of {_KINDS.get(kind, 'numbers')}, got {value!r}")
        return tuple(_typed(each, kind, name) for each in value)
    if wanted is Path and isinstance(value, (str, os.PathLike)):
        return Path(value)
    if wanted is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if type(value) is not wanted:
        raise InputError(f"{name}: expected {wanted.__name__}, got {value!r}")
    return value
