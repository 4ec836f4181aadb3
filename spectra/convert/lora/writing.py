"""Writes a shift as a LoRA, for PEFT, diffusers, kohya's scripts and what else reads those files.

Per weight `Delta W = U diag(d) V^T`, of which the k largest `|d|` are kept: up `U_k diag(sign sqrt|d|)`, down
`diag(sqrt|d|) V_k^T`. No second decomposition is needed. With outer terms the same is done to the singular value
decomposition of the whole change, which is found in K + k dimensions: it is exactly a LoRA of that rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, Unpack

import torch
from torch import Tensor

from spectra.convert.closest_shift import Factors
from spectra.convert.lora.file import LoraFile
from spectra.convert.lora.keys import KOHYA, PEFT
from spectra.convert.lora.ranks import keep_directions, truncation_error
from spectra.convert.module_names import is_embedding
from spectra.convert.projection import AnySpectrum
from spectra.convert.shifted_base import LeftOut, ShiftedBase, StoredDtype, WeightChange, file_metadata
from spectra.convert.tools import kohya
from spectra.convert.weight_change import WeightShift
from spectra.errors import FormatError, InputError
from spectra.io.atomic_writes import atomic_write, check_output
from spectra.naming.original_names import Shapes
from spectra.naming.target_subsets import TEXT_ENCODERS, component_of
from spectra.progress import SILENT, Progress
from spectra.shift.shift import SpectralShift
from spectra.spectrum.cache.spectrum_cache import SpectrumCache

LoraLayout = Literal["peft", "kohya"]


class LoraOptions(TypedDict, total=False):
    """How a LoRA is written: exactly, or with at most one of `rank` and `error` as small as that asks for.

    Attributes:
        rank: at most this one of each weight.
        error: at most this relative error over all weights, 0 to 1.
        layout: "peft" (the default) for PEFT and diffusers, "kohya" for kohya's scripts, ComfyUI and A1111.
        dtype: "float32" by default.
    """

    rank: int | None
    error: float | None
    layout: LoraLayout
    dtype: StoredDtype


@dataclass(frozen=True)
class WrittenLora:
    """What a LoRA file of so many bytes holds of a shift.

    Attributes:
        ranks: of each weight in it, by name.
        error: `||Delta W of the file - ours|| / ||ours||` over all weights that a LoRA can hold, by the directions that
            it does without.
        rounding: that ratio by the rounding to the file's dtype alone.
        left_out: what a LoRA cannot hold.
        unread: in kohya's layout, what kohya's own scripts pass over, though it is in the file for others.
    """

    bytes: int
    ranks: Mapping[str, int]
    error: float
    rounding: float
    left_out: tuple[LeftOut, ...]
    unread: tuple[LeftOut, ...] = ()


def write_lora(
    shift: SpectralShift,
    path: str | Path,
    *,
    base: str = "",
    variant: str | None = None,
    force: bool = False,
    cache: SpectrumCache | None = None,
    progress: Progress = SILENT,
    **options: Unpack[LoraOptions],
) -> WrittenLora:
    """Write the best LoRA of a shift at a rank or an error: `write_lora(shift, path, base="./sd15", rank=32)`.

    Without either it is exact, of rank K + k for K directions and k outer terms. Norms, embeddings and the vectors of
    special words have no LoRA that these tools would load; `left_out` says what that costs.

    Args:
        path: of the file; diffusers looks for `pytorch_lora_weights.safetensors` in a folder.
        base: that the shift was trained on, as `load_pipeline` takes it.
        variant: of the base's weight files.
        force: replace a file that exists.
        options: `rank` or `error`, `layout` and `dtype`, as `LoraOptions` has them.

    Raises:
        InputError: both `rank` and `error`; or neither, for a shift whose exact LoRA is larger than full differences.
        FormatError: nothing of the shift can be a LoRA.
        MismatchError: the shift was trained on another base.
        OutputError: the file exists and `force` is not given, or cannot be written.
    """
    if unknown := options.keys() - LoraOptions.__annotations__.keys():
        raise TypeError(f"write_lora has no option {min(unknown)!r}; it has {', '.join(LoraOptions.__annotations__)}")
    layout, rank, error = options.get("layout", "peft"), options.get("rank"), options.get("error")
    check_output(path, force=force)
    keep_directions({}, rank=rank, error=error)  # refuses wrong ones before the slow part
    shifted = ShiftedBase(shift, base, variant=variant, cache=cache, progress=progress)
    changes, shapes = shifted.changes(), shifted.weights.shapes()
    reasons = {name: why for name, each in changes.items() if (why := _why_not(shift, name, each, layout))}
    able = {name: each for name, each in changes.items() if name not in reasons}
    kept = {name: each for name, each in keep_directions(able, rank=rank, error=error).items() if len(each)}
    if not kept:
        raise FormatError("no weight of this shift changes by anything that a LoRA can hold; nothing is written")
    if rank is None and error is None:
        _check_smaller({name: (len(each), able[name].shape) for name, each in kept.items()})
    keys, dtype = KOHYA if layout == "kohya" else PEFT, options.get("dtype", "float32")
    with atomic_write(path, force=force) as temporary:
        ranks = {name: len(each) for name, each in kept.items()}
        stored = _whole_attention(ranks, shapes) if layout == "kohya" else ranks
        file = LoraFile(temporary, keys, shapes, stored, dtype, file_metadata(shift.metadata))

        def write(part: WeightShift, weight: Tensor, spectrum: AnySpectrum | None) -> float:
            name, d = part.name, torch.from_numpy(able[part.name].d)
            return file.write(name, *part.best_factors(weight, spectrum, d, torch.from_numpy(kept[name])))

        lost = shifted.visit(write, "writing", kept)
        size = temporary.stat().st_size
    total = sum(each.energy for each in able.values())
    passed_over = kohya.unread(shapes) if layout == "kohya" else frozenset()
    unread = dict.fromkeys(sorted(passed_over & kept.keys()), "outside what kohya's scripts have a LoRA for")
    return WrittenLora(
        bytes=size,
        ranks=ranks,
        error=truncation_error(able, kept),
        rounding=math.sqrt(sum(lost.values()) / total),
        left_out=_left_out(changes, reasons),
        unread=_left_out(changes, unread),
    )


def write_factors(factors: Mapping[str, Factors], path: str | Path, *, force: bool = False) -> int:
    """Write changes of low rank, by weight name, as a LoRA for PEFT and diffusers, in float32. Returns its bytes.

    Raises:
        OutputError: the file exists and `force` is not given, or cannot be written.
    """
    shapes, ranks = {n: each.shape for n, each in factors.items()}, {n: len(each.down) for n, each in factors.items()}
    with atomic_write(path, force=force) as temporary:
        file = LoraFile(temporary, PEFT, shapes, ranks, "float32", {"format": "pt"})
        for name, each in factors.items():
            file.write(name, each.up, each.down)
        return temporary.stat().st_size


def _check_smaller(shapes: Mapping[str, tuple[int, tuple[int, ...]]]) -> None:
    """Refuse an exact LoRA, of these ranks and shapes, that is larger than the weights it changes."""
    sides = {name: (shape[0], math.prod(shape[1:])) for name, (_, shape) in shapes.items()}
    floats = sum(rank * sum(sides[name]) for name, (rank, _) in shapes.items())
    if floats > (whole := sum(rows * columns for rows, columns in sides.values())):
        raise InputError(
            f"the exact LoRA of this shift takes {floats:,} floats where full differences take {whole:,}, since it "
            "changes most directions of its weights: give a rank or an error (0 for the exact one all the same), or "
            "write full differences"
        )


def _whole_attention(ranks: Mapping[str, int], shapes: Shapes) -> dict[str, int]:
    """The ranks, and one for what a text encoder's attention lacks: pairs that add nothing.

    diffusers passes over a text encoder's attention if no `out_proj` is in kohya's layout, and A1111's OpenCLIP takes
    all four matrices or none.
    """
    found: dict[str, int] = {}
    for name in ranks:
        attention, is_clip, _ = name.rpartition(".self_attn.")
        if is_clip and component_of(name) in TEXT_ENCODERS:
            every = (f"{attention}.self_attn.{part}_proj" for part in ("q", "k", "v", "out"))
            found |= {each: 1 for each in every if each in shapes}
    return found | dict(ranks)


def _why_not(shift: SpectralShift, name: str, change: WeightChange, layout: LoraLayout) -> str:
    """Why a weight cannot be in a LoRA, or empty if it can."""
    if layout == "kohya" and name.endswith(".text_projection"):
        return "text projections, which diffusers cannot load from kohya's layout"
    if len(change.shape) == 1:
        return "norms, of which a LoRA has none"
    if name in shift.words and name not in shift.outer and not shift[name].any():
        return "vectors of a special word, which go into an embedding file"
    if is_embedding(name):
        return "embeddings, of which the tools load no LoRA"
    if not change.d.any():
        return "unchanged, as what got no gradient in training is"
    return ""


def _left_out(changes: Mapping[str, WeightChange], reasons: Mapping[str, str]) -> tuple[LeftOut, ...]:
    """The weights of a shift that are left out, given the reason of each, together by reason."""
    total = sum(each.energy for each in changes.values()) or 1.0
    squares: dict[str, list[float]] = {}
    for name, why in reasons.items():
        squares.setdefault(why, []).append(changes[name].energy)
    return tuple(LeftOut(why, len(some), math.sqrt(sum(some) / total)) for why, some in squares.items())
