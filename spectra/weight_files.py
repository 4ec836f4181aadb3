"""The weights of a base straight from its safetensors files, tensor by tensor, without building the model.

`spectra decompose` needs nothing else: a tensor read from the file has the fingerprint of the loaded module's weight,
provided it has its dtype.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.errors import BaseError
from spectra.patterns import DENOISERS, TEXT_ENCODERS
from spectra.pipeline import BaseLocation, find_base

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_USUAL_NAMES = ("diffusion_pytorch_model", "model")

_SINGLE_FILE_PREFIXES = {
    "model.diffusion_model.": "unet",
    "cond_stage_model.transformer.": "text_encoder",
    "conditioner.embedders.0.transformer.": "text_encoder",
    "conditioner.embedders.1.model.": "text_encoder_2",
}
"""How the single-file checkpoints of Stable Diffusion 1.x and SDXL call the parts that can carry a shift."""

_NEVER_SHIFTED = ("first_stage_model.", "vae.", "model_ema.")


@dataclass(frozen=True)
class _Place:
    path: Path
    key: str
    shape: tuple[int, ...]


class FileWeights(Mapping[str, "Tensor"]):
    """Every floating-point `*.weight` of two or more dimensions in some files, read when it is asked for.

    Keys are `<component>.<module path>`. Several threads may read at once.

    Args:
        places: where each weight is.
        dtype: to cast to; the file's own by default.
    """

    def __init__(self, places: Mapping[str, _Place], dtype: torch.dtype | None = None) -> None:
        self._places = dict(places)
        self._dtype = dtype
        self._open: dict[Path, Any] = {}
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> Tensor:
        place = self._places[name]
        with self._lock:
            if place.path not in self._open:
                self._open[place.path] = _opened(place.path)
            file = self._open[place.path]
        try:
            tensor: Tensor = file.get_tensor(place.key)
        except Exception as error:
            raise BaseError(f"{place.path}: cannot read {place.key} ({error}); the file is damaged") from error
        return tensor if self._dtype is None else tensor.to(self._dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a weight, from the header alone."""
        return self._places[name].shape


def base_weights(
    base: str = "",
    components: Sequence[str] = (),
    *,
    variant: str | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, FileWeights]:
    """The weights of a base by component, from its files.

    Args:
        base: a diffusers folder, a `.safetensors` file, a hub id (fetched if it is not here yet), or empty for the
            embedded base.
        components: which to take, such as `("unet", "text_encoder")`; by default all that can carry a shift.
        variant: of the files, such as `fp16` for `diffusion_pytorch_model.fp16.safetensors`.
        dtype: to cast to; the files' own by default.

    Raises:
        BaseError: the base or a component is missing, damaged, has no safetensors, or cannot be fetched.
    """
    location = find_base(base)
    if location.kind == "file":
        parts = _split(Path(location.target))
    else:
        folder = _fetched(location, variant) if location.kind == "hub" else Path(location.target)
        parts = _folder_parts(folder, components, variant)
    missing = [name for name in components if name not in parts]
    if missing:
        raise BaseError(f"{base or 'embedded'}: no component {missing[0]!r}; it has: {', '.join(parts)}")
    chosen = {name: places for name, places in parts.items() if not components or name in components}
    if not any(chosen.values()):
        raise BaseError(f"{base or 'embedded'}: no weight that could be decomposed; expected floating-point *.weight")
    return {name: FileWeights(places, dtype) for name, places in chosen.items()}


def _folder_parts(folder: Path, components: Sequence[str], variant: str | None) -> dict[str, dict[str, _Place]]:
    known = [name for name in (*DENOISERS, *TEXT_ENCODERS) if (folder / name).is_dir()]
    if not known:
        raise BaseError(f"{folder}: no component that can carry a shift (unet, transformer, text_encoder, ...)")
    parts: dict[str, dict[str, _Place]] = {}
    for name in known:
        if components and name not in components:
            parts[name] = {}
            continue
        parts[name] = {}
        for path in _weight_files(folder / name, variant):
            for key, place in _places(path).items():
                parts[name][f"{name}.{key.removesuffix('.weight')}"] = place
    return parts


def _weight_files(folder: Path, variant: str | None) -> list[Path]:
    """The one set of weight files of a component: whole or in shards, plain or of a variant."""
    sets: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        sets.setdefault(_SHARD.sub("", path.stem), []).append(path)
    wanted = [f"{name}.{variant}" if variant else name for name in _USUAL_NAMES]
    for name in wanted:
        if name in sets:
            return sets[name]
    if not sets:
        raise BaseError(f"{folder}: no .safetensors files; other formats are not read, convert the base first")
    if variant is None and len(sets) == 1:
        return next(iter(sets.values()))
    raise BaseError(f"{folder}: no {' or '.join(wanted)}.safetensors; there are: {', '.join(sets)} (see --variant)")


def _split(path: Path) -> dict[str, dict[str, _Place]]:
    """A single file by component; a file without known prefixes is one component, called like the file."""
    parts: dict[str, dict[str, _Place]] = {}
    for key, place in _places(path).items():
        if key.startswith(_NEVER_SHIFTED):
            continue
        prefix = next((prefix for prefix in _SINGLE_FILE_PREFIXES if key.startswith(prefix)), "")
        component = _SINGLE_FILE_PREFIXES.get(prefix, path.stem)
        parts.setdefault(component, {})[f"{component}.{key[len(prefix) :].removesuffix('.weight')}"] = place
    return parts


def _places(path: Path) -> dict[str, _Place]:
    file = _opened(path)
    found = {}
    for key in list(file.keys()):
        if not key.endswith(".weight"):
            continue
        piece = file.get_slice(key)
        shape = tuple(piece.get_shape())
        if len(shape) > 1 and piece.get_dtype().startswith(("F", "BF")):
            found[key] = _Place(path, key, shape)
    return found


def _opened(path: Path) -> Any:
    from safetensors import safe_open

    try:
        return safe_open(path, framework="pt")
    except Exception as error:  # SafetensorError is an Exception of its own; OSError, too
        raise BaseError(
            f"{path}: cannot be read as safetensors ({error}); the file is damaged or incomplete"
        ) from error


def _fetched(location: BaseLocation, variant: str | None) -> Path:
    from diffusers import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(location.target, variant=variant, use_safetensors=True))
    except Exception as error:  # diffusers and the hub raise many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise BaseError(
            f"{location.name}: could not be fetched from the hub ({reason}); check the name and the network, or give "
            "a folder"
        ) from error
