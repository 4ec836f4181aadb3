"""A shift beside the files of its base, for writing other formats: a walk over the weights that it changes.

Here is also what the written files have in common: dtype, metadata, and tensors rounded to the dtype.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spectra.bases.pipeline import BaseLocation
from spectra.bases.weight_files import FileWeights, base_weights
from spectra.compatibility.base_check import BaseCheck, check_weights, compare
from spectra.compatibility.rounded_bases import Fingerprints
from spectra.convert.projection import AnySpectrum
from spectra.convert.weight_change import Visitor, WeightShift, principal_factors, visit_parts
from spectra.errors import FormatError
from spectra.io.dtypes import torch_dtype
from spectra.io.safetensors_header import StoredTensor
from spectra.io.tensor_files import Spans, write_rows
from spectra.progress import SILENT, Progress, working
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.shift import SpectralShift
from spectra.spectrum.cache.spectrum_cache import SpectrumCache, default_cache
from spectra.version import __version__

T = TypeVar("T")
StoredDtype: TypeAlias = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class WeightChange:
    """What a shift does to a weight of `shape`, as numbers whose squares add up to `||Delta W||^2`.

    `d`, float64, is the change of each singular value `[r]`, or of each entry `[n]` where the weight has one dimension;
    with outer terms or a word, the singular values of Delta W `[m]`, descending (`principal_factors`).
    """

    d: npt.NDArray[np.float64]
    shape: tuple[int, ...]

    @property
    def energy(self) -> float:
        """`||Delta W||_F^2`."""
        return float(self.d @ self.d)


@dataclass(frozen=True)
class LeftOut:
    """Weights whose change another format cannot hold, and `||Delta W||` of theirs by that of the whole shift: the
    relative error that leaving them out makes.
    """

    why: str
    weights: int
    error: float


class ShiftedBase:
    """The base that a shift was trained on, from its files (`weights`), in the dtype that it was trained in.

    Args:
        label: how messages call the shift.
        remedy: what messages tell to do about another base; by default what holds for writing another format.

    Raises:
        BaseError: the base is missing or damaged.
        MismatchError: the shift was trained on another base, or on the original of which this is a rounded copy.
    """

    def __init__(
        self,
        shift: SpectralShift,
        base: str | BaseLocation,
        components: Sequence[str] = (),
        *,
        variant: str | None = None,
        label: str = "given",
        remedy: str = "",
        cache: SpectrumCache | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self.weights = base_weights(base, components, variant=variant, dtype=shift.metadata.base_dtype)
        self._parts = {name: WeightShift.of(shift, name) for name in shift}
        self._cache, self._progress = cache or default_cache(), progress
        [check] = check_fingerprints([(label, shift)], self.weights, progress)
        original = f"give the original ({shift.metadata.base}), and what is written will do for the copy too"
        check.require_base(remedy or "give that base, or carry the shift over to this one (spectra transplant)")
        check.require_original(remedy or original)

    def visit(self, use: Visitor[T], label: str, names: Collection[str] | None = None) -> dict[str, T]:
        """What `use` makes of each weight that the shift changes, or of those named, by name; called in threads."""
        parts = self._parts if names is None else {name: self._parts[name] for name in names}
        return visit_parts(self.weights, parts, use, label, cache=self._cache, progress=self._progress)

    def changes(self, names: Collection[str] | None = None) -> dict[str, WeightChange]:
        """What the shift does to each of its weights, or to those named, by name."""

        def measure(part: WeightShift, weight: Tensor, spectrum: AnySpectrum | None) -> WeightChange:
            if part.is_diagonal:
                d = part.singular_value_change(spectrum)
            else:
                _, d, _ = principal_factors(*part.factors(weight, spectrum))
            return WeightChange(d.numpy(), tuple(weight.shape))

        return self.visit(measure, "measuring", names)


def check_fingerprints(
    shifts: Sequence[tuple[str, SpectralShift]], weights: FileWeights, progress: Progress
) -> list[BaseCheck]:
    """Compare the weights of a base, each read once, with the ones that labelled shifts were trained on.

    Raises:
        MismatchError: a weight that the base lacks, or of another length, or whose outer terms or words do not fit.
    """
    shapes = {name: weights.shape(name) for name in weights}
    for label, shift in shifts:
        check_weights(shift, label, shapes)
    names = sorted({name for _, shift in shifts for name in shift})
    prints = {name: Fingerprints(weights, name, weights.dtype(name)) for name in names}
    with working(progress, "checking", len(prints)):
        for each in prints.values():
            each.digits()
            progress.advance()
    return [compare(shift, label, prints) for label, shift in shifts]


def file_metadata(metadata: ShiftMetadata) -> dict[str, str]:
    """What a file made of a shift says of that shift, for people."""
    facts = {
        "made_by": f"spectra {__version__}",
        "spectra_base": metadata.base,
        "spectra_shift": metadata.content_hash,
    }
    return {"format": "pt"} | {key: value for key, value in facts.items() if value}


def write_rounded(stored: StoredTensor, exact: Tensor, name: str, spans: Spans = ()) -> Tensor:
    """Write a tensor rounded to the dtype of its file; returns the rounded one, in the dtype of `exact`.

    Args:
        spans: the rows of the stored one that it is, if not all.

    Raises a FormatError, which calls it `name`, for a value that the file's dtype cannot hold.
    """
    rounded = rounded_to(stored.dtype, exact, name)
    write_rows(stored, rounded, spans)
    return rounded.to(exact)


def rounded_to(dtype: str, exact: Tensor, name: str) -> Tensor:
    """A tensor in the dtype of a file; raises a FormatError, which calls it `name`, for a value that does not fit."""
    rounded = exact.to(torch_dtype(dtype))
    if not torch.isfinite(rounded).all():
        raise FormatError(f"{name}: its values do not fit into {dtype}; write float32")
    return rounded
