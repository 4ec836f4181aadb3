"""The Triton kernels, proven without a GPU: a process of its own runs them under Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def interpret(*arguments: str) -> str:
    """What pytest prints for these arguments, with Triton's interpreter on."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        capture_output=True,
        text=True,
        cwd=HERE.parents[1],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
    return done.stdout


@needs_triton
def test_every_kernel_and_whole_layers_agree_with_float64() -> None:
    layers = HERE.parent / "layers" / "test_shifted_layer.py"
    tests = [
        f"{layers}::{name}" for name in ("test_zero_delta_is_the_module_itself", "test_autocast_and_checkpointing")
    ]
    printed = interpret(str(HERE / "interpreted.py"), *tests)
    assert "passed" in printed
    assert "skipped" not in printed


BLOCKED = """
import sys
sys.modules["triton"] = None  # an import of it fails, as where it is not installed
import torch
from torch import nn
from spectra import kernels
from spectra.layers.shifted_layer import ShiftedLayer
from spectra.spectrum.decomposition import decompose
module = nn.Linear(12, 8).requires_grad_(False)
for plan in ("factored", "materialized"):
    layer = ShiftedLayer(module, decompose(module.weight), torch.full((8,), 0.1, requires_grad=True))
    layer.plan = plan
    layer.forward(torch.randn(3, 12)).sum().backward()
    assert layer.delta.grad.abs().min() > 0
"""

UNUSED = """
import sys
import torch
import spectra, spectra.layers.shifted_layer
from spectra import kernels
kernels.factored_apply(torch.randn(3, 8), torch.eye(8), torch.ones(8))
sys.exit(f"imported {sorted(n for n in sys.modules if n.startswith('triton'))[:3]}" if "triton" in sys.modules else 0)
"""


@pytest.mark.parametrize("code", [BLOCKED, UNUSED], ids=["without triton", "on the CPU"])
def test_pytorch_alone_is_enough(code: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd="/", env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
