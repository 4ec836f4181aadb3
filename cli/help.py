"""How the help of a command is laid out, and what it says to an option that it has not."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import get_terminal_size
from types import NoneType
from typing import Any, ClassVar, get_args

import typer
from typer.core import TyperCommand

from spectra.settings import REQUIRED, Setting, meant

WIDEST = 100
"""Columns that help is wrapped to where the terminal has more."""

NAMES = 28
"""Columns that an option's names may take beside their meaning; longer ones have a line of their own."""

ABOUT_HELP = {
    "help": Setting(False, "Show this message and exit.", option="-h --help", type=bool),
    "help_all": Setting(False, "Show every option, with its default.", option="--help-all", type=bool),
}


@dataclass(frozen=True)
class Page:
    """What a command's help is made of: its settings by name, which of them can be switched off, and examples."""

    settings: Mapping[str, Setting] = field(default_factory=dict)
    switches: frozenset[str] = frozenset()
    examples: Sequence[str] = ()

    @property
    def brief(self) -> dict[str, Setting]:
        """The settings that most users need, where the command says which these are."""
        return {name: each for name, each in self.settings.items() if each.brief}


class HelpfulCommand(TyperCommand):
    """A command with our help, which says which option may have been meant; subclasses have its `page`."""

    page: ClassVar[Page] = Page()

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help: of the settings with a brief line alone, where there are some."""
        formatter.write(self.help_text(ctx, everything=not self.page.brief))

    def help_text(self, ctx: Any, *, everything: bool) -> str:
        """The help, with all settings or the brief ones alone."""
        page, width = self.page, max(40, min(get_terminal_size().columns, WIDEST))
        places = [each.metavar or name.upper() for name, each in page.settings.items() if each.positional]
        lines = [f"Usage: {' '.join([ctx.command_path, '[OPTIONS]', *places])}", ""]
        paragraphs = (self.help or "").split("\n\n")
        for paragraph in paragraphs if everything else paragraphs[:1]:
            lines += [*textwrap.wrap(" ".join(paragraph.split()), width), ""]
        shown = dict(page.settings if everything else page.brief)
        shown |= {name: each for name, each in ABOUT_HELP.items() if name == "help" or page.brief}
        panels: dict[str, list[tuple[str, str]]] = {}
        for name, each in shown.items():
            both = everything and name in page.switches
            about = each.help + _remarks(each) if everything else each.brief or each.help
            panels.setdefault(_panel(each), []).append((names(name, each, both=both), about))
        column = 4 + max((len(name) for rows in panels.values() for name, _ in rows if len(name) <= NAMES), default=0)
        for panel in sorted(panels, key=lambda panel: panel == "Options"):  # those for the output come last
            lines += [panel, *_rows(panels[panel], column, width), *([""] if everything else [])]
        examples = page.examples if everything else page.examples[:1]
        lines += ["Examples" if len(examples) > 1 else "Example"]
        lines += [line for each in examples for line in _example(each, width)]
        return "\n".join(lines) + "\n"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse a command line; all options that the command has not are told at once, with what may be meant."""
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            # NoSuchOption, which typer keeps to itself
            if not hasattr(error, "possibilities"):
                raise
            known = {
                name for parameter in self.get_params(ctx) for name in (*parameter.opts, *parameter.secondary_opts)
            }
            unknown = [arg.partition("=")[0] for arg in given if arg.startswith("--") and len(arg) > 2]
            unknown = list(dict.fromkeys(arg for arg in unknown if arg not in known))
            if unknown:
                ctx.fail("; ".join(f"no such option: {arg}{self._hint(arg)}" for arg in unknown))
            raise

    def _hint(self, arg: str) -> str:
        options = {name: each for name, each in self.page.settings.items() if not each.positional}
        found = [option_names(name, options[name]).split()[0] for name in meant(arg.lstrip("-"), options)]
        return f" (did you mean {' or '.join(found)}?)" if found else ""


def show_everything(ctx: typer.Context, value: bool) -> None:
    """What `--help-all` does."""
    if value and isinstance(ctx.command, HelpfulCommand):
        typer.echo(ctx.command.help_text(ctx, everything=True), nl=False)
        raise typer.Exit


def option_names(name: str, declared: Setting) -> str:
    """What a setting is called on the command line; several names stand with blanks between them."""
    return name if declared.positional else declared.option or f"--{name.replace('_', '-')}"


def opposite(option: str) -> str:
    """The option that switches another one off."""
    return f"--no-{option.removeprefix('--')}"


def names(name: str, declared: Setting, *, both: bool = False) -> str:
    """An option as help shows it: its names, shortest first, and what stands for its value; `both` for on and off."""
    if declared.positional:
        return declared.metavar or name.upper()
    options = sorted(option_names(name, declared).split(), key=len)
    options += [opposite(options[-1])] if both else []
    return " ".join(filter(None, (", ".join(options), value_name(declared))))


def value_name(declared: Setting) -> str:
    """What stands for a setting's value; nothing where it takes none."""
    kinds = [each for each in get_args(declared.type) if each is not NoneType and each is not Ellipsis]
    single = kinds[0] if kinds else declared.type
    if single is bool:
        return ""
    return declared.metavar or {int: "N", float: "X", Path: "PATH"}.get(single, "NAME" if declared.choices else "TEXT")


def default_text(declared: Setting) -> str:
    """The default as `--help` and documents say it; empty where that is nothing, zero or off."""
    if declared.default_text or declared.default is REQUIRED:
        return declared.default_text
    if declared.embedded not in (None, declared.default):
        return f"{_text(declared.default)}; embedded base: {_text(declared.embedded)}"
    return _text(declared.default) if declared.default else ""


def _panel(declared: Setting) -> str:
    return declared.panel or ("Arguments" if declared.positional else "Options")


def _remarks(declared: Setting) -> str:
    """Choices and default, in square brackets."""
    default = default_text(declared)
    choices = " or ".join(filter(None, (", ".join(declared.choices[:-1]), *declared.choices[-1:])))
    remarks = "; ".join(filter(None, (choices, f"default: {default}" if default else "")))
    return f" [{remarks}]" if remarks else ""


def _rows(rows: Iterable[tuple[str, str]], column: int, width: int) -> Iterator[str]:
    for name, about in rows:
        wrapped = textwrap.wrap(about, width - column)
        if len(name) > NAMES:
            yield f"  {name}"
        else:
            yield f"  {name:{column - 2}}{wrapped[0] if wrapped else ''}"
            wrapped = wrapped[1:]
        yield from (" " * column + line for line in wrapped)


def _example(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent="  ", subsequent_indent="      ", break_long_words=False, break_on_hyphens=False
    )


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return "; ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
