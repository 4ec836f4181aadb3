"""What a shift holds, summed up by block and by kind of layer. Works on names and numbers alone: no model needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from spectra.shift.shift import Delta, SpectralShift

KINDS = (
    ("cross-attention", ("attn2.", "cross_attn.")),
    ("self-attention", ("attn1.", "self_attn.", "SelfAttention.")),
    ("joint attention", ("attn.",)),
    ("norm", ("norm",)),
    ("feed-forward", ("ff.", "ff_context.", "mlp", "DenseReluDense.")),
    ("embedding", ("emb",)),
    ("convolution", ("conv", "downsample", "upsample")),
    ("projection", ("proj",)),
)
"""Kinds of layer, each with the parts of a name that tell it, in the order they are tried.

The names are those of diffusers' and transformers' modules. A norm of queries or keys (`attn.norm_q`) counts as the
attention's own.
"""


@dataclass(frozen=True)
class Part:
    """Some of a shift's deltas together.

    Attributes:
        name: of the block, kind or weight.
        tensors: number of deltas.
        floats: in all of them.
        norm: `||delta||`. Where the weights have two or more dimensions and no singular value is clipped by the ReLU
            this is `||Delta W||_F` exactly, since `Delta W = U diag(delta) V^T` (docs/algebra.md).
        largest: `max |delta|`.
    """

    name: str
    tensors: int
    floats: int
    norm: float
    largest: float


def block(name: str) -> str:
    """The block a weight belongs to: its name up to the first number, or its component if there is none.

    `unet.down_blocks.1.attentions.0...` is in `unet.down_blocks.1`, `unet.mid_block...` in `unet.mid_block`, and
    `unet.conv_in` in `unet`.
    """
    pieces = name.split(".")
    if pieces[1] == "mid_block":
        return ".".join(pieces[:2])
    for i, piece in enumerate(pieces):
        if piece.isdigit():
            return ".".join(pieces[: i + 1])
    return pieces[0]


def kind(name: str) -> str:
    """The kind of layer that a weight is, by its name; `other` where the name does not tell."""
    path = name.split(".", 1)[1]
    return next((kind for kind, marks in KINDS if any(mark in path for mark in marks)), "other")


def layers(shift: SpectralShift) -> tuple[Part, ...]:
    """One part per weight, in name order."""
    return tuple(_part(name, [delta]) for name, delta in shift.items())


def total(shift: SpectralShift) -> Part:
    """All deltas as one part."""
    return _part("total", shift.values())


def grouped(shift: SpectralShift, key: Callable[[str], str]) -> tuple[Part, ...]:
    """One part per group of weights.

    Args:
        shift: whose deltas are summed up.
        key: gives a weight's group by its name: `block` or `kind`.

    Returns:
        The groups, numbered blocks in numerical order.
    """
    groups: dict[str, list[Delta]] = {}
    for name, delta in shift.items():
        groups.setdefault(key(name), []).append(delta)
    return tuple(_part(name, groups[name]) for name in in_order(groups))


def in_order(names: Iterable[str]) -> list[str]:
    """Names sorted, those of numbered blocks in numerical order."""
    return sorted(names, key=_natural)


def _natural(name: str) -> list[tuple[bool, int, str]]:
    return [(piece.isdigit(), int(piece) if piece.isdigit() else 0, piece) for piece in name.split(".")]


def _part(name: str, deltas: Iterable[Delta]) -> Part:
    deltas = list(deltas)
    return Part(
        name=name,
        tensors=len(deltas),
        floats=sum(delta.size for delta in deltas),
        norm=math.sqrt(sum(float(np.sum(np.square(delta, dtype=np.float64))) for delta in deltas)),
        largest=max(float(np.abs(delta).max()) for delta in deltas),
    )
