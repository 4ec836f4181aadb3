"""Uses of the kernels beside the same formulas in PyTorch's operations: inputs, and how far each is from float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from spectra.benchmarks.kernels.uses import Problem

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LORA_RANK = 4

FEW = 32
"""Directions of a term that keeps few of them."""


@dataclass(frozen=True)
class Job:
    """One use of a kernel.

    Attributes:
        ours: the dispatched function.
        plain: the same formula in PyTorch's operations.
        inputs: of both; those that require a gradient get one.
    """

    ours: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]


def _factored(p: Problem, made: Made) -> Job:
    from spectra import kernels

    def plain(a: Tensor, basis: Tensor, e: Tensor) -> Tensor:
        return a + ((a @ basis) * e.to(a.dtype)) @ basis.T

    return Job(kernels.factored_apply, plain, (made.activation(p.n, p.r), made.basis(p), made.vector(p.h)))


def _batched(p: Problem, made: Made) -> Job:
    import torch

    from spectra import kernels

    def plain(a: Tensor, basis: Tensor, e: Tensor, index: Tensor) -> Tensor:
        return a + ((a @ basis) * e.to(a.dtype)[index][:, None]) @ basis.T

    samples = min(8, p.n)
    index = torch.arange(samples, device=made.device) % 3
    inputs = (made.activation(samples, p.n // samples, p.r), made.basis(p), made.vector(3, p.h), index)
    return Job(kernels.factored_apply, plain, inputs)


def _few(p: Problem, made: Made) -> Job:
    from spectra import kernels

    def ours(x: Tensor, y: Tensor, left: Tensor, right: Tensor, d: Tensor) -> Tensor:
        return kernels.low_rank_apply(x, y, (left, right), d)

    def plain(x: Tensor, y: Tensor, left: Tensor, right: Tensor, d: Tensor) -> Tensor:
        return y + ((x @ right) * d.to(x.dtype)) @ left.T

    few = replace(p, h=min(p.h, FEW))
    left, right = made.basis(few), made.basis(few, p.m)
    return Job(ours, plain, (made.activation(p.n, p.m), made.activation(p.n, p.r), left, right, made.vector(few.h)))


JOBS: dict[str, Callable[[Problem, Made], Job]] = {
    "factored apply": _factored,
    "batched apply": _batched,
    "few directions": _few,
}


class Made:
    """Random inputs on a device, from one seed; matrices are rounded to `dtype`, vectors are float32."""

    def __init__(self, device: str, dtype: torch.dtype, seed: int) -> None:
        import torch

        self.device, self._dtype = device, dtype
        self._generator = torch.Generator().manual_seed(seed)

    def _random(self, *shape: int) -> Tensor:
        import torch

        return torch.randn(*shape, generator=self._generator)

    def activation(self, *shape: int, learns: bool = True) -> Tensor:
        """Normal values."""
        return self._random(*shape).to(self.device, self._dtype).requires_grad_(learns)

    def vector(self, *shape: int, learns: bool = True) -> Tensor:
        """Normal values of deviation .1."""
        return (0.1 * self._random(*shape)).to(self.device).requires_grad_(learns)

    def basis(self, p: Problem, rows: int = 0) -> Tensor:
        """`[rows or r, h]` with orthonormal columns, which are contiguous, as a layer holds them."""
        import torch

        q: Tensor = torch.linalg.qr(self._random(rows or p.r, p.h))[0]
        return q.to(self.device, self._dtype).T.contiguous().T


def results(function: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor | None = None) -> list[Tensor]:
    """The output and, where an input learns, the gradients for `grad` (of the output's shape; ones by default)."""
    import torch

    learning = [x for x in inputs if x.requires_grad]
    out = function(*inputs)
    if not learning:
        return [out]
    return [out.detach(), *torch.autograd.grad(out, learning, torch.ones_like(out) if grad is None else grad.to(out))]


def error_ratio(job: Job, seed: int) -> float:
    """The worst of output and gradients: `||ours - exact|| / ||plain - exact||`, with `exact` in float64.

    Plain's error is taken as at least an eighth of the type's rounding: it is 0 where it is lucky.
    """
    import torch

    inputs64 = [
        x.detach().to(torch.float64).requires_grad_(x.requires_grad) if x.is_floating_point() else x for x in job.inputs
    ]
    shape = job.plain(*job.inputs).shape
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(job.inputs[0].device)
    grad = grad.to(job.inputs[0].dtype)
    exact = results(job.plain, inputs64, grad)
    plain, ours = (results(function, job.inputs, grad) for function in (job.plain, job.ours))
    floor = torch.finfo(job.inputs[0].dtype).eps / 8
    ratios = []
    for wanted, usual, found in zip(exact, plain, ours, strict=True):
        scale = wanted.norm()
        errors = [float((value.double() - wanted).norm() / scale) for value in (found, usual)]
        ratios.append(errors[0] / max(errors[1], floor))
    return round(max(ratios), 3)


def lora(p: Problem, made: Made) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """What a LoRA adds to the layer's own output, as PEFT computes it: `y + B(A(x)) * scaling`, and its inputs."""

    def forward(x: Tensor, y: Tensor, down: Tensor, up: Tensor) -> Tensor:
        return y + (x @ down) @ up * 2.0

    inputs = (made.activation(p.n, p.m), made.activation(p.n, p.r), made.activation(p.m, LORA_RANK))
    return forward, (*inputs, made.activation(LORA_RANK, p.r))
