"""Whether shift files are what they say, and whether they fit a base.

Only the comparison with a base reads weights, and needs torch.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spectra.analysis.clipping import warn_of_clipping
from spectra.analysis.library import scan
from spectra.analysis.weight_changes import known_sigmas
from spectra.bases.weight_files import base_weights
from spectra.compatibility.base_check import check_weights, compare
from spectra.compatibility.rounded_bases import EXPECTED_ERROR, Fingerprints
from spectra.errors import InputError, MismatchError, ShiftFileError
from spectra.progress import SILENT, Progress, working
from spectra.shift.packing.arrays import stated_error
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift


@dataclass(frozen=True)
class Verdict:
    """What was found out about one file.

    Attributes:
        file: its path.
        ok: whether it is sound and, if a base was given, fits that.
        message: why, in one line.
        matches: how many of the base's weights are what to the shift's (`rounded_bases.BaseMatch`).
    """

    file: Path
    ok: bool
    message: str
    matches: Mapping[str, int]


def _shift_files(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The files given, and the shifts in the folders given, damaged ones too.

    Raises:
        InputError: a folder without a shift.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            found.append(path)
            continue
        library = scan([path])
        if not library.entries and not library.damaged:
            raise InputError(f"{path}: no shift file in this folder")
        found += sorted([*(entry.path for entry in library.entries), *library.damaged])
    return found


def verify(
    files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    base: str | None = None,
    *,
    variant: str | None = None,
    progress: Progress = SILENT,
) -> list[Verdict]:
    """Read every file whole: structure, finite values, content hash; then compare it with a base.

    Args:
        files: a shift file, or several, or folders with some.
        base: as `spectra.bases.pipeline.find_base` takes it; None compares with none.
        variant: of the base's files, such as "fp16".
        progress: told of each file.

    Returns:
        A verdict for each file.

    Raises:
        InputError: a folder without a shift.
        BaseError: the base cannot be read. What is wrong with a file is in its verdict.
    """
    chosen = _shift_files([files] if isinstance(files, (str, os.PathLike)) else files)
    weights = None if base is None else base_weights(base, variant=variant)
    prints = {name: Fingerprints(weights, name, weights.dtype(name)) for name in weights} if weights else {}
    shapes = {name: weights.shape(name) for name in weights} if weights else {}
    found = []
    with working(progress, "shifts", len(chosen)):
        for file in chosen:
            try:
                shift = read_shift(file)
            except ShiftFileError as error:
                found.append(Verdict(file, False, str(error).removeprefix(f"{file}: "), {}))
            else:
                warn_of_clipping(shift, file.name)
                found.append(_sound(file, shift) if base is None else _compare(file, shift, prints, shapes))
            progress.advance(1, file.name)
    return found


def _sound(file: Path, shift: SpectralShift) -> Verdict:
    error = stated_error(shift.metadata) if shift.precision == "packed" else None
    values = shift.precision if error is None else f"packed to {100 * error:g} %"
    return Verdict(file, True, f"sound: {len(shift)} weights, {_parts(shift)}{shift.floats:,} floats, {values}", {})


def _parts(shift: SpectralShift) -> str:
    """The outer terms and words of a shift, if it has some."""
    terms = sum(each.rank for each in shift.outer.values())
    words = dict.fromkeys(each.text for each in shift.words.values())
    told = [f"{terms:,} outer term{'s' * (terms > 1)}"] if terms else []
    return "".join(f"{each}, " for each in (*told, *(f"the word {text!r}" for text in words)))


def _compare(
    file: Path, shift: SpectralShift, prints: Mapping[str, Fingerprints], shapes: Mapping[str, Sequence[int]]
) -> Verdict:
    """Compare a shift with a base name by name, size by size, fingerprint by fingerprint."""
    metadata = shift.metadata
    try:
        check_weights(shift, file.stem, shapes)
    except MismatchError as error:
        return Verdict(file, False, str(error), {})
    check = compare(shift, file.stem, {name: prints[name] for name in shift})
    counts = Counter[str](check.matches.values())
    if check.wrong_base:
        return Verdict(file, False, check.wrong_base, counts)
    # What is the original once it is cast loses nothing: it is decomposed so when it is loaded. And where no singular
    # value is moved, no singular vectors are asked for.
    rounded = {name: match for name, match in check.matches.items() if match in (*EXPECTED_ERROR, "unknown")}
    matrices = [name for name in rounded if metadata.ndims.get(name) != 1 and shift[name].any()]
    known = known_sigmas(shift) if matrices else {}
    message = replace(check, matches=rounded).rounded_copy([name for name in matrices if name not in known])
    return Verdict(file, True, message or f"fits the base, all {len(shift)} weights, in {metadata.base_dtype}", counts)
