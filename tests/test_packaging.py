"""Installed, this repository is `spectra` and nothing else: a stray top-level `kernels` breaks other packages."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import spectra

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCES = {"kernels": "spectra/kernels", "cli": "spectra/cli", "benchmarks": "spectra/benchmarks", "spectra": "spectra"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of a copy of this checkout, so that building leaves nothing in it."""
    copy = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("__pycache__", "results")
    for folder in SOURCES:
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", out, copy]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=300)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return zipfile.ZipFile(built)


def test_the_wheel_exposes_spectra_alone(wheel: zipfile.ZipFile) -> None:
    top = {name.split("/")[0] for name in wheel.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"spectra"}


def test_the_wheel_holds_every_module(wheel: zipfile.ZipFile) -> None:
    expected = {
        f"{target}/{file.relative_to(ROOT / folder).as_posix()}"
        for folder, target in SOURCES.items()
        for file in (ROOT / folder).rglob("*.py")
    }
    missing = expected - set(wheel.namelist())
    assert not missing, f"add their packages to [tool.setuptools] packages in pyproject.toml: {sorted(missing)}"


def test_the_wheel_holds_the_data(wheel: zipfile.ZipFile) -> None:
    held = set(wheel.namelist())
    assert "spectra/py.typed" in held
    for folder in ("spectra/bases/embedded/weights", "spectra/bases/embedded/subjects"):
        files = [file for file in (ROOT / folder).rglob("*") if file.is_file()]
        assert {file.relative_to(ROOT).as_posix() for file in files} <= held
    assert "spectra/benchmarks/trainings/class_means.safetensors" in held


def test_the_editable_install_exposes_spectra_alone(tmp_path: Path) -> None:
    code = (
        "from importlib.util import find_spec\n"
        "missing = [n for n in ('kernels', 'cli', 'benchmarks') if not find_spec(f'spectra.{n}')]\n"
        "found = [n for n in ('kernels', 'cli', 'benchmarks', 'recipe') if find_spec(n)]\n"
        "raise SystemExit(f'missing: {missing}, top-level: {found}' if missing or found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_tests_see_no_stray_package_either() -> None:
    import importlib.util

    for name in ("kernels", "cli", "benchmarks"):
        spec = importlib.util.find_spec(name)
        assert spec is None or ROOT not in Path(str(spec.origin)).parents


def test_version_and_changelog_agree() -> None:
    headings = re.findall(r"^## +(\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings[0] == spectra.__version__
    assert PYPROJECT["project"]["dynamic"] == ["version"]
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "spectra.__version__"}


def test_the_wheel_carries_the_version_and_licence(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = wheel.read(name).decode()
    assert f"\nVersion: {spectra.__version__}\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def requirement(text: str) -> str:
    return re.split(r"[<>=;~! \[]", text, maxsplit=1)[0].lower().replace("-", "_")


def test_every_direct_dependency_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {requirement(line) for line in lines if line and not line.startswith("#")}
    project = PYPROJECT["project"]
    extras = [text for texts in project["optional-dependencies"].values() for text in texts]
    assert {requirement(text) for text in project["dependencies"] + extras} <= pinned
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9.]*", line) for line in lines if line and line[0] != "#")
