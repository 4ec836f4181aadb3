"""Writes a shift as full differences, `Delta W` of every weight: what a LoRA cannot hold is in it too.

ComfyUI, A1111 and LyCORIS add `<module>.diff` to a weight, `<module>.w_norm` to a norm's scale. The modules have
kohya's names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from spectra.bases.weight_files import base_weights
from spectra.convert.closest_shift import delta_weight
from spectra.convert.lora.writing import Stored, describe
from spectra.convert.module_names import kohya_names
from spectra.convert.weight_changes import measure
from spectra.errors import FormatError
from spectra.io.atomic_writes import atomic_write, check_output
from spectra.io.dtypes import torch_dtype
from spectra.io.tensor_files import create_file, write_rows
from spectra.progress import SILENT, Progress
from spectra.shift.shift import SpectralShift
from spectra.spectrum.cache.spectrum_cache import SpectrumCache, default_cache
from spectra.spectrum.spectrum import Spectrum


@dataclass(frozen=True)
class WrittenDifference:
    """What a file of differences holds.

    Attributes:
        bytes: size of the file.
        weights: in it; weights that the shift leaves as they are are not.
        rounding: `||Delta W of the file - ours|| / ||ours||`, by the file's dtype.
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
    dtype: Stored = "float32",
    force: bool = False,
    cache: SpectrumCache | None = None,
    progress: Progress = SILENT,
) -> WrittenDifference:
    """Write `Delta W = U diag(d) V^T` of every weight, one weight at a time. The file is as large as those weights.

    Args:
        shift: what to write.
        path: of the file.
        base: that the shift was trained on, as `load_pipeline` takes it.
        variant: of the base's weight files.
        dtype: of the file.
        force: replace a file that exists.

    Raises:
        FormatError: the shift changes nothing, or values that do not fit into `dtype`.
        MismatchError: the shift was trained on another base.
        OutputError: the file exists and `force` is not given, or cannot be written.
    """
    check_output(path, force=force)
    cache = cache or default_cache()
    weights = base_weights(base, variant=variant, dtype=shift.metadata.base_dtype)
    changes = {name: each for name, each in measure(shift, weights, cache, progress).items() if each.energy}
    if not changes:
        raise FormatError("this shift changes no weight; nothing is written")
    called = kohya_names(weights)
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, each in changes.items():
        norm = len(each.shape) == 1
        tensors[called[name] + (".w_norm" if norm else ".diff")] = (dtype, each.shape)
        if norm:  # A1111 takes a norm only with the difference of its bias; the new file is zeros
            tensors[called[name] + ".b_norm"] = (dtype, each.shape)
    with atomic_write(path, force=force) as temporary:
        entries = create_file(temporary, tensors, describe(shift.metadata))

        def write(name: str, weight: Tensor, spectrum: Spectrum | None) -> float:
            d = changes[name].d
            if spectrum is None:
                entry, exact = entries[called[name] + ".w_norm"], torch.from_numpy(d)
            else:
                entry = entries[called[name] + ".diff"]
                exact = delta_weight(weight, spectrum, torch.from_numpy(d))
            stored = exact.to(torch_dtype(entry.dtype))
            if not torch.isfinite(stored).all():
                raise FormatError(f"{name}: its difference does not fit into {dtype}; write float32")
            write_rows(entry, stored.reshape(entry.shape))
            return float((stored.to(exact) - exact).norm()) ** 2

        rounded = cache.visit(weights.only(changes.__contains__), write, "writing", progress)
        size = temporary.stat().st_size
    total = sum(each.energy for each in changes.values())
    return WrittenDifference(size, len(changes), math.sqrt(sum(rounded.values()) / total))
