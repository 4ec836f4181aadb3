"""Options of a command, made from the dataclasses that declare its settings (`spectra.io.settings`)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import GenericAlias
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from spectra.io.settings import REQUIRED, Setting, declared_settings, setting

Precision = Literal["float32", "float16", "bfloat16"]
"""The precisions in which a base is loaded."""


def output_option(help: str, default: Any = REQUIRED, metavar: str = "FILE", **more: Any) -> Any:
    """The setting `out`: where a command writes."""
    return setting(default, help, option="--out -o", metavar=metavar, **more)


def force_option(replaced: str = "an earlier output", **more: Any) -> Any:
    """The setting `force`: that something may be replaced."""
    return setting(False, f"Replace {replaced}.", **more)


def json_option(more: str = "", panel: str = "") -> Any:
    """The setting `json`: output for programs."""
    return setting(False, f"Print one JSON object{more}.", panel=panel)


def add_command(
    app: typer.Typer,
    run: Callable[..., None],
    options: type,
    *,
    example: str,
    library: Mapping[str, Setting] | None = None,
    name: str | None = None,
) -> None:
    """Adds a command whose options are the settings that a dataclass declares.

    Args:
        app: to which it is added.
        run: called with an instance of `options`; its name and docstring are the command's.
        options: the dataclass of what concerns the command line alone.
        example: shown below the options.
        library: settings of the library, by the name under which they are given on the command line. `run` gets those
            that were given in a dictionary, as its second argument: what was not given is for the library to decide,
            and so is what is out of range.
        name: of the command, where it is not the function's.
    """
    own, others = declared_settings(options), library or {}

    def command(**values: Any) -> None:
        chosen = {key: value for key, value in values.items() if key in own}
        for key, value in chosen.items():
            if _is_tuple(own[key].type):
                chosen[key] = tuple(value or ())
        given = {key: value for key, value in values.items() if key not in own and value is not None}
        run(options(**chosen), *([given] if others else []))

    first = [_parameter(key, each, known=True) for key, each in own.items() if each.positional]
    middle = [_parameter(key, each, known=False) for key, each in others.items()]
    last = [_parameter(key, each, known=True) for key, each in own.items() if not each.positional]
    command.__dict__["__signature__"] = inspect.Signature([*first, *middle, *last])
    command.__doc__ = run.__doc__
    app.command(name or run.__name__, epilog=f"Example:  {example}")(command)


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _parameter(name: str, declared: Setting, *, known: bool) -> inspect.Parameter:
    """One option as typer reads it; one whose default is not known here is None where it is not given."""
    kind = GenericAlias(list, get_args(declared.type)[:1]) if _is_tuple(declared.type) else declared.type
    default = declared.default if known else None
    if default in (None, ()):
        kind, default = kind | None, None
    shown: dict[str, Any] = {"help": _help(declared), "metavar": declared.metavar or None, "show_default": False}
    if _is_tuple(declared.type) and not declared.metavar:
        shown["metavar"] = f"<{get_args(declared.type)[0].__name__}>"
    if declared.panel:
        shown["rich_help_panel"] = declared.panel
    if known and declared.type in (int, float):
        shown |= {"min": declared.least, "max": declared.most}
    if declared.positional:
        about = typer.Argument(**shown)
    else:
        option = declared.option or f"--{name.replace('_', '-')}"
        if declared.type is bool and not (known and default is False):
            option += f"/--no-{option.removeprefix('--')}"
        about = typer.Option(*option.split(), **shown)
    empty = inspect.Parameter.empty if default is REQUIRED else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=empty, annotation=Annotated[kind, about])


def _help(declared: Setting) -> str:
    """Help, choices and default, with square brackets as rich shows them."""
    default = default_text(declared)
    told = [" or ".join(declared.choices), f"default: {default}" if default else ""]
    return f"{declared.help} [{'; '.join(filter(None, told))}]".removesuffix(" []").replace("[", "\\[")


def default_text(declared: Setting) -> str:
    """The default as `--help` and documents say it; empty where that is nothing, zero or off."""
    if declared.default_text or declared.default is REQUIRED:
        return declared.default_text
    if declared.embedded is not None:
        return f"{_text(declared.default)}; embedded base: {_text(declared.embedded)}"
    return _text(declared.default) if declared.default else ""


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return "; ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
