"""The plain model with shifts folded in: a copy of a base's files, its shifted weights overwritten in place.

Everything else of a file stays byte for byte: keys, order, metadata, dtypes, biases. A few weights at a time are in
memory.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from spectra.analysis.clipping import warn_of_clipping
from spectra.bases.original_layouts import Place, averaged_copies
from spectra.bases.pipeline import find_base, local_folder
from spectra.bases.prediction import AUTO, mark_prediction
from spectra.bases.weight_files import FileWeights, base_tensors
from spectra.convert.projection import AnySpectrum
from spectra.convert.shifted_base import check_fingerprints
from spectra.convert.weight_change import WeightShift, known_spectrum, spectrum_for
from spectra.errors import InputError, OutputError, RoundedCopyWarning
from spectra.io.atomic_writes import atomic_folder, atomic_write, check_output, copy_folder
from spectra.io.own_folders import LISTING
from spectra.io.tensor_files import stored_tensors
from spectra.naming.target_subsets import component_of
from spectra.progress import SILENT, Progress
from spectra.shift.shift import SpectralShift, combine
from spectra.spectrum.cache.spectrum_cache import SpectrumCache, default_cache
from spectra.spectrum.cache.workers import for_each

KIND = "spectra bake"
_WEIGHT_FILES = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".h5", ".onnx", ".onnx_data", ".pb")


@dataclass(frozen=True)
class NamedShift:
    """A shift to fold in, times its scale; messages call it by its name."""

    name: str
    shift: SpectralShift
    scale: float = 1.0


@dataclass(frozen=True)
class Baked:
    """What was written: so many shifted weights, in these dtypes.

    Attributes:
        rounding: `||stored - exact|| / ||Delta W||` over all weights, which their dtype costs.
        averages: so many of the weights have a moving average (EMA) in the file, which got the same change.
        left_out: files of the base that were not copied, since they hold its weights unshifted.
    """

    weights: int
    dtypes: tuple[str, ...]
    rounding: float
    averages: int
    left_out: tuple[str, ...]


def bake(
    base: str,
    shifts: SpectralShift | Sequence[NamedShift],
    out: Path | str,
    *,
    variant: str | None = None,
    prediction_type: str = AUTO,
    force: bool = False,
    cache: SpectrumCache | None = None,
    progress: Progress = SILENT,
) -> Baked:
    """Write a base with shifts folded in: `U diag(ReLU(sigma + sum of scale * delta)) V^T` in the base's own dtype.

    The weights are those that `spectra.load` and `spectra.activate` would put in force, with outer terms and the
    vectors of special words, rounded once to the dtype of the file; fp8 with a scale keeps its scale. Moving averages
    (`model_ema.*`) of shifted weights in a single file get the same change.

    Args:
        base: as `find_base` takes it.
        shifts: one as it is, or several with their names and scales; all of this base.
        out: the folder to write, or, of a single-file base, the file.
        variant: of the weight files to read and to write, such as "fp16".
        prediction_type: that the output says of its model; by default what the base says.
        force: replace an earlier output.

    Raises:
        InputError: no shift.
        MismatchError: a shift of another base, or with weights that the base lacks.
        BaseError: the base is missing or damaged.
        OutputError: `out` exists, is a folder of other files, lies inside the base, or cannot be written.
    """
    shifts = [NamedShift("given", shifts)] if isinstance(shifts, SpectralShift) else shifts
    if not shifts:
        raise InputError("nothing to fold in: expected at least one shift")
    location, out = find_base(base), Path(out)
    root = Path(location.target) if location.kind == "file" else local_folder(location, variant)
    _check_output(root, out, force)
    total = combine([(each.scale, each.shift) for each in shifts])
    named = " + ".join(each.name for each in shifts)
    parts = {name: WeightShift.of(total, name) for name in total}
    components = sorted({component_of(name) for name in parts})
    tensors = base_tensors(location, components, variant=variant, dtype=shifts[0].shift.metadata.base_dtype)
    left_out = _other_weight_files(root, {places[0].stored.path for places in tensors.places.values()})
    weights, cache = tensors.weights(), cache or default_cache()
    originals = _check_base(shifts, weights, cache, progress)
    shifted = weights.only(parts.__contains__)
    averages = averaged_copies(stored_tensors(root)) if root.is_file() else {}
    with _copied(root, left_out, out, force) as copy:

        def write(name: str) -> tuple[float, float]:
            """Overwrite a weight in the copy; returns the squared norms of the rounding and of the change."""
            weight, part = shifted[name], parts[name]
            exact = part.applied(weight, originals.get(name) or spectrum_for(name, weight, part.directions, cache))
            lost = 0.0
            for place in shifted.places[name]:
                rounded = place.rounded(exact)
                place.write(rounded, copy / place.stored.path.relative_to(root))
                lost = float((rounded.to(exact.dtype) - exact).norm())
                if place.stored.key in averages:
                    _change_average(replace(place, stored=averages[place.stored.key]), weight, exact, copy)
            return lost**2, float((exact - weight.to(exact.dtype)).norm()) ** 2

        errors = for_each(shifted, write, "baking", progress)
        if prediction_type != AUTO:
            mark_prediction(copy, prediction_type)
    warn_of_clipping(total, named, cache=cache)
    norms = torch.tensor(list(errors.values()), dtype=torch.float64).sum(0)
    return Baked(
        weights=len(shifted),
        dtypes=tuple(sorted({place.stored.dtype for places in shifted.places.values() for place in places})),
        rounding=float((norms[0] / norms[1]).sqrt()) if norms[1] else 0.0,
        averages=sum(place.stored.key in averages for places in shifted.places.values() for place in places),
        left_out=tuple(sorted(str(path.relative_to(root)) for path in left_out)),
    )


def _change_average(average: Place, weight: Tensor, exact: Tensor, copy: Path) -> None:
    """Overwrite the moving average of a weight in a copy of its file with what the weight's change makes of it."""
    mean = average.read().to(exact.dtype)
    wide = weight.to(exact.dtype)
    average.write(average.rounded(exact if torch.equal(mean, wide) else mean + (exact - wide)), copy)


