"""The ways to fine-tune the matrices of a model, each on a twin of it, for one step of training.

    frozen   nothing is trained, but a gradient flows back to the latents, as in any adapter's training
    lora-4   PEFT's LoRA of rank 4 on every matrix; lora-16 of rank 16
    full     every parameter
    paper    `U diag(ReLU(sigma + delta)) V^T` in every matrix, differentiated by autograd
    svdiff   the same function by spectra's plans
    shift    K directions and k outer terms of every matrix (the settings `directions` and `outer`)

and `low-memory`, svdiff without the frozen weights.

A twin shares the storage of the frozen weights, so several methods can be measured in one process.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from spectra.benchmarks.steps.models import Denoiser, matrices
from spectra.errors import InputError
from spectra.spectrum.placeholders import Spectra

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from spectra.adapters.binding import Layer
    from spectra.adapters.live_parameters import Form
    from spectra.adapters.training_adapter import Adapter

FORM: Mapping[str, int] = {"directions": 32, "outer": 1}
"""Settings of a case that tell what a shift is of."""

DEVICES = ("cpu", "cuda")


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

    def layers(self) -> list[Layer]:
        """What computes in the place of the model's modules."""
        return self.adapter._layers() if self.adapter else []

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


def prepare(
    name: str,
    model: Denoiser,
    spectra: Spectra | None = None,
    device: str = "",
    directions: int = FORM["directions"],
    outer: int = FORM["outer"],
) -> Method:
    """The method called `name`, on a twin of `model`, which stays as it is.

    Args:
        spectra: of the model's weights, to be shared by `paper`, `svdiff` and `shift`; made if they need it.
        device: for a model without values, the kind of device that spectra plans for: "cpu", or "cuda" for a
            data-centre GPU.
        directions: of a `shift`.
        outer: terms of a `shift`.

    Raises:
        InputError: another device, or no such shift.
    """
    import torch

    from spectra.adapters.live_parameters import Form

    if device and device not in DEVICES:
        raise InputError(f"device takes {' or '.join(DEVICES)}, got {device!r}")
    if not directions and not outer:
        raise InputError("directions and outer are both 0: nothing would be trained; give one of them more")
    method = {**METHODS, **VARIANTS}[name](twin(model), spectra or Spectra(), Form(directions, outer))
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


def _frozen(model: Denoiser, spectra: Spectra, form: Form) -> Method:
    latents = model.inputs[model.latents].detach().requires_grad_(True)
    return Method(replace(model, inputs={**model.inputs, model.latents: latents}), {})


def _lora(model: Denoiser, spectra: Spectra, form: Form, *, rank: int) -> Method:
    from peft import LoraConfig, inject_adapter_in_model

    paths = [path for path, _ in matrices(model)]
    inject_adapter_in_model(LoraConfig(r=rank, target_modules=paths), model.module)
    return Method(model, _trained(model))


def _full(model: Denoiser, spectra: Spectra, form: Form) -> Method:
    model.module.requires_grad_(True)
    return Method(model, _trained(model))


def _trained(model: Denoiser) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.module.named_parameters() if p.requires_grad}


def _paper(model: Denoiser, spectra: Spectra, form: Form) -> Method:
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


def _svdiff(model: Denoiser, spectra: Spectra, form: Form, *, low_memory: bool = False) -> Method:
    import torch

    make = spectra.whole if low_memory else spectra.of
    known = {f"{model.component}.{path}": make(path, m.weight) for path, m in matrices(model)}  # type: ignore[arg-type]
    method = _attached(model, known, low_memory=low_memory)
    with torch.no_grad():
        for name, spectrum in known.items():
            method.parameters[f"{name}.delta"].copy_(_small(spectrum.sigma))
    method.parameters = {f"{name}.delta": method.parameters[f"{name}.delta"] for name in known}  # in the paper's order
    return method


def _shift(model: Denoiser, spectra: Spectra, form: Form) -> Method:
    import torch

    known: dict[str, Any] = {f"{model.component}.{path}": None for path, _ in matrices(model)}
    if form.directions:
        for path, module in matrices(model):
            known[f"{model.component}.{path}"] = spectra.leading(path, module.weight, form.directions)  # type: ignore[arg-type]
    method = _attached(model, known, form)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, parameter in method.parameters.items():
            if key.endswith(".delta"):
                parameter.copy_(_small(known[key.removesuffix(".delta")].sigma))
            elif key.endswith(".outer.a"):
                parameter.copy_(0.01 * torch.randn(parameter.shape, generator=generator))
    return method


def _attached(
    model: Denoiser, known: Mapping[str, Any], form: Form | None = None, *, low_memory: bool = False
) -> Method:
    """The model with an adapter on the weights of the spectra that are known by name."""
    from spectra.adapters.binding import Binding
    from spectra.adapters.live_parameters import Form
    from spectra.adapters.training_adapter import Adapter
    from spectra.families import Target

    def bind(chosen: Sequence[Target], directions: Mapping[str, int]) -> dict[str, Binding]:
        return {target.name: Binding(target, known[target.name]) for target in chosen}

    adapter = Adapter({model.component: model.module}, ",".join(known), bind, form or Form(), low_memory)
    return Method(model, dict(adapter.train().by_key), adapter)


def _low_memory(model: Denoiser, spectra: Spectra, form: Form) -> Method:
    return _svdiff(model, spectra, form, low_memory=True)


def _small(sigma: Tensor) -> Tensor:
    """A delta as after some training, of 1 % of each singular value: at zero a plan might have less to do."""
    return sigma / 100


Maker = Callable[[Denoiser, Spectra, "Form"], Method]

METHODS: Mapping[str, Maker] = {
    "frozen": _frozen,
    "lora-4": partial(_lora, rank=4),
    "lora-16": partial(_lora, rank=16),
    "full": _full,
    "paper": _paper,
    "svdiff": _svdiff,
    "shift": _shift,
}

VARIANTS: Mapping[str, Maker] = {"low-memory": _low_memory}
"""Further ways to train all directions, where they are worth a row."""
