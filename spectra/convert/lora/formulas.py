"""What the parts of an adapter come to: the change of one weight.

    LoRA    Delta W = scale * up down                                  (arXiv:2106.09685)
            with a middle, of a convolution: sum_mn mid[m, n] up_m down_n
    LoHa    Delta W = scale * (a1 b1) o (a2 b2), element by element    (arXiv:2108.06098)
    LoKr    Delta W = scale * kron(w1, w2), each whole or of low rank  (arXiv:2309.14859)
    diff    Delta W as it is

Every change is `[rows, columns]`, the matrix of `spectrum.matrix`. `scale` is alpha / rank, for the caller.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Parts: TypeAlias = Mapping[str, Tensor]

METHODS = (
    {"down", "up"},
    {"rows", "values"},
    {"diff"},
    {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"},
    *(
        {*w1, *w2}
        for w1 in (("lokr_w1",), ("lokr_w1_a", "lokr_w1_b"))
        for w2 in (("lokr_w2",), ("lokr_w2_a", "lokr_w2_b"))
    ),
)
"""The parts that are enough for a change, by method."""

_FACTORS = (
    ("up", "down", "mid"),
    ("values", "rows", ""),
    ("hada_w1_a", "hada_w1_b", "hada_t1"),
    ("hada_w2_a", "hada_w2_b", "hada_t2"),
    ("lokr_w1_a", "lokr_w1_b", ""),
    ("lokr_w2_a", "lokr_w2_b", "lokr_t2"),
)
"""Two parts whose product is taken, and what a convolution may have between them."""


def pairs_of(parts: Parts) -> tuple[Tensor, Tensor]:
    """Up `[rows, m]` and down `[m, columns]` of a LoRA, whose product is Delta W without its scale."""
    if "rows" in parts:
        return parts["rows"].T, parts["values"].T
    up, down = parts["up"].flatten(1), parts["down"].flatten(1)
    if "mid" in parts:
        down = torch.einsum("mn...,nj->mj...", parts["mid"], down).flatten(1)
    return up, down


def misfit(shapes: Mapping[str, Sequence[int]]) -> str:
    """The parts of one weight that cannot be multiplied, given the shapes of all, in words; empty if all can."""
    for first, second, middle in _FACTORS:
        if not {first, second} <= shapes.keys():
            continue
        tucker = middle in shapes and middle != "mid"  # its first factor is the other way round
        inner = [*shapes[first][0 if tucker else 1 :][:1], *shapes[second][:1]]
        if inner != list(shapes[middle][:2]) if middle in shapes else len(set(inner)) != 1:
            parts = [f"{part} {list(shapes[part])}" for part in (first, middle, second) if part in shapes]
            return f"{' and '.join(parts)} have no common rank"
    return ""


def values_of(shapes: Mapping[str, Sequence[int]]) -> int:
    """How many values the change has whose parts have these shapes, which fit each other."""
    if "diff" in shapes:
        return math.prod(shapes["diff"])
    sizes = {
        first: _product_size(shapes[first], shapes[second], shapes.get(middle, ()), tucker=middle != "mid")
        for first, second, middle in _FACTORS
        if {first, second} <= shapes.keys()
    }
    if "up" in sizes or "values" in sizes:
        return sizes.get("up") or sizes["values"]
    if "hada_w1_a" in sizes:
        return sizes["hada_w1_a"]
    whole = (math.prod(shapes[f"lokr_w{i}"]) if f"lokr_w{i}" in shapes else sizes[f"lokr_w{i}_a"] for i in (1, 2))
    return math.prod(whole)


def _product_size(first: Sequence[int], second: Sequence[int], middle: Sequence[int], *, tucker: bool) -> int:
    outside = first[1:] if middle and tucker else first[:1]
    return math.prod(outside) * math.prod(second[1:]) * math.prod(middle[2:])


def scaled_rank(parts: Parts) -> int | None:
    """The rank that alpha is divided by; None where a method has none."""
    for name in ("down", "rows", "hada_w1_b", "lokr_w2_b", "lokr_w1_b"):
        if name in parts:
            return parts[name].shape[0]
    return None


def change_of(parts: Parts) -> Tensor:
    """Delta W without its scale, `[rows, columns]` or `[n]`.

    Args:
        parts: of one weight, float32, as one of `METHODS` has them.
    """
    if "diff" in parts:
        diff = parts["diff"]
        return diff if diff.ndim == 1 else diff.flatten(1)
    if "up" in parts or "rows" in parts:
        up, down = pairs_of(parts)
        return up @ down
    if "hada_w1_a" in parts:
        first, second = (_product(parts, f"hada_w{i}", f"hada_t{i}") for i in (1, 2))
        return (first * second).flatten(1)
    first = parts["lokr_w1"] if "lokr_w1" in parts else _product(parts, "lokr_w1")
    second = parts["lokr_w2"] if "lokr_w2" in parts else _product(parts, "lokr_w2", "lokr_t2")
    return torch.kron(first.flatten(1), second.flatten(1))


def _product(parts: Parts, stem: str, core: str = "") -> Tensor:
    """`a b`, or with a core `t` (Tucker): `sum_ij t[i, j, ...] a[i, :] b[j, :]`."""
    a, b = parts[f"{stem}_a"], parts[f"{stem}_b"]
    if core in parts:
        return torch.einsum("ij...,ip,jr->pr...", parts[core], a, b)
    return a.flatten(1) @ b.flatten(1)
