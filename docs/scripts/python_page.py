"""Writes docs/python.md: every public name of `spectra`, with its signature and docstring, read from the sources.

python docs/scripts/python_page.py
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import spectra

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "python.md"

HEAD = """\
# Python API

Made by `docs/scripts/python_page.py` from the docstrings. All names are imported from `spectra`, which imports what a
name needs when it is first used: what works on shift files alone never imports torch. [Shifts in a live
pipeline](live-models.md) shows these functions at work.
"""

GROUPS = {
    "Live models": ("adapters",),
    "Shift files and their arithmetic": ("shift", "combine"),
    "Training, drawing and editing": ("training", "planning", "generation", "editing"),
    "Other tools and other bases": ("convert", "compatibility", "hub"),
    "Spectra and their cache": ("spectrum",),
    "Errors and warnings": ("errors",),
}
"""Headings, and the rooms (a new one has to be given a place here) whose public names stand under them."""

SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields):$")
Definition = ast.FunctionDef | ast.ClassDef


def page() -> str:
    """The page's text."""
    lines = [HEAD]
    names = {name: home.removeprefix("spectra.") for name, home in spectra._HOME.items()}
    for heading, rooms in GROUPS.items():
        lines += [f"## {heading}", ""]
        for name in sorted(names, key=str.lower):
            if names[name].split(".")[0] in rooms:
                lines += _entry(name, _definition(names[name], name))
    return "\n".join(lines).rstrip() + "\n"


def _definition(module: str, name: str) -> Definition:
    path = ROOT / "spectra" / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            return node
        if isinstance(node, ast.ImportFrom) and node.module and name in {each.name for each in node.names}:
            return _definition(node.module.removeprefix("spectra."), name)
    raise LookupError(f"{file} defines no {name}")


def _entry(name: str, node: Definition) -> Iterator[str]:
    yield from (f"### {name}", "", "```text", _signature(node), "```", "")
    yield from _prose(ast.get_docstring(node) or "")
    if isinstance(node, ast.ClassDef):
        for each in node.body:
            if isinstance(each, ast.FunctionDef) and not each.name.startswith("_") and ast.get_docstring(each):
                yield from (
                    f"**`{name}.{_signature(each)}`**" if not _property(each) else f"**`{name}.{each.name}`**",
                    "",
                )
                yield from _prose(ast.get_docstring(each) or "")


def _property(node: ast.FunctionDef) -> bool:
    return any(isinstance(each, ast.Name) and "property" in each.id for each in node.decorator_list)


def _signature(node: Definition) -> str:
    if isinstance(node, ast.ClassDef):
        made = next((each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"), None)
        if made is not None:
            return f"{node.name}({_arguments(made)})"
        fields = [ast.unparse(each) for each in node.body if isinstance(each, ast.AnnAssign)]
        short = len(fields) < 9 and fields
        bases = ", ".join(ast.unparse(each) for each in node.bases)
        return f"{node.name}({', '.join(fields)})" if short else f"class {node.name}" + (f"({bases})" if bases else "")
    returned = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{node.name}({_arguments(node)}){returned}"


def _arguments(node: ast.FunctionDef) -> str:
    return re.sub(r"^(self|cls)(, )?", "", ast.unparse(node.args))


def _prose(docstring: str) -> Iterator[str]:
    """A docstring as Markdown: its sections become lists."""
    in_section = False
    for line in docstring.splitlines():
        if SECTION.match(line):
            in_section = True
            yield from (f"*{line}*", "")
        elif in_section and (entry := re.match(r"^    ([\w*`, ]+): (.*)$", line)):
            yield f"- `{entry[1].strip('`')}`: {entry[2]}"
        elif in_section and line.startswith("    "):
            yield f"  {line.strip()}"
        else:
            in_section = in_section and not line.strip()
            yield line
    yield ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
