"""Writes a shift as full differences, `Delta W` of every weight: what a LoRA cannot hold is in it too.

ComfyUI, A1111 and LyCORIS add `<module>.diff` to a weight, `<module>.w_norm` to a norm's scale. No name is read by all
three, so a norm, which is small, stands under several, and what only ComfyUI takes under its own name:

    weights of two or more dimensions     kohya's name
    norms                                 kohya's name, A1111's where that is another, and ComfyUI's in a text encoder
    embeddings, norms without a bias      ComfyUI's name alone: LyCORIS reads no file that has others
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from spectra.convert.lora.keys import base_metadata
from spectra.convert.module_names import a1111_text_norm, comfyui_text_name, is_embedding, kohya_places, peft_name
from spectra.convert.projection import AnySpectrum
from spectra.convert.shifted_base import ShiftedBase, StoredDtype, file_metadata, write_rounded
from spectra.convert.weight_change import WeightShift
from spectra.errors import FormatError
from spectra.io.atomic_writes import atomic_write, check_output
from spectra.io.tensor_files import create_file
from spectra.naming.original_names import OriginalPlace, Shapes, architecture, original_places
from spectra.naming.target_subsets import component_of, path_of
from spectra.progress import SILENT, Progress
from spectra.shift.shift import SpectralShift
from spectra.spectrum.cache.spectrum_cache import SpectrumCache

_NORM = ".w_norm"


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
    keys = _Keys(shifted.weights.shapes())
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, each in changes.items():
        for key, place in keys.of(name).items():
            tensors[key] = (dtype, (keys.rows(place), *each.shape[1:]))
            if key.endswith(_NORM):  # A1111 takes a norm only with the difference of its bias; the new file is zeros
                tensors[key.removesuffix(_NORM) + ".b_norm"] = (dtype, each.shape)
    metadata = {**base_metadata(shifted.weights.shapes()), **file_metadata(shift.metadata)}
    with atomic_write(path, force=force) as temporary:
        entries = create_file(temporary, tensors, metadata)

        def write(part: WeightShift, weight: Tensor, spectrum: AnySpectrum | None) -> float:
            exact = part.change(weight, spectrum)
            for key, place in keys.of(part.name).items():
                rounded = write_rounded(entries[key], exact, part.name, place.spans)
            return float((rounded - exact).norm()) ** 2

        lost = shifted.visit(write, "writing", changes)
        size = temporary.stat().st_size
    total = sum(each.energy for each in changes.values())
    return WrittenDifference(size, len(changes), math.sqrt(sum(lost.values()) / total))


class _Keys:
    """The keys of each weight of a base, each with its module's rows that are the weight's."""

    def __init__(self, shapes: Shapes) -> None:
        self._shapes, self._known = shapes, architecture(shapes)
        self._kohya, self._originals = kohya_places(shapes), original_places(shapes)
        self._rows: dict[str, int] = {}
        for place in self._kohya.values():
            self._rows[place.module] = max(self._rows.get(place.module, 0), place.stop)

    def of(self, name: str) -> dict[str, OriginalPlace]:
        """The keys of one weight."""
        kohya = self._kohya[name]
        whole = OriginalPlace("", 0, self._shapes[name][0])
        if len(self._shapes[name]) > 1 and not is_embedding(name):
            return {f"{kohya.module}.diff": kohya}
        generic = comfyui_text_name(name, self._known)
        if is_embedding(name):
            return {f"{generic or kohya.module}.diff": whole}
        if component_of(name) == "transformer" or generic.startswith("text_encoders.t5xxl"):
            return {f"{generic or peft_name(name)}.diff": whole}  # norms without a bias
        other = {f"{generic}.diff": whole} if generic else {}
        return other | {f"{module}{_NORM}": whole for module in (kohya.module, self._a1111(name)) if module}

    def rows(self, place: OriginalPlace) -> int:
        """How many rows a module has, of which a weight is at a place."""
        return self._rows.get(place.module, place.stop)

    def _a1111(self, name: str) -> str:
        """A1111's name of a norm where it does not know kohya's."""
        component, path = component_of(name), path_of(name)
        if component == "unet":
            original = self._originals.get(name)
            return f"lora_unet_{original.module}".replace(".", "_") if original and path == "conv_norm_out" else ""
        return a1111_text_norm(component, path, self._known)
