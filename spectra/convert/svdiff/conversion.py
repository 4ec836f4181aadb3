"""Shifts of other implementations of SVDiff, to and from ours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spectra.bases.embedded import NAME
from spectra.bases.weight_files import base_weights
from spectra.compatibility.rounded_bases import Fingerprints
from spectra.convert.file_kinds import SVDIFF_FILES
from spectra.convert.module_names import peft_name
from spectra.convert.svdiff.basis_change import (
    Carried,
    Reshape,
    from_foreign,
    norm_from_foreign,
    norm_to_foreign,
    plain_basis,
    to_foreign,
)
from spectra.convert.svdiff.files import ADDED_NORMS, read_svdiff, reshape_of
from spectra.convert.weight_changes import LeftOut, visit_shifted
from spectra.errors import FormatError
from spectra.io.atomic_writes import atomic_folder, check_output
from spectra.naming.patterns import component_of, path_of
from spectra.progress import SILENT, Progress
from spectra.shift.metadata import FINGERPRINT_DIGITS, ROUNDED, ShiftMetadata
from spectra.shift.shift import SpectralShift
from spectra.spectrum.cache.spectrum_cache import SpectrumCache, default_cache
from spectra.spectrum.spectrum import Spectrum
from spectra.version import versions


@dataclass(frozen=True)
class Fit:
    """How well a shift was carried over.

    Attributes:
        layout: of the foreign file.
        reshape: of its convolutions.
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
        paths: the files, of svdiff-pytorch, diffusers' PR 3107, dome272, phymhan or svdiff-kohya.
        base: that it was trained on, as `load_pipeline` takes it.
        components: of the base; all by default. One is to be named where a file's keys fit two.
        variant: of the base's weight files.
        allow_pickle: see `read_svdiff`.

    Raises:
        FormatError: see `read_svdiff` and `reshape_of`.
        BaseError: the base is missing or damaged.
    """
    cache = cache or default_cache()
    weights = base_weights(base, components, variant=variant, dtype="float32")
    foreign = read_svdiff(paths, weights, allow_pickle=allow_pickle)
    shapes = {name: weights.shape(name) for name in foreign.deltas}
    reshape, telling = reshape_of(foreign, shapes)

    def one(name: str, weight: Tensor, spectrum: Spectrum | None) -> tuple[str, dict[str, str], Carried]:
        delta, prints = foreign.deltas[name], Fingerprints.of(weight, name, spectrum)
        if spectrum is not None:
            carried = from_foreign(delta, plain_basis(weight, reshape), weight, spectrum)
        elif foreign.layout in ADDED_NORMS:
            carried = Carried(delta, float(delta.norm()) ** 2, 0.0)
        else:
            carried = norm_from_foreign(delta, plain_basis(weight))
        return prints.digits()[:FINGERPRINT_DIGITS], prints.rounded(), carried

    found = cache.visit(weights.only(foreign.deltas.__contains__), one, "carrying over", progress)
    carried = {name: each for name, (_, _, each) in found.items()}
    error, worst = _errors(carried)
    metadata = ShiftMetadata(
        base=base or NAME,
        fingerprints={name: digits for name, (digits, _, _) in found.items()},
        rounded={dtype: {name: rounded[dtype] for name, (_, rounded, _) in found.items()} for dtype in ROUNDED},
        base_dtype="float32",
        ndims={name: len(shape) for name, shape in shapes.items()},
        versions=versions(),
        recipe={"method": "convert", "from": foreign.layout, "reshape": reshape, "error": float(f"{error:.3g}")},
    )
    shift = SpectralShift({name: each.delta.numpy() for name, each in carried.items()}, metadata)
    return shift, Fit(foreign.layout, reshape, telling, error, worst, beside=foreign.beside)


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
        folder: to write.
        base: that it was trained on.
        variant: of the base's weight files.
        force: replace a folder that exists.

    Raises:
        FormatError: a component that svdiff-pytorch does not know.
        MismatchError: the shift was trained on another base.
        OutputError: the folder exists and `force` is not given, or cannot be written.
    """
    check_output(folder, force=force)
    strangers = sorted({component_of(name) for name in shift} - SVDIFF_FILES.keys())
    if strangers:
        raise FormatError(
            f"svdiff-pytorch has shifts of {' and '.join(SVDIFF_FILES)} only, this one has {', '.join(strangers)} too; "
            "write a LoRA, or full differences"
        )
    weights = base_weights(base, variant=variant, dtype=shift.metadata.base_dtype)

    def one(name: str, weight: Tensor, spectrum: Spectrum | None) -> Carried:
        delta = torch.from_numpy(shift[name].copy())
        theirs = plain_basis(weight)
        if spectrum is None:
            return norm_to_foreign(delta, theirs)
        return to_foreign(delta, weight, spectrum, theirs)

    carried = visit_shifted(shift, weights, one, "carrying over", cache or default_cache(), progress)
    _write_folder(folder, carried, force)
    norms = {name: each for name, each in carried.items() if len(weights.shape(name)) == 1}
    lost = sum(each.lost for each in norms.values()) / (sum(each.energy for each in carried.values()) or 1.0)
    error, worst = _errors({name: each for name, each in carried.items() if name not in norms})
    left_out = (LeftOut("norms, each now one factor times its vector", len(norms), lost),) if norms else ()
    return Fit("svdiff-pytorch", "first-dim", len(carried), error, worst, left_out)


def _write_folder(folder: str | Path, carried: Mapping[str, Carried], force: bool) -> None:
    from safetensors.numpy import save_file

    with atomic_folder(folder, force=force) as temporary:
        for component, file in SVDIFF_FILES.items():
            tensors = {
                f"{path_of(peft_name(name))}.delta": np.ascontiguousarray(each.delta.numpy())
                for name, each in carried.items()
                if component_of(name) == component
            }
            if tensors:
                save_file(tensors, temporary / file)


def _errors(carried: Mapping[str, Carried]) -> tuple[float, tuple[str, float]]:
    """The relative error of all weights together, and the weight that has the largest with its own."""
    if not carried:
        return 0.0, ("", 0.0)
    total = sum(each.energy for each in carried.values())
    own = {name: math.sqrt(each.lost / each.energy) if each.energy else 0.0 for name, each in carried.items()}
    worst = max(own, key=lambda name: own[name])
    overall = math.sqrt(sum(each.lost for each in carried.values()) / total) if total else 0.0
    return overall, (worst, own[worst])
