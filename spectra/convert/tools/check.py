"""What each tool makes of a file of changes, against the shift that it was made of, or against what the file means."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from spectra.bases.weight_files import FileWeights, base_tensors
from spectra.convert.file_kinds import header_of
from spectra.convert.lora.reading import ChangeFile, read_lora
from spectra.convert.projection import AnySpectrum
from spectra.convert.shifted_base import ShiftedBase
from spectra.convert.tools import a1111, comfyui, kohya, lycoris
from spectra.convert.tools.installed import read_by_diffusers, read_by_peft
from spectra.convert.tools.reading import Base, ExportedFile, Reading
from spectra.convert.weight_change import WeightShift
from spectra.errors import FormatError
from spectra.io.safetensors_header import StoredTensor
from spectra.naming.target_subsets import component_of
from spectra.progress import SILENT, Progress
from spectra.shift.shift import SpectralShift
from spectra.spectrum.cache.spectrum_cache import SpectrumCache
from spectra.spectrum.cache.workers import for_each

Tool: TypeAlias = Literal["diffusers", "peft", "kohya", "lycoris", "comfyui", "a1111"]

TOOLS: tuple[Tool, ...] = get_args(Tool)

_READERS: Mapping[Tool, Callable[[ExportedFile, Base], Reading]] = {
    "diffusers": read_by_diffusers,
    "peft": read_by_peft,
    "kohya": kohya.read,
    "lycoris": lycoris.read,
    "comfyui": comfyui.read,
    "a1111": a1111.read,
}

_AS_MEANT = 1e-4
"""A weight is read as it is meant if the tool's change is no farther from it than this part."""

_NOT_IN_FILE = "not in the file"


@dataclass(frozen=True)
class Ignored:
    """Keys that a tool passes over for one reason, and the part of `||Delta W||` that is lost with them alone."""

    why: str
    keys: int
    error: float
    example: str = ""


@dataclass(frozen=True)
class Checked:
    """What a tool makes of a file.

    Attributes:
        refusal: why it loads nothing of it, or empty.
        keys, loaded: how many keys the file has, and how many of them it loads.
        ignored: the others, by reason.
        weights: how many weights it changes.
        wrong: weights that it changes otherwise than the file means.
        error: `||what it adds - Delta W|| / ||Delta W||` over all weights of the shift, or of the file where no shift
            is given.
    """

    tool: Tool
    refusal: str
    keys: int
    loaded: int
    ignored: tuple[Ignored, ...]
    weights: int
    wrong: tuple[str, ...]
    error: float


def check_export(
    path: str | Path,
    tools: Sequence[Tool] = TOOLS,
    *,
    base: str = "",
    variant: str | None = None,
    shift: SpectralShift | None = None,
    cache: SpectrumCache | None = None,
    progress: Progress = SILENT,
) -> tuple[Checked, ...]:
    """What each of these tools would load of a LoRA or full-difference file, ignore, and get wrong, and the error.

    Args:
        path: a file of changes; or a folder of PEFT's, or one that has such a folder for each component.
        base: that it is for, as `load_pipeline` takes it.
        variant: of the base's weight files.
        shift: that the file was made of; by default the error is of what the file itself means.

    Raises:
        FormatError: no such file, or one that cannot be read here.
        BaseError: the base is missing or damaged.
        MismatchError: the shift was trained on another base.
    """
    tensors = base_tensors(base, variant=variant)
    weights = tensors.weights()
    biased = {name.removesuffix(".bias") for name in tensors if name.endswith(".bias")}
    files = [_file(each, weights, biased, component) for component, each in _files(Path(path), weights)]
    readings = {tool: [_read(tool, each) for each in files] for tool in tools}
    meant = {name: partial(each.meaning.change, name) for each in files for name in each.meaning}
    made = {tool: {n: c for reading in some for n, c in reading.changes.items()} for tool, some in readings.items()}

    def compare(name: str, goal: Tensor | None, weight: Tensor) -> _Squares:
        own = meant[name](weight).to(torch.float64) if name in meant else None
        exact = own if goal is None else goal.to(torch.float64)
        if exact is None:
            raise ValueError(f"{name} is neither in the file nor in the shift")
        zero = torch.zeros_like(exact)
        own = zero if own is None else own
        found = {}
        for tool in tools:
            change = made[tool][name]().to(torch.float64) if name in made[tool] else zero
            if change.shape != zero.shape:  # a name of another weight: the tool says so and leaves it
                change = zero
            found[tool] = (_square(change - exact), _square(change - own))
        return _Squares(_square(exact), _square(own), found)

    if shift is None:
        squares = for_each(meant, lambda name: compare(name, None, weights[name]), "checking", progress)
    else:
        shifted = ShiftedBase(shift, base, variant=variant, cache=cache, progress=progress)

        def visit(part: WeightShift, weight: Tensor, spectrum: AnySpectrum | None) -> _Squares:
            return compare(part.name, part.change(weight, spectrum), weight)

        squares = shifted.visit(visit, "checking")
        for name in meant.keys() - squares.keys():  # the file changes what the shift leaves
            squares[name] = compare(name, torch.zeros_like(meant[name](weights[name])), weights[name])
    return tuple(_checked(tool, files, readings[tool], set(made[tool]), squares) for tool in tools)


