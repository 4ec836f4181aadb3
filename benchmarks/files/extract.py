"""Baking a known shift into a Stable Diffusion 1.x UNet and extracting it again: what comes back, and peak memory.

The UNet is really written, with random weights in float32 (3.4 GB). Each command runs in a process of its own with an
empty spectrum cache, so that spectra are computed on the way. Its memory is the largest resident set that Linux saw
(VmHWM), files that are mapped included, above that of the bare interpreter. The shift is positive, so that nothing of
it is clipped and all of it should come back.

On a busy machine seconds say little; CPU seconds are those of the command.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spectra.benchmarks.case import Bench, Case, Column, Goal, Row
from spectra.errors import SpectraError

_SIZE = 0.1
"""Largest delta of the shift, as a share of the root mean square of the weight's singular values."""

_COMMAND = """
import sys

def resident(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024

before = resident("VmHWM")
from spectra.cli.app import main
code = main(sys.argv[1:])
print(resident("VmHWM") - before)
sys.exit(code)
"""


def _measure(bench: Bench, item: str) -> Row:
    folder = Path(bench.once("folder", tempfile.TemporaryDirectory).name)
    bench.once("shift", lambda: _prepare(folder, bench.seed))
    shift = folder / "shift.safetensors"
    baked, found = folder / "baked", folder / "found.safetensors"
    if item == "bake":
        report, row = _run("bake", folder / "base", "--shift", shift, "-o", baked, cache=folder / "bake-cache")
        return {"command": item, "weights": report["weights"], **row}
    if not baked.is_dir():  # --only extract
        _run("bake", folder / "base", "--shift", shift, "-o", baked, cache=folder / "bake-cache")
    report, row = _run("extract", folder / "base", baked, "-o", found, cache=folder / "extract-cache")
    error, worst = _errors(shift, found)
    bench.shared.pop("folder").cleanup()
    return {
        "command": item,
        "weights": len(report["layers"]),
        **row,
        "floats": report["floats"],
        "captured_error": report["error"],
        "error": error,
        "worst_error": worst,
    }


def _prepare(folder: Path, seed: int) -> Path:
    """Writes the UNet, and a shift of all its weights."""
    import torch

    from spectra.bases.weight_files import base_weights
    from spectra.compatibility.base_check import delta_length
    from spectra.shift.metadata import FINGERPRINT_DIGITS, ShiftMetadata
    from spectra.shift.shift import SpectralShift
    from spectra.shift.shift_file import write_shift
    from spectra.spectrum.fingerprint import fingerprint

    torch.manual_seed(seed)
    _unet().save_pretrained(folder / "base" / "unet")
    (folder / "base" / "model_index.json").write_text("{}")
    deltas, digits, ndims = {}, {}, {}
    for name, weight in base_weights(str(folder / "base"), ["unet"]).items():
        floats = delta_length(weight.shape)
        rms = float(weight.norm()) / floats**0.5
        deltas[name] = (_SIZE * rms * torch.rand(floats)).numpy()
        digits[name] = fingerprint(weight)[:FINGERPRINT_DIGITS]
        ndims[name] = weight.ndim
    metadata = ShiftMetadata(base="random UNet", fingerprints=digits, ndims=ndims)
    write_shift(SpectralShift(deltas, metadata), folder / "shift.safetensors")
    return folder


def _unet() -> Any:
    """Stable Diffusion 1.x's, with random weights."""
    from diffusers import UNet2DConditionModel

    make: Any = UNet2DConditionModel  # diffusers is untyped here
    return make(cross_attention_dim=768)


def _run(*arguments: object, cache: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The report of a command (JSON), and its memory and CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND, *map(str, arguments), "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "SPECTRA_CACHE": str(cache)},
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SpectraError(f"spectra {arguments[0]} failed: {done.stderr.strip().splitlines()[-1]}")
    report, peak = done.stdout.splitlines()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found: dict[str, Any] = json.loads(report)
    return found, {"peak_gb": int(peak) / 1e9, "cpu_s": round(cpu, 1), "seconds": found["seconds"]}


def _errors(expected: Path, found: Path) -> tuple[float, float]:
    """`||found - expected|| / ||expected||` over all weights, and that of the worst one."""
    import numpy as np

    from spectra.shift.shift_file import read_shift

    known, got = read_shift(expected), read_shift(found)
    squares = np.array(
        [
            (np.sum((got[name].astype(float) - delta) ** 2), np.sum(delta.astype(float) ** 2))
            for name, delta in known.items()
        ]
    )
    error, norm = squares.sum(0)
    return float((error / norm) ** 0.5), float((squares[:, 0] / squares[:, 1]).max() ** 0.5)


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    by_command = {row["command"]: row for row in rows}
    return {
        "error": by_command["extract"]["error"],
        "captured_error": by_command["extract"]["captured_error"],
        "extract_peak_gb": by_command["extract"]["peak_gb"],
        "bake_peak_gb": by_command["bake"]["peak_gb"],
    }


CASE = Case(
    name="extract",
    title="a shift baked into SD 1.5's UNet and extracted again",
    key="command",
    items=lambda bench: ["bake", "extract"],
    measure=_measure,
    summarise=_summarise,
    settings={"seed": 0},
    columns=(
        Column("command"),
        Column("weights"),
        Column("peak_gb", "peak, GB", ".2f"),
        Column("cpu_s", "CPU, s", ".0f"),
        Column("error", form=".1e"),
        Column("worst_error", "worst", ".1e"),
        Column("captured_error", "of Delta W", ".1e"),
    ),
    goals=(Goal("error", "<=", 1e-5), Goal("extract_peak_gb", "<=", 1.5), Goal("bake_peak_gb", "<=", 1.5)),
)
