"""The code as text: its modules, what each imports and when, and how long its functions are."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

FOLDERS = {"spectra": "spectra", "kernels": "spectra.kernels", "cli": "spectra.cli", "benchmarks": "spectra.benchmarks"}
"""Folders of the repository, and as what each is installed."""

FLOORS = {
    "ground": ("kernels", "version", "visible_text", "errors", "progress", "settings", "io"),
    "shifts as data": ("naming", "spectrum", "shift", "hub", "analysis", "combine"),
    "models": ("bases", "layers", "compatibility", "families", "adapters"),
    "what users do": ("convert", "generation", "plots", "training", "planning", "editing"),
    "services": ("fleet", "serving", "studio"),
    "outside": ("benchmarks", "cli"),
}
"""The rooms of `spectra`, from the ground up and from left to right: each may import those before it, none after it."""


@dataclass(frozen=True)
class Import:
    """One name that a module imports.

    Attributes:
        module: the module that is imported, the longest one of the tree that the statement names.
        at_start: it happens when the importing module is imported: not inside a function or under TYPE_CHECKING.
        typing: it stands under TYPE_CHECKING, so that no program runs it.
    """

    module: str
    at_start: bool = True
    typing: bool = False


@dataclass(frozen=True)
class Function:
    """One function or method: its name in the module, with its class, its lines, and how many arguments it takes."""

    name: str
    lines: int
    parameters: int
    decorators: tuple[str, ...] = ()


def sources(root: Path = ROOT) -> dict[str, Path]:
    """Every module's name as it is installed, and its file."""
    found = {}
    for folder, package in FOLDERS.items():
        for file in sorted((root / folder).rglob("*.py")):
            parts = file.relative_to(root / folder).with_suffix("").parts
            found[".".join((package, *(part for part in parts if part != "__init__")))] = file
    return found


def imports(tree: ast.AST) -> Iterator[Import]:
    """Each import of a module, in the order of the text; `from a import b` counts as `a.b`."""
    yield from _imports(tree, at_start=True, typing=False)


def _imports(node: ast.AST, *, at_start: bool, typing: bool) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        yield from (Import(alias.name, at_start, typing) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (Import(f"{node.module}.{alias.name}", at_start, typing) for alias in node.names)
    elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
        yield from (Import(str(a.value), at_start, typing) for a in node.args[:1] if isinstance(a, ast.Constant))
    checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
        skipped = checking and child in node.body  # type: ignore[attr-defined]
        yield from _imports(child, at_start=at_start and not inside and not skipped, typing=typing or skipped)


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def resolved(found: Iterable[Import], modules: Iterable[str], public: Mapping[str, str] | None = None) -> set[Import]:
    """The imports of modules of this tree, each as the longest module that its name begins with.

    Args:
        found: what a module imports.
        modules: every module of the tree.
        public: where each public name of `spectra` lives, as in its table; `from spectra import attach` counts as that.
    """
    known = set(modules)
    result = set()
    for each in found:
        name = each.module
        if name.startswith("spectra.") and name.removeprefix("spectra.") in (public or {}):
            name = f"spectra.{(public or {})[name.removeprefix('spectra.')]}"
        while name and name not in known:
            name = name.rpartition(".")[0]
        if name:
            result.add(Import(name, each.at_start, each.typing))
    return result


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules that can all be reached from each other, each sorted (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1 or node in graph.get(node, ()):
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return sorted(found)


def functions(tree: ast.AST, prefix: str = "") -> Iterator[Function]:
    """Every function and method, also those inside others; `self`, `cls` and `ctx` are not counted as parameters."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from functions(node, prefix)
            continue
        name = f"{prefix}{node.name}"
        if not isinstance(node, ast.ClassDef):
            a = node.args
            taken = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
            yield Function(
                name,
                (node.end_lineno or node.lineno) - node.lineno + 1,
                sum(argument.arg not in ("self", "cls", "ctx") for argument in taken),
                tuple(ast.unparse(decorator) for decorator in node.decorator_list),
            )
        yield from functions(node, f"{name}.")