@dataclass(frozen=True)
class _Checkable:
    """A file with what it means, and the base that it is for: all of it, or one component."""

    exported: ExportedFile
    meaning: ChangeFile
    base: Base


@dataclass(frozen=True)
class _Squares:
    """Of one weight: `||Delta W||^2`, that of the file, and by tool what it is off from either."""

    goal: float
    own: float
    by_tool: Mapping[Tool, tuple[float, float]]


def _files(path: Path, weights: FileWeights) -> list[tuple[str, Path]]:
    """The files of changes at a path, each with the component that it is for, if it is for one alone."""
    if not path.is_dir():
        return [("", path)]
    parts = sorted({component_of(name) for name in weights})
    found = [(part, path / part / "adapter_model.safetensors") for part in parts]
    found = [(part, file) for part, file in found if file.is_file()]
    own = path / "adapter_model.safetensors"
    if not found and own.is_file() and len(parts) == 1:
        return [(parts[0], own)]
    if not found and own.is_file():
        return [("", own)]
    if not found:
        raise FormatError(f"{path}: no adapter_model.safetensors in it, or in a folder of a component; name a file")
    return found


def _file(path: Path, weights: FileWeights, biased: set[str], component: str) -> _Checkable:
    shapes = {n: shape for n, shape in weights.shapes().items() if not component or component_of(n) == component}
    header = header_of(path)
    return _Checkable(
        ExportedFile(path, header.tensors, header.metadata), read_lora(path, shapes), Base(shapes, biased)
    )


def _read(tool: Tool, file: _Checkable) -> Reading:
    reading = _READERS[tool](file.exported, file.base)
    if reading.refusal or reading.loaded or reading.ignored:
        return reading
    # A loader that was run tells no keys: they are those of the weights that it changes.
    loaded = {each.key for name in reading.changes if name in file.meaning for each in _keys(file.meaning, name)}
    ignored = dict.fromkeys(file.exported.tensors.keys() - loaded, "not loaded")
    return Reading(reading.changes, frozenset(loaded), ignored)


def _keys(meaning: ChangeFile, name: str) -> Sequence[StoredTensor]:
    return list(meaning.stored[name].parts.values())


def _checked(
    tool: Tool,
    files: Sequence[_Checkable],
    readings: Sequence[Reading],
    made: set[str],
    squares: Mapping[str, _Squares],
) -> Checked:
    total = sum(each.goal for each in squares.values()) or 1.0
    keys = sum(len(each.exported.tensors) for each in files)
    refusal = next((each.refusal for each in readings if each.refusal), "")
    wrong = [
        name for name in sorted(made) if name in squares and _is_off(squares[name], squares[name].by_tool[tool][1])
    ]
    return Checked(
        tool,
        refusal,
        keys,
        sum(len(each.loaded) for each in readings),
        () if refusal else _ignored(files, readings, made, squares, total),
        len(made),
        tuple(wrong),
        math.sqrt(sum(each.by_tool[tool][0] for each in squares.values()) / total),
    )


def _is_off(squares: _Squares, off: float) -> bool:
    return math.sqrt(off) > _AS_MEANT * math.sqrt(squares.own) if squares.own else off > 0


def _ignored(
    files: Sequence[_Checkable],
    readings: Sequence[Reading],
    made: set[str],
    squares: Mapping[str, _Squares],
    total: float,
) -> tuple[Ignored, ...]:
    """The keys that are passed over, by reason, and with each reason the part that is lost of weights that are not
    loaded by other keys.
    """
    reasons: dict[str, list[str]] = {}
    lost: dict[str, float] = {}
    for file, reading in zip(files, readings, strict=True):
        for key, why in reading.ignored.items():
            reasons.setdefault(why, []).append(key)
        for name in file.meaning.keys() - made:
            why = next(filter(None, (reading.ignored.get(each.key) for each in _keys(file.meaning, name))), "")
            if why and name in squares:
                lost[why] = lost.get(why, 0.0) + squares[name].goal
    in_files = {name for file in files for name in file.meaning}
    absent = [name for name, each in squares.items() if name not in in_files and each.goal]
    found = [Ignored(why, len(some), math.sqrt(lost.get(why, 0.0) / total), min(some)) for why, some in reasons.items()]
    if absent:
        found.append(Ignored(_NOT_IN_FILE, 0, math.sqrt(sum(squares[n].goal for n in absent) / total), min(absent)))
    return tuple(found)


def _square(tensor: Tensor) -> float:
    return float(tensor.square().sum())
