"""One live module and its shift: which plan runs, and what is kept between steps.

A layer never changes its module. It computes what the module's forward would, with the shifted weight; the adapter
decides when that happens. With delta at zero the result is the frozen module's, bit for bit.

    factored      the frozen layer, and its input or output `a` mapped: `a + ((a Q) * e) Q^T`
    two-sided     where both sides of all directions are kept: `((x V) * s) U^T`
    materialized  the shifted weight, once for each value of delta, then the ordinary layer
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from spectra import kernels
from spectra.layers import costs, delta_gradients
from spectra.layers.costs import Plan
from spectra.layers.frozen_operators import Operator, operator_of
from spectra.layers.functional_call import cast_for_compute, with_parameters
from spectra.layers.materialized_weight import expected_near_zero, materialize
from spectra.layers.saved_elsewhere import is_saved_elsewhere
from spectra.layers.singular_vectors import SingularVectors
from spectra.spectrum.shifted_weight import shifted_weight, singular_value_change, with_full_tail
from spectra.spectrum.spectrum import Spectrum, has_no_values, matrix


class ShiftedLayer:
    """A module with a weight of two or more dimensions, computing with `delta`.

    Args:
        module: its `weight` stays frozen.
        spectrum: of that weight.
        delta: float32 `[r]`, may be trained.
        without_weight: keep both sides of all directions, and compute without the weight's values, which may be
            offloaded then; the module must be a plain operator (`operators.operator_of`).

    Attributes:
        plan: an explicit choice; None lets what was measured, or the cost model, decide.
        tuned: measured plans by `Work.key`.
        observer: called with the layer, its input and its work in each forward.
        planned_device: that plans are made for; the input's own unless that has no values.
        paused: compute with delta = 0 for a while.

    The vectors of the spectrum live on the weight's device, in its dtype (and in autocast's, once that is met). The
    spectrum itself is not needed then.
    """

    def __init__(self, module: nn.Module, spectrum: Spectrum, delta: Tensor, *, without_weight: bool = False) -> None:
        self.module = module
        self.delta = delta
        self.plan: Plan | None = None
        self.tuned: Mapping[str, Plan] = {}
        self.observer: Callable[[ShiftedLayer, Tensor, costs.Work], None] | None = None
        self.planned_device: torch.device | None = None
        self.paused = False
        self.without_weight = without_weight
        self.operator: Operator | None = operator_of(module)
        weight: Tensor = module.weight  # type: ignore[assignment]
        if without_weight and self.operator is None:
            raise TypeError(f"expected a plain operator, got {type(module).__name__}: it needs its weight")
        # Without an activation to map, every direction needs both sides.
        self.spectrum = spectrum if self.operator else with_full_tail(spectrum, weight)
        basis_at = self.operator.basis_at(spectrum.side) if self.operator else None
        both_sides = without_weight or basis_at is None or not spectrum.one_sided
        self._vectors = SingularVectors(module, self.spectrum, both_sides=both_sides, without_weight=without_weight)
        self._near_zero = expected_near_zero(self._vectors)
        self._made: dict[str, tuple[Any, Any]] = {}
        self._vectors.of(weight.dtype)
        if basis_at == "output" and not both_sides:
            self._vectors.offset(getattr(module, "bias", None), weight.dtype)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the module returns for `x` with the weight `U diag(ReLU(sigma + delta)) V^T`."""
        self._follow()
        delta = torch.zeros_like(self.delta) if self.paused else self.delta
        operator = self.operator
        if operator is None or args or kwargs:
            if self.without_weight:
                raise TypeError(f"{type(self.module).__name__} takes its input alone in low memory")
            shifted = shifted_weight(self.module.weight, self.spectrum, delta)  # type: ignore[arg-type]
            return with_parameters(self.module, {"weight": shifted}, x, *args, **kwargs)
        plan, work = self._plan(x)
        d = singular_value_change(self._vectors.sigma, delta)
        if plan == "materialized":
            return self._materialized(operator, x, d, work)
        if plan == "two-sided":
            return self._two_sided(operator, x, d, work)
        return self._factored(operator, x, d)

    def _arguments(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None, torch.dtype]:
        """The input in the dtype in which the layer computes, the frozen weight, the bias, and that dtype."""
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        x, dtype = cast_for_compute(x, weight)
        return x, weight, getattr(self.module, "bias", None), dtype

    def _follow(self) -> None:
        """The vectors go where the weight went."""
        if self._vectors.follow():
            self.forget()

    def _factored(self, operator: Operator, x: Tensor, d: Tensor, index: Tensor | None = None) -> Tensor:
        """The frozen layer; what the basis meets is changed by `d [r]`, or `d [shifts, r]` by `index [batch]`."""
        x, weight, bias, dtype = self._arguments(x)
        (basis, left, right), dim, one_sided = self._vectors.of(dtype), operator.dim, self._vectors.one_sided
        at_output = operator.basis_at(self.spectrum.side) == "output"
        a, offset, e = x, None, d[..., :one_sided] / self._vectors.sigma[:one_sided]
        if at_output:
            a, offset = operator.apply(x, weight, bias), self._vectors.offset(bias, dtype)
        a = kernels.factored_apply(a, basis, e, index, offset, dim)
        y = a if at_output else operator.apply(a, weight, bias)
        if one_sided == self.spectrum.rank:
            return y
        return delta_gradients.add_low_rank_term(operator, x, y, (left, right), d[..., one_sided:], index)

    def _two_sided(self, operator: Operator, x: Tensor, d: Tensor, work: costs.Work) -> Tensor:
        """A layer both sides of which are kept, by `d [r]` or `[batch, r]`: no direction needs a division."""
        x, weight, bias, dtype = self._arguments(x)
        _, left, right = self._vectors.of(dtype)
        sides = delta_gradients.BothSides(left, right, None if work.skips_frozen_product else weight, bias)
        saves_input = self.without_weight and work.pointwise and work.input_saved_elsewhere
        return delta_gradients.two_sided(x, d, (self._vectors.sigma + d).detach(), sides, operator, saves_input)

    def _materialized(self, operator: Operator, x: Tensor, d: Tensor, work: costs.Work) -> Tensor:
        """The layer with its shifted weight; delta's gradient comes from the activations, or from the weight's."""
        x, weight, bias, dtype = self._arguments(x)
        by_weight = costs.gradient_by_weight(work)
        # A measurement without gradients between two steps shares the weight with the steps.
        by_rows = self.delta.requires_grad and not by_weight
        made = self._once(
            "materialized",
            by_rows,
            lambda: materialize(weight, self._vectors, d.detach(), self._near_zero, learns=by_rows),
        )
        if not work.learns:
            return operator.apply(x, made.weight, bias)
        (basis, left, right), dim, one_sided = self._vectors.of(dtype), operator.dim, self._vectors.one_sided
        if by_weight:
            sides = (matrix(weight), basis, self._vectors.sigma[:one_sided], left, right)
            return delta_gradients.by_weight_gradient(x, d, made.weight, bias, sides, operator)
        at_output = work.basis_at == "output"
        offset = self._vectors.offset(bias, dtype) if at_output else None
        read = (d[:one_sided], made.s, basis, offset, dim, work.gram)
        attached = delta_gradients.attach_gradient(x, *read) if work.basis_at == "input" else x
        y = operator.apply(attached, made.weight, bias)
        if at_output:
            y = delta_gradients.attach_gradient(y, *read)
        if len(made.explicit) == 0:
            return y
        left, right = made.left.to(dtype), made.right.to(dtype)
        with torch.no_grad():
            encoded = operator.encode(x, left, right)
        explicit = d.index_select(0, made.explicit)
        return delta_gradients.attach_explicit_gradient(y, encoded, explicit, left, right, operator)

    def _once(self, name: str, variant: Any, make: Callable[[], Any]) -> Any:
        """What `make` returns, made once for each value of delta: an optimizer's step changes the tensor's version.

        A compiled graph makes it in every forward: it cannot see versions.
        """
        if torch.compiler.is_compiling():
            return self._at_full_precision(make)
        key = (self.delta._version, self._vectors.generation, variant)  # vectors are shared by the runs of a batch
        if name not in self._made or self._made[name][0] != key:
            self._made.pop(name, None)
            self._made[name] = (key, self._at_full_precision(make))
        return self._made[name][1]

    def _at_full_precision(self, make: Callable[[], Any]) -> Any:
        """What `make` returns without gradients and autocast."""
        device = self._vectors.sigma.device.type
        with torch.no_grad(), nullcontext() if device == "meta" else torch.autocast(device, enabled=False):
            return make()

    def _plan(self, x: Tensor) -> tuple[Plan, costs.Work]:
        """The plan for an input `x`, and its work."""
        work = self.work(x)
        if self._wants_other_side(work):
            self.keep_both_sides()
            work = self.work(x)
        if self.without_weight:
            return "two-sided", work
        if self.observer is not None:
            self.observer(self, x, work)
        known, measured = costs.plans(work), self.tuned.get(work.key()) if self.tuned else None
        plan = self.plan or measured or costs.cheapest(work)
        return (plan if plan in known else known[0]), work

    def _wants_other_side(self, work: costs.Work) -> bool:
        """Whether to keep the other side of the weight from now on; a compiled graph cannot begin to."""
        if self._vectors.both_sides or torch.compiler.is_compiling():
            return False
        return costs.wants_other_side(work) if self.plan is None else self.plan == "two-sided" and work.encode > 0

    @property
    def both_sides(self) -> bool:
        """Whether both sides of every direction are kept: a training that has begun to goes on with it."""
        return self._vectors.both_sides

    def keep_both_sides(self) -> None:
        """Keep both sides of every direction from now on."""
        if not self.both_sides:
            self._vectors.keep_other_side()
            self.forget()

    def forget(self) -> None:
        """Drop what was made for the present value of delta."""
        self._made = {}

    def work(self, x: Tensor) -> costs.Work:
        """What a forward of `x` has to do, for the cost model; the module is a plain operator."""
        operator: Operator = self.operator  # type: ignore[assignment]
        x, _, _, dtype = self._arguments(x)
        spectrum, one_sided, bottleneck_rows = self.spectrum, self._vectors.one_sided, operator.bottleneck_rows(x)
        rows, columns = spectrum.shape[0], math.prod(spectrum.shape[1:])
        encode, decode = operator.channels(rows, columns)
        basis_at = operator.basis_at(spectrum.side) if one_sided else None
        met_input = operator.pointwise or basis_at == "input"
        learning, device = torch.is_grad_enabled(), self.planned_device or x.device
        return costs.Work(
            basis_at=basis_at,
            rows=bottleneck_rows if basis_at != "input" else x.numel() // max(x.shape[operator.dim], 1),
            bottleneck_rows=bottleneck_rows,
            r=spectrum.rank,
            m=max(rows, columns),
            one_sided=one_sided,
            two_sided=spectrum.rank - one_sided,
            near_zero=self._near_zero if one_sided else 0,
            encode=encode,
            decode=decode,
            learns=learning and self.delta.requires_grad and not self.paused,
            input_gradient=learning and x.requires_grad,
            gram=kernels.uses_gram(device, dtype),
            input_saved_elsewhere=met_input and x.dtype == dtype and is_saved_elsewhere(x),
            pointwise=operator.pointwise,
            skips_frozen_product=self._skips_frozen_product(encode),
            balance=costs.balance(device.type),
        )

    def _skips_frozen_product(self, encode: int) -> bool:
        """Whether both sides and the singular values in force make the whole product, without the frozen weight's.

        Not where that is a gather of rows, nor at delta = 0, where the output is the frozen layer's bit for bit.
        """
        if self.without_weight:
            return True
        if not encode or torch.compiler.is_compiling():
            return False
        if not self._vectors.both_sides:
            return True  # if it kept them: they are for all steps but the first
        moved = self._once("moved", None, lambda: has_no_values(self.delta) or bool(self.delta.any()))
        return bool(moved)
