"""What tests share: the command line as a function, and a warning-free, network-free start."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The models here are small: a second thread gains nothing, and on a busy machine it waits for the first one's core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # after the number of threads, which it reads

ROOT = Path(__file__).parents[1]

# `python -m pytest` puts the repository's root on the path, where `kernels` lies and would be taken for the package
# of that name that diffusers and transformers look for. Only the installed `spectra` is tested.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]
# Nothing is fetched from a hub, whatever machine this is.
os.environ["HF_HUB_OFFLINE"] = "1"

# A busy machine makes examples slow to draw and to run, which says nothing about the code. CI draws the same ones
# each time, so that what fails there can be run again here.
settings.register_profile(
    "spectra",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("spectra")


@dataclass(frozen=True)
class Ran:
    """What one command line came to."""

    code: int
    out: str
    err: str


@pytest.fixture
def spectra_cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Runs `spectra` in this process: `spectra_cli("inspect", path)` gives its exit code, stdout and stderr."""
    from spectra.cli.app import main

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    return run


@pytest.fixture(autouse=True, scope="module")
def _frozen_imports() -> None:
    """What is there before a module's tests, nearly all of it imports, is left out by the garbage collector from then
    on: looking through it again and again took a tenth of the suite's time.
    """
    gc.set_threshold(20_000, 20, 20)
    gc.collect()
    gc.freeze()


def pytest_collectstart(collector: pytest.Collector) -> None:
    """What a module of tests draws while it is imported is the same in every run, whichever modules come before."""
    if isinstance(collector, pytest.Module):
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """A test that draws without a seed draws the same numbers, alone and among others."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests neither read nor fill the user's cache; one cache serves the whole run, as spectra are never changed."""
    root = tmp_path_factory.getbasetemp() / "spectra-cache"
    monkeypatch.setenv("SPECTRA_CACHE", str(root))


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny pipeline."""
    from tiny_base import build

    folder = tmp_path_factory.mktemp("base") / "tiny"
    build().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def other_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a pipeline of the same shape with other weights."""
    from tiny_base import build

    folder = tmp_path_factory.mktemp("base") / "other"
    build(seed=1).save_pretrained(folder)
    return folder
