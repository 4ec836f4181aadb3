"""SVDiff as its other implementations have it, in their conventions: what files of theirs mean.

Written after svdiff-pytorch 0.2.0 (and diffusers' PR 3107), dome272, phymhan and svdiff-kohya: each decomposes with
`torch.linalg.svd` in float32, and computes with `U diag(ReLU(S + delta)) Vh`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

PLAIN = ".delta"
KOHYA = ".org_module.parametrizations.weight.original"


def weight_of(weight: Tensor, delta: Tensor, *, kohya: bool = False, added_norms: bool = False) -> Tensor:
    """The weight that such code computes with."""
    if weight.ndim == 1 and added_norms:
        return weight + delta
    if weight.ndim == 1:
        return _formula(weight[None], delta)[0]
    if kohya and weight.ndim == 4:
        co, ci, kh, kw = weight.shape
        m = _formula(weight.permute(0, 2, 3, 1).reshape(co * kh * kw, ci), delta)
        return m.reshape(co, kh, kw, ci).permute(0, 3, 1, 2)
    return _formula(weight.flatten(1), delta).reshape(weight.shape)


def _formula(m: Tensor, delta: Tensor) -> Tensor:
    u, s, vh = torch.linalg.svd(m, full_matrices=False)
    return u @ torch.diag(torch.relu(s + delta)) @ vh


def length(weight: Tensor, *, kohya: bool = False, added_norms: bool = False) -> int:
    """Of the vector of a weight."""
    if weight.ndim == 1:
        return len(weight) if added_norms else 1
    if kohya and weight.ndim == 4:
        return min(weight.shape[0] * weight.shape[2] * weight.shape[3], weight.shape[1])
    return min(weight.shape[0], weight[0].numel())


@torch.no_grad()
def put(model: nn.Module, deltas: Mapping[str, Tensor], suffix: str = PLAIN) -> None:
    """Give a model the weights of a file in svdiff-pytorch's layout, for good."""
    paths = dict(model.named_modules())
    for key, delta in deltas.items():
        module = paths[key.removesuffix(suffix)]
        module.weight = nn.Parameter(weight_of(module.weight.detach(), delta))
