"""Writes a shift as a LoRA, for PEFT, diffusers, kohya's scripts and what else reads those files.

Per weight `Delta W = U diag(d) V^T`, of which the k largest `|d|` are kept: up `U_k diag(sign sqrt|d|)`, down
`diag(sqrt|d|) V_k^T`. No second decomposition is needed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectra.bases.weight_files import base_weights
from spectra.convert.closest_shift import Factors
from spectra.convert.lora.ranks import Directions, keep_directions, truncation_error
from spectra.convert.module_names import is_embedding, kohya_names, peft_name
from spectra.convert.weight_changes import Change, LeftOut, left_out, measure
from spectra.errors import FormatError
from spectra.io.atomic_writes import atomic_write, check_output
from spectra.io.dtypes import torch_dtype
from spectra.io.safetensors_header import StoredTensor
from spectra.io.tensor_files import create_file, write_rows
from spectra.naming.patterns import TEXT_ENCODERS, component_of, path_of
from spectra.progress import SILENT, Progress
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.shift import SpectralShift
from spectra.spectrum.cache.spectrum_cache import SpectrumCache, default_cache
from spectra.spectrum.spectrum import Spectrum, other_side
from spectra.version import __version__

LoraLayout = Literal["peft", "kohya"]
Stored = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class WrittenLora:
    """What a LoRA file holds of a shift.

    Attributes:
        bytes: size of the file.
        ranks: of each weight in it, by name.
        error: `||Delta W of the file - ours|| / ||ours||` over all weights that a LoRA can hold, by the directions that
            it does without.
        rounding: the same, by the file's dtype alone.
        left_out: what it cannot hold.
    """

    bytes: int
    ranks: Mapping[str, int]
    error: float
    rounding: float
    left_out: tuple[LeftOut, ...]


def write_lora(
    shift: SpectralShift,
    path: str | Path,
    *,
    base: str = "",
    variant: str | None = None,
    layout: LoraLayout = "peft",
    rank: int | None = None,
    error: float | None = None,
    dtype: Stored = "float32",
    force: bool = False,
    cache: SpectrumCache | None = None,
    progress: Progress = SILENT,
) -> WrittenLora:
    """Write the best LoRA of a shift.

    Norms and embeddings have no LoRA that these tools would load; `left_out` says what that costs.

    Args:
        shift: what to write.
        path: of the file; diffusers looks for `pytorch_lora_weights.safetensors` in a folder.
        base: that the shift was trained on, as `load_pipeline` takes it.
        variant: of the base's weight files.
        layout: "peft" for PEFT and diffusers, "kohya" for kohya's scripts, ComfyUI and A1111.
        rank: at most so many directions of each weight.
        error: in place of `rank`: at most this relative error over all weights, 0 to 1.
        dtype: of the file.
        force: replace a file that exists.

    Raises:
        InputError: not exactly one of `rank` and `error`.
        FormatError: nothing of the shift can be a LoRA.
        MismatchError: the shift was trained on another base.
        OutputError: the file exists and `force` is not given, or cannot be written.
    """
    check_output(path, force=force)
    cache = cache or default_cache()
    weights = base_weights(base, variant=variant, dtype=shift.metadata.base_dtype)
    keep_directions({}, rank=rank, error=error)  # refuses wrong ones before the slow part
    changes = measure(shift, weights, cache, progress)
    reasons = {name: why for name, each in changes.items() if (why := _why_not(name, each, layout))}
    able = {name: each for name, each in changes.items() if name not in reasons}
    kept = {name: each for name, each in keep_directions(able, rank=rank, error=error).items() if len(each)}
    if not kept:
        raise FormatError("no weight of this shift changes by anything that a LoRA can hold; nothing is written")
    chosen = _LAYOUTS[layout]
    called = chosen.names(weights)
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, each in kept.items():
        tensors |= chosen.tensors(called[name], dtype, len(each), able[name].shape)
    ranks = {name: len(each) for name, each in kept.items()}
    with atomic_write(path, force=force) as temporary:
        entries = create_file(temporary, tensors, chosen.metadata(ranks) | describe(shift.metadata))

        def write(name: str, weight: Tensor, spectrum: Spectrum | None) -> float:
            if spectrum is None:
                raise TypeError(f"{name}: a 1-D weight has no LoRA")
            up, down = low_rank(weight, spectrum, able[name].d, kept[name])
            return chosen.write(entries, called[name], up, down, max(ranks.values()))

        rounded = cache.visit(weights.only(kept.__contains__), write, "writing", progress)
        size = temporary.stat().st_size
    total = sum(each.energy for each in able.values())
    return WrittenLora(
        bytes=size,
        ranks=ranks,
        error=truncation_error(able, kept),
        rounding=math.sqrt(sum(rounded.values()) / total),
        left_out=left_out(changes, reasons),
    )


def write_factors(factors: Mapping[str, Factors], path: str | Path, *, force: bool = False) -> int:
    """Write changes of low rank as a LoRA for PEFT and diffusers, in float32. Returns its bytes.

    Args:
        factors: of each weight, by name.
        path: of the file.
        force: replace a file that exists.

    Raises:
        OutputError: the file exists and `force` is not given, or cannot be written.
    """
    chosen = _LAYOUTS["peft"]
    called = chosen.names(factors)
    ranks = {name: each.down.shape[0] for name, each in factors.items()}
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, each in factors.items():
        tensors |= chosen.tensors(called[name], "float32", ranks[name], each.shape)
    with atomic_write(path, force=force) as temporary:
        entries = create_file(temporary, tensors, chosen.metadata(ranks) | {"format": "pt"})
        for name, each in factors.items():
            chosen.write(entries, called[name], each.up, each.down, max(ranks.values()))
        return temporary.stat().st_size


def low_rank(weight: Tensor, spectrum: Spectrum, d: NDArray[np.float64], kept: Directions) -> tuple[Tensor, Tensor]:
    """Up `[rows, k]` and down `[k, columns]`, float64, whose product is `Delta W` in the directions kept.

    Args:
        weight: that the spectrum belongs to.
        d: `[r]`, the change of each singular value.
        kept: `[k]` of directions.
    """
    index = torch.from_numpy(kept)
    near = spectrum.basis[:, index].to(torch.float64).T
    far = other_side(weight, spectrum, index)
    left, right = (near, far) if spectrum.side == "left" else (far, near)
    part = torch.from_numpy(d[kept])[:, None]
    root = part.abs().sqrt()
    return (left * part.sign() * root).T, right * root


def describe(metadata: ShiftMetadata) -> dict[str, str]:
    """What a file made of a shift says of that, for people."""
    said = {
        "made_by": f"spectra {__version__}",
        "spectra_base": metadata.base,
        "spectra_shift": metadata.content_hash,
    }
    return {"format": "pt"} | {key: value for key, value in said.items() if value}


def _why_not(name: str, change: Change, layout: LoraLayout) -> str:
    """Why a weight cannot be in a LoRA, or empty if it can."""
    if layout == "kohya" and name.endswith(".text_projection"):
        return "text projections, which diffusers cannot load from kohya's layout"
    if len(change.shape) == 1:
        return "norms, of which a LoRA has none"
    if is_embedding(name):
        return "embeddings, of which the tools load no LoRA"
    return ""


@dataclass(frozen=True)
class _Layout:
    """Keys and metadata of one kind of file.

    Attributes:
        names: of modules, by weight name, given the names of all weights of the base.
        down, up: what a module's two keys end in.
        alpha: whether each module has its alpha in the file.
        metadata: given the rank of each weight.
    """

    names: Callable[[Collection[str]], Mapping[str, str]]
    down: str
    up: str
    alpha: bool
    metadata: Callable[[Mapping[str, int]], dict[str, str]]

    def tensors(
        self, module: str, dtype: str, rank: int, shape: tuple[int, ...]
    ) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Dtype and shape of each of a module's tensors: a convolution's up is one of 1 x 1."""
        rows, rest = shape[0], shape[1:]
        found: dict[str, tuple[str, tuple[int, ...]]] = {
            module + self.down: (dtype, (rank, *rest)),
            module + self.up: (dtype, (rows, rank, *(1 for _ in rest[1:]))),
        }
        return found | ({f"{module}.alpha": ("float32", ())} if self.alpha else {})

    def write(self, entries: Mapping[str, StoredTensor], module: str, up: Tensor, down: Tensor, alpha: int) -> float:
        """Fills in a module's tensors; returns `||stored - exact||^2`.

        Args:
            alpha: of all modules, where the file has one. Its scale, alpha / rank, is undone in the values: diffusers
                (0.42) takes the commonest alpha for attention's modules, whatever theirs are.
        """
        scale = alpha / down.shape[0] if self.alpha else 1.0
        stored = []
        for suffix, exact in ((self.up, up), (self.down, down)):
            entry = entries[module + suffix]
            rounded = (exact / math.sqrt(scale)).to(torch_dtype(entry.dtype))
            if not torch.isfinite(rounded).all():
                raise FormatError(f"{module}: its values do not fit into {entry.dtype}; write float32")
            write_rows(entry, rounded.reshape(entry.shape))
            stored.append(rounded.to(exact) * math.sqrt(scale))
        if self.alpha:
            write_rows(entries[f"{module}.alpha"], torch.tensor(float(alpha)))
        # ||A B - A' B'||^2 = sum((C^T C) * (D D^T)) with C = [A, -A'], D = [B; B'], so that no product is formed.
        c, d = torch.cat([up, -stored[0]], dim=1), torch.cat([down, stored[1]])
        return max(0.0, float(((c.T @ c) * (d @ d.T)).sum()))


