"""The weights of a base straight from its safetensors files, tensor by tensor, without building the model.

A tensor read from the file has the fingerprint of the loaded module's weight, provided it has its dtype; and it has
the name that a shift gives it, whatever the layout of the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

from spectra.bases.embedded import NAME
from spectra.bases.original_layouts import Origin, original_layout
from spectra.bases.pipeline import BaseLocation, find_base
from spectra.errors import BaseError
from spectra.io.dtypes import dtype_name, torch_dtype
from spectra.io.safetensors_header import StoredTensor
from spectra.io.tensor_files import read_rows, stored_tensors
from spectra.naming.patterns import DENOISERS, TEXT_ENCODERS, weight_name

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_USUAL_NAMES = ("diffusion_pytorch_model", "model")

_TIED = {"encoder.embed_tokens": "shared"}
"""T5's table is stored under either name, or both; a module is named by its first path."""


@dataclass(frozen=True)
class Place:
    """Where a tensor of a model lies in the base's files.

    Attributes:
        entry: the tensor of the file.
        origin: which of its rows, and whether transposed.
    """

    entry: StoredTensor
    origin: Origin

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the model's tensor."""
        shape = self.entry.shape
        if self.origin.spans:
            shape = (sum(stop - start for start, stop in self.origin.spans), *shape[1:])
        return shape[::-1] if self.origin.transposed else shape

    def read(self) -> Tensor:
        """The model's tensor, in the file's dtype."""
        tensor = read_rows(self.entry, self.origin.spans)
        return tensor.T.contiguous() if self.origin.transposed else tensor


