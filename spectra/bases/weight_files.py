"""The weights of a base straight from its safetensors files, tensor by tensor, without building the model.

A tensor read from the file has the fingerprint of the loaded module's weight, provided it has its dtype; and it has
the name that a shift gives it, whatever the layout of the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spectra.bases.original_layouts import Place, original_layout
from spectra.bases.pipeline import BaseLocation, find_base, local_folder
from spectra.errors import BaseError
from spectra.io.dtypes import torch_dtype
from spectra.io.tensor_files import stored_tensors
from spectra.naming.target_subsets import DENOISERS, TEXT_ENCODERS, component_of, weight_name

if TYPE_CHECKING:
    from torch import Tensor

_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_USUAL_NAMES = ("diffusion_pytorch_model", "model")

_TIED = {"encoder.embed_tokens": "shared"}
"""T5's table is stored under either name, or both; a module is named by its first path."""


@dataclass(frozen=True, eq=False)
class FileWeights(Mapping[str, "Tensor"]):
    """Tensors of a model by name, each read from its file when it is asked for. Several threads may read at once.

    Attributes:
        places: where each tensor is; in several places where a file holds a tied one more than once.
        cast_to: name of a dtype, such as "float32"; the file's own by default.
    """

    places: Mapping[str, Sequence[Place]]
    cast_to: str = ""

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.places[name][0].read()
        return tensor.to(torch_dtype(self.cast_to)) if self.cast_to else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, from the header alone."""
        return self.places[name][0].shape

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor by its name."""
        return {name: self.shape(name) for name in self.places}

    def dtype(self, name: str) -> str:
        """Name of the dtype that the tensor has when it is read, such as "float16"."""
        return self.cast_to or self.places[name][0].dtype

    def rounded(self, name: str, exact: Tensor) -> Tensor:
        """What reading a tensor would return, had its file this one instead."""
        tensor = self.places[name][0].rounded(exact)
        return tensor.to(torch_dtype(self.cast_to)) if self.cast_to else tensor

    def only(self, wanted: Callable[[str], bool]) -> FileWeights:
        """The tensors whose name is wanted."""
        return FileWeights({name: places for name, places in self.places.items() if wanted(name)}, self.cast_to)

    def matrices(self) -> FileWeights:
        """The tensors with two or more dimensions, which have a spectrum."""
        return self.only(lambda name: len(self.shape(name)) > 1)

    def by_component(self) -> dict[str, FileWeights]:
        """The tensors of each component, by its name, the first part of theirs."""
        parts: dict[str, dict[str, Sequence[Place]]] = {}
        for name, places in self.places.items():
            parts.setdefault(component_of(name), {})[name] = places
        return {component: FileWeights(places, self.cast_to) for component, places in parts.items()}

    def weights(self) -> FileWeights:
        """The weights among the tensors, under the names of shifts; a tied weight once, with all its places."""
        places: dict[str, list[Place]] = {}
        for key, found in self.places.items():
            if key.endswith(".weight"):
                component, _, path = key.removesuffix(".weight").partition(".")
                places.setdefault(weight_name(component, _TIED.get(path, path)), []).extend(found)
        return FileWeights(places, self.cast_to)


def base_weights(
    base: str | BaseLocation = "", components: Sequence[str] = (), *, variant: str | None = None, dtype: str = ""
) -> FileWeights:
    """Every floating-point weight of a base, under the names `<component>.<module path>` of shifts.

    Args:
        base: a diffusers folder, a `.safetensors` file, a hub id (fetched if it is not here yet), or empty for the
            embedded base. A single file may have an original layout (`original_layouts`); its weights have the names of
            diffusers' modules all the same.
        components: which to take, such as `("unet", "text_encoder")`; by default all that can carry a shift.
        variant: of the files, such as `fp16` for `diffusion_pytorch_model.fp16.safetensors`.
        dtype: to cast to, such as "float32"; the files' own by default.

    Raises:
        BaseError: the base or a component is missing, damaged, has no safetensors, or cannot be fetched.
    """
    weights = base_tensors(base, components, variant=variant, dtype=dtype).weights()
    if not weights:
        raise BaseError(
            f"{find_base(base).name}: no weight that a shift could act on; expected floating-point *.weight"
        )
    return weights


def base_tensors(
    base: str | BaseLocation = "", components: Sequence[str] = (), *, variant: str | None = None, dtype: str = ""
) -> FileWeights:
    """Every floating-point tensor of a base, biases too: `unet.conv_in.weight`, `unet.conv_in.bias`.

    Arguments and errors are those of `base_weights`.
    """
    location = find_base(base)
    if location.kind == "file":
        parts = _file_parts(Path(location.target))
    else:
        parts = _folder_parts(local_folder(location, variant), components, variant)
    missing = [name for name in components if name not in parts]
    if missing:
        raise BaseError(f"{location.name}: no component {missing[0]!r}; it has: {', '.join(parts)}")
    wanted = [part for name, part in parts.items() if not components or name in components]
    return FileWeights({name: places for part in wanted for name, places in part.places.items()}, dtype)


def component_name(path: Path) -> str:
    """What a file or folder that holds one component alone gives its weights as component: its name, without dots."""
    return path.name.removesuffix(".safetensors").replace(".", "-")


def folder_tensors(folder: Path, component: str, variant: str | None = None) -> FileWeights:
    """The tensors of a folder that holds one component alone, as `save_pretrained` of a model writes it."""
    stored = stored_tensors(*_weight_files(folder, variant))
    return _named(component, {key: Place(tensor) for key, tensor in stored.items()})


def _folder_parts(folder: Path, components: Sequence[str], variant: str | None) -> dict[str, FileWeights]:
    """The tensors of a pipeline's folder by component; none of a component that is not wanted."""
    known = [name for name in (*DENOISERS, *TEXT_ENCODERS) if (folder / name).is_dir()]
    if not known:
        raise BaseError(f"{folder}: no component that can carry a shift (unet, transformer, text_encoder, ...)")
    return {
        name: folder_tensors(folder / name, name, variant) if not components or name in components else FileWeights({})
        for name in known
    }


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


def _file_parts(path: Path) -> dict[str, FileWeights]:
    """The tensors of a single file by component; one in no original layout is one component, called like the file."""
    stored = stored_tensors(path)
    layout = original_layout(stored) or {component_name(path): {key: Place(tensor) for key, tensor in stored.items()}}
    return {component: _named(component, places) for component, places in layout.items()}


def _named(component: str, places: Mapping[str, Place]) -> FileWeights:
    return FileWeights({weight_name(component, key): [place] for key, place in places.items()})
