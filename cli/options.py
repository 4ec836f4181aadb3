"""Options of a command, made from the dataclasses that declare its settings (`spectra.settings`)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import GenericAlias
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from typer.models import CommandInfo

from spectra.cli.help import HelpfulCommand, Page, opposite, option_names, show_everything, value_name
from spectra.errors import InputError
from spectra.settings import REQUIRED, Setting, declared_settings, setting

Precision = Literal["float32", "float16", "bfloat16"]
"""The precisions in which a base is loaded."""

FilePrecision = Literal["float32", "float16"]
"""The precisions of a shift file that is not packed."""


def file_dtype_option(panel: str = "") -> Any:
    """The setting `file_dtype`: the precision of the shift file that is written, None for that of what is read."""
    return setting(
        None, "Precision of the file; float16 takes half the bytes.", panel=panel, default_text="as it was given"
    )


def argument(help: str, metavar: str = "", default: Any = REQUIRED) -> Any:
    """A setting that is given by its place on the command line."""
    return setting(default, help, metavar=metavar, positional=True)


def output_option(help: str, default: Any = REQUIRED, metavar: str = "FILE", panel: str = "") -> Any:
    """The setting `out`: where a command writes."""
    return setting(default, help, option="--out -o", metavar=metavar, panel=panel)


def force_option(replaced: str = "an earlier output", panel: str = "", brief: str = "") -> Any:
    """The setting `force`: that something may be replaced."""
    return setting(False, f"Replace {replaced}.", panel=panel, brief=brief)


def json_option(more: str = "", panel: str = "", brief: str = "") -> Any:
    """The setting `json`: output for programs."""
    return setting(False, f"Print one JSON object{more}.", panel=panel, brief=brief)


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
    switches = {key for key, each in others.items() if _single(each) is bool}
    switches |= {key for key, each in own.items() if _single(each) is bool and each.default is not False}
    page = Page({**others, **own}, frozenset(switches), examples)

    def made(run: Callable[..., None]) -> CommandInfo:
        def call(**values: Any) -> None:
            values.pop("help_all", None)
            given = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
            given = {key: value for key, value in given.items() if value is not None}
            chosen = options(**{key: given.pop(key) for key in own if key in given})
            run(chosen, *([given] if others else []))

        parameters = [
            _parameter(key, each, known=key in own, switch=key in switches) for key, each in page.settings.items()
        ]
        parameters += [_HELP_ALL] if page.brief else []
        call.__dict__["__signature__"] = inspect.Signature(parameters)
        shaped = type(run.__name__, (HelpfulCommand,), {"page": page})
        return CommandInfo(run.__name__, cls=shaped, callback=call, help=run.__doc__)

    return made


_HELP_ALL = inspect.Parameter(
    "help_all",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[bool, typer.Option("--help-all", is_eager=True, callback=show_everything)],
)


def _single(declared: Setting) -> Any:
    """The type of a setting's value, or of one of several."""
    values = get_args(declared.type)
    return values[0] if values else declared.type


def _parameter(name: str, declared: Setting, *, known: bool, switch: bool) -> inspect.Parameter:
    """One option as typer reads it; one whose default is not known here is None where it is not given."""
    single = _single(declared)
    kind = GenericAlias(list, single) if get_origin(declared.type) is tuple else declared.type
    default = declared.default if known or declared.default is REQUIRED else None
    if default in (None, ()):
        kind, default = kind | None, None
    shown: dict[str, Any] = {"metavar": value_name(declared) or None, "show_default": False}
    if declared.choices:
        shown["autocompletion"] = _completing(declared.choices)
    if known and single in (int, float):
        shown |= {"min": declared.least, "max": declared.most}
    if declared.positional:
        about = typer.Argument(**shown)
    else:
        option = option_names(name, declared)
        about = typer.Option(*(option + (f"/{opposite(option)}" if switch else "")).split(), **shown)
    empty = inspect.Parameter.empty if default is REQUIRED else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=empty, annotation=Annotated[kind, about])


def _completing(choices: tuple[str, ...]) -> Callable[[str], list[str]]:
    """What a shell completes an unfinished word to: the choices that begin with it."""

    def starting(incomplete: str) -> list[str]:
        return [each for each in choices if each.startswith(incomplete)]

    return starting
