"""One live module and its shift: which plan runs, what is kept between steps, and how gradients reach delta.

A layer never changes its module. It computes what the module's forward would, with the shifted weight; the adapter
decides when that happens. With delta at zero the result is the frozen module's, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from spectra import kernels
from spectra.layers import costs, plans
from spectra.layers.costs import Plan
from spectra.layers.functional_call import computed, with_parameters
from spectra.layers.materialized_weight import expected_low, rebuild
from spectra.layers.operators import Operator, Place, operator_of
from spectra.layers.saved_elsewhere import is_saved_elsewhere
from spectra.layers.singular_vectors import Vectors
from spectra.spectrum.shifted_weight import (
    is_square,
    shifted_vector,
    shifted_weight,
    singular_value_change,
    with_full_tail,
)
from spectra.spectrum.spectrum import Spectrum, has_no_values, matrix


class ShiftedLayer:
    """A module with a weight of two or more dimensions, computing with `delta`.

    Args:
        module: its `weight` stays frozen.
        spectrum: of that weight.
        delta: float32 `[r]`, may be trained.

    The vectors of the spectrum live on the weight's device, in its dtype (and in autocast's, once that is met). The
    spectrum itself is not needed then: it is a file of the cache, mapped into memory.
    """

    def __init__(self, module: nn.Module, spectrum: Spectrum, delta: Tensor) -> None:
        self.module = module
        self.delta = delta
        self.plan: Plan | None = None  # an explicit choice; None lets what was measured, or the cost model, decide
        self.tuned: Mapping[str, Plan] = {}  # by `Work.key`
        self.noted: Callable[[ShiftedLayer, Tensor, costs.Work], None] | None = None  # told of each forward
        self.device: torch.device | None = None  # that plans are made for; the input's own unless it has no values
        self.operator: Operator | None = operator_of(module)
        weight: Tensor = module.weight  # type: ignore[assignment]
        self._place = place = self.operator.place(spectrum.side) if self.operator else None
        # Without an activation to map, every direction needs both sides.
        self.spectrum = spectrum if self.operator else with_full_tail(spectrum, weight)
        pointwise = self.operator is not None and self.operator.pointwise
        self._square = pointwise and is_square(spectrum.shape)
        self._vectors = Vectors(
            module,
            self.spectrum,
            headless=self._square or place is None,
            both=place is None or not spectrum.head,
        )
        self._low = expected_low(self._vectors)
        self._kept: dict[str, tuple[Any, Any]] = {}
        self._vectors.of(weight.dtype)
        if place == "output":
            self._vectors.offset(getattr(module, "bias", None), weight.dtype)

    @property
    def _head(self) -> int:
        """How many directions the basis serves alone."""
        return self._vectors.head

    @property
    def _sigma(self) -> Tensor:
        return self._vectors.sigma

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the module returns for `x` with the weight `U diag(ReLU(sigma + delta)) V^T`."""
        module, operator, place = self.module, self.operator, self._place
        weight: Tensor = module.weight  # type: ignore[assignment]
        bias: Tensor | None = getattr(module, "bias", None)
        self._follow()
        if operator is None or args or kwargs:
            shifted = shifted_weight(weight, self.spectrum, self.delta)
            return with_parameters(module, {"weight": shifted}, x, *args, **kwargs)
        x, dtype = computed(x, weight)
        plan, work = self._plan(x)
        d, head = singular_value_change(self._sigma, self.delta), self._head
        if work is None or place is None:
            y = operator.apply(x, weight, bias)
        elif plan == "rebuilt":
            return self._rebuilt(x, weight, bias, d, dtype, operator, work)
        elif plan == "two-sided":
            return self._two_sided(x, weight, bias, d, dtype, operator, work)
        elif plan == "projected":
            y = self._projected(x, weight, bias, d[:head], dtype, operator, place)
        else:
            y = self._factored(x, weight, bias, d[:head] / self._sigma[:head], dtype, operator, place)
        if head < self.spectrum.rank:
            _, left, right = self._vectors.of(dtype)
            y = y + narrow(operator, x, left, right, d[head:])
        return y

    def _follow(self) -> None:
        """The vectors go where the weight went."""
        if self._vectors.follow():
            self.forget()

    def _factored(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        e: Tensor,
        dtype: torch.dtype,
        operator: Operator,
        place: Place,
        index: Tensor | None = None,
    ) -> Tensor:
        """The frozen layer; what the basis meets, at `place`, is changed by `e [h]`, or `e [shifts, h]` by `index`."""
        basis, dim = self._vectors.of(dtype)[0], operator.dim
        a, offset = x, None
        if place == "output":
            a = operator.apply(x, weight, bias)
            offset = self._vectors.offset(bias, dtype)
        if index is None:
            a = kernels.factored_apply(a, basis, e, offset, dim)
        else:
            a = kernels.batched_apply(a, basis, e, index, offset, dim)
        return operator.apply(a, weight, bias) if place == "input" else a

    def _two_sided(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        d: Tensor,
        dtype: torch.dtype,
        operator: Operator,
        work: costs.Work | None,
    ) -> Tensor:
        """A layer both sides of which are kept, by `d [r]` or `[batch, r]`: no direction needs a division."""
        left, right = self._vectors.sides(dtype)
        s = torch.relu(self._sigma + d).detach()
        literal, keep_input = (work.literal, costs.keeps_input(work)) if work else (False, False)
        return plans.two_sided(x, d, s, None if literal else weight, bias, left, right, operator, keep_input)

    def _projected(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        d: Tensor,
        dtype: torch.dtype,
        operator: Operator,
        place: Place,
    ) -> Tensor:
        """The frozen layer and the head's `Q diag(e) Q^T`, made once for each value of delta, on one activation."""
        basis, e = self._vectors.of(dtype)[0], d.detach() / (sigma := self._sigma[: d.shape[0]])
        offset = self._vectors.offset(bias, dtype) if place == "output" else None

        def make() -> tuple[Tensor, Tensor | None]:
            constant = None if offset is None else (offset * e).to(dtype) @ basis.T
            return kernels.projection(basis, e), constant

        product, constant = self._once("projected", dtype, make)
        a = operator.apply(x, weight, bias) if place == "output" else x
        a = plans.projected(a, d, sigma, basis, product, constant, offset, operator.dim)
        return a if place == "output" else operator.apply(a, weight, bias)

    def _rebuilt(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        d: Tensor,
        dtype: torch.dtype,
        operator: Operator,
        work: costs.Work,
    ) -> Tensor:
        """The layer with its shifted weight; delta's gradient comes from the activations, or from the weight's."""
        by_weight = costs.gradient_by_weight(work)
        # A measurement without gradients between two steps shares the weight with the steps.
        learns = self.delta.requires_grad and not by_weight
        made = self._once(
            "rebuilt", learns, lambda: rebuild(weight, self._vectors, d.detach(), self._low, learns=learns)
        )
        if not (self.delta.requires_grad and torch.is_grad_enabled()):
            return operator.apply(x, made.weight, bias)
        (basis, left, right), dim, head = self._vectors.of(dtype), operator.dim, self._head
        if by_weight:
            sides = plans.Sides(matrix(weight), basis, self._sigma[:head], left, right)
            return plans.rebuilt_by_weight(x, d, made.weight, bias, sides, operator)
        if work.place == "input":
            attached = plans.attach_input_gradient(x, d[:head], made.s, basis, dim)
            y = operator.apply(attached, made.weight, bias)
        else:
            y = operator.apply(x, made.weight, bias)
            y = plans.attach_output_gradient(y, d[:head], made.s, basis, self._vectors.offset(bias, dtype), dim)
        if len(made.explicit) == 0:
            return y
        left, right = made.left.to(dtype), made.right.to(dtype)
        with torch.no_grad():
            middle = operator.encode(x, left, right)
        return plans.attach_explicit_gradient(y, middle, d.index_select(0, made.explicit), left, right, operator)

    def _once(self, name: str, variant: Any, make: Callable[[], Any]) -> Any:
        """What `make` returns, made once for each value of delta: an optimizer's step changes the tensor's version.

        A compiled graph makes it in every forward: it cannot see versions.
        """
        if torch.compiler.is_compiling():
            with torch.no_grad(), _full_precision(self._sigma):
                return make()
        key = (self.delta._version, self._vectors.generation, variant)  # vectors are shared by the runs of a batch
        if name not in self._kept or self._kept[name][0] != key:
            self._kept.pop(name, None)
            with torch.no_grad(), _full_precision(self._sigma):
                self._kept[name] = (key, make())
        return self._kept[name][1]

    def _plan(self, x: Tensor) -> tuple[Plan | None, costs.Work | None]:
        """The plan for an input `x`, and its work; None where there is no choice."""
        work = self.work(x)
        if work is None:
            return None, None
        if not self._vectors.both and work.encode and self._wants_both(work):
            self._vectors.keep_both()
            self.forget()
            work = self.work(x) or work
        if self.noted is not None:
            self.noted(self, x, work)
        known, plan = costs.plans(work), self.plan
        if plan is None and self.tuned:
            plan = self.tuned.get(work.key())
        if plan is None:
            plan = costs.cheapest(work)
        return (plan if plan in known else known[0]), work

    def _wants_both(self, work: costs.Work) -> bool:
        """Whether to keep the other side of the weight from now on. Not in a compiled graph, which has no now."""
        one_sided = ("factored", "projected") if self._square else costs.ONE_BASIS
        if torch.compiler.is_compiling() or self.plan in one_sided:
            return False
        return self.plan == "two-sided" or costs.wants_both_sides(work)

    def forget(self) -> None:
        """Drop what was made for the present value of delta."""
        self._kept = {}

    def work(self, x: Tensor) -> costs.Work | None:
        """What a forward of `x` has to do, for the cost model; None where there is no choice of plans."""
        head = self._head
        if self.operator is None or self._place is None:
            return None
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        free = (self.operator.pointwise or self._place == "input") and is_saved_elsewhere(x)
        x, dtype = computed(x, weight)
        spectrum, middle = self.spectrum, self.operator.middle(x)
        rows, columns = spectrum.shape[0], math.prod(spectrum.shape[1:])
        encode, decode = self.operator.channels(rows, columns)
        if not head and not encode:
            return None
        learning = torch.is_grad_enabled()
        return costs.Work(
            place=self._place,
            n=middle if self._place == "output" else x.numel() // max(x.shape[self.operator.dim], 1),
            middle=middle,
            r=spectrum.rank,
            m=max(rows, columns),
            head=head,
            both=self._vectors.both,
            tail=spectrum.rank - head,
            low=self._low if head else 0,
            encode=encode,
            decode=decode,
            learns=learning and self.delta.requires_grad,
            input_gradient=learning and x.requires_grad,
            gram=kernels.uses_gram(self.device or x.device, dtype),
            free=free and x.dtype == dtype,
            square=self._square,
            literal=self._literal(),
            itemsize=dtype.itemsize,
            balance=costs.balance((self.device or x.device).type),
        )

    def _literal(self) -> bool:
        """Whether both sides and the singular values in force make the whole product, without the frozen weight's.

        Not at delta = 0, where the output is the frozen layer's bit for bit.
        """
        if torch.compiler.is_compiling():
            return False
        if not self._vectors.both:
            return True  # if it kept them: they are for all steps but the first
        moved = self._once("moved", None, lambda: has_no_values(self.delta) or bool(self.delta.any()))
        return bool(moved)


