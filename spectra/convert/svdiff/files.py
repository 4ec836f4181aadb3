"""The files of other implementations of SVDiff: their keys, and which weight each vector belongs to.

| layout         | key                                                | a norm's vector          | matrix             |
|----------------|----------------------------------------------------|--------------------------|--------------------|
| svdiff-pytorch | `<path>.delta`                                     | `[1]`, scales all of it  | co x (ci kh kw)    |
| dome272        | `<path>.parametrizations.weight.0.delta`           | `[1]`, scales all of it  | co x (ci kh kw)    |
| phymhan        | `<path>.parametrizations.weight.0.eigenvalues_delta` | `[n]`, added           | co x (ci kh kw)    |
| svdiff-kohya   | `<name>.org_module.parametrizations.weight.original` | none                   | (co kh kw) x ci    |

svdiff-pytorch's is diffusers' PR 3107's as well. `<path>` is diffusers' without the component; `<name>` is kohya's.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from spectra.compatibility.base_check import delta_length
from spectra.convert.file_kinds import PICKLES, SVDIFF_SUFFIXES, header_of, svdiff_layout
from spectra.convert.module_names import aliases
from spectra.convert.svdiff.basis_change import Reshape
from spectra.convert.svdiff.pickles import read_pickle
from spectra.errors import FormatError
from spectra.io.tensor_files import read_rows

ADDED_NORMS = ("phymhan",)
"""Layouts whose vector of a norm is as long as the norm, and added to it."""

_BESIDE = {"modifier_tokens.": "trained token embeddings", ".org_module.bias": "biases, which are the base's own"}
"""What such files hold besides vectors, by how its key begins or ends."""


@dataclass(frozen=True)
class ForeignShift:
    """The vectors of one or more files, by weight name.

    Attributes:
        layout: a name of `SVDIFF_SUFFIXES`.
        beside: what else the files hold, and how many tensors of it.
    """

    layout: str
    deltas: Mapping[str, Tensor]
    beside: Mapping[str, int]


def read_svdiff(paths: Sequence[str | Path], names: Collection[str], *, allow_pickle: bool = False) -> ForeignShift:
    """The vectors of a foreign shift, which may be one file for each component.

    Args:
        paths: files of one layout.
        names: of the base's weights.
        allow_pickle: read pickles too, and then tensors only (`torch.load(weights_only=True)`).

    Raises:
        FormatError: damaged, another kind of file, a pickle that is not allowed, two layouts, a module that the base
            does not have, or one that two files name.
    """
    known = aliases(names)
    deltas: dict[str, Tensor] = {}
    beside: dict[str, int] = {}
    layouts = set()
    for path in map(Path, paths):
        if path.suffix in PICKLES:
            tensors = read_pickle(path, allowed=allow_pickle)
        else:
            tensors = {key: read_rows(stored) for key, stored in header_of(path).tensors.items()}
        layout = svdiff_layout(tensors)
        if not layout:
            raise FormatError(f"{path}: no file of {', '.join(SVDIFF_SUFFIXES)}")
        layouts.add(layout)
        for key, tensor in tensors.items():
            other = next((what for mark, what in _BESIDE.items() if mark in key), "")
            if other:
                beside[other] = beside.get(other, 0) + 1
                continue
            module, suffix, end = key.rpartition(SVDIFF_SUFFIXES[layout])
            name = known.get(module) if suffix and not end else None
            if name is None:
                raise FormatError(
                    f"{path}: {key} is no weight of the base, or of two of its components (see --component); "
                    "give the base it was trained on"
                )
            if name in deltas:
                raise FormatError(f"{path}: {name} is in another of the files too; give one of them")
            if tensor.ndim != 1 or not tensor.is_floating_point() or not torch.isfinite(tensor).all():
                raise FormatError(f"{path}: {key}: expected a vector of finite floats, got {list(tensor.shape)}")
            deltas[name] = tensor.to(torch.float32)
    if not layouts:
        raise FormatError(f"no file to read; expected one or more of {', '.join(SVDIFF_SUFFIXES)}")
    if len(layouts) > 1:
        raise FormatError(f"these files are of two layouts, {' and '.join(sorted(layouts))}; convert them one by one")
    return ForeignShift(layouts.pop(), deltas, beside)


def reshape_of(foreign: ForeignShift, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Reshape, int]:
    """How a foreign shift's convolutions became matrices, and how many of its vectors' lengths tell.

    Keys say it, except that nothing keeps a file of one kind from being renamed to another: so lengths are asked. A
    convolution with as many channels in as out has the same length either way.

    Args:
        shapes: the shape of each of the base's weights, by name.

    Raises:
        FormatError: vectors of lengths that fit neither: another base.
    """
    usual: Reshape = "channels-last" if foreign.layout == "svdiff-kohya" else "first-dim"
    other: Reshape = "first-dim" if usual == "channels-last" else "channels-last"
    found = {name: delta.numel() for name, delta in foreign.deltas.items()}
    lengths = {name: {each: _length(foreign, shapes[name], each) for each in (usual, other)} for name in found}
    for reshape in (usual, other):
        wrong = [name for name in found if found[name] != lengths[name][reshape]]
        if not wrong:
            return reshape, sum(each[usual] != each[other] for each in lengths.values())
    name = wrong[0]
    raise FormatError(
        f"{name} takes {delta_length(shapes[name])} floats in this base, the file has {found[name]} "
        f"({len(wrong)} such weights); give the base it was trained on"
    )


def _length(foreign: ForeignShift, shape: tuple[int, ...], reshape: Reshape) -> int:
    if len(shape) == 1:
        return shape[0] if foreign.layout in ADDED_NORMS else 1
    if reshape == "first-dim" or len(shape) == 2:
        return delta_length(shape)
    return min(shape[0] * math.prod(shape[2:]), shape[1])
