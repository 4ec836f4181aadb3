"""The ways to fine-tune the matrices of a model, each on a twin of it, for one step of training.

    frozen   nothing is trained, but a gradient flows back to the latents, as in any adapter's training
    lora     PEFT's LoRA of rank 4 on every matrix
    full     every parameter
    paper    `U diag(ReLU(sigma + delta)) V^T` in every matrix, differentiated by autograd
    spectra  the same function by spectra's plans

and `low-memory`, spectra without the frozen weights.

A twin shares the storage of the frozen weights, so several methods can be measured in one process. On the meta device
a matrix has no singular values; how many directions its tail has is taken from trained ones (`TYPICAL_TAIL`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from spectra.benchmarks.steps.models import Denoiser, matrices
from spectra.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from spectra.adapters.training_adapter import Adapter
    from spectra.spectrum.spectrum import Spectrum

LORA_RANK = 4
DEVICES = ("cpu", "cuda")

TYPICAL_TAIL = ((1, 0.18), (2, 0.09))
"""Share of a weight's directions that its tail holds, up to so many columns per row (or rows per column); none beyond.
Measured on the embedded base's UNet: .18 of its 70 square weights, .09 of 24 up to twice as long, none of 44 others."""


@dataclass
class Method:
    """A model that computes one method's training step.

    Attributes:
        model: the twin.
        parameters: what is trained, by name.
        adapter: spectra's, None for the other methods.
        constants: frozen tensors that the method adds to the model, the adapter's apart.
    """

    model: Denoiser
    parameters: dict[str, nn.Parameter]
    adapter: Adapter | None = None
    constants: list[Tensor] = field(default_factory=list)

    def forward(self) -> Tensor:
        """A loss of the model's output: its mean square."""
        output = self.model.module(**self.model.inputs, return_dict=False)[0]
        loss: Tensor = output.float().square().mean()
        return loss

    def step(self) -> None:
        """Forward and backward."""
        self.forward().backward()

    def settle(self) -> None:
        """A forward that leaves nothing but what a model's first one makes for good: bases that its inputs ask for."""
        if self.adapter is not None:
            self.forward()
            for layer in self.adapter.layers():
                layer.forget()

    def forget(self) -> None:
        """Drops all gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None
        self.model.inputs[self.model.latents].grad = None


def prepare(name: str, model: Denoiser, spectra: Spectra | None = None, device: str = "") -> Method:
    """The method called `name`, on a twin of `model`, which stays as it is.

    Args:
        spectra: of the model's weights, to be shared by `paper` and `spectra`; made if they need it.
        device: for a model without values, the kind of device that spectra plans for: "cpu", or "cuda" for a
            data-centre GPU.

    Raises:
        InputError: another device.
    """
    import torch

    if device and device not in DEVICES:
        raise InputError(f"device takes {' or '.join(DEVICES)}, got {device!r}")
    method = {**METHODS, **VARIANTS}[name](twin(model), spectra or Spectra())
    if device and method.adapter is not None:
        for layer in method.adapter.layers():
            layer.planned_device = torch.device(device)
    return method


def twin(model: Denoiser) -> Denoiser:
    """A copy of the model in modules of its own, with new parameters of the same storage, all frozen."""
    from torch import nn

    shared: dict[int, Any] = {}
    for value in [*model.module.parameters(), *model.module.buffers()]:
        shared[id(value)] = nn.Parameter(value.data, False) if isinstance(value, nn.Parameter) else value
    return replace(model, module=copy.deepcopy(model.module, shared))


def placeholder(weight: Tensor, tail: float | None = None) -> Spectrum:
    """A spectrum for a `weight` without values (on the meta device, or fake): for counting flops and bytes.

    Args:
        tail: share of the directions that the tail holds, 0 to 1; `TYPICAL_TAIL` by default.
    """
    import torch

    from spectra.spectrum.spectrum import Spectrum, matrix

    rows, columns = matrix(weight).shape
    r, m = min(rows, columns), max(rows, columns)
    if tail is None:
        tail = next((share for ratio, share in TYPICAL_TAIL if m <= ratio * r), 0.0)
    return Spectrum(
        side="left" if rows <= columns else "right",
        basis=weight.new_empty(r, r, dtype=torch.float32),
        sigma=weight.new_empty(r, dtype=torch.float64),
        tail=weight.new_empty(round(tail * r), m, dtype=torch.float32),
        shape=tuple(weight.shape),
    )


class Spectra:
    """Spectra of a model's weights, made when they are asked for and kept; without values where a weight has none."""

    def __init__(self) -> None:
        self._known: dict[str, Spectrum] = {}
        self._whole: dict[str, Spectrum] = {}

    def of(self, path: str, weight: Tensor) -> Spectrum:
        """The spectrum of the module's weight at `path`."""
        from spectra.spectrum.decomposition import decompose
        from spectra.spectrum.spectrum import has_no_values

        if path not in self._known:
            self._known[path] = placeholder(weight) if has_no_values(weight) else decompose(weight)
        return self._known[path]

    def whole(self, path: str, weight: Tensor) -> Spectrum:
        """The spectrum of the module's weight at `path`, with both sides of every direction."""
        from spectra.spectrum.shifted_weight import with_full_tail

        if path not in self._whole:
            self._whole[path] = with_full_tail(self.of(path, weight), weight)
        return self._whole[path]


