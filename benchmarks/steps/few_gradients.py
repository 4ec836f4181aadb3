"""Error of the gradients of few directions and outer terms against float64, ours beside the plain formula's.

The plain formula makes `W + U diag(d) V^T + A^T right` in the dtype of the weight, and autograd does the rest. The
reference is that in float64, from the same rounded weight, input, gradient and parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from spectra.layers.changed_weight import SomeDirections

_SIZE = 0.05
"""Of a change, relative to the weight."""


def errors(
    module: nn.Module, known: SomeDirections, x: Tensor, grad: Tensor, *, outer: int, moved: bool, seed: int
) -> dict[str, tuple[float, float]]:
    """`||g - g64|| / ||g64||` of each part's gradient, by its name: ours, and the plain formula's.

    Args:
        module: a layer in the dtype that is asked about.
        known: the directions of its weight that change, float64.
        x: its input.
        grad: the gradient of its output.
        outer: how many terms there are.
        moved: at a change as of a trained shift; else where the deltas and `a` are zero. Then `b` and its kernel have
            no gradient, and are left out.
    """
    import torch

    weight: Tensor = module.weight  # type: ignore[assignment]
    parts = _parameters(weight, known.sigma, outer, torch.Generator().manual_seed(seed))
    if not moved:
        parts = {name: torch.zeros_like(each) if name in ("delta", "a") else each for name, each in parts.items()}
    reference = _plain(module, x, grad, known, parts, torch.float64)
    plain = _plain(module, x, grad, known, parts, weight.dtype)
    ours = _ours(module, x, grad, known, parts)
    reached = [name for name, each in reference.items() if bool(each.any())]

    def error(found: Tensor, wanted: Tensor) -> float:
        return float(f"{float((found.double() - wanted).norm() / wanted.norm()):.4g}")

    return {name: (error(ours[name], reference[name]), error(plain[name], reference[name])) for name in reached}


def _parameters(weight: Tensor, sigma: Tensor, outer: int, generator: Any) -> dict[str, Tensor]:
    """Random parts of a change, float32."""
    import torch

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    parts = {"delta": _SIZE * sigma.float() * random(len(sigma))} if len(sigma) else {}
    if outer:
        norm = float(weight.double().norm())
        parts["a"] = _SIZE * norm * random(outer, len(weight)) / (outer * len(weight)) ** 0.5
        columns, taps = weight.shape[1], weight[0, 0].numel()
        separable = min(columns, taps) > 1  # not a pointwise or a depthwise convolution
        columns = columns if separable else columns * taps
        parts["b"] = random(outer, columns) / columns**0.5
        if separable:
            parts["kernel"] = random(outer, taps) / taps**0.5
    return parts


def _gradients(output: Tensor, leaves: Mapping[str, Tensor], grad: Tensor) -> dict[str, Tensor]:
    import torch

    return dict(zip(leaves, torch.autograd.grad(output, list(leaves.values()), grad), strict=True))


def _plain(
    module: nn.Module,
    x: Tensor,
    grad: Tensor,
    known: SomeDirections,
    parts: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    import torch

    weight: Tensor = module.weight  # type: ignore[assignment]
    wide = torch.promote_types(dtype, torch.float32)
    leaves = {name: each.to(wide, copy=True).requires_grad_(True) for name, each in parts.items()}
    left, right = (side.to(dtype) for side in known[:2])
    changed = weight.detach().to(dtype).flatten(1)
    if "delta" in leaves:
        sigma = known.sigma.to(wide)
        d = torch.relu(sigma + leaves["delta"]) - sigma
        changed = changed + (left * d.to(dtype)) @ right.T
    if "a" in leaves:
        b, kernel = leaves["b"], leaves.get("kernel")
        flat = b if kernel is None else (b[:, :, None] * kernel[:, None]).flatten(1)
        changed = changed + leaves["a"].to(dtype).T @ flat.to(dtype)
    output = torch.func.functional_call(module, {"weight": changed.reshape(weight.shape)}, (x.to(dtype),))
    return _gradients(output, leaves, grad.to(dtype))


def _ours(
    module: nn.Module, x: Tensor, grad: Tensor, known: SomeDirections, parts: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    from spectra.layers.change import Change
    from spectra.layers.low_rank_layer import LowRankLayer

    leaves = {name: each.clone().requires_grad_(True) for name, each in parts.items()}
    directions = known._replace(left=known.left.float(), right=known.right.float()) if "delta" in leaves else None
    change = Change(leaves.get("delta"), leaves.get("a"), leaves.get("b"), leaves.get("kernel"))
    return _gradients(LowRankLayer(module, change, directions).forward(x), leaves, grad)
