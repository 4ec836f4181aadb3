"""A module of every kind that a shift acts on, and the paper's formula for it in float64."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from spectra.spectrum.spectrum import matrix

KINDS = {
    "linear-wide": (lambda: nn.Linear(24, 12), (3, 5, 24)),
    "linear-tall": (lambda: nn.Linear(12, 24), (3, 5, 12)),
    "linear-square": (lambda: nn.Linear(16, 16, bias=False), (7, 16)),
    "linear-vector": (lambda: nn.Linear(9, 1), (4, 9)),
    "conv1d": (lambda: nn.Conv1d(6, 8, 3, stride=2, padding=1, dilation=2), (2, 6, 17)),
    "conv2d": (lambda: nn.Conv2d(8, 12, 3, stride=2, padding=1), (2, 8, 9, 7)),
    "conv2d-1x1-wide": (lambda: nn.Conv2d(16, 6, 1), (2, 16, 5, 4)),
    "conv2d-1x1-tall": (lambda: nn.Conv2d(6, 16, 1, stride=2), (2, 6, 5, 4)),
    "conv2d-tall": (lambda: nn.Conv2d(1, 16, 3, padding=1), (2, 1, 6, 5)),
    "conv2d-groups": (lambda: nn.Conv2d(8, 12, 3, groups=4, padding=1), (2, 8, 5, 5)),
    "conv2d-depthwise": (lambda: nn.Conv2d(12, 12, 3, groups=12), (2, 12, 5, 5)),
    "conv2d-reflect": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (2, 4, 6, 6)),
    "conv2d-same": (lambda: nn.Conv2d(4, 6, 3, padding="same"), (2, 4, 6, 6)),
    "conv3d": (lambda: nn.Conv3d(3, 5, 3, stride=(1, 2, 1), padding=1), (2, 3, 4, 5, 6)),
    "transposed1d": (lambda: nn.ConvTranspose1d(5, 7, 4, stride=2, padding=1), (2, 5, 9)),
    "transposed2d": (lambda: nn.ConvTranspose2d(8, 6, 3, stride=2, output_padding=1), (2, 8, 5, 4)),
    "transposed2d-tall": (lambda: nn.ConvTranspose2d(12, 2, 1, stride=2), (2, 12, 5, 4)),
    "transposed2d-groups": (lambda: nn.ConvTranspose2d(8, 6, 3, groups=2), (2, 8, 5, 4)),
    "embedding-tall": (lambda: nn.Embedding(40, 12), None),
    "embedding-wide": (lambda: nn.Embedding(7, 12), None),
}


def build(kind: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    make, shape = KINDS[kind]
    module = make().requires_grad_(False)
    x = torch.randint(0, module.num_embeddings, (3, 5)) if shape is None else torch.randn(shape)
    return module, x


def paper(module: nn.Module, delta: Tensor, x: Tensor) -> Tensor:
    """The module in float64 with `U diag(ReLU(sigma + delta)) V^T`, `U` and `V` from LAPACK."""
    double = copy.deepcopy(module).double()
    double.__dict__.pop("forward", None)
    w = matrix(double.weight)
    u, sigma, vt = torch.linalg.svd(w, full_matrices=False)
    weight = (u * torch.relu(sigma + delta)) @ vt
    x = x.double() if x.is_floating_point() else x
    return torch.func.functional_call(double, {"weight": weight.reshape(double.weight.shape)}, (x,))


def loss(y: Tensor) -> Tensor:
    torch.manual_seed(1)
    return (y * torch.randn(y.shape, dtype=torch.float64).to(y)).sum()
