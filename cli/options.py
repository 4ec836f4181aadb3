"""Options of a command, made from the dataclasses that declare its settings (`spectra.settings`)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import GenericAlias
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from typer.models import CommandInfo

from spectra.errors import InputError
from spectra.settings import REQUIRED, Setting, declared_settings, setting

Precision = Literal["float32", "float16", "bfloat16"]
"""The precisions in which a base is loaded."""

FilePrecision = Literal["float32", "float16"]
"""The precisions of a shift file that is not packed."""


def argument(help: str, metavar: str = "", default: Any = REQUIRED) -> Any:
    """A setting that is given by its place on the command line."""
    return setting(default, help, metavar=metavar, positional=True)


def output_option(help: str, default: Any = REQUIRED, metavar: str = "FILE", panel: str = "") -> Any:
    """The setting `out`: where a command writes."""
    return setting(default, help, option="--out -o", metavar=metavar, panel=panel)


def force_option(replaced: str = "an earlier output", panel: str = "") -> Any:
    """The setting `force`: that something may be replaced."""
    return setting(False, f"Replace {replaced}.", panel=panel)


def json_option(more: str = "", panel: str = "") -> Any:
    """The setting `json`: output for programs."""
    return setting(False, f"Print one JSON object{more}.", panel=panel)


def variant_option(base: str = "the base") -> Any:
    """The setting `variant`: which of a base's weight files are read."""
    return setting(None, f"Variant of {base}'s weight files, such as fp16.")


def layers_option(help: str = "List every weight, not only blocks.") -> Any:
    """The setting `layers`: a table of single weights."""
    return setting(False, help)


def device_option(purpose: str, *, default: str = "a GPU if there is one", panel: str = "") -> Any:
    """The setting `device`: where something is computed; `check_device` says whether that can be."""
    return setting("", f"Device to {purpose}, such as cpu or cuda.", panel=panel, default_text=default)


def check_device(name: str) -> None:
    """Checks that a device that was asked for can be used, before slow work begins.

    Raises:
        InputError: there is none of that name on this machine.
    """
    if not name:
        return
    import torch

    try:
        torch.empty(1, device=name)
    except Exception as error:  # RuntimeError, AssertionError, ... each backend has its own
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"--device {name}: cannot be used ({reason}); try --device cpu") from error


def plot_option() -> Any:
    """The setting `plot`: a picture of the result."""
    return setting(None, "Draw a picture of it, as .png or .svg.", metavar="FILE")


def command(
    options: type, *examples: str, library: Mapping[str, Setting] | None = None
) -> Callable[[Callable[..., None]], CommandInfo]:
    """Makes a command of a function, under its name and with its docstring as help.

    Args:
        options: dataclass whose settings are options of the command line alone; the function gets an instance of it.
        examples: shown below the options.
        library: settings of the library, by the name under which they are given on the command line. The function gets
            those that were given in a dictionary, as its second argument: what was not given is for the library to
            decide, and so is what is out of range.
    """
    own, others = declared_settings(options), library or {}

    def made(run: Callable[..., None]) -> CommandInfo:
        def call(**values: Any) -> None:
            given = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
            given = {key: value for key, value in given.items() if value is not None}
            chosen = options(**{key: given.pop(key) for key in own if key in given})
            run(chosen, *([given] if others else []))

        parameters = [_parameter(key, each, known=key in own) for key, each in {**others, **own}.items()]
        call.__dict__["__signature__"] = inspect.Signature(parameters)
        epilog = "Example:  " + "     |     ".join(examples)
        return CommandInfo(run.__name__, callback=call, help=run.__doc__, epilog=epilog)

    return made


def _parameter(name: str, declared: Setting, *, known: bool) -> inspect.Parameter:
    """One option as typer reads it; one whose default is not known here is None where it is not given."""
    values = get_args(declared.type)
    single = values[0] if values else declared.type
    kind = GenericAlias(list, single) if get_origin(declared.type) is tuple else declared.type
    default = declared.default if known or declared.default is REQUIRED else None
    if default in (None, ()):
        kind, default = kind | None, None
    typed = f"<{single.__name__ if isinstance(single, type) else 'str'}>"
    shown: dict[str, Any] = {
        "help": _help(declared),
        "metavar": declared.metavar or (typed if declared.choices or single in (str, int, float) else None),
        "show_default": False,
        "rich_help_panel": declared.panel or None,
    }
    if known and single in (int, float):
        shown |= {"min": declared.least, "max": declared.most}
    if declared.positional:
        about = typer.Argument(**shown)
    else:
        option = option_names(name, declared)
        if single is bool and not (known and default is False):
            option += f"/--no-{option.removeprefix('--')}"
        about = typer.Option(*option.split(), **shown)
    empty = inspect.Parameter.empty if default is REQUIRED else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=empty, annotation=Annotated[kind, about])


def option_names(name: str, declared: Setting) -> str:
    """What a setting is called on the command line; several names stand with blanks between them."""
    return name if declared.positional else declared.option or f"--{name.replace('_', '-')}"


def _help(declared: Setting) -> str:
    """Help, choices and default, with square brackets as rich shows them."""
    default = default_text(declared)
    choices = " or ".join(filter(None, (", ".join(declared.choices[:-1]), *declared.choices[-1:])))
    remarks = "; ".join(filter(None, (choices, f"default: {default}" if default else "")))
    return (declared.help + (f" [{remarks}]" if remarks else "")).replace("[", "\\[")


def default_text(declared: Setting) -> str:
    """The default as `--help` and documents say it; empty where that is nothing, zero or off."""
    if declared.default_text or declared.default is REQUIRED:
        return declared.default_text
    if declared.embedded not in (None, declared.default):
        return f"{_text(declared.default)}; embedded base: {_text(declared.embedded)}"
    return _text(declared.default) if declared.default else ""


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return "; ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
