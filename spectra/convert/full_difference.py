"""Writes a shift as full differences, `Delta W` of every weight: what a LoRA cannot hold is in it too.

ComfyUI, A1111 and LyCORIS add `<module>.diff` to a weight, `<module>.w_norm` to a norm's scale. The modules have
kohya's names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from spectra.convert.module_names import kohya_names
from spectra.convert.projection import AnySpectrum
from spectra.convert.shifted_base import ShiftedBase, StoredDtype, file_metadata, write_rounded
from spectra.convert.weight_change import WeightShift
from spectra.errors import FormatError
from spectra.io.atomic_writes import atomic_write, check_output
from spectra.io.tensor_files import create_file
from spectra.progress import SILENT, Progress
from spectra.shift.shift import SpectralShift
from spectra.spectrum.cache.spectrum_cache import SpectrumCache


@dataclass(frozen=True)
class WrittenDifference:
    """What a file of so many bytes holds: the weights that the shift changes, rounded to its dtype.

    `rounding` is `||Delta W of the file - ours|| / ||ours||`.
    """

    bytes: int
    weights: int
    rounding: float


def write_difference(
    shift: SpectralShift,
    path: str | Path,
    *,
    base: str = "",
    variant: str | None = None,
    dtype: StoredDtype = "float32",
    force: bool = False,
    cache: SpectrumCache | None = None,
    progress: Progress = SILENT,
) -> WrittenDifference:
    """Write Delta W of every weight, outer terms and the vectors of special words included, one weight at a time.

    The file is as large as those weights.

    Args:
        base: that the shift was trained on, as `load_pipeline` takes it.
        variant: of the base's weight files.
        force: replace a file that exists.

    Raises:
        FormatError: the shift changes nothing, or values that do not fit into `dtype`.
        MismatchError: the shift was trained on another base.
        OutputError: the file exists and `force` is not given, or cannot be written.
    """
    check_output(path, force=force)
    shifted = ShiftedBase(shift, base, variant=variant, cache=cache, progress=progress)
    changes = {name: each for name, each in shifted.changes().items() if each.energy}
    if not changes:
        raise FormatError("this shift changes no weight; nothing is written")
    modules = kohya_names(shifted.weights)
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, each in changes.items():
        norm = len(each.shape) == 1
        tensors[modules[name] + (".w_norm" if norm else ".diff")] = (dtype, each.shape)
        if norm:  # A1111 takes a norm only with the difference of its bias; the new file is zeros
            tensors[modules[name] + ".b_norm"] = (dtype, each.shape)
    with atomic_write(path, force=force) as temporary:
        entries = create_file(temporary, tensors, file_metadata(shift.metadata))

        def write(part: WeightShift, weight: Tensor, spectrum: AnySpectrum | None) -> float:
            suffix, exact = ".w_norm" if weight.ndim == 1 else ".diff", part.change(weight, spectrum)
            rounded = write_rounded(entries[modules[part.name] + suffix], exact, part.name)
            return float((rounded - exact).norm()) ** 2

        lost = shifted.visit(write, "writing", changes)
        size = temporary.stat().st_size
    total = sum(each.energy for each in changes.values())
    return WrittenDifference(size, len(changes), math.sqrt(sum(lost.values()) / total))
