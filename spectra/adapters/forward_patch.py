"""A live module's forward, replaced so that what others put there still runs, once, whoever comes or goes first.

Hooks of accelerate and diffusers wrap the forward that they find, and call it from within. A patch stands in the
innermost place: where the module's own forward was, below such hooks. A wrapper that came first and is of no known kind
keeps hold of the module's own forward: there the patch stands outside, and lends the module a shifted weight while the
wrapper runs.

A patch that was taken out calls what it replaced, so that a hook that has wrapped it goes on working. Pickled, it is
what it replaced: a model that is saved whole (`torch.save`) while it trains is the frozen base. A deep copy of a model
computes as the model does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from types import MethodType
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from spectra.errors import MismatchError, OutputError
from spectra.layers.frozen_operators import operator_of

Forward = Callable[..., Any]


class ForwardPatch:
    """What stands in the place of a module's forward.

    Attributes:
        module: whose forward it is.
        compute: what runs instead; None once the patch was taken out.
        shifted_weight: makes the weight to lend to a wrapper; None where every sample has a weight of its own.
        paused: let the module compute as before for a while.
        offloaded: the module's weight has no values while the patch is in force.
        original: what the patch replaced.
        outside: whether that is a wrapper of another library, which calls the module's own forward.
    """

    __slots__ = ("compute", "module", "offloaded", "original", "outside", "paused", "shifted_weight")

    def __init__(self, module: nn.Module, compute: Forward | None, shifted_weight: Callable[[], Tensor] | None) -> None:
        self.module = module
        self.compute = compute
        self.shifted_weight = shifted_weight
        self.paused = self.offloaded = self.outside = False
        self.original: Forward = MethodType(type(module).forward, module)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the module returns with its shifted weight."""
        if self.compute is None or self.paused:
            return self.original(*args, **kwargs)
        if not self.outside:
            return self.compute(*args, **kwargs)
        if self.shifted_weight is None:
            return self._within_wrapper(*args, **kwargs)
        parameters: dict[str, Any] = self.module._parameters
        frozen, parameters["weight"] = parameters["weight"], self.shifted_weight()
        try:
            return self.original(*args, **kwargs)
        finally:
            parameters["weight"] = frozen

    def _within_wrapper(self, *args: Any, **kwargs: Any) -> Any:
        """Run the wrapper, and `compute` in place of the operation that it does with the module's weight."""
        with _Replaced(self.module, self.compute) as replaced:
            output = self.original(*args, **kwargs)
        if not replaced.done:
            raise MismatchError(
                f"another library has replaced the forward of {type(self.module).__name__} by one that does not call "
                "it, which cannot take a shift for each sample; take that out, or activate one shift at a time"
            )
        return output

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what the patch replaced, in its place."""
        if self.offloaded:
            raise OutputError(
                "expected a model with its weights, which are in a file while it trains in low memory; call "
                "adapter.detach() before saving it"
            )
        return itemgetter(0), ((self.original,),)

    def __deepcopy__(self, memo: dict[int, Any]) -> ForwardPatch:
        twin = ForwardPatch.__new__(ForwardPatch)
        memo[id(self)] = twin
        for name in self.__slots__:
            setattr(twin, name, copy.deepcopy(getattr(self, name), memo))
        return twin


class _Replaced(TorchFunctionMode):
    """Lets `compute` take the place of the operation that is called with a module's weight.

    Attributes:
        done: whether that operation was called.
    """

    _OPERATIONS = (F.linear, F.conv1d, F.conv2d, F.conv3d, F.embedding, F.layer_norm, F.group_norm, F.rms_norm)

    def __init__(self, module: nn.Module, compute: Forward | None) -> None:
        super().__init__()
        self._weight, self._compute, self.done = module._parameters["weight"], compute, False
        self._known = operator_of(module) is not None or (self._weight is not None and self._weight.ndim == 1)

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        takes_weight = any(value is self._weight for value in (*args, *kwargs.values()))
        if self._known and takes_weight and function in self._OPERATIONS and self._compute is not None:
            self.done = True
            return self._compute(args[0])
        return function(*args, **kwargs)


def patch_forward(
    module: nn.Module, compute: Forward, shifted_weight: Callable[[], Tensor] | None = None
) -> ForwardPatch:
    """Let `compute` run in place of the module's own forward; `unpatch` undoes it.

    Args:
        compute: takes what the module's forward takes.
        shifted_weight: makes the weight that `compute` computes with, if it is one for all samples.
    """
    patch = ForwardPatch(module, compute, shifted_weight)
    places = list(_places(module))
    where, name = next((place for place in places if _is_own(module, place[0].get(place[1]))), places[0])
    patch.original = where.get(name) or patch.original
    patch.outside = not _is_own(module, patch.original)
    where[name] = patch
    return patch


def unpatch(patch: ForwardPatch) -> None:
    """Take a patch out wherever it still stands; a hook that holds it calls the module's own forward through it."""
    for where, name in _places(patch.module):
        if where.get(name) is patch:
            where[name] = patch.original
    instance = vars(patch.module)
    if _is_own(patch.module, instance.get("forward")):
        instance.pop("forward", None)
    patch.compute = patch.shifted_weight = None
    patch.offloaded = False


def is_patched(model: nn.Module) -> bool:
    """Whether a patch computes in one of the modules of a model."""
    found = (where.get(name) for module in model.modules() for where, name in _places(module))
    return any(isinstance(each, ForwardPatch) and each.compute is not None for each in found)


def _places(module: nn.Module) -> Iterator[tuple[dict[str, Any], str]]:
    """Where a forward of the module can stand, innermost first."""
    instance = vars(module)
    if "_hf_hook" in instance and "_old_forward" in instance:  # accelerate's
        yield instance, "_old_forward"
    for reference in getattr(instance.get("_diffusers_hook"), "_fn_refs", ()):
        if reference.original_forward is not None:
            yield vars(reference), "original_forward"
        yield vars(reference), "forward"
    yield instance, "forward"


def _is_own(module: nn.Module, forward: Any) -> bool:
    """Whether a forward is the one of the module's class."""
    if forward is None:
        return True
    return getattr(forward, "__self__", None) is module and getattr(forward, "__func__", None) is type(module).forward
