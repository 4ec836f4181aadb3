"""One live module and its shift: which plan runs, what is kept between steps, and how gradients reach delta.

A layer never changes its module. It computes what the module's forward would, with the shifted weight; the adapter
decides when that happens. With delta at zero the result is the frozen module's, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spectra import costs, kernels, plans
from spectra.costs import Plan
from spectra.kept import is_kept
from spectra.operators import Operator, Place, operator_of
from spectra.spectrum import Spectrum, matrix, valueless


def change(sigma: Tensor, delta: Tensor) -> Tensor:
    """`ReLU(sigma + delta) - sigma`, `[r]`, without the cancellation, and with ReLU's gradient (0 where it clips)."""
    return torch.where(sigma + delta > 0, delta, -sigma)


def shifted_weight(weight: Tensor, spectrum: Spectrum, delta: Tensor) -> Tensor:
    """`U diag(ReLU(sigma + delta)) V^T` in the shape and dtype of `weight`, rounded once from float32 or wider.

    Args:
        weight: the frozen weight that `spectrum` was made of.
        delta: `[r]`. All zeros give `weight` itself.

    Differentiable in `delta`, through the weight: the plans do better, this is for inference and rare layers.
    """
    if not delta.requires_grad and not bool(delta.any()):
        return weight
    dtype = torch.promote_types(weight.dtype, torch.float32)
    sigma, basis, tail = (v.to(weight.device, dtype) for v in (spectrum.sigma, spectrum.basis, spectrum.tail))
    d, head, left = change(sigma, delta.to(dtype)), spectrum.head, spectrum.side == "left"
    w = matrix(weight).to(dtype)
    shifted = kernels.rebuild(w, basis[:, :head], d[:head] / sigma[:head], left=left) if head else w
    if head < spectrum.rank:
        # The long side takes d: its gradient is then summed over that side pairwise, not in one long product.
        narrow = (tail.T * d[head:]) @ basis[:, head:].T
        shifted = shifted + (narrow.T if left else narrow)
    return shifted.reshape(weight.shape).to(weight.dtype)


REBUILT_FLOOR = 0.3
"""A rebuilt weight's output is too coarse to tell delta's gradient of directions whose shifted singular value is below
this share of rms(sigma): they get both sides explicitly. Measured on matrices of condition 1e2 to 1e8 in float32,
bfloat16 and float16, 1/4 lets the error pass twice that of the paper's formula on one matrix in 56."""

LOW_RESERVE = 1 / 16
"""Where their number must not depend on values (torch.compile), room for this share of all directions to sink below
the floor in training. Of more than that, the highest divide by their shifted value all the same."""


