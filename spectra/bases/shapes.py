"""A base without its weights: every model of a pipeline on the meta device, from its configuration alone."""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.bases.index_files import INDEX, read_index, read_object
from spectra.bases.part import Part
from spectra.bases.pipeline import BaseLocation, find_base, why_not_loaded
from spectra.bases.published import PUBLISHED, find_published
from spectra.bases.single_file import configuration_folder
from spectra.bases.weight_files import folder_tensors
from spectra.errors import BaseError
from spectra.naming.target_subsets import DENOISERS, may_name

if TYPE_CHECKING:
    from torch import nn

_NOT_TRAINED = ("safety_checker", "image_encoder", "feature_extractor")
"""Models of a pipeline that a training takes out, or never calls."""


@dataclass(frozen=True)
class BaseShapes:
    """A base as far as configurations tell it.

    Attributes:
        name: as it was asked for.
        pipeline: the class of diffusers that its index names.
        parts: its models by component name: what to build.
        dtypes: of each component's stored weights, by its name; those are left out whose files are not here.
        resolution: pixels of the side that it was made for, 0 where only its model tells.
    """

    name: str
    pipeline: str
    parts: Mapping[str, Part]
    dtypes: Mapping[str, frozenset[str]]
    resolution: int = 0


def published_shapes(name: str) -> BaseShapes:
    """The shapes of a published base; errors as `find_published`."""
    base = find_published(name)
    dtypes = {name: frozenset({base.dtype}) for name in base.parts if name in DENOISERS}
    return BaseShapes(name, base.pipeline, base.parts, dtypes, base.resolution)


def base_shapes(base: str | BaseLocation = "") -> BaseShapes:
    """The shapes of a base, from its config.json files; of a hub id, these alone are fetched.

    Args:
        base: as `find_base` takes it. A single file has its configuration in the folder beside it, of the same name.

    Raises:
        BaseError: the base is missing, its configurations are, or cannot be read or fetched.
    """
    location = find_base(base)
    folder = _configurations(location)
    index = read_index(folder)
    parts, dtypes = {}, {}
    for component, named in index.items():
        config = folder / component / "config.json"
        if component.startswith("_") or component in _NOT_TRAINED or not config.is_file():
            continue
        if not (isinstance(named, list) and len(named) == 2 and named[0] in ("diffusers", "transformers")):
            raise BaseError(
                f"{folder / INDEX}: {component} is {named!r}; expected a class of diffusers or transformers"
            )
        count = 0
        if any((folder / component).glob("*.safetensors")):
            weights = folder_tensors(folder / component, component)
            dtypes[component] = frozenset(map(weights.dtype, weights))
            count = sum(math.prod(shape) for shape in weights.shapes().values())
        parts[component] = Part(named[0], named[1], read_object(config), count)
    if not parts:
        raise BaseError(f"{folder}: no part of the pipeline has a config.json; the folder may be damaged or incomplete")
    return BaseShapes(location.name, str(index.get("_class_name", "")), parts, dtypes)


def _configurations(location: BaseLocation) -> Path:
    """The folder with the base's configurations."""
    if location.kind == "folder":
        return Path(location.target)
    if location.kind == "file":
        found = configuration_folder(Path(location.target), location.components_from)
        if found is None:
            raise BaseError(
                f"{location.name}: a single file has no configuration of its own; put the pipeline's into the folder "
                f"{Path(location.target).with_suffix('')}, or name a family: {', '.join(PUBLISHED)}"
            )
        return found
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(location.target, allow_patterns=[INDEX, "*/config.json"]))
    except Exception as error:  # the hub raises many kinds
        raise BaseError(why_not_loaded(location, error)) from error


def build(part: Part, device: str = "meta") -> nn.Module:
    """The model of a part, frozen and in evaluation mode; on the meta device it has no values, elsewhere random ones.

    Raises:
        BaseError: the installed library has no such class, or its configuration does not fit.
    """
    import torch

    library: Any = importlib.import_module(part.library)
    config = {key: value for key, value in part.config.items() if key not in ("quantization_config", "torch_dtype")}
    try:
        kind = getattr(library, part.kind)
        with torch.device(device), _without_values() if device == "meta" else contextlib.nullcontext():
            made = (
                kind.from_config(config) if part.library == "diffusers" else kind(kind.config_class.from_dict(config))
            )
    except Exception as error:  # unknown classes and arguments each raise kinds of their own
        raise BaseError(f"{part.kind}: {part.library} cannot build it ({str(error).splitlines()[0]})") from error
    model: nn.Module = made
    return model.eval().requires_grad_(False)


@contextlib.contextmanager
def _without_values() -> Iterator[None]:
    """Within the block layers leave their weights as they are: on the meta device there is nothing to draw."""
    from torch import nn

    kinds: list[Any] = [nn.Linear, nn.Embedding, nn.modules.conv._ConvNd]
    usual = [kind.reset_parameters for kind in kinds]
    for kind in kinds:
        kind.reset_parameters = lambda layer: None
    try:
        yield
    finally:
        for kind, reset in zip(kinds, usual, strict=True):
            kind.reset_parameters = reset


class BaseModels:
    """A base's models, each built on the meta device when it is first asked for: most plans need few of them."""

    def __init__(self, parts: Mapping[str, Part]) -> None:
        self.parts = parts
        self._built: dict[str, nn.Module] = {}

    def __getitem__(self, name: str) -> nn.Module:
        if name not in self._built:
            self._built[name] = build(self.parts[name])
        return self._built[name]

    def built(self, name: str) -> bool:
        """Whether a model has been asked for."""
        return name in self._built

    def named_by(self, pattern: str) -> dict[str, nn.Module]:
        """Those of which the pattern can mean weights; all where it means none, for the error that says so."""
        names = [name for name in self.parts if may_name(pattern, name)]
        return {name: self[name] for name in names or self.parts}