class FileWeights(Mapping[str, "Tensor"]):
    """Tensors of a model by name, each read from its file when it is asked for. Several threads may read at once.

    Args:
        places: where each tensor is; in several places where a file holds a tied one more than once.
        dtype: to cast to; the file's own by default.
    """

    def __init__(self, places: Mapping[str, Sequence[Place]], dtype: torch.dtype | None = None) -> None:
        self.places = dict(places)
        self._dtype = dtype

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.places[name][0].read()
        return tensor if self._dtype is None else tensor.to(self._dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from the header alone."""
        return self.places[name][0].shape

    def dtype(self, name: str) -> str:
        """Torch's name of the dtype that the tensor has when it is read, such as "float16"."""
        return self.places[name][0].entry.dtype if self._dtype is None else dtype_name(self._dtype)

    def only(self, wanted: Callable[[str], bool]) -> FileWeights:
        """Those of the tensors whose name is wanted."""
        return FileWeights({name: places for name, places in self.places.items() if wanted(name)}, self._dtype)

    def matrices(self) -> FileWeights:
        """Those with two or more dimensions, which have a spectrum."""
        return self.only(lambda name: len(self.shape(name)) > 1)

    def joined(self, other: FileWeights) -> FileWeights:
        """These and another component's."""
        return FileWeights({**self.places, **other.places}, self._dtype)


def base_weights(
    base: str | BaseLocation = "",
    components: Sequence[str] = (),
    *,
    variant: str | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, FileWeights]:
    """Every floating-point weight of a base by component, under the names `<component>.<module path>` of shifts.

    Args:
        base: a diffusers folder, a `.safetensors` file, a hub id (fetched if it is not here yet), or empty for the
            embedded base. A single file may have an original layout (Stable Diffusion, SDXL, SD3, Flux); its weights
            have the names of diffusers' modules all the same.
        components: which to take, such as `("unet", "text_encoder")`; by default all that can carry a shift.
        variant: of the files, such as `fp16` for `diffusion_pytorch_model.fp16.safetensors`.
        dtype: to cast to; the files' own by default.

    Raises:
        BaseError: the base or a component is missing, damaged, has no safetensors, or cannot be fetched.
    """
    parts = base_tensors(base, components, variant=variant, dtype=dtype)
    found = {component: weights_of(tensors) for component, tensors in parts.items()}
    if not any(found.values()):
        raise BaseError(f"{_called(base)}: no weight that a shift could act on; expected floating-point *.weight")
    return found


def open_base(
    base: str | BaseLocation, components: Sequence[str] = (), *, variant: str | None = None, dtype: str
) -> FileWeights:
    """`base_weights` of all components in one mapping.

    Args:
        base, components, variant: as `base_weights` takes them.
        dtype: to cast to, such as "float32".

    Raises:
        BaseError: as `base_weights`.
    """
    parts = base_weights(base, components, variant=variant, dtype=torch_dtype(dtype))
    return reduce(FileWeights.joined, parts.values())


def base_tensors(
    base: str | BaseLocation = "",
    components: Sequence[str] = (),
    *,
    variant: str | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, FileWeights]:
    """Every floating-point tensor of a base by component, biases too: `unet.conv_in.weight`, `unet.conv_in.bias`.

    Arguments and errors as `base_weights`.
    """
    location = base if isinstance(base, BaseLocation) else find_base(base)
    if location.kind == "file":
        parts = _file_parts(Path(location.target))
    else:
        parts = _folder_parts(local_folder(location, variant), components, variant)
    missing = [name for name in components if name not in parts]
    if missing:
        raise BaseError(f"{_called(base)}: no component {missing[0]!r}; it has: {', '.join(parts)}")
    return {
        name: FileWeights({key: [place] for key, place in places.items()}, dtype)
        for name, places in parts.items()
        if not components or name in components
    }


def folder_tensors(folder: Path, component: str) -> FileWeights:
    """Those of a folder that holds one component alone, as `save_pretrained` of a model writes it."""
    named = _named(component, (entry for path in weight_files(folder, None) for entry in stored_tensors(path).values()))
    return FileWeights({key: [place] for key, place in named.items()})


def weights_of(tensors: FileWeights) -> FileWeights:
    """The weights among a model's tensors, under the names of shifts; a tied weight once, with all its places."""
    places: dict[str, list[Place]] = {}
    for key, at in tensors.places.items():
        if key.endswith(".weight"):
            component, _, path = key.removesuffix(".weight").partition(".")
            places.setdefault(weight_name(component, _TIED.get(path, path)), []).extend(at)
    return FileWeights(places, tensors._dtype)


def _called(base: str | BaseLocation) -> str:
    return (base.name if isinstance(base, BaseLocation) else base) or NAME


def _folder_parts(folder: Path, components: Sequence[str], variant: str | None) -> dict[str, dict[str, Place]]:
    known = [name for name in (*DENOISERS, *TEXT_ENCODERS) if (folder / name).is_dir()]
    if not known:
        raise BaseError(f"{folder}: no component that can carry a shift (unet, transformer, text_encoder, ...)")
    parts: dict[str, dict[str, Place]] = {}
    for name in known:
        wanted = not components or name in components
        files = weight_files(folder / name, variant) if wanted else []
        parts[name] = _named(name, (entry for path in files for entry in stored_tensors(path).values()))
    return parts


def weight_files(folder: Path, variant: str | None) -> list[Path]:
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


def _file_parts(path: Path) -> dict[str, dict[str, Place]]:
    """A single file by component; one in no original layout is one component, called like the file."""
    entries = stored_tensors(path)
    layout = original_layout({key: entry.shape for key, entry in entries.items()})
    if not layout:
        return {path.stem: _named(path.stem, entries.values())}
    return {
        component: {
            weight_name(component, name): Place(entries[origin.key], origin) for name, origin in origins.items()
        }
        for component, origins in layout.items()
    }


def _named(component: str, entries: Iterable[StoredTensor]) -> dict[str, Place]:
    return {weight_name(component, entry.key): Place(entry, Origin(entry.key)) for entry in entries}


def local_folder(location: BaseLocation, variant: str | None = None) -> Path:
    """The folder of a base that is one, fetched from the hub if it is not here yet.

    Raises:
        BaseError: it cannot be fetched.
    """
    if location.kind == "folder":
        return Path(location.target)
    from diffusers import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(location.target, variant=variant, use_safetensors=True))
    except Exception as error:  # diffusers and the hub raise many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise BaseError(
            f"{location.name}: could not be fetched from the hub ({reason}); check the name and the network, or give "
            "a folder"
        ) from error