class Rebuilt(NamedTuple):
    """What is made once for each value of delta, by the rebuilt plan.

    Attributes:
        weight: the shifted weight, tail included, in the frozen weight's shape and dtype.
        s: `[h]`, the head's singular values in force, 0 where they are clipped or explicit.
        explicit: `[k]`, the directions with both sides given; none without a gradient.
        left: `[rows, k]`, their vectors.
        right: `[columns, k]`, likewise.
    """

    weight: Tensor
    s: Tensor
    explicit: Tensor
    left: Tensor
    right: Tensor


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
        self.operator: Operator | None = operator_of(module)
        weight: Tensor = module.weight  # type: ignore[assignment]
        place = self.operator.place(spectrum.side) if self.operator else None
        # Without an activation to map, every direction needs both sides.
        self.spectrum = spectrum if self.operator else with_full_tail(spectrum, weight)
        pointwise = self.operator is not None and self.operator.pointwise
        self._square = pointwise and is_square(spectrum.shape)
        self._both = place is None or not spectrum.head
        self._sigma = spectrum.sigma.to(weight.device, torch.promote_types(weight.dtype, torch.float32))
        self._floor = REBUILT_FLOOR * self._sigma.square().mean().sqrt()
        self._low = _expected_low(spectrum, self._sigma, self._floor)
        self._place = place
        self._converted: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}
        self._offsets: dict[tuple[torch.dtype, torch.device], Tensor] = {}
        self._kept: dict[str, tuple[Any, Any]] = {}
        self._vectors(weight.dtype)
        if place == "output":
            self._offset(getattr(module, "bias", None), weight.dtype)

    @property
    def _head(self) -> int:
        """How many directions the basis serves alone: none in a square layer that keeps both sides."""
        return 0 if self._both and (self._square or self._place is None) else self.spectrum.head

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the module returns for `x` with the weight `U diag(ReLU(sigma + delta)) V^T`."""
        module, operator, place = self.module, self.operator, self._place
        weight: Tensor = module.weight  # type: ignore[assignment]
        bias: Tensor | None = getattr(module, "bias", None)
        self._follow(weight)
        if operator is None or args or kwargs:
            shifted = shifted_weight(weight, self.spectrum, self.delta)
            return with_parameters(module, {"weight": shifted}, x, *args, **kwargs)
        x, dtype = computed(x, weight)
        plan, work = self._plan(x)
        d, head = change(self._sigma, self.delta), self._head
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
            _, left, right = self._vectors(dtype)
            y = y + narrow(operator, x, left, right, d[head:])
        return y

    def _follow(self, weight: Tensor) -> None:
        """The spectrum goes where the weight went."""
        if self._sigma.device != weight.device:
            self._sigma, self._floor = self._sigma.to(weight.device), self._floor.to(weight.device)
            self._converted, self._offsets, self._kept = {}, {}, {}

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
        basis, dim = self._vectors(dtype)[0], operator.dim
        a, offset = x, None
        if place == "output":
            a = operator.apply(x, weight, bias)
            offset = self._offset(bias, dtype)
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
        left, right = self._sides(dtype)
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
        basis, e = self._vectors(dtype)[0], d.detach() / (sigma := self._sigma[: d.shape[0]])
        offset = self._offset(bias, dtype) if place == "output" else None

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
        made = self._once("rebuilt", learns, lambda: self._rebuild(weight, d.detach(), learns))
        if not (self.delta.requires_grad and torch.is_grad_enabled()):
            return operator.apply(x, made.weight, bias)
        (basis, left, right), dim, head = self._vectors(dtype), operator.dim, self._head
        if by_weight:
            sides = plans.Sides(matrix(weight), basis, self._sigma[:head], left, right)
            return plans.rebuilt_by_weight(x, d, made.weight, bias, sides, operator)
        if work.place == "input":
            attached = plans.attach_input_gradient(x, d[:head], made.s, basis, dim)
            y = operator.apply(attached, made.weight, bias)
        else:
            y = operator.apply(x, made.weight, bias)
            y = plans.attach_output_gradient(y, d[:head], made.s, basis, self._offset(bias, dtype), dim)
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
        key = (self.delta._version, variant)
        if name not in self._kept or self._kept[name][0] != key:
            self._kept.pop(name, None)
            with torch.no_grad(), _full_precision(self._sigma):
                self._kept[name] = (key, make())
        return self._kept[name][1]

    def _rebuild(self, weight: Tensor, d: Tensor, learns: bool) -> Rebuilt:
        spectrum, head, wide = self.spectrum, self._head, self._sigma.dtype
        basis, left, right = (vectors.to(wide) for vectors in self._vectors(weight.dtype))
        on_rows, sigma = spectrum.side == "left", self._sigma[:head]
        w = matrix(weight).to(wide)
        rebuilt = kernels.rebuild(w, basis, d[:head] / sigma, left=on_rows) if head else w
        if head < spectrum.rank:
            rebuilt = torch.addmm(rebuilt, left * d[head:], right.T)
        s = torch.relu(sigma + d[:head])
        index = torch.arange(head, spectrum.rank, device=d.device)
        if learns:
            low = (s > 0) & (s <= self._floor)
            count = self._low_count(low)
            lowest = torch.where(low, s, torch.inf).topk(count, largest=False).indices
            picked = low.index_select(0, lowest)
            near = basis.index_select(1, lowest)
            far = ((w.T if on_rows else w) @ near) / sigma.index_select(0, lowest)
            near = near * picked  # the others have their gradient by `s`
            left = torch.cat([near if on_rows else far, left], 1)
            right = torch.cat([far if on_rows else near, right], 1)
            index = torch.cat([lowest, index])
            s = s.index_copy(0, lowest, torch.where(picked, 0, s.index_select(0, lowest)))
        else:
            left, right, index = left[:, :0], right[:, :0], index[:0]  # copies of the tail that nobody would read
        narrow = (vectors.to(weight.dtype) for vectors in (left, right))
        return Rebuilt(rebuilt.reshape(weight.shape).to(weight.dtype), s, index, *narrow)

    def _low_count(self, low: Tensor) -> int:
        """How many of the head's directions are made explicit; in a graph, and without values, a fixed number."""
        if torch.compiler.is_compiling():
            return min(self._low + math.ceil(LOW_RESERVE * self.spectrum.rank), self._head)
        return self._low if valueless(low) else int(low.sum())

    def _plan(self, x: Tensor) -> tuple[Plan | None, costs.Work | None]:
        """The plan for an input `x`, and its work; None where there is no choice."""
        work = self.work(x)
        if work is None:
            return None, None
        if not self._both and work.encode and self._wants_both(work):
            self._keep_both()
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

    def _keep_both(self) -> None:
        self._both = True
        self._converted, self._offsets, self._kept = {}, {}, {}

    def forget(self) -> None:
        """Drop what was made for the present value of delta."""
        self._kept = {}

    def work(self, x: Tensor) -> costs.Work | None:
        """What a forward of `x` has to do, for the cost model; None where there is no choice of plans."""
        head = self._head
        if self.operator is None or self._place is None:
            return None
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        free = (self.operator.pointwise or self._place == "input") and is_kept(x)
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
            both=self._both,
            tail=spectrum.rank - head,
            low=self._low if head else 0,
            encode=encode,
            decode=decode,
            learns=learning and self.delta.requires_grad,
            input_gradient=learning and x.requires_grad,
            gram=kernels.uses_gram(self._vectors(dtype)[0]),
            free=free and x.dtype == dtype,
            square=self._square,
            literal=self._literal(),
            itemsize=dtype.itemsize,
            balance=costs.balance(x.device.type),
        )

    def _literal(self) -> bool:
        """Whether both sides and the singular values in force make the whole product, without the frozen weight's.

        Not at delta = 0, where the output is the frozen layer's bit for bit.
        """
        if torch.compiler.is_compiling():
            return False
        if not self._both:
            return True  # if it kept them: they are for all steps but the first
        moved = self._once("moved", None, lambda: valueless(self.delta) or bool(self.delta.any()))
        return bool(moved)

    def _offset(self, bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """`bias Q [h]`, for an activation that holds the bias."""
        if bias is None:
            return None
        key = (dtype, bias.device)
        if key in self._offsets:
            return self._offsets[key]
        offset = bias.detach().to(dtype) @ self._vectors(dtype)[0]
        if not torch.compiler.is_compiling():
            self._offsets[key] = offset
        return offset

    def _vectors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """The head's basis `[r, h]`, and the tail's `left [rows, k]` and `right [columns, k]`, in `dtype`."""
        (near, far), head, rank = self._known(dtype), self._head, self.spectrum.rank
        near, far, basis = near[:, head:], far[:, far.shape[1] - (rank - head) :], near[:, :head]
        return basis, *((near, far) if self.spectrum.side == "left" else (far, near))

    def _sides(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """`U [rows, r]` and `V [columns, r]`, where both are kept."""
        near, far = self._known(dtype)
        return (near, far) if self.spectrum.side == "left" else (far, near)

    def _known(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The basis `[r, r]`, and of the other side the tail's vectors `[m, k]`, or all `[m, r]` if both are kept."""
        key = (dtype, self._sigma.device)
        if key in self._converted:
            return self._converted[key]
        spectrum, device = self.spectrum, self._sigma.device
        if self._both:
            spectrum = with_full_tail(spectrum.to(device), self.module.weight)  # type: ignore[arg-type]
        basis, tail = spectrum.basis.to(device, dtype), spectrum.tail.T.to(device, dtype)
        if kernels.uses_triton(basis):
            # By columns: a head of any width then has columns that are loaded 16 bytes at a time.
            basis = basis.T.contiguous().T
        if not torch.compiler.is_compiling():  # a graph that fills this would be compiled again when it is full
            self._converted[key] = basis, tail
        return basis, tail


def is_square(shape: tuple[int, ...]) -> bool:
    """Whether a weight's matrix is square."""
    return shape[0] == math.prod(shape[1:])


def _expected_low(spectrum: Spectrum, sigma: Tensor, floor: Tensor) -> int:
    """How many directions of the head lie below the rebuilt plan's floor at delta = 0.

    Without values a density of sigma that is even near 0 is assumed.
    """
    if valueless(sigma):
        return min((spectrum.rank - spectrum.head) // 2, spectrum.head)
    return int((sigma[: spectrum.head] <= floor).sum())


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


def shifted_vector(weight: Tensor, delta: Tensor) -> Tensor:
    """`w + delta` in the dtype of `weight`, rounded once."""
    return (weight + delta).to(weight.dtype)


def narrow(operator: Operator, x: Tensor, left: Tensor, right: Tensor, d: Tensor) -> Tensor:
    """The term of a few directions, `U diag(d) V^T` applied to `x`; the gradient of `d` is summed in its own dtype.

    Args:
        d: `[k]`, or `[batch, k]` for directions of each sample's own.
    """
    return operator.decode(plans.scale(operator.encode(x, left, right), d, operator.dim), left, right)


def with_parameters(module: nn.Module, parameters: Mapping[str, Tensor | None], *args: Any, **kwargs: Any) -> Tensor:
    """The module's own forward with some parameters replaced; the module itself stays untouched."""
    out: Tensor = type(module).forward(_View(module, parameters), *args, **kwargs)
    return out


class _View:
    """A module seen with other parameters: what a forward takes for `self`. torch.compile follows it."""

    def __init__(self, module: nn.Module, parameters: Mapping[str, Tensor | None]) -> None:
        self._module = module
        self._replaced = parameters

    def __getattr__(self, name: str) -> Any:
        return self._replaced[name] if name in self._replaced else getattr(self._module, name)


def computed(x: Tensor, weight: Tensor) -> tuple[Tensor, torch.dtype]:
    """`x` in the dtype in which the layer computes, and that dtype; a gather of rows stays in the table's."""
    dtype = weight.dtype
    if x.is_floating_point() and not weight.is_meta and torch.is_autocast_enabled(weight.device.type):
        dtype = torch.get_autocast_dtype(weight.device.type)
        x = x.to(dtype)
    return x, dtype


def with_full_tail(spectrum: Spectrum, weight: Tensor) -> Spectrum:
    """The same spectrum with the other side of every direction explicit."""
    w, head = matrix(weight.detach()).to(torch.float64), spectrum.head
    basis = spectrum.basis[:, :head].to(torch.float64)
    # In this order, a row for each direction, the product takes two thirds of the time of its transpose.
    far = (basis.T @ (w if spectrum.side == "left" else w.T)).div_(spectrum.sigma[:head, None])
    tail = torch.cat([far.to(spectrum.tail.dtype), spectrum.tail])
    return Spectrum(spectrum.side, spectrum.basis, spectrum.sigma, tail, spectrum.shape)
