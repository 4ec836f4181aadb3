"""Every reader of files of strangers, as a function of a path: it returns, or raises an error of ours."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from hostile import seeds
from spectra.analysis.library import read_entry
from spectra.bases.missing_packages import missing_package
from spectra.bases.pipeline import find_base
from spectra.bases.shapes import base_shapes
from spectra.bases.weight_files import base_weights
from spectra.combine.merging.recipe import find_parents, read_recipe
from spectra.convert.file_kinds import file_kind, header_of, holds_embedding
from spectra.convert.lora.reading import read_lora
from spectra.convert.svdiff.files import read_svdiff, reshape_of
from spectra.errors import SpectraError
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import read_shift
from spectra.shift.shift_header import read_shift_header
from spectra.shift.shift_stream import file_order, open_stream
from spectra.spectrum.cache.entry import FULL
from spectra.spectrum.cache.entry_file import DamagedEntryError, EntryKind, read_arrays
from spectra.spectrum.cache.leading_entry import LEADING
from spectra.training.config import read_config
from spectra.training.data.reading import read_with_alpha
from spectra.training.run.concepts import read_concepts

_Errors = (SpectraError, DamagedEntryError)


class Reader(NamedTuple):
    """A reader: what its files end in, inputs that it understands, and the function."""

    suffix: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], None]


def _all(*reads: Callable[[Path], object]) -> Callable[[Path], None]:
    """Several that read the same file, each of which may refuse it; the last refusal is raised."""

    def read(path: Path) -> None:
        refused: Exception | None = None
        for each in reads:
            try:
                each(path)
            except _Errors as error:
                refused = error
        if refused is not None:
            raise refused

    return read


def _stream(path: Path) -> None:
    _, stream = open_stream(path, {})
    if not isinstance(stream, SpectralShift):
        for _ in stream.read(file_order(stream.layout.lengths if hasattr(stream.layout, "lengths") else stream.layout)):
            pass
        stream.finish()


def _lora(path: Path) -> None:
    changes = read_lora(path, seeds.SHAPES)
    for name in changes:
        changes[name]
        if changes.is_pairs(name):
            changes.pairs(name, seeds.weight(name))


def _svdiff(path: Path) -> None:
    foreign = read_svdiff([path], seeds.SHAPES, allow_pickle=True)
    reshape_of(foreign, seeds.SHAPES)


def _entry(kind: EntryKind) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        read_arrays(kind, path, *kind.dtypes)

    return read


def _base_file(path: Path) -> None:
    weights = base_weights(str(path))
    for name in weights:
        weights[name]


def _index(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "unet").mkdir()
        (place / "model_index.json").write_bytes(path.read_bytes())
        (place / "unet" / "config.json").write_bytes(path.read_bytes())
        missing_package(place / "model_index.json")
        base_shapes(find_base(str(place)))


def _recipe(path: Path) -> None:
    find_parents(read_recipe(path), [])


READERS: Mapping[str, Reader] = {
    "shift": Reader(".safetensors", seeds.shifts, _all(read_entry, read_shift_header, _stream, read_shift)),
    "packed": Reader(".safetensors", seeds.packed, _all(read_entry, read_shift_header, _stream, read_shift)),
    "lora": Reader(".safetensors", seeds.loras, _all(file_kind, _lora)),
    "svdiff": Reader(".safetensors", seeds.svdiffs, _all(file_kind, _svdiff)),
    "embedding": Reader(
        ".safetensors", seeds.embeddings, _all(file_kind, lambda path: holds_embedding(header_of(path)))
    ),
    "pickle": Reader(".pt", seeds.pickles, _svdiff),
    "recipe": Reader(".toml", seeds.recipes, _recipe),
    "settings": Reader(".toml", seeds.settings, lambda path: (read_config(path), None)[1]),
    "concepts": Reader(".toml", seeds.concepts, lambda path: (read_concepts(path), None)[1]),
    "cache": Reader(".safetensors", seeds.entries, _all(_entry(FULL), _entry(LEADING))),
    "base": Reader(".safetensors", seeds.base_files, _base_file),
    "index": Reader(".json", seeds.indices, _index),
    "picture": Reader(".png", seeds.pictures, lambda path: (read_with_alpha(path), None)[1]),
}