def _frozen(model: Denoiser, spectra: Spectra) -> Method:
    latents = model.inputs[model.latents].detach().requires_grad_(True)
    return Method(replace(model, inputs={**model.inputs, model.latents: latents}), {})


def _lora(model: Denoiser, spectra: Spectra) -> Method:
    from peft import LoraConfig, inject_adapter_in_model

    paths = [path for path, _ in matrices(model)]
    inject_adapter_in_model(LoraConfig(r=LORA_RANK, target_modules=paths), model.module)
    return Method(model, _trained(model))


def _full(model: Denoiser, spectra: Spectra) -> Method:
    model.module.requires_grad_(True)
    return Method(model, _trained(model))


def _trained(model: Denoiser) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.module.named_parameters() if p.requires_grad}


def _paper(model: Denoiser, spectra: Spectra) -> Method:
    import torch

    method = Method(model, {})
    for path, module in matrices(model):
        weight: Tensor = module.weight  # type: ignore[assignment]
        known = spectra.whole(path, weight)
        stored_side, other_side = known.basis, known.tail
        left, right = (stored_side, other_side) if known.side == "left" else (other_side.T, stored_side.T)
        left, sigma, right = (v.to(weight.dtype).contiguous() for v in (left, known.sigma, right))
        delta = torch.nn.Parameter(_small(known.sigma.float()))
        method.parameters[path] = delta
        method.constants += [left, sigma, right]
        del module._parameters["weight"]  # the formula has no use for it
        module.forward = _paper_forward(module, left, sigma, right, delta, weight.shape)
    return method


def _paper_forward(
    module: nn.Module, left: Tensor, sigma: Tensor, right: Tensor, delta: Tensor, shape: torch.Size
) -> Callable[..., Tensor]:
    """The paper's forward: `left [rows, r]`, `right [r, columns]`, a weight of `shape` made in every call."""
    import torch

    from spectra.layers.functional_call import with_parameters

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        weight = ((left * torch.relu(sigma + delta).to(left.dtype)) @ right).reshape(shape)
        return with_parameters(module, {"weight": weight}, *args, **kwargs)

    return forward


def _spectra(model: Denoiser, spectra: Spectra, low_memory: bool = False) -> Method:
    import torch

    from spectra.adapters.binding import Binding
    from spectra.adapters.training_adapter import Adapter
    from spectra.families import Target

    make = spectra.whole if low_memory else spectra.of
    known = {f"{model.component}.{path}": make(path, m.weight) for path, m in matrices(model)}  # type: ignore[arg-type]

    def bind(chosen: Sequence[Target], directions: Mapping[str, int]) -> dict[str, Binding]:
        return {target.name: Binding(target, known[target.name]) for target in chosen}

    adapter = Adapter({model.component: model.module}, ",".join(known), bind, low_memory=low_memory)
    adapter.train()
    deltas = adapter.deltas
    with torch.no_grad():
        for name, spectrum in known.items():
            deltas[name].copy_(_small(spectrum.sigma))
    parameters = {name.partition(".")[2]: deltas[name] for name in known}
    return Method(model, parameters, adapter)


def _low_memory(model: Denoiser, spectra: Spectra) -> Method:
    return _spectra(model, spectra, low_memory=True)


def _small(sigma: Tensor) -> Tensor:
    """A delta as after some training, of 1 % of each singular value: at zero a plan might have less to do."""
    return sigma / 100


METHODS: Mapping[str, Callable[[Denoiser, Spectra], Method]] = {
    "frozen": _frozen,
    "lora": _lora,
    "full": _full,
    "paper": _paper,
    "spectra": _spectra,
}

VARIANTS: Mapping[str, Callable[[Denoiser, Spectra], Method]] = {"low-memory": _low_memory}
"""Further ways to train with spectra, where they are worth a row."""
