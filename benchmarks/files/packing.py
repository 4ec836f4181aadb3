"""Bytes of packed shift files, beside what rate-distortion theory asks for at least.

A Gaussian shift of Stable Diffusion 1.x's whole UNet, and one that is trained here on the embedded base, each packed
to several errors. The files are really written, with a training's metadata, and read back: the error is measured on
what was read.

The bound is that of Gaussian values, each weight with its own variance, by reverse water-filling: no code for such
values takes fewer bits. Values that are not Gaussian may take fewer; the header, names and fingerprints are not in it.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from spectra.benchmarks.case import Bench, Case, Column, Goal, Row

if TYPE_CHECKING:
    from spectra.shift.shift import Delta, SpectralShift

    SpectralPart: TypeAlias = dict[str, Delta]

_GAUSSIAN, _TRAINED = "gaussian", "trained"
_ERRORS = (0.1, 1, 3, 10)
"""Percent."""


def _items(bench: Bench) -> list[str]:
    return [f"{kind} {error:g} %" for kind in (_GAUSSIAN, _TRAINED) for error in _ERRORS]


def _measure(bench: Bench, item: str) -> Row:
    from spectra.shift.shift_file import read_shift, write_shift

    kind, percent, _ = item.split()
    error = float(percent) / 100
    shift = bench.once(kind, lambda: _gaussian(bench) if kind == _GAUSSIAN else _trained(bench))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shift.safetensors"
        plain, size = write_shift(shift, path), write_shift(shift, path, error=error, force=True)
        packed = read_shift(path)
    bound = sum(_bound(part, error) for part in _groups(shift)) / 8
    return {
        "shift": item,
        "floats": shift.floats,
        "fp32_bytes": plain,
        "packed_bytes": size,
        "bound_bytes": round(bound),
        "over_bound": round(size / bound - 1, 4),
        "bits_per_float": round(8 * size / shift.floats, 3),
        "error": max(_error(part, packed) for part in _groups(shift)),
    }


def _gaussian(bench: Bench) -> SpectralShift:
    from spectra.benchmarks.files.storage import gaussian_shift, sd15_unet
    from spectra.families import targets as targets_of

    targets = targets_of(sd15_unet(), "unet")
    lengths, ndims = ({t.name: t.delta_length for t in targets}, {t.name: t.weight.ndim for t in targets})
    return gaussian_shift(lengths, ndims, "unet", bench.seed)


def _trained(bench: Bench) -> SpectralShift:
    """The file of the setting, or the embedded subject as `spectra train` learns it."""
    from spectra.shift.shift_file import read_shift

    if bench.settings["shift"]:
        return read_shift(str(bench.settings["shift"]))
    from spectra.bases.embedded.subjects import DEFAULT_SUBJECT
    from spectra.training.config import defaults
    from spectra.training.run.train import train

    config = replace(defaults("", "svdiff"), subject=DEFAULT_SUBJECT, seed=bench.seed, validation_count=1)
    if bench.integer("steps"):
        config = replace(config, steps=bench.integer("steps"))
    with tempfile.TemporaryDirectory() as folder:
        return read_shift(train(config, Path(folder) / "trained").shift)


def _groups(shift: SpectralShift) -> list[SpectralPart]:
    """Matrices and 1-D weights, each of which keeps the error."""
    vectors = {name for name, ndim in shift.metadata.ndims.items() if ndim == 1}
    parts = [[name for name in shift if (name in vectors) is wanted] for wanted in (False, True)]
    return [{name: shift[name] for name in names} for names in parts if names]


def _error(part: SpectralPart, packed: SpectralShift) -> float:
    """`||delta - packed|| / ||delta||`."""
    import numpy as np

    missed = sum(float(np.square(delta.astype(np.float64) - packed[name]).sum()) for name, delta in part.items())
    return math.sqrt(missed / sum(float(np.square(delta.astype(np.float64)).sum()) for delta in part.values()))


def _bound(part: SpectralPart, error: float) -> float:
    """Bits that Gaussian values of each weight's variance take at least: those above a level take that as error."""
    import numpy as np

    lengths = np.array([delta.size for delta in part.values()])
    energies = np.array([float(np.square(delta.astype(np.float64)).sum()) for delta in part.values()])
    allowed, variances = error**2 * energies.sum(), energies / lengths
    low, high = 0.0, float(variances.max())
    for _ in range(200):
        level = (low + high) / 2
        low, high = (low, level) if (np.minimum(variances, level) * lengths).sum() > allowed else (level, high)
    above = variances > high
    return float((lengths[above] * np.log2(variances[above] / high)).sum() / 2)


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    bytes_of = {row["shift"]: row["packed_bytes"] for row in rows}
    return {
        **{f"gaussian_{error:g}": bytes_of.get(f"{_GAUSSIAN} {error:g} %") for error in (1, 3)},
        "within_error": all(row["error"] <= float(row["shift"].split()[1]) / 100 for row in rows),
    }


CASE = Case(
    name="packing",
    title="bytes of packed shifts beside the rate-distortion bound",
    key="shift",
    items=_items,
    measure=_measure,
    summarise=_summarise,
    settings={"seed": 0, "shift": "", "steps": 0},
    columns=(
        Column("shift"),
        Column("floats", form=",.0f"),
        Column("fp32_bytes", "fp32", ",.0f"),
        Column("packed_bytes", "packed", ",.0f"),
        Column("bound_bytes", "bound", ",.0f"),
        Column("over_bound", "over", "+.1%"),
        Column("bits_per_float", "bits", ".2f"),
        Column("error", form=".3%"),
    ),
    goals=(
        Goal("gaussian_1", "<=", 300_000),
        Goal("gaussian_3", "<=", 215_000),
        Goal("within_error", "==", True),
    ),
)
"""`shift` is a file that was trained before; without it one is trained here. `steps` of 0 stands for the default."""
