"""Which models are on an accelerator: in a step those that compute, otherwise each only while it is called.

So pictures and prompts are encoded before the denoiser is there, and while pictures are drawn the text encoders, the
denoiser and the VAE take turns. Without an accelerator there is one memory, in which they stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from accelerate.utils import send_to_device
from torch import nn


class Placement:
    """Moves the models of a pipeline between main memory and an accelerator.

    Args:
        pipe: the pipeline, in main memory. On an accelerator its VAE takes one picture at a time from now on.
        device: where its models compute; the CPU moves nothing.
        sharded: the component that is in parts, which stay where they are.
    """

    def __init__(self, pipe: Any, device: torch.device, sharded: str = "") -> None:
        self._pipe, self._device, self._sharded = pipe, device, sharded
        self._staying: frozenset[str] = frozenset()
        if self.moves and hasattr(pipe.vae, "enable_slicing"):
            pipe.vae.enable_slicing()

    @property
    def moves(self) -> bool:
        """Whether there is an accelerator."""
        return self._device.type != "cpu"

    def settle(self, components: Iterable[str]) -> None:
        """Bring these components to the accelerator, to stay there between calls, and all others away."""
        self._staying = frozenset(components)
        self._move(self._staying)

    @contextmanager
    def in_turns(self) -> Iterator[None]:
        """Within the block a model is on the accelerator from when it is called until another one is."""
        if not self.moves:
            yield
            return
        self._move(frozenset())
        turns = _Turns(self._device)
        for model in self._models.values():
            add_hook_to_module(model, turns)
        try:
            yield
        finally:
            for model in self._models.values():
                remove_hook_from_module(model)
            self._move(self._staying)

    @property
    def _models(self) -> dict[str, nn.Module]:
        found = {name: each for name, each in self._pipe.components.items() if isinstance(each, nn.Module)}
        return {name: each for name, each in found.items() if name != self._sharded}

    def _move(self, there: frozenset[str]) -> None:
        """Put these components on the accelerator, and the others first into main memory."""
        if not self.moves:
            return
        for name, model in self._models.items():
            if name not in there:
                model.to("cpu")
        _give_back(self._device)
        for name in there & self._models.keys():
            self._models[name].to(self._device)


class _Turns(ModelHook):  # type: ignore[misc]
    """A hook of several models: the one that is called comes to the accelerator, and the one before it leaves.

    accelerate's own `CpuOffload` lets each model send away one other, so that two stay where both are called again.

    Attributes:
        execution_device: where pipelines look for it.
    """

    def __init__(self, device: torch.device) -> None:
        self.execution_device = device
        self._there: nn.Module | None = None

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Bring the module, and what it is called with."""
        if module is not self._there:
            if self._there is not None:
                self._there.to("cpu")
                _give_back(self.execution_device)
            module.to(self.execution_device)
            self._there = module
        return send_to_device(args, self.execution_device), send_to_device(kwargs, self.execution_device)


def _give_back(device: torch.device) -> None:
    """Give memory that nothing holds any more back to the accelerator, for larger pieces."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
