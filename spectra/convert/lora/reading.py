"""Reads what other tools train as a change of a weight: LoRA, LoHa, LoKr and full differences.

The formulas are in `spectra.convert.lora.formulas`, the keys in `spectra.convert.lora.keys`; this knows where each
file keeps its scale.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectra.convert.file_kinds import header_of
from spectra.convert.lora.formulas import METHODS, Parts, change_of, misfit, pairs_of, scaled_rank
from spectra.convert.lora.keys import METADATA_KEY, split_key
from spectra.convert.module_names import aliases
from spectra.errors import FormatError
from spectra.io.foreign_values import parse_json
from spectra.io.safetensors_header import StoredTensor
from spectra.io.tensor_files import read_rows

_EMBEDDING = "bundle_emb."
"""What the keys of an embedding begin with that is bundled with a LoRA; its name follows."""

_NAMES_IN_FOLDERS = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")


@dataclass(frozen=True, eq=False)
class ChangeFile(Mapping[str, Tensor]):
    """The change of each weight in a file, float32 `[rows, columns]` or `[n]`, computed when it is asked for.

    Attributes:
        stored: the file's tensors, by weight name and part.
        biases: modules whose bias it changes too, which is not part of any weight.
        embeddings: what it calls the vectors of special words that are bundled with it, and are none of its change.
        config: PEFT's configuration, as far as the file has one.
    """

    path: Path
    stored: Mapping[str, Mapping[str, StoredTensor]]
    biases: tuple[str, ...]
    embeddings: tuple[str, ...]
    config: Mapping[str, Any]

    def __getitem__(self, name: str) -> Tensor:
        parts = self._parts(name)
        return self._finite(name, change_of(parts)) * self._scale(name, parts)

    def is_pairs(self, name: str) -> bool:
        """Whether the change of a weight is a LoRA's, which `pairs` has."""
        return not self.stored[name].keys().isdisjoint(("up", "rows"))

    def pairs(self, name: str) -> tuple[Tensor, Tensor]:
        """Up `[rows, m]` with the scale in it, and down `[m, columns]`, float64, of a change that is a LoRA's."""
        parts = self._parts(name)
        up, down = (self._finite(name, each.to(torch.float64)) for each in pairs_of(parts))
        return up * self._scale(name, parts), down

    def _parts(self, name: str) -> Parts:
        return {part: read_rows(tensor).to(torch.float32) for part, tensor in self.stored[name].items()}

    def _scale(self, name: str, parts: Parts) -> float:
        return _scale(parts, next(iter(self.stored[name].values())).key, self.config)

    def _finite(self, name: str, values: Tensor) -> Tensor:
        if not torch.isfinite(values).all():
            raise FormatError(f"{self.path}: {name}: its values are not finite; fetch or make the file again")
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


def read_lora(path: str | Path, names: Collection[str]) -> ChangeFile:
    """The change of each weight in a LoRA, LoHa, LoKr or full-difference file, read lazily.

    Args:
        path: a safetensors file of PEFT, diffusers, kohya's scripts, LyCORIS or ComfyUI, or the folder it is in. A
            file of PEFT's own needs its `adapter_config.json` beside it, which has the scale.
        names: of the base's weights, the keys of `base_weights`: kohya's names are ambiguous without them.

    Raises:
        FormatError: damaged or of another kind, a module that the base does not have, DoRA (whose change is no
            matrix of its own), or a method that is not known.
    """
    path = _find(Path(path))
    header = header_of(path)
    known = aliases(names)
    found: dict[str, dict[str, StoredTensor]] = {}
    biases: set[str] = set()
    embeddings: set[str] = set()
    strangers = []
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
        if module not in known:
            strangers.append(module)
        elif part == "bias":
            biases.add(known[module])
        else:
            found.setdefault(known[module], {})[part] = stored
    if strangers:
        raise FormatError(
            f"{path}: {len(set(strangers))} modules that the base does not have, such as {strangers[0]}; "
            "give the base it was trained on"
        )
    for name, parts in found.items():
        if not any(method <= parts.keys() for method in METHODS):
            raise FormatError(f"{path}: {name} has only {', '.join(sorted(parts))}; the file is not whole")
        wrong = misfit({part: tensor.shape for part, tensor in parts.items()})
        if wrong:
            raise FormatError(f"{path}: {name}: {wrong}; the file is damaged: fetch or make it again")
    if not (found or biases):
        raise FormatError(f"{path}: no LoRA, LoHa, LoKr or difference in it")
    config = _peft_config(path, header.metadata)
    return ChangeFile(path, dict(sorted(found.items())), tuple(sorted(biases)), tuple(sorted(embeddings)), config)


def _scale(parts: Parts, key: str, config: Mapping[str, Any]) -> float:
    """Alpha / rank; 1 where a file says nothing of alpha."""
    rank = scaled_rank(parts)
    if "diff" in parts:
        return 1.0
    if "alpha" in parts:
        return float(parts["alpha"]) / rank if rank else 1.0  # LyCORIS does not scale a LoKr without a rank
    module, own = split_key(key)[0], config
    if "peft_type" not in config:  # diffusers joins the configurations of several components, each behind its name
        prefix = module.partition(".")[0] + "."
        module = module.removeprefix(prefix)
        own = {name.removeprefix(prefix): value for name, value in config.items() if name.startswith(prefix)}
    alpha = _patterned(own.get("alpha_pattern"), module, own.get("lora_alpha", own.get("alpha")))
    rank = rank or _patterned(own.get("rank_pattern"), module, own.get("r"))
    if alpha is None or not rank:
        return 1.0
    return float(alpha) / (math.sqrt(rank) if own.get("use_rslora") else rank)


def _patterned(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first of PEFT's patterns that a module's name ends in, else the default."""
    return next((value for key, value in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", module)), default)


def _peft_config(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """PEFT's configuration: in the metadata, where diffusers put it, or in a file beside; {} if there is none."""
    beside = path.with_name("adapter_config.json")
    try:
        text = metadata.get(METADATA_KEY, "")
        if not text and path.name.startswith("adapter_model") and beside.is_file():
            text = beside.read_text(encoding="utf-8")
        config = parse_json(text) if text else {}
        if not isinstance(config, dict):
            raise ValueError("expected a JSON object")
    except (OSError, ValueError) as error:
        raise FormatError(f"{path}: PEFT's configuration cannot be read ({error})") from error
    if any(value for key, value in config.items() if key.split(".")[-1] == "use_dora"):
        raise FormatError(f"{path}: a DoRA; merge it into its base, and take the merged model instead")
    return config


def _find(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = next((path / name for name in _NAMES_IN_FOLDERS if (path / name).is_file()), None)
    if found is None:
        raise FormatError(f"{path}: none of {', '.join(_NAMES_IN_FOLDERS)} in it; name the file")
    return found
