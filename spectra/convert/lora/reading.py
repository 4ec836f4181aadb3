"""Reads what other tools train as a change of a weight: LoRA, LoHa, LoKr and full differences.

The formulas are in `spectra.convert.lora.formulas`, the keys in `spectra.convert.lora.keys`; this knows where each
file keeps its scale.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectra.convert.file_kinds import header_of
from spectra.convert.lora.formulas import METHODS, Parts, change_of, misfit, pairs_of, scaled_rank, values_of
from spectra.convert.lora.keys import split_key
from spectra.convert.lora.peft_config import own_config, peft_config, start_of, started_from
from spectra.convert.module_names import aliases, original_aliases
from spectra.errors import FormatError
from spectra.io.safetensors_header import StoredTensor
from spectra.io.tensor_files import Spans, read_rows
from spectra.naming.original_names import Shapes
from spectra.naming.target_subsets import component_of

_EMBEDDING = "bundle_emb."
"""What the keys of an embedding begin with that is bundled with a LoRA; its name follows."""

_LONGEST_PATTERN = 500

_HARMLESS = 1 << 20
"""Values of a change that may be more than its weight has: whoever applies it says what does not fit."""

_NAMES_IN_FOLDERS = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")


@dataclass(frozen=True)
class Stored:
    """The parts of one weight's change in a file, and which rows of their product it has: all, if there are no `spans`.

    A module of the original repositories may be several of diffusers' in one.
    """

    parts: Mapping[str, StoredTensor]
    spans: Spans = ()

    def cut(self, rows: Tensor) -> Tensor:
        """The rows of the weight, of a tensor `[rows, ...]` of the module."""
        return torch.cat([rows[start:stop] for start, stop in self.spans]) if self.spans else rows


@dataclass(frozen=True, eq=False)
class ChangeFile(Mapping[str, Tensor]):
    """The change of each weight in a file, float32 `[rows, columns]` or `[n]`, computed when it is asked for.

    Attributes:
        stored: what the file has of each weight, by name.
        biases: modules whose bias it changes too, which is not part of any weight.
        embeddings: what it calls the vectors of special words that are bundled with it, and are none of its change.
        config: PEFT's configuration, as far as the file has one.
    """

    path: Path
    stored: Mapping[str, Stored]
    biases: tuple[str, ...]
    embeddings: tuple[str, ...]
    config: Mapping[str, Any]

    def __getitem__(self, name: str) -> Tensor:
        if self.is_replacing(name):
            raise FormatError(f"{self.path}: {name}: what it changes depends on the base's weight; see `change`")
        stored = self.stored[name]
        parts = self._read(stored)
        return self._finite(name, stored.cut(change_of(parts)) * self._scale(stored, parts))

    def change(self, name: str, weight: Tensor) -> Tensor:
        """The same, of the base's weight: an adapter that took its start out of it changes it by less."""
        if not self.is_replacing(name):
            return self[name]
        up, down = self.pairs(name, weight)
        return (up @ down).to(torch.float32)

    def is_pairs(self, name: str) -> bool:
        """Whether the change of a weight is a LoRA's, which `pairs` has."""
        return not self.stored[name].parts.keys().isdisjoint(("up", "rows"))

    def is_replacing(self, name: str) -> bool:
        """Whether the adapter's start was taken out of the weight (PiSSA, OLoRA)."""
        return self.is_pairs(name) and bool(started_from(self._config(name)))

    def pairs(self, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Up `[rows, m]` with the scale in it, and down `[m, columns]`, float64, of a change that is a LoRA's.

        Args:
            weight: of the base, which is asked only where the adapter's start was taken out of it.
        """
        stored = self.stored[name]
        parts = self._read(stored)
        up, down = (self._finite(name, each.to(torch.float64)) for each in pairs_of(parts))
        scale = self._scale(stored, parts)
        up = self._finite(name, stored.cut(up) * scale)
        if not self.is_replacing(name):
            return up, down
        start_up, start_down = start_of(started_from(self._config(name)), weight, down.shape[0], scale)
        return torch.cat([up, -start_up], dim=1), torch.cat([down, start_down])

    def _read(self, stored: Stored) -> Parts:
        return {part: read_rows(tensor).to(torch.float32) for part, tensor in stored.parts.items()}

    def _config(self, name: str) -> Mapping[str, Any]:
        return own_config(self.config, split_key(next(iter(self.stored[name].parts.values())).key)[0])[1]

    def _scale(self, stored: Stored, parts: Parts) -> float:
        try:
            scale = _scale(parts, next(iter(stored.parts.values())).key, self.config)
        except (ValueError, TypeError, RuntimeError, AttributeError, OverflowError) as error:
            raise FormatError(f"{self.path}: its alpha and rank cannot be read ({error})") from error
        if not math.isfinite(scale):
            raise FormatError(f"{self.path}: its alpha is not finite; fetch or make the file again")
        return scale

    def _finite(self, name: str, values: Tensor) -> Tensor:
        if not torch.isfinite(values).all():
            raise FormatError(f"{self.path}: {name}: its values are not finite; fetch or make the file again")
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


def read_lora(path: str | Path, shapes: Shapes) -> ChangeFile:
    """The change of each weight in a LoRA, LoHa, LoKr or full-difference file, read lazily.

    Args:
        path: a safetensors file of PEFT, diffusers, kohya's scripts, LyCORIS or ComfyUI, or the folder it is in. A
            file of PEFT's own needs its `adapter_config.json` beside it, which has the scale; in a folder called like a
            component it is for that one.
        shapes: of the base's weights, by the names of `base_weights`: kohya's names are ambiguous without them.

    Raises:
        FormatError: damaged or of another kind, a module that the base does not have, DoRA (whose change is no
            matrix of its own), an adapter that was started from what the file does not have, or a method that is not
            known.
    """
    path = _find(Path(path))
    header = header_of(path)
    folder = path.absolute().parent.name
    if path.name.startswith("adapter_model") and any(component_of(name) == folder for name in shapes):
        shapes = {name: shape for name, shape in shapes.items() if component_of(name) == folder}
    known, originals = aliases(shapes), original_aliases(shapes)
    config = peft_config(path, header.metadata)
    biases: dict[str, list[StoredTensor]] = {}
    embeddings: set[str] = set()
    modules: dict[str, dict[str, StoredTensor]] = {}
    for key, stored in header.tensors.items():
        if key.startswith(_EMBEDDING):
            embeddings.add(".".join(key.split(".")[:2]))
            continue
        try:
            module, part = split_key(key)
        except FormatError as error:
            raise FormatError(f"{path}: {error}") from None
        if part == "dora":
            raise FormatError(
                f"{path}: a DoRA ({key}): it rescales the changed weight, so it is no change of its own; "
                "merge it into its base, and take the merged model instead"
            )
        if part == "bias":
            biases.setdefault(module, []).append(stored)
        else:
            modules.setdefault(module, {})[part] = stored
    strangers = [each for each in (*modules, *biases) if each not in known and each not in originals]
    if strangers:
        raise FormatError(
            f"{path}: {len(set(strangers))} modules that the base does not have, such as {strangers[0]}; "
            "give the base it was trained on"
        )
    found: dict[str, Stored] = {}
    for module, parts in modules.items():
        _check_whole(path, known.get(module) or module, parts)
        weights = [known[module]] if module in known else originals[module]
        expected = sum(math.prod(shapes[name]) for name in weights)
        values = values_of({part: tensor.shape for part, tensor in parts.items()})
        if values > max(expected, _HARMLESS):
            raise FormatError(
                f"{path}: {module} changes {values:,} values, and the base has {expected:,} there; "
                "give the base it was trained on"
            )
        if module in known:
            found[known[module]] = Stored(parts)
        else:
            found |= {name: Stored(parts, place.spans) for name, place in originals[module].items()}
    changed = sorted({known.get(module, module) for module, some in biases.items() if _any_value(some)})
    if not (found or biases):
        raise FormatError(f"{path}: no LoRA, LoHa, LoKr or difference in it")
    return ChangeFile(path, dict(sorted(found.items())), tuple(changed), tuple(sorted(embeddings)), config)


def _check_whole(path: Path, name: str, parts: Mapping[str, StoredTensor]) -> None:
    if not any(method <= parts.keys() for method in METHODS):
        raise FormatError(f"{path}: {name} has only {', '.join(sorted(parts))}; the file is not whole")
    wrong = misfit({part: tensor.shape for part, tensor in parts.items()})
    if wrong:
        raise FormatError(f"{path}: {name}: {wrong}; the file is damaged: fetch or make it again")


def _any_value(tensors: Sequence[StoredTensor]) -> bool:
    """Whether any of these small tensors is other than zero, as A1111 wants one beside a norm."""
    return any(bool(read_rows(each).any()) for each in tensors)


def _scale(parts: Parts, key: str, config: Mapping[str, Any]) -> float:
    """Alpha / rank; 1 where a file says nothing of alpha."""
    rank = scaled_rank(parts)
    if "diff" in parts:
        return 1.0
    if "alpha" in parts:
        return float(parts["alpha"]) / rank if rank else 1.0  # LyCORIS does not scale a LoKr without a rank
    module, own = own_config(config, split_key(key)[0])
    alpha = _patterned(own.get("alpha_pattern"), module, own.get("lora_alpha", own.get("alpha")))
    rank = rank or _patterned(own.get("rank_pattern"), module, own.get("r"))
    if alpha is None or not rank:
        return 1.0
    return float(alpha) / (math.sqrt(rank) if own.get("use_rslora") else rank)


def _patterned(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first of PEFT's patterns that a module's name ends in, else the default.

    Raises:
        ValueError: a pattern of more than one repetition, which may take any time.
    """
    for key in patterns or {}:
        if len(key) > _LONGEST_PATTERN or len(re.findall(r"[*+?{]", key)) > 1:
            raise ValueError(f"its pattern {key[:80]!r} is not read")
    return next((value for key, value in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _find(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = next((path / name for name in _NAMES_IN_FOLDERS if (path / name).is_file()), None)
    if found is None:
        raise FormatError(f"{path}: none of {', '.join(_NAMES_IN_FOLDERS)} in it; name the file")
    return found
