"""Shifts from what others trained: the closest one to a fully fine-tuned model, or to a LoRA, LoHa or LoKr.

The files of base and model are compared first, so that only what was trained is decomposed; then each weight that
differs is projected on its base's directions (`spectra.convert.closest_shift`). A LoRA's pairs are outer terms already,
and are taken as they are unless another form is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from spectra.bases.pipeline import BaseLocation, find_base
from spectra.bases.weight_files import FileWeights, base_tensors, base_weights, component_name, folder_tensors
from spectra.convert.closest_shift import (
    Captured,
    ChangeOf,
    Factors,
    PairsOf,
    ShiftForm,
    find_closest,
    shift_of_parts,
    summed,
    take_pairs,
)
from spectra.convert.file_kinds import holds_lora
from spectra.convert.lora.reading import ChangeFile, read_lora
from spectra.convert.module_names import is_embedding
from spectra.errors import BaseError, MismatchError
from spectra.io.dtypes import computing_dtype
from spectra.io.tensor_files import stored_tensors
from spectra.naming.target_subsets import component_of, matching, path_of
from spectra.progress import SILENT, Progress, working
from spectra.shift.shift import SpectralShift
from spectra.spectrum.cache.spectrum_cache import SpectrumCache
from spectra.spectrum.spectrum import matrix


@dataclass(frozen=True)
class Extracted:
    """A shift, and how well it stands for what it was extracted from.

    Attributes:
        layers: what the shift captures of each weight's change, in name order.
        others: tensors that were changed too and that no shift can hold: biases, free parameters, new ones; and
            embeddings that are bundled with a LoRA.
        rest: what the shift leaves of each weight, at the rank that was asked for; without embeddings, for which no
            tool loads a LoRA.
    """

    shift: SpectralShift
    layers: tuple[Captured, ...]
    others: tuple[str, ...]
    rest: Mapping[str, Factors]

    @property
    def total(self) -> Captured:
        """What the shift captures of all weights together."""
        return summed("total", self.layers)

    @property
    def error_with_rest(self) -> float:
        """`||D - Delta W - rest|| / ||D||` over all weights: what is left when the rest is taken, too."""
        total = self.total
        return math.sqrt(max(total.rest - sum(each.square for each in self.rest.values()), 0) / total.change)


def extract(
    base: str,
    model: str,
    *,
    target: str = "",
    dtype: str = "float32",
    variant: str | None = None,
    directions: int | None = None,
    outer: int | None = None,
    separable: bool = False,
    rank: int = 0,
    cache: SpectrumCache | None = None,
    progress: Progress = SILENT,
) -> Extracted:
    """The shift of a base that is closest to a model fine-tuned from it, or to a LoRA for it.

    Of a LoRA it is exact, each pair an outer term, unless `directions` or `outer` says how much of it is to be kept.

    Args:
        base: as `find_base` takes it.
        model: likewise; or the folder or file of one component; or a LoRA, LoHa, LoKr or full-difference file.
        target: subset names and patterns of the weights to look at; all by default.
        dtype: in which the base will be loaded with the shift.
        variant: of the base's weight files.
        directions: so many leading directions of each weight may have a delta; by default all.
        outer: so many outer terms of each weight may be beside it; by default none.
        separable: those of convolutions are to be `a (x) b (x) kernel`, which takes fewer floats each.
        rank: of the approximation of what the shift leaves; 0 for none.

    Raises:
        InputError: fewer than 0 directions or outer terms, none of either, or separable terms and no outer ones.
        BaseError: base or model is missing or damaged.
        FormatError: a LoRA file that cannot be read, or a DoRA.
        MismatchError: the model has another architecture, or does not differ from the base.
    """
    form = ShiftForm(directions, outer or 0, separable)
    location = find_base(base)
    weights = every = base_weights(location, variant=variant, dtype=dtype)
    if target:
        ndims = {name: len(every.shape(name)) for name in every}
        weights = every.only(set(matching(every, target, ndims)).__contains__)
    pairs: dict[str, PairsOf] = {}
    if _is_change_file(Path(model)):
        file = read_lora(model, every.shapes())
        chosen = [name for name in file if name in weights]
        if directions is None and outer is None:
            pairs = {name: partial(_stored_pairs, file, name) for name in chosen if file.is_pairs(name)}
        changes: Mapping[str, ChangeOf] = {
            name: partial(_stored_change, file, name) for name in chosen if name not in pairs
        }
        others = tuple(f"{name}.bias" for name in file.biases) + file.embeddings
    else:
        changes, others = _model_changes(location, model, weights, variant, progress)
    if not (changes or pairs):
        what = "the weights of the chosen target" if target else "its weights"
        raise MismatchError(f"{model}: {what} are those of {location.name}; there is nothing to extract")
    found = find_closest(weights.only(changes.__contains__), changes, form, rank=rank, cache=cache, progress=progress)
    found |= take_pairs(weights.only(pairs.__contains__), pairs, progress)
    found = {name: found[name] for name in sorted(found)}
    layers = tuple(each.captured for each in found.values())
    total = summed("total", layers)
    if not total.change:
        raise MismatchError(f"{model}: it changes no weight (a LoRA of alpha 0?); there is nothing to extract")
    recipe = {"method": "extract", "from": Path(model).name, "error": round(total.error, 6)}
    return Extracted(
        shift=shift_of_parts(found, base=location.name, base_dtype=dtype, subset=target, recipe=recipe),
        layers=layers,
        others=others,
        rest={name: each.rest for name, each in found.items() if each.rest is not None and not is_embedding(name)},
    )


def _is_change_file(path: Path) -> bool:
    """Whether a path is that of a LoRA, LoHa, LoKr or full difference, by the keys in the file."""
    if path.is_dir():
        return not (path / "model_index.json").is_file() and not (path / "config.json").is_file()
    return path.is_file() and path.suffix == ".safetensors" and holds_lora(stored_tensors(path))


def _stored_change(file: ChangeFile, name: str, weight: Tensor) -> Tensor:
    """The change of a base's weight that a file holds as it is."""
    change = file.change(name, weight)
    _check_shape(file, name, change.shape, weight)
    return change