def _check_base(
    shifts: Sequence[NamedShift], weights: FileWeights, cache: SpectrumCache, progress: Progress
) -> dict[str, AnySpectrum]:
    """Refuse shifts of another base; of a rounded copy, return the originals' spectra that the cache knows, by name."""
    originals: dict[str, AnySpectrum] = {}
    checks = check_fingerprints([(each.name, each.shift) for each in shifts], weights, progress)
    for each, check in zip(shifts, checks, strict=True):
        check.require_base("bake it into that base, or carry it over to this one (spectra transplant)")
        wanted = {
            name: WeightShift.of(each.shift, name).directions
            for name, match in check.matches.items()
            if match != "same" and len(weights.shape(name)) > 1
        }
        rounded = {name: directions for name, directions in wanted.items() if directions}
        for name, directions in rounded.items():
            found = known_spectrum(each.shift.metadata.fingerprints[name], weights.shape(name), directions, cache)
            if found is not None:
                originals[name] = found
        stored = weights.places[next(iter(each.shift))][0].stored.dtype
        message = replace(check, dtype=stored).rounded_copy(rounded.keys() - originals.keys())
        if message:
            warnings.warn(message, RoundedCopyWarning, stacklevel=3)
    return originals


def _check_output(root: Path, out: Path, force: bool) -> None:
    target, source = out.resolve(), root.resolve()
    if target.is_relative_to(source) or (root.is_dir() and source.is_relative_to(target)):
        raise OutputError(f"cannot write {out}: the base is there ({root}); choose another place")
    if root.is_file() and out.suffix != ".safetensors":
        raise OutputError(f"cannot write {out}: the base is a single file, so name a .safetensors file")
    check_output(out, force=force, folder_of=KIND if root.is_dir() else "")


def _other_weight_files(root: Path, read: Collection[Path]) -> set[Path]:
    """The weight files of a base beside those that are read, none of a base that is a single file."""
    folders = {root, *(file.parent for file in read)} if root.is_dir() else ()
    files = (path for folder in folders for path in folder.iterdir())
    return {path for path in files if path.suffix in _WEIGHT_FILES and path not in read}


@contextmanager
def _copied(root: Path, left_out: Collection[Path], out: Path, force: bool) -> Iterator[Path]:
    """A copy of the base's folder or file without the files `left_out`; it becomes `out` when the block ends."""
    if root.is_file():
        with atomic_write(out, force=force) as temporary:
            shutil.copyfile(root, temporary)
            yield temporary
        return
    with atomic_folder(out, KIND, force=force) as temporary:
        copy_folder(root, temporary, wanted=lambda path: path not in left_out and path.name != LISTING)
        yield temporary
