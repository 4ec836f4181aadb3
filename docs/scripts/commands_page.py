"""Writes docs/commands.md: every command with its options and examples, as its dataclass declares them.

python docs/scripts/commands_page.py
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import typer

from spectra.cli.app import COMMANDS
from spectra.cli.help import HelpfulCommand, default_text, names
from spectra.settings import Setting

LONG = ("train",)
"""Commands of which only what most users need is listed: docs/settings.md has every setting."""

PAGE = Path(__file__).parents[1] / "commands.md"

HEAD = """\
# Commands

Made by `docs/scripts/commands_page.py` from the code; `spectra COMMAND --help` shows the same. `spectra train --help`
is short, and `--help-all` has every option.

Every command has `--json`, for programs: one JSON object on stdout, and nothing else there. Messages and progress are
on stderr. Exit code 0 means done, 1 a failure that is told in one line, 2 wrong usage. Output is written to a temporary
file and renamed, so a stopped command leaves nothing half done; an output that exists is replaced with `--force` only.
`inspect`, `diff`, `merge`, `mix`, `adjust`, `pack` and `verify` work on shift files alone and need neither the base nor
torch.
"""


def commands() -> Iterator[tuple[str, Any]]:
    """Every command by its full name, in the order of `spectra --help`."""
    for name in COMMANDS:
        found = getattr(importlib.import_module(f"spectra.cli.{name}"), name)
        if isinstance(found, typer.Typer):
            for each in found.registered_commands:
                yield f"{name} {each.name}", each
        else:
            yield name, found


def page() -> str:
    """The page's text."""
    lines = [HEAD, "| command | does |", "|---|---|"]
    every = list(commands())
    for name, info in every:
        lines.append(f"| [`spectra {name}`](#spectra-{name.replace(' ', '-')}) | {_cell(_paragraphs(info)[0])} |")
    for name, info in every:
        lines += _section(name, info)
    return "\n".join(lines) + "\n"


def _section(name: str, info: Any) -> Iterator[str]:
    shaped: HelpfulCommand = info.cls
    settings = shaped.page.brief if name in LONG else shaped.page.settings
    places = [each.metavar or key.upper() for key, each in settings.items() if each.positional]
    yield from ("", f"## spectra {name}", "")
    for paragraph in _paragraphs(info):
        yield from (paragraph, "")
    yield from ("```text", " ".join(["spectra", name, "[OPTIONS]", *places]), "```", "")
    if name in LONG:
        yield from (
            f"What most trainings need; [every setting](settings.md#spectra-{name}) is on a page of its own.",
            "",
        )
    yield from ("| option | meaning |", "|---|---|")
    for key, each in settings.items():
        about = (each.brief if name in LONG else each.help) + _remarks(each)
        yield f"| {_code(names(key, each, both=key in shaped.page.switches))} | {_cell(about)} |"
    yield from ("", "<!-- run: no, examples of the form -->", "```sh")
    for example in shaped.page.examples:
        text, _, remark = example.partition("     (")
        yield text + (f"  # {remark.removesuffix(')')}" if remark else "")
    yield "```"


def _paragraphs(info: Any) -> list[str]:
    return [" ".join(each.split()) for each in (info.help or info.callback.__doc__ or "").split("\n\n")]


def _remarks(declared: Setting) -> str:
    default = default_text(declared)
    told = [f"One of {', '.join(f'`{each}`' for each in declared.choices)}." if declared.choices else ""]
    told += [f"Default: {default}." if default else ""]
    return "".join(f" {each}" for each in told if each)


def _code(text: str) -> str:
    """Code in a cell: a bar there ends the cell, or shows its backslash, unless it is HTML."""
    return f"<code>{escape(text).replace('|', '&#124;')}</code>" if "|" in text else f"`{text}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;") if "`" not in text else text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
