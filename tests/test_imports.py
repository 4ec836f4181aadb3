"""Imports run one way: cli -> spectra -> spectra.kernels, spectra.benchmarks -> spectra; and light parts stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"spectra": "spectra", "kernels": "spectra.kernels", "cli": "spectra.cli", "benchmarks": "spectra.benchmarks"}
FORBIDDEN = {
    "kernels": ("spectra",),  # but for spectra.kernels itself
    "spectra": ("spectra.cli", "spectra.benchmarks"),
    "benchmarks": ("spectra.cli",),
    "cli": (),
}


def imported(source: str) -> set[str]:
    """Every module that some source may import, at the top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in ("import_module", "__import__"):
                names.add(str(node.args[0].value))
    return names


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def violations(folder: str, source: str) -> set[str]:
    own = FOLDERS[folder]
    return {
        module
        for module in imported(source)
        for package in FORBIDDEN[folder]
        if within(module, package) and not (folder == "kernels" and (within(module, own) or module == "spectra"))
    } | {module for module in imported(source) if module.split(".")[0] in ("kernels", "cli", "benchmarks", "recipe")}


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_run_one_way(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    found = {str(file.relative_to(ROOT)): violations(folder, file.read_text()) for file in files}
    assert {name: bad for name, bad in found.items() if bad} == {}


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("kernels", "from spectra.errors import WeightError"),
        ("kernels", "from spectra import errors"),
        ("spectra", "def f():\n    from spectra.cli import output"),
        ("spectra", "import importlib\nimportlib.import_module('spectra.benchmarks.judge')"),
        ("benchmarks", "from spectra.cli.output import say"),
        ("cli", "import kernels"),
    ],
)
def test_a_wrong_import_is_seen(folder: str, source: str) -> None:
    assert violations(folder, source)


@pytest.mark.parametrize(
    ("folder", "source"),
    [
        ("kernels", "from spectra.kernels import reference\nfrom spectra.kernels.dispatch import run"),
        ("cli", "from spectra.benchmarks import run"),
        ("spectra", "from spectra.kernels import dispatch"),
    ],
)
def test_a_right_import_is_not(folder: str, source: str) -> None:
    assert not violations(folder, source)


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import spectra", "torch numpy diffusers transformers rich typer"),
        ("from spectra.cli.app import main; main(['--help'])", "torch numpy diffusers transformers safetensors"),
        ("from spectra.cli.app import main; main(['inspect', '--help'])", "torch numpy diffusers transformers"),
        (
            "import spectra.shift.shift_file, spectra.shift.provenance, spectra.shift.sigmas, spectra.naming.patterns",
            "torch diffusers transformers",
        ),
        (
            "import spectra.shift.packing.arrays, spectra.compatibility.verification, spectra.analysis.inspection",
            "torch diffusers transformers",
        ),
        ("from spectra.cli.app import main; main(['pack', '--help'])", "torch numpy diffusers transformers"),
        ("from spectra.cli.app import main; main(['verify', '--help'])", "torch numpy diffusers transformers"),
        (
            "import spectra.combine.merging, spectra.shift.algebra, spectra.combine.adjusting",
            "torch diffusers transformers rich typer",
        ),
        ("from spectra.cli.app import main; main(['merge', '--list'])", "torch diffusers transformers"),
        ("from spectra.cli.app import main; main(['adjust', '--help'])", "torch numpy diffusers transformers"),
        (
            "import spectra.analysis.library, spectra.analysis.lineage, spectra.analysis.diffing, spectra.plots.shift",
            "torch diffusers matplotlib",
        ),
        ("from spectra.cli.app import main; main(['diff', '--help'])", "torch numpy diffusers transformers"),
        ("import spectra.convert.file_kinds, spectra.convert.module_names", "torch numpy diffusers transformers"),
        (
            "import spectra.combine.mixing, spectra.naming.unet_layers, spectra.editing.order",
            "torch diffusers transformers",
        ),
        ("from spectra.cli.app import main; main(['mix', '--help'])", "torch numpy diffusers transformers"),
        ("from spectra.cli.app import main; main(['edit', '--help'])", "torch numpy diffusers transformers"),
        ("import spectra.spectrum.cache.spectrum_cache", "torch diffusers transformers"),
        ("import spectra.bases.embedded, spectra.bases.embedded.subjects", "torch diffusers transformers"),
    ],
)
def test_light_parts_import_no_heavy_package(code: str, absent: str) -> None:
    check = f"{code}\nimport sys\nheavy = {absent.split()!r}\nloaded = [n for n in heavy if n in sys.modules]\n"
    done = subprocess.run(
        [sys.executable, "-c", check + "sys.exit(f'imported {loaded}' if loaded else 0)"],
        capture_output=True,
        text=True,
        cwd="/",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_every_public_name_resolves() -> None:
    import spectra

    for name in spectra.__all__:
        assert getattr(spectra, name) is not None
    assert set(spectra.__all__) <= set(dir(spectra))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = spectra.nothing
