"""The commands and Python blocks of the documents: they exist as written, and the quick ones are run, page by page."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import doc_blocks
import doc_stand_ins
import pytest

import spectra
from spectra.cli.app import COMMANDS
from spectra.combine.merging import METHODS, registry

PAGES = doc_blocks.pages()
OTHERS = {".", "curl", "du", "pip"}
"""What else the documents tell a reader to run."""


def quick(page: Path) -> bool:
    """Whether a page has blocks that are run here."""
    return any(not block.run and block.language in ("sh", "python") for block in doc_blocks.blocks(page))


every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@every_page
def test_every_command_has_the_options_and_values_that_the_page_says(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (doc_blocks.ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for block in doc_blocks.blocks(page):
        for command in block.commands() if block.language == "sh" else []:
            if command[0] == "spectra":
                try:
                    doc_blocks.settings_of(command)
                except Exception as error:
                    told = error.format_message() if hasattr(error, "format_message") else str(error)
                    pytest.fail(f"{block.place}: {' '.join(command)}: {told}")
            elif command[0] == "make":
                assert set(command[1:]) <= targets, block.place
            else:
                assert command[0] in OTHERS, f"{block.place}: {command[0]}"


@every_page
def test_commands_stand_in_fenced_blocks(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert re.findall(r"^ +(?:spectra|make|pip) .*", outside, flags=re.MULTILINE) == []
    fences = len(re.findall(r"^```\w+", text, flags=re.MULTILINE))
    assert fences == len(doc_blocks.blocks(page)), "a fence, or the comment above one, is not written as it should be"


@every_page
def test_python_blocks_use_names_that_exist(page: Path) -> None:
    for block in doc_blocks.blocks(page):
        if block.language == "python":
            used = [
                node.attr
                for node in ast.walk(ast.parse(block.text))
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "spectra"
            ]
            assert set(used) <= set(spectra.__all__), block.place


@pytest.mark.parametrize("page", [page for page in PAGES if quick(page)], ids=lambda page: page.name)
def test_blocks_that_are_quick_run_as_they_stand(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spectra_cli: Callable[..., Any],
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "METHODS", dict(METHODS))  # one is added on a page
    doc_stand_ins.place(page, tmp_path)
    names: dict[str, Any] = {}
    if "files of the pipeline" in page.read_text():
        from diffusers import DiffusionPipeline

        names["pipe"] = DiffusionPipeline.from_pretrained(request.getfixturevalue("tiny_base"))
        doc_stand_ins.place_for(names["pipe"], page, tmp_path)
    for block in doc_blocks.blocks(page):
        if block.title:
            (tmp_path / block.title).write_text(block.text)
        elif not block.run and block.language == "python":
            exec(compile(block.text, block.place, "exec"), names)
        elif not block.run and block.language == "sh":
            for command in block.commands():
                assert command[0] == "spectra", block.place
                ran = spectra_cli(*command[1:])
                assert ran.code == 0, f"{block.place}: {' '.join(command)}: {ran.err}"


def test_every_command_has_an_example_in_the_documents() -> None:
    used = {
        command[1]
        for page in PAGES
        for block in doc_blocks.blocks(page)
        if block.language == "sh"
        for command in block.commands()
        if command[0] == "spectra"
    }
    assert used >= set(COMMANDS)
