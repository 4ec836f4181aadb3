"""The shape of the code: packages build on those left of them, files and functions can be read in one sitting."""

from __future__ import annotations

import ast

import pytest
from source_tree import FLOORS, ROOT, circles, functions, imports, resolved, sources

import spectra

ORDER = [room for floor in FLOORS.values() for room in floor]

TOP_LEVEL = 7
FILE_LINES = 300
FUNCTION_LINES = 80
PARAMETERS = 8
NO_STRUCTURES = ("triton.jit", "custom_op", "triton_op", "register_fake")
"""Decorators of functions that may take any number of arguments: a Triton kernel knows no structures, so each pointer,
stride and extent is an argument of its own; an operator's schema, and its fake with it, lists tensors and numbers."""


PUBLIC = set(spectra.__all__)
"""Functions that users call; their parameters stay, though two take more than eight, all but two of them by keyword."""


def room(module: str) -> str:
    """The part of `spectra` that a module belongs to; of `spectra` itself, and of its start, the empty string."""
    return module.split(".")[1] if "." in module and not module.endswith(".__main__") else ""


def backward(module: str, imported: set[str]) -> set[str]:
    """Those of the imported modules that stand above the module's own room, or are `spectra` itself."""
    if not room(module):
        return set()  # the table of public names, each imported when it is first used
    here = ORDER.index(room(module))
    top = room(module) in ("cli", "benchmarks")
    return {name for name in imported if (not top if not room(name) else ORDER.index(room(name)) > here)}


def stray(source: str) -> set[str]:
    """Imports of the repository's folders by their own names, which only their installed ones may have."""
    found = {each.module for each in imports(ast.parse(source))}
    return {name for name in found if name.split(".")[0] in ("kernels", "cli", "benchmarks", "recipe")}


def long_functions(source: str) -> dict[str, int]:
    """Functions of more lines than are allowed."""
    return {each.name: each.lines for each in functions(ast.parse(source)) if each.lines > FUNCTION_LINES}


def wide_functions(source: str) -> dict[str, int]:
    """Functions that take more arguments than are allowed."""
    return {
        each.name: each.parameters
        for each in functions(ast.parse(source))
        if each.parameters > PARAMETERS
        and each.name not in PUBLIC
        and not any(known in decorator for known in NO_STRUCTURES for decorator in each.decorators)
    }


FILES = sources()
TEXTS = {name: file.read_text() for name, file in FILES.items()}
IMPORTS = {name: resolved(imports(ast.parse(text)), FILES, spectra._HOME) for name, text in TEXTS.items()}


def test_every_room_has_its_place() -> None:
    assert {room(name) for name in FILES} == {"", *ORDER}


def test_few_modules_stand_beside_the_packages() -> None:
    assert len(list((ROOT / "spectra").glob("*.py"))) <= TOP_LEVEL


def test_no_room_imports_one_above_it() -> None:
    found = {name: backward(name, {each.module for each in imported}) for name, imported in IMPORTS.items()}
    assert {name: bad for name, bad in found.items() if bad} == {}


def test_folders_are_imported_as_they_are_installed() -> None:
    assert {name: found for name, text in TEXTS.items() if (found := stray(text))} == {}
    assert stray("def f():\n    from cli import output") == {"cli.output"}
    assert stray("from spectra import kernels, cli\nimport spectra.benchmarks") == set()


def test_no_circle() -> None:
    """Of any kind of import: at the start, inside a function, or for types."""
    graph = {name: {each.module for each in imported} for name, imported in IMPORTS.items() if name != "spectra"}
    assert circles(graph) == []


def test_files_can_be_read_in_one_sitting() -> None:
    found = {name: lines for name, text in TEXTS.items() if (lines := len(text.splitlines())) > FILE_LINES}
    assert found == {}


def test_functions_are_short() -> None:
    found = {f"{name}: {key}": lines for name, text in TEXTS.items() for key, lines in long_functions(text).items()}
    assert found == {}


def test_functions_take_few_arguments() -> None:
    found = {f"{name}: {key}": count for name, text in TEXTS.items() for key, count in wide_functions(text).items()}
    assert found == {}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("spectra.kernels.reference", "from spectra.errors import WeightError"),
        ("spectra.shift.shift", "from spectra.adapters.training_adapter import attach"),
        ("spectra.shift.shift", "def f():\n    import spectra.training.config"),
        ("spectra.io.toml_files", "import importlib\nimportlib.import_module('spectra.plots.style')"),
        (
            "spectra.kernels.reference",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from spectra.layers import costs",
        ),
        ("spectra.convert.baking", "from spectra import attach, cli"),
        ("spectra.generation.generate", "import spectra"),
        ("spectra.generation.generate", "from spectra import __version__"),
        ("spectra.benchmarks.run", "from spectra.cli.output import say"),
    ],
)
def test_a_backward_import_is_seen(module: str, source: str) -> None:
    found = resolved(imports(ast.parse(source)), FILES, spectra._HOME)
    assert backward(module, {each.module for each in found})


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "spectra.adapters.training_adapter",
            "from spectra.shift.shift import SpectralShift\nfrom spectra import kernels",
        ),
        ("spectra.convert.baking", "from spectra import decompose"),
        ("spectra.benchmarks.steps.step", "import spectra"),
        ("spectra.cli.bench", "from spectra.benchmarks import run"),
        ("spectra", "from spectra.cli.app import main"),
    ],
)
def test_a_forward_import_is_not(module: str, source: str) -> None:
    found = resolved(imports(ast.parse(source)), FILES, spectra._HOME)
    assert found
    assert not backward(module, {each.module for each in found})


def test_a_circle_is_seen() -> None:
    texts = {
        "spectra.a": "from spectra.b import f",
        "spectra.b": "def f():\n    from spectra import c",
        "spectra.c": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import spectra.a",
        "spectra.d": "import spectra.a, spectra.e",
        "spectra.e": "import os",
    }
    graph = {name: {each.module for each in resolved(imports(ast.parse(text)), texts)} for name, text in texts.items()}
    assert circles(graph) == [["spectra.a", "spectra.b", "spectra.c"]]
    assert circles({**graph, "spectra.c": set()}) == []


def test_long_and_wide_functions_are_seen() -> None:
    long = "class A:\n    def f(self):\n" + "        pass\n" * FUNCTION_LINES
    assert long_functions(long) == {"A.f": FUNCTION_LINES + 1}
    assert long_functions(long.replace("        pass\n", "", 1)) == {}
    nine = "def f(cls, a, /, b, c, d=1, *args, e, g, h, **more): ..."
    assert wide_functions(nine) == {"f": 9}
    assert wide_functions(nine.replace(", h", "")) == {}
    assert wide_functions("def f():\n    def g(a, b, c, d, e, f, g, h, i): ...") == {"f.g": 9}
    assert wide_functions("@triton.jit(do_not_specialize=['a'])\n" + nine) == {}
    assert wide_functions("@app.command()\n" + nine) == {"f": 9}
