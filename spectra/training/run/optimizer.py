"""How deltas move: AdamW, and what is done to gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spectra.training.config import TrainConfig


def make_optimizer(deltas: Mapping[str, nn.Parameter], ndims: Mapping[str, int], config: TrainConfig) -> Any:
    """AdamW with a learning rate for the deltas of matrices and convolutions, and one for those of 1-D weights.

    `deltas`, `[r]` or `[concepts, r]`, and the weights' numbers of dimensions are by weight name.
    """
    if config.directions:
        for name, delta in deltas.items():
            if ndims[name] > 1:
                delta.register_hook(lambda gradient: keep_leading(gradient, config.directions))
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in deltas.items() if (ndims[name] == 1) == vectors], "lr": lr, "initial_lr": lr}
        for vectors, lr in ((False, config.lr), (True, config.lr_1d))
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=config.weight_decay)


def keep_leading(gradient: Tensor, directions: int) -> Tensor:
    """A gradient `[..., r]` with zeros for all but the first `directions` singular values, the largest."""
    return F.pad(gradient[..., :directions], (0, max(0, gradient.shape[-1] - directions)))


def clip_by_concept(deltas: Sequence[nn.Parameter], concepts: int, largest: float) -> None:
    """Scale the gradient of each concept, over all deltas, to a norm of at most `largest`."""
    gradients = [delta.grad.view(concepts, -1) for delta in deltas if delta.grad is not None]
    norms = torch.stack([gradient.norm(dim=1) for gradient in gradients]).norm(dim=0)
    factor = (largest / (norms + 1e-6)).clamp_max(1).unsqueeze(1)
    for gradient in gradients:
        gradient.mul_(factor)
