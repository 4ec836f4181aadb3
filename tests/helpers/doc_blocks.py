"""The commands and Python blocks of the documents, and how each says it is run.

A fenced block of `sh` or `python` is run by the tests, with what the page's blocks before it left, unless a comment
above it says otherwise:

    <!-- run: slow -->             takes too long for the tests: `make docs-run` runs it
    <!-- run: slow, makes fox.png from foxes/sheet.png -->     the same, and the file becomes docs/pictures/fox.png
    <!-- run: no, needs a GPU -->  nothing runs it; commands are checked like all others: options and values are known

A block of another kind with a title is a file, which is written. `<!-- files: dog.safetensors -->` in a page names
shifts that its reader is taken to have.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_FENCE = re.compile(
    r"^(?:<!-- run: (?P<run>slow(?P<makes>, makes [^>]+)?|no, [^>]+?) -->\n)?"
    r"```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n"
    r"(?P<text>.*?)^```$",
    flags=re.MULTILINE | re.DOTALL,
)
_FILES = re.compile(r"<!-- files: (.+?) -->")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: the file that it is in.
        line: its first line there.
        language: `sh`, `python`, `toml`, `text`, ...
        run: empty where the tests run it, "slow", or "no" with the reason behind it.
        title: the name of a file that the block is, if it is one.
        text: what stands between the fences.
        makes: pictures of docs/pictures that it makes, each with the file that is copied there.
    """

    page: Path
    line: int
    language: str
    run: str
    title: str
    text: str
    makes: tuple[tuple[str, str], ...] = ()

    @property
    def place(self) -> str:
        """Where it stands, as an editor opens it."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def commands(self) -> list[list[str]]:
        """The words of each command of a block of `sh`, comments left out."""
        lines = self.text.replace("\\\n", " ").splitlines()
        words = (shlex.split(part, comments=True) for line in lines for part in re.split(r" && ", line))
        return [_launched(each) for each in words if each]


def _launched(words: list[str]) -> list[str]:
    """A command of spectra without what launches it in several processes."""
    return words[words.index("-m") + 1 :] if words[0] in ("torchrun", "accelerate") else words


def pages() -> list[Path]:
    """The README, then every page in the order of the site's navigation."""
    return [ROOT / "README.md", *(DOCS / page for page in named(navigation()))]


def navigation() -> Any:
    """The parts of the site, each with its name and pages."""
    return tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]


def named(nav: Any) -> Iterator[str]:
    """The pages that a part of the navigation names."""
    if isinstance(nav, str):
        yield nav
    else:
        for each in nav.values() if isinstance(nav, dict) else nav:
            yield from named(each)


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [_block(page, text, found) for found in _FENCE.finditer(text)]


def _block(page: Path, text: str, found: re.Match[str]) -> Block:
    makes = tuple(re.findall(r"([\w-]+\.\w+) from (\S+?)(?:,|$)", (found["makes"] or "").removeprefix(", makes ")))
    run = "slow" if found["makes"] else found["run"] or ""
    line = text.count("\n", 0, found.start("text"))
    return Block(page, line, found["language"], run, found["title"] or "", found["text"], makes)


def given_files(page: Path) -> list[str]:
    """The shifts that a page's reader is taken to have."""
    return [name for found in _FILES.findall(page.read_text(encoding="utf-8")) for name in found.split()]


def shifts_of_trainings(page: Path) -> list[str]:
    """The shifts that a page's trainings leave, for blocks after those that are too slow to be run."""
    outs = (
        Path(command[command.index("-o") + 1])
        for block in blocks(page)
        if block.language == "sh" and block.run == "slow"
        for command in block.commands()
        if command[:2] == ["spectra", "train"] and "-o" in command
    )
    return [str(out / f"{out.name}.safetensors") for out in outs]


def settings_of(command: list[str]) -> dict[str, Any]:
    """What a command line means, defaults and all: every setting of train, generate and edit, else what was given.

    Raises:
        Exception: click's, of an option that does not exist or a value of the wrong kind.
        InputError: a value that is out of range, or settings that exclude each other.
    """
    import typer

    from spectra.cli import app as commands

    name, *arguments = command[1:]
    commands._register(name)
    found = typer.main.get_command(commands.app).commands[name]  # type: ignore[attr-defined]
    if hasattr(found, "commands"):
        name, *arguments = arguments
        found = found.commands[name]
    given = found.make_context(name, list(arguments)).params
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    given = {key: value for key, value in given.items() if value is not None and value != ()}
    return _resolved(name, given)


def _resolved(name: str, given: dict[str, Any]) -> dict[str, Any]:
    from spectra.editing.settings import EditSettings
    from spectra.generation.settings import GenerateSettings, Sampling, make_generate_settings
    from spectra.settings import declared_settings
    from spectra.training.config import TrainConfig, make_config

    def of(*declared: type) -> dict[str, Any]:
        names = {name for each in declared for name in declared_settings(each)}
        return {key: value for key, value in given.items() if key in names}

    if name == "train":
        values = of(TrainConfig)
        if len(values.get("subjects", ())) == 1 and "=" not in values["subjects"][0]:
            (values["subject"],) = values.pop("subjects")
        return make_config(values, source="command line").as_dict()
    if name == "generate":
        settings = make_generate_settings(**of(GenerateSettings, Sampling))
        return {key: getattr(settings, key) for key in ("prompts", "shifts", "dtype")} | vars(settings.sampling)
    if name == "edit":
        return of(EditSettings)
    return given
