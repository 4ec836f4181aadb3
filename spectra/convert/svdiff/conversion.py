"""Shifts of other implementations of SVDiff, to and from ours."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from spectra.bases.embedded import NAME
from spectra.bases.weight_files import base_weights
from spectra.convert.closest_shift import Captured, ClosestPart, shift_of_parts, summed
from spectra.convert.file_kinds import SVDIFF_FILES
from spectra.convert.module_names import peft_name
from spectra.convert.projection import AnySpectrum
from spectra.convert.shifted_base import LeftOut, ShiftedBase
from spectra.convert.svdiff.basis_change import PlainBasis, Reshape, from_foreign, to_foreign
from spectra.convert.svdiff.files import ADDED_NORMS, read_svdiff, reshape_of
from spectra.convert.weight_change import WeightShift
from spectra.errors import FormatError
from spectra.io.atomic_writes import atomic_folder, check_output
from spectra.io.tensor_files import save_tensors
from spectra.naming.target_subsets import component_of, path_of
from spectra.progress import SILENT, Progress
from spectra.shift.shift import SpectralShift
from spectra.spectrum.cache.spectrum_cache import SpectrumCache, default_cache
from spectra.spectrum.spectrum import Spectrum

KIND = "spectra convert --to svdiff-pytorch"


@dataclass(frozen=True)
class Fit:
    """How well a shift was carried over.

    Attributes:
        layout: of the foreign file, a name of `SVDIFF_SUFFIXES`.
        reshape: how its convolutions became matrices.
        telling: how many of its vectors' lengths say so; where it is 0, its keys alone do.
        error: `||Delta W now - Delta W before|| / ||Delta W before||` over all weights, norms apart.
        worst: the weight with the largest error of its own, and that error.
        left_out: what of norms is lost, in a layout that has one factor for each.
        beside: what else the files hold, which is no part of a shift.
    """

    layout: str
    reshape: Reshape
    telling: int
    error: float
    worst: tuple[str, float]
    left_out: tuple[LeftOut, ...] = ()
    beside: Mapping[str, int] = field(default_factory=dict)


def import_svdiff(
    paths: Sequence[str | Path],
    *,
    base: str,
    components: Sequence[str] = (),
    variant: str | None = None,
    allow_pickle: bool = False,
    cache: SpectrumCache | None = None,
    progress: Progress = SILENT,
) -> tuple[SpectralShift, Fit]:
    """The shift of our layout that does what a foreign one does, for the base in float32.

    Its singular vectors are computed again as it was trained in them, so that this takes an SVD of every weight. It
    is exact but for vectors that float32 cannot tell apart; of svdiff-kohya's convolutions, whose matrices are
    others, it is the closest shift. `Fit` has the error.

    Args:
        paths: files of svdiff-pytorch, diffusers' PR 3107, dome272, phymhan or svdiff-kohya.
        base: that it was trained on, as `load_pipeline` takes it.
        components: of the base; all by default. One is to be named where a file's keys fit two.
        variant: of the base's weight files.
        allow_pickle: see `read_svdiff`.

    Raises:
        FormatError: see `read_svdiff` and `reshape_of`.
        BaseError: the base is missing or damaged.
    """
    weights = base_weights(base, components, variant=variant, dtype="float32")
    foreign = read_svdiff(paths, weights, allow_pickle=allow_pickle)
    reshape, telling = reshape_of(foreign, {name: weights.shape(name) for name in foreign.deltas})

    def carry(name: str, weight: Tensor, spectrum: Spectrum | None) -> ClosestPart:
        delta = foreign.deltas[name]
        if spectrum is None and foreign.layout in ADDED_NORMS:
            ours, captured = delta, Captured(name, float(delta.norm()) ** 2, 0.0)
        else:
            ours, captured = from_foreign(name, delta, PlainBasis.of(weight, reshape), weight, spectrum)
        return ClosestPart.of(weight, spectrum, ours, captured)

    cache = cache or default_cache()
    found = cache.visit(weights.only(foreign.deltas.__contains__), carry, "carrying over", progress)
    error, worst = _errors([each.captured for each in found.values()])
    recipe = {"method": "convert", "from": foreign.layout, "reshape": reshape, "error": float(f"{error:.3g}")}
    fit = Fit(foreign.layout, reshape, telling, error, worst, beside=foreign.beside)
    return shift_of_parts(found, base=base or NAME, base_dtype="float32", recipe=recipe), fit


def export_svdiff(
    shift: SpectralShift,
    folder: str | Path,
    *,
    base: str = "",
    variant: str | None = None,
    force: bool = False,
    cache: SpectrumCache | None = None,
    progress: Progress = SILENT,
) -> Fit:
    """Write a shift as svdiff-pytorch 0.2.0 and diffusers' PR 3107 read it: a folder of one file for each component.

    A norm has one factor for all of its vector there, so of a norm's delta only the part along the norm is kept.

    Args:
        shift: of a UNet, a text encoder, or both.
        base: that it was trained on.
        variant: of the base's weight files.
        force: replace a folder that exists.

    Raises:
        FormatError: a component that svdiff-pytorch does not know, outer terms, or a word's vectors.
        MismatchError: the shift was trained on another base.
        OutputError: the folder exists and `force` is not given, holds other files, or cannot be written.
    """
    check_output(folder, force=force, folder_of=KIND)
    strangers = sorted({component_of(name) for name in shift} - SVDIFF_FILES.keys())
    if strangers:
        raise FormatError(
            f"svdiff-pytorch has shifts of {' and '.join(SVDIFF_FILES)} only, this one has {', '.join(strangers)} too; "
            "write a LoRA, or full differences"
        )
    if beside := [*shift.outer, *shift.words]:
        raise FormatError(
            f"svdiff-pytorch has deltas only, this shift has outer terms or a word's vectors for {len(beside)} weights "
            f"too, such as {beside[0]}; write a LoRA, or bake it (spectra bake)"
        )
    shifted = ShiftedBase(shift, base, variant=variant, cache=cache, progress=progress)

    def carry(part: WeightShift, weight: Tensor, spectrum: AnySpectrum | None) -> tuple[Tensor, Captured]:
        return to_foreign(part, PlainBasis.of(weight), weight, spectrum)

    found = shifted.visit(carry, "carrying over")
    _write_folder(folder, {name: delta for name, (delta, _) in found.items()}, force)
    norms, matrices = (
        [captured for name, (_, captured) in found.items() if (len(shifted.weights.shape(name)) == 1) is norm]
        for norm in (True, False)
    )
    error, worst = _errors(matrices)
    lost = math.sqrt(summed("norms", norms).rest / (summed("all", norms + matrices).change or 1.0))
    left_out = (LeftOut("norms, each now one factor times its vector", len(norms), lost),) if norms else ()
    return Fit("svdiff-pytorch", "first-dim", len(found), error, worst, left_out)


def _write_folder(folder: str | Path, deltas: Mapping[str, Tensor], force: bool) -> None:
    with atomic_folder(folder, KIND, force=force) as temporary:
        for component, file in SVDIFF_FILES.items():
            tensors = {
                f"{path_of(peft_name(name))}.delta": delta
                for name, delta in deltas.items()
                if component_of(name) == component
            }
            if tensors:
                save_tensors(temporary / file, tensors, {})


def _errors(captured: Collection[Captured]) -> tuple[float, tuple[str, float]]:
    """The relative error of all weights together, and the weight that has the largest with its own."""
    worst = max(captured, key=lambda each: each.error, default=Captured("", 0.0, 0.0))
    return summed("all", captured).error, (worst.name, worst.error)
