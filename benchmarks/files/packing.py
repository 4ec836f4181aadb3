"""Bytes of packed shift files, beside what rate-distortion theory asks for at least.

A Gaussian shift of Stable Diffusion 1.x's whole UNet, and one that is trained here on the embedded base, each packed
to several errors. The files are really written, with a training's metadata, and read back: the error is measured on
what was read.

The bound is that of Gaussian values, each vector with its own variance, by reverse water-filling: no code for such
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
    import numpy as np
    import numpy.typing as npt

    from spectra.shift.shift import SpectralShift

    Floats: TypeAlias = npt.NDArray[np.float64]

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
    bound = sum(_bound(*group, error) for group in _groups(shift)) / 8
    return {
        "shift": item,
        "floats": shift.floats,
        "fp32_bytes": plain,
        "packed_bytes": size,
        "bound_bytes": round(bound),
        "over_bound": round(size / bound - 1, 4),
        "bits_per_float": round(8 * size / shift.floats, 3),
        "error": _error(shift, packed),
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


def _groups(shift: SpectralShift) -> list[tuple[Floats, Floats, float]]:
    """What keeps the error by itself: the lengths and energies of its vectors, and the energy of its Delta W.

    A vector is a delta, a side of an outer term, which has the term's energy, or the vectors of a word.
    """
    import numpy as np

    from spectra.shift.packing.pieces import packed_pieces

    pieces, _ = packed_pieces(shift)
    energies = np.array([float(np.square(values.astype(np.float64)).sum()) for values in pieces.values])
    lengths = np.array([values.size for values in pieces.values], dtype=np.float64)
    whole = pieces.measure(energies, np.zeros(int(lengths.sum())))
    group = np.array(pieces.groups)
    return [(lengths[group == g], energies[group == g], float(whole[group == g].sum())) for g in sorted(set(group))]


def _error(shift: SpectralShift, packed: SpectralShift) -> float:
    """`||change - packed|| / ||change||`, the largest of matrices, 1-D weights and words."""
    from spectra.shift.sums import Parts, inner_product

    ndims = shift.metadata.ndims
    found, parts, missed = [0.0], shift.parts(), (packed - shift).parts()
    for vectors in (False, True):
        whole, rest = (
            {name: Parts(each.delta, each.outer) for name, each in side.items() if (ndims.get(name) == 1) is vectors}
            for side in (parts, missed)
        )
        if norm := inner_product(whole, whole):
            found.append(math.sqrt(max(0.0, inner_product(rest, rest)) / norm))
    if shift.words:
        words = [sum(each.dot(each) for each in side.words.values()) for side in (packed - shift, shift)]
        found.append(math.sqrt(words[0] / words[1]) if words[1] else 0.0)
    return max(found)


def _bound(lengths: Floats, energies: Floats, whole: float, error: float) -> float:
    """Bits that Gaussian values of each vector's variance take at least: those above a level take that as error."""
    import numpy as np

    allowed, variances = error**2 * whole, energies / lengths
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