def _stored_pairs(file: ChangeFile, name: str, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The same of a LoRA, as up `[rows, m]` and down `[m, columns]`."""
    up, down = file.pairs(name, weight)
    _check_shape(file, name, (up.shape[0], down.shape[1]), weight)
    return up, down


def _check_shape(file: ChangeFile, name: str, found: Sequence[int], weight: Tensor) -> None:
    expected = weight.shape if weight.ndim == 1 else matrix(weight).shape
    if tuple(found) != tuple(expected):
        raise MismatchError(
            f"{file.path}: {name} is {list(found)} there and {list(expected)} in the base; "
            "give the base it was trained on"
        )


def _difference(model: FileWeights, name: str, weight: Tensor) -> Tensor:
    """The change that makes a base's weight the model's, `W' - W`."""
    trained = model[name]
    wide = computing_dtype(trained.dtype, weight.dtype)
    return trained.to(wide).sub_(weight.to(wide))  # read for this alone, so it may be overwritten


def _model_changes(
    location: BaseLocation, model: str, weights: FileWeights, variant: str | None, progress: Progress
) -> tuple[dict[str, ChangeOf], tuple[str, ...]]:
    """The weights in which a model differs from the base, and the other tensors in which it does."""
    base = base_tensors(location, variant=variant)
    trained = _read_model(model, base)
    parts = {component_of(name) for name in base} & {component_of(name) for name in trained}
    ours, theirs, candidates = (
        tensors.only(lambda name: component_of(name) in parts) for tensors in (base, trained, weights)
    )
    their_weights = theirs.weights()
    _check_same_shapes(model, location.name, candidates, their_weights)
    plain = ours.only(lambda name: name in theirs and not name.endswith(".weight"))
    known = ours.weights()
    changed = [name for name in theirs if name not in ours and not name.endswith(".weight")]
    changed += [f"{name}.weight" for name in their_weights if name not in known]
    with working(progress, "comparing", len(candidates) + len(plain)):
        trained_weights = list(_differing(candidates, their_weights, progress))
        changed += _differing(plain, theirs, progress)
    return {name: partial(_difference, their_weights, name) for name in trained_weights}, tuple(sorted(changed))


def _check_same_shapes(model: str, base: str, ours: FileWeights, theirs: FileWeights) -> None:
    for name in ours:
        has = theirs.shape(name) if name in theirs else None
        if has != ours.shape(name):
            raise MismatchError(
                f"{model}: another architecture than {base}: {name} is {list(ours.shape(name))} in the base, and "
                f"{'missing' if has is None else list(has)} in the model; choose what they share with --target"
            )


def _differing(base: FileWeights, model: FileWeights, progress: Progress) -> Iterator[str]:
    """The names of a base's tensors that the model has otherwise, in the precision that it stores them in."""
    for name in base:
        if not torch.equal(model.rounded(name, base[name]), model[name]):
            yield name
        progress.advance()


def _read_model(model: str, base: FileWeights) -> FileWeights:
    """The tensors of a model; those of one component alone are named as in the component of the base that has them."""
    path = Path(model)
    if path.is_dir() and not (path / "model_index.json").is_file():
        tensors = folder_tensors(path, component_name(path))
    else:
        tensors = base_tensors(model)
    components = {component_of(name): None for name in base}
    if any(component_of(name) in components for name in tensors):
        return tensors
    paths = {path_of(name): places for name, places in tensors.places.items()}
    for component in components:
        if any(f"{component}.{path}" in base for path in paths):
            return FileWeights({f"{component}.{path}": places for path, places in paths.items()})
    raise BaseError(
        f"{model}: nothing in it is called as in the base, which has {', '.join(components)}; expected a model of the "
        "same architecture, or a LoRA"
    )
