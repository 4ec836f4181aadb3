"""Whether shift files are what they say, and whether they fit a base.

Only the comparison with a base reads weights, and needs torch.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spectra.copies import EXPECTED_ERROR, Fingerprints
from spectra.errors import InputError, ShiftFileError
from spectra.fitting import floats_of
from spectra.library import scan
from spectra.packing.arrays import stated_error
from spectra.progress import SILENT, Progress
from spectra.shift import SpectralShift
from spectra.shift_file import read_shift


@dataclass(frozen=True)
class Verdict:
    """What was found out about one file.

    Attributes:
        file: its path.
        ok: whether it is sound and, if a base was given, fits that.
        said: why, in one line.
        kinships: how many of its weights are to the base's as `copies.Kinship` says; "missing" and "length" too.
    """

    file: Path
    ok: bool
    said: str
    kinships: Mapping[str, int]


def shift_files(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The files given, and the shifts in the folders given, damaged ones too.

    Raises:
        InputError: a folder without a shift.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            library = scan([path])
            shifts = sorted([*(entry.path for entry in library.entries), *library.damaged])
            if not shifts:
                raise InputError(f"{path}: no shift file in this folder")
            found += shifts
        else:
            found.append(path)
    return found


def verify(
    files: Sequence[Path],
    base: str | None = None,
    *,
    variant: str | None = None,
    progress: Progress = SILENT,
) -> list[Verdict]:
    """Read every file whole: structure, finite values, content hash; then compare it with a base.

    Args:
        files: shift files.
        base: as `spectra.pipeline.find_base` takes it; None compares with none.
        variant: of the base's files, such as "fp16".
        progress: told of each file.

    Raises:
        BaseError: the base cannot be read. What is wrong with a file is in its verdict.
    """
    weights = None if base is None else BaseFingerprints(base, variant)
    found = []
    progress.start("shifts", len(files))
    try:
        for file in files:
            try:
                shift = read_shift(file)
            except ShiftFileError as error:
                found.append(Verdict(file, False, str(error).removeprefix(f"{file}: "), {}))
            else:
                found.append(_sound(file, shift) if weights is None else _compare(file, shift, weights))
            progress.advance(1, file.name)
    finally:
        progress.finish()
    return found


class BaseFingerprints:
    """The fingerprints of a base's weights, from its files; each is computed once, when a shift asks for it.

    Args:
        base: as `spectra.pipeline.find_base` takes it.
        variant: of its files.
    """

    def __init__(self, base: str, variant: str | None = None) -> None:
        from spectra.weight_files import base_weights

        self.base = base
        self._weights = {name: part for part in base_weights(base, variant=variant).values() for name in part}
        self._known: dict[str, Fingerprints] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._weights

    def floats(self, name: str) -> int:
        """Length of a weight's delta."""
        return floats_of(self._weights[name].shape(name))

    def of(self, name: str) -> Fingerprints:
        """Those of one weight, as its file holds it and in other dtypes."""
        if name not in self._known:
            part = self._weights[name]
            self._known[name] = Fingerprints(lambda: part[name], part.dtype(name), name=name)
        return self._known[name]


def _sound(file: Path, shift: SpectralShift) -> Verdict:
    error = stated_error(shift.metadata) if shift.precision == "packed" else None
    values = shift.precision if error is None else f"packed to {100 * error:g} %"
    said = f"sound: {len(shift)} weights, {shift.floats:,} floats, {values}"
    return Verdict(file, True, said, {})


def _compare(file: Path, shift: SpectralShift, base: BaseFingerprints) -> Verdict:
    """Name by name, length by length, fingerprint by fingerprint."""
    metadata = shift.metadata
    found: Counter[str] = Counter()
    example: dict[str, str] = {}
    for name, delta in shift.items():
        if name not in base:
            kinship = "missing"
        elif base.floats(name) != delta.size:
            kinship = "length"
        else:
            kinship = base.of(name).kinship(metadata, name)
        found[kinship] += 1
        example.setdefault(kinship, name)
    told = {kinship: found[kinship] for kinship in sorted(found)}
    for kinship, what in (("missing", "are not there"), ("length", "have another length"), ("other", "differ")):
        if found[kinship]:
            said = (
                f"not of {base.base}: {found[kinship]} of its {len(shift)} weights {what}, such as {example[kinship]}; "
                f"it was trained on {metadata.base or 'an unnamed base'} in {metadata.base_dtype}"
            )
            return Verdict(file, False, said, told)
    copies = [dtype for dtype in ("bfloat16", "float16") if found[dtype]]
    if not copies:
        return Verdict(file, True, f"fits {base.base} in {metadata.base_dtype}, all {len(shift)} weights", told)
    said = (
        f"fits, but {base.base} is a copy of its base rounded to {copies[0]}: Delta W changes by about "
        f"{EXPECTED_ERROR[copies[0]]}, unless the spectra of the {metadata.base_dtype} original are in the cache"
    )
    return Verdict(file, True, said, told)