def _full_precision(like: Tensor) -> AbstractContextManager[Any]:
    """Without autocast, on the device of `like`."""
    return nullcontext() if like.is_meta else torch.autocast(like.device.type, enabled=False)


class ShiftedVector:
    """A module with a 1-D weight (a norm's scale): `w + delta`.

    Args:
        delta: float32, as long as the weight.
    """

    def __init__(self, module: nn.Module, delta: Tensor) -> None:
        self.module = module
        self.delta = delta

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the module returns with the weight `w + delta`."""
        return self.shifted(x, self.delta, *args, **kwargs)

    def shifted(self, x: Tensor, delta: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the module returns with the weight `w + delta`, `delta [r]`."""
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        if isinstance(self.module, nn.GroupNorm) and not x.requires_grad:
            # On a CPU the backward pass of PyTorch 2.13 ends the process by a segmentation fault where a channels-last
            # input needs no gradient and the scale does: in the first norm behind layers that are not trained.
            x = x.contiguous()
        return with_parameters(self.module, {"weight": shifted_vector(weight, delta)}, x, *args, **kwargs)


def narrow(operator: Operator, x: Tensor, left: Tensor, right: Tensor, d: Tensor) -> Tensor:
    """The term of a few directions, `U diag(d) V^T` applied to `x`; the gradient of `d` is summed in its own dtype.

    Args:
        d: `[k]`, or `[batch, k]` for directions of each sample's own.
    """
    return operator.decode(plans.scale(operator.encode(x, left, right), d, operator.dim), left, right)
