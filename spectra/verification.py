"""Whether shift files are what they say, and whether they fit a base.

Only the comparison with a base reads weights, and needs torch.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.errors import InputError, ShiftFileError
from spectra.progress import SILENT, Progress
from spectra.shift import SpectralShift
from spectra.shift_file import read_shift

if TYPE_CHECKING:
    from spectra.copies import Fingerprints


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
    """The files given, and the safetensors files of the folders given, sorted within each.

    Raises:
        InputError: a folder without such a file.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
        if not files:
            raise InputError(f"{path}: no .safetensors file in this folder")
        found += files
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


class BaseFingerprints(Mapping[str, "Fingerprints"]):
    """The fingerprints of a base's weights, from its files, by the names that shifts give them.

    Each is computed once, when the first shift that acts on the weight is compared.
    """

    def __init__(self, base: str, variant: str | None = None) -> None:
        from spectra.bindings import dtype_name
        from spectra.copies import Fingerprints
        from spectra.weight_files import base_weights

        self.base = base or "the embedded base"
        self._parts = base_weights(base, variant=variant)
        self._known: dict[str, Fingerprints] = {}
        self._lengths: dict[str, int] = {}
