"""The parameters of a training: what of each weight moves, where it starts, and what shift it is.

Each is known by its weight's name and the part of its change, as in a shift file: `unet.mid_block....to_q.delta`,
`unet.mid_block....to_q.outer.a`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spectra.adapters.bind import ALL
from spectra.adapters.binding import Binding
from spectra.errors import InputError, MismatchError
from spectra.families import Target
from spectra.layers.change import Change
from spectra.shift.outer_terms import OuterTerms
from spectra.shift.shift import Delta, SpectralShift
from spectra.shift.word_vectors import WordVectors

PARTS = {"delta": "delta", "outer.a": "a", "outer.b": "b", "outer.kernel": "kernel", "word": "word"}
"""The parts of a change as files name them, and the attribute of `Change` that each is."""


def split_key(key: str) -> tuple[str, str]:
    """The weight's name and the part of a parameter's key."""
    for part in PARTS:
        if key.endswith(f".{part}"):
            return key[: -len(part) - 1], part
    raise ValueError(f"expected a key that ends in one of {', '.join(PARTS)}, got {key!r}")


def changes(parameters: Mapping[str, Tensor], forms: Mapping[str, WeightForm]) -> dict[str, Change]:
    """The change of each weight, by name, from its parameters."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, parameter in parameters.items():
        name, part = split_key(key)
        parts.setdefault(name, {})[PARTS[part]] = parameter
    return {name: Change(**found, ids=forms[name].ids) for name, found in parts.items()}


class WeightForm(NamedTuple):
    """What of one weight is trained.

    Attributes:
        directions: numbers of its singular directions, ascending; None for all of them, and for a 1-D weight.
        terms: the number of its outer terms.
        ids: the special word's tokens.
        taps: of each term's kernel; 0 for terms without, as of matrices, pointwise and depthwise convolutions.
    """

    directions: list[int] | None = None
    terms: int = 0
    ids: tuple[int, ...] = ()
    taps: int = 0


@dataclass(frozen=True)
class Form:
    """What of the weights is trained.

    Attributes:
        directions: how many of a weight's leading singular directions; None for all, 0 for none. A mapping says by
            name which: their numbers from 0 on, ascending. A 1-D weight's delta is always whole.
        outer: how many outer terms each matrix and convolution has; a mapping by name, 0 where it lacks one. A number
            leaves embeddings out, whose rows are words.
        words: the special word's tokens, by the name of the embedding.
        vectors: whether 1-D weights move.
        separable: whether a convolution's terms have a kernel, or `b` over its taps too, as LoRA's.
    """

    directions: int | Mapping[str, Sequence[int]] | None = None
    outer: int | Mapping[str, int] = 0
    words: Mapping[str, Sequence[int]] = field(default_factory=dict)
    vectors: bool = True
    separable: bool = True

    def __post_init__(self) -> None:
        counts = [self.outer] if isinstance(self.outer, int) else self.outer.values()
        if isinstance(self.directions, int) and self.directions < 0:
            raise InputError(f"expected a number of directions of 0 or more, got {self.directions}")
        if any(count < 0 for count in counts):
            raise InputError(f"expected a number of outer terms of 0 or more, got {min(counts)}")

    def of(self, target: Target, *, word_only: bool = False) -> WeightForm:
        """The form of one weight; `word_only` says that it is no target but for the special word.

        Raises:
            InputError: directions or tokens that the weight has not.
        """
        ids = tuple(int(each) for each in self.words.get(target.name, ()))
        rows, embedding = target.shape[0], isinstance(target.modules[0], nn.Embedding)
        if target.name in self.words and not (embedding and ids and all(0 <= each < rows for each in ids)):
            raise InputError(f"{target.name}: expected an embedding and tokens below {rows} of it, got {list(ids)}")
        if word_only:
            return WeightForm([], 0, ids)
        if target.weight.ndim == 1:
            return WeightForm(None if self.vectors else [])
        terms = (0 if embedding else self.outer) if isinstance(self.outer, int) else self.outer.get(target.name, 0)
        # Beside a `b` of one number, as of a depthwise convolution, a kernel's length would be trained twice.
        taps = math.prod(target.shape[2:]) if self.separable and target.shape[1] > 1 else 0
        return WeightForm(self._chosen(target), terms, ids, taps if taps > 1 else 0)

    def _chosen(self, target: Target) -> list[int] | None:
        if self.directions is None:
            return None
        if isinstance(self.directions, int):
            return list(range(min(self.directions, target.delta_length)))
        found = [int(number) for number in self.directions.get(target.name, ())]
        if found != sorted(set(found)) or (found and not 0 <= found[0] <= found[-1] < target.delta_length):
            raise InputError(
                f"{target.name}: expected ascending numbers of directions below {target.delta_length}, got {found[:8]}"
            )
        return found


def leading(forms: Mapping[str, WeightForm]) -> dict[str, int]:
    """How many leading directions of each weight are needed, as `bind` takes it."""
    return {
        name: ALL if form.directions is None else max(form.directions, default=-1) + 1 for name, form in forms.items()
    }