def _peft_metadata(ranks: Mapping[str, int]) -> dict[str, str]:
    """PEFT's configuration of each component, where diffusers keeps it: every module's scale is 1."""
    config: dict[str, object] = {}
    for component in sorted({component_of(name) for name in ranks}):
        own = {_pattern(name): rank for name, rank in ranks.items() if component_of(name) == component}
        usual = max(own.values(), key=list(own.values()).count)
        others = {pattern: rank for pattern, rank in own.items() if rank != usual}
        said = {"r": usual, "lora_alpha": usual, "rank_pattern": others, "alpha_pattern": others}
        said["target_modules"] = [pattern.removeprefix("^") for pattern in own]
        config |= {f"{component}.{key}": value for key, value in said.items()}
    return {"lora_adapter_metadata": json.dumps(config, separators=(",", ":"))}


def _pattern(name: str) -> str:
    """PEFT matches the ends of paths, and `proj_out` ends others too; text models are nested differently elsewhere."""
    return path_of(name) if component_of(name) in TEXT_ENCODERS else f"^{path_of(name)}"


def _kohya_metadata(ranks: Mapping[str, int]) -> dict[str, str]:
    largest = max(ranks.values())
    return {"ss_network_module": "networks.lora", "ss_network_dim": str(largest), "ss_network_alpha": f"{largest:.1f}"}


_LAYOUTS: dict[str, _Layout] = {
    "peft": _Layout(
        lambda names: {name: peft_name(name) for name in names},
        down=".lora_A.weight",
        up=".lora_B.weight",
        alpha=False,
        metadata=_peft_metadata,
    ),
    "kohya": _Layout(kohya_names, ".lora_down.weight", ".lora_up.weight", alpha=True, metadata=_kohya_metadata),
}