def make_parameters(targets: Iterable[Target], forms: Mapping[str, WeightForm]) -> dict[str, nn.Parameter]:
    """Float32 parameters at which every weight is the frozen one: `a`, deltas and words are zero.

    `b` of length n is uniform within `1 / sqrt(n)`, as PEFT's LoRA starts, and each kernel passes its middle tap alone.
    """
    made: dict[str, nn.Parameter] = {}
    generator = torch.Generator().manual_seed(0)
    for target in targets:
        shape, device, form = target.shape, target.weight.device, forms[target.name]
        start: dict[str, Tensor] = {}
        length = target.delta_length if form.directions is None else len(form.directions)
        if length:
            start["delta"] = torch.zeros(length)
        if form.terms:
            start["outer.a"] = torch.zeros(form.terms, shape[0])
            columns = shape[1] if form.taps else math.prod(shape[1:])
            start["outer.b"] = (2 * torch.rand(form.terms, columns, generator=generator) - 1) / math.sqrt(columns)
            if form.taps:
                start["outer.kernel"] = torch.zeros(form.terms, form.taps)
                start["outer.kernel"][:, form.taps // 2] = 1
        if form.ids:
            start["word"] = torch.zeros(len(form.ids), shape[1])
        made |= {f"{target.name}.{part}": nn.Parameter(value.to(device)) for part, value in start.items()}
    return made


def register(root: nn.Module, key: str, parameter: nn.Parameter) -> None:
    """Make a parameter one of `root`'s under a name with dots, as a parameter of modules within modules."""
    *path, name = key.split(".")
    for piece in path:
        if piece not in root._modules:
            root.add_module(piece, nn.Module())
        root = root._modules[piece]  # type: ignore[assignment]
    root.register_parameter(name, parameter)


def to_shift_parts(
    bindings: Mapping[str, Binding], parameters: Mapping[str, Tensor], forms: Mapping[str, WeightForm], text: str
) -> tuple[dict[str, Delta], dict[str, OuterTerms], dict[str, WordVectors]]:
    """Deltas `[r]`, outer terms and words of a shift with these values, as numpy arrays by weight name."""
    deltas: dict[str, Delta] = {}
    outer, words = {}, {}
    for name, live in changes(parameters, forms).items():
        change, form = live.map(lambda value: value.detach().float().cpu()), forms[name]
        delta = torch.zeros(bindings[name].target.delta_length)
        if change.delta is not None:
            delta[slice(None) if form.directions is None else form.directions] = change.delta
        deltas[name] = delta.numpy()
        if change.a is not None and change.b is not None:
            kernel = None if change.kernel is None else change.kernel.numpy()
            outer[name] = OuterTerms(change.a.numpy(), change.b.numpy(), kernel)
        if change.word is not None:
            words[name] = WordVectors(change.ids, change.word.numpy(), text)
    return deltas, outer, words


def values_of(
    shift: Mapping[str, Any],
    parameters: Mapping[str, Tensor],
    bindings: Mapping[str, Binding],
    forms: Mapping[str, WeightForm],
    subset: str,
) -> dict[str, Tensor]:
    """A shift's values for the parameters of a training; of terms that it lacks, `a` is zero and the rest as it is.

    `subset` is what errors call the training's weights.

    Raises:
        MismatchError: the shift has other weights, or a part that the training has no room for.
    """
    names = {split_key(key)[0] for key in parameters}
    if odd := sorted(names ^ set(shift)):
        raise MismatchError(f"expected the {len(names)} weights of {subset!r}; {odd[0]} is not in both")
    found: dict[str, Tensor] = {}
    for name in shift:
        found |= _parts_of(name, shift, bindings[name].target, forms[name])
    values = {}
    for key, parameter in parameters.items():
        values[key] = parameter.detach().clone()
        if split_key(key)[1] in ("delta", "outer.a", "word"):
            values[key].zero_()
    for key, value in found.items():
        room = values.get(key)
        if room is None or value.shape[1:] != room.shape[1:] or len(value) > len(room):
            have = "none of it" if room is None else f"room for shape {list(room.shape)}"
            raise MismatchError(f"{key}: the shift has shape {list(value.shape)}, the training {have}; train that too")
        room[: len(value)] = value.to(room.device)
    return values


def _parts_of(name: str, shift: Mapping[str, Any], target: Target, form: WeightForm) -> dict[str, Tensor]:
    """What a shift changes of one weight, by key; a delta of zeros is nothing."""
    found: dict[str, Tensor] = {}
    given, directions = shift[name], form.directions
    delta = given.detach() if isinstance(given, Tensor) else torch.tensor(given)
    if len(delta) != target.delta_length:
        raise MismatchError(f"{name}: expected {target.delta_length} floats, got shape {list(delta.shape)}")
    if directions is not None:
        others = delta.clone()
        others[directions] = 0
        if bool(others.any()):
            raise MismatchError(f"{name}: the shift moves direction {int(others.nonzero()[0])}, which is not trained")
        delta = delta[directions]
    if bool(delta.any()):
        found[f"{name}.delta"] = delta
    if not isinstance(shift, SpectralShift):
        return found
    if name in shift.outer:
        terms = shift.outer[name]
        found |= {f"{name}.outer.a": torch.tensor(terms.a), f"{name}.outer.b": torch.tensor(terms.b)}
        if terms.kernel is not None:
            found[f"{name}.outer.kernel"] = torch.tensor(terms.kernel)
    if name in shift.words:
        word = shift.words[name]
        if not set(word.ids) <= set(form.ids):
            raise MismatchError(f"{name}: the shift's special word has other tokens than the training's")
        rows = torch.zeros(len(form.ids), word.vectors.shape[1])
        rows[[form.ids.index(each) for each in word.ids]] = torch.tensor(word.vectors)
        found[f"{name}.word"] = rows
    return found
