"""What each plan costs beyond the frozen layer, in flops and memory; a test holds both against what PyTorch counts.

A product of `[a, b]` and `[b, c]` counts `2 a b c`; additions and scalings of activations count nothing.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from spectra import kernels
from spectra.layers.frozen_operators import Place

Plan = Literal["factored", "two-sided", "materialized"]

LONG_SIDE_FACTOR = 3
"""How many times over the other side of a weight that is not square must pay: it fills as much memory as the weight
for good, and saves less of it than a square weight's."""


def balance(device: str) -> int:
    """Flops that a number kept in memory is worth, on a kind of device.

    An H100 computes 534 in bfloat16 (800 TFLOP/s) while it moves one (3.0 TB/s). That is doubled, since memory is also
    what runs out, and stands for all accelerators and precisions; 40 is two cores of a CPU in float32.
    """
    return 40 if device == "cpu" else 1068


class Work(NamedTuple):
    """One forward of one layer, and its backward.

    Attributes:
        basis_at: which activation the basis meets; None if it meets none, or both sides of all directions are kept.
        rows: of that activation.
        bottleneck_rows: rows between the two sides of a low-rank term.
        r, m: smaller and larger side of the weight.
        one_sided: directions that go by the basis alone; 0 where both sides of all are kept.
        two_sided: directions with both sides kept.
        near_zero: one-sided directions that need both sides for the gradient of a materialized weight
            (`materialized_weight.NEAR_ZERO`).
        encode, decode: channels before and after the bottleneck; `encode` is 0 where rows are gathered.
        learns: whether delta takes a gradient.
        input_gradient: whether the layer's input does.
        gram: whether delta's gradient may go through the Gram matrix.
        input_saved_elsewhere: whether saving the layer's input takes no memory (`saved_elsewhere`).
        pointwise: whether rows and columns of the weight both meet channels.
        skips_frozen_product: whether the two-sided plan computes without the frozen weight.
        balance: of the device.
    """

    basis_at: Place | None
    rows: int
    bottleneck_rows: int
    r: int
    m: int
    one_sided: int
    two_sided: int
    near_zero: int
    encode: int
    decode: int
    learns: bool
    input_gradient: bool
    gram: bool
    input_saved_elsewhere: bool
    pointwise: bool
    skips_frozen_product: bool
    balance: int

    def key(self) -> str:
        """A name for this work, under which a measured plan is remembered; the same at delta = 0 as later."""
        return " ".join([str(value) for value in self._replace(skips_frozen_product=False)])


def plans(work: Work) -> tuple[Plan, ...]:
    """The plans that the layer has."""
    return ("factored" if work.one_sided else "two-sided", "materialized")


def cheapest(work: Work) -> Plan:
    """The plan of the lowest price; on a tie the first."""
    return min(plans(work), key=lambda plan: price(plan, work))


def wants_other_side(work: Work) -> bool:
    """Whether a layer that keeps one side should keep the other too: fewer flops, for numbers that are read."""
    if not (work.one_sided and work.learns and work.encode):
        return False
    both = with_other_side(work)
    return price(cheapest(both), both) + other_side_price(work) < price(cheapest(work), work)


def with_other_side(work: Work) -> Work:
    """The work of a layer that keeps both sides of all directions, for the same input."""
    return work._replace(basis_at=None, rows=work.bottleneck_rows, one_sided=0, two_sided=work.r, near_zero=0)


def other_side_price(work: Work) -> int:
    """What keeping the other side is worth in flops."""
    return work.balance * work.m * work.one_sided * (1 if work.pointwise and work.r == work.m else LONG_SIDE_FACTOR)


def price(plan: Plan, work: Work) -> int:
    """Flops, and what the numbers are worth that are kept: each is written and read."""
    return cost(plan, work) + 2 * work.balance * kept(plan, work)


def kept(plan: Plan, work: Work) -> int:
    """Numbers kept from forward to backward, or from step to step: activations, and a materialized weight.

    The layer's output counts, though others may keep it too.
    """
    if plan != "materialized":
        return (work.rows * work.one_sided + work.bottleneck_rows * work.two_sided) * work.learns
    return work.r * work.m + _gradient(work)[1] * work.learns


def gradient_by_weight(work: Work) -> bool:
    """Whether the materialized plan takes delta's gradient from the weight's, rather than from rows of activations."""
    possible = work.pointwise
    if work.one_sided:  # the other side then follows from the weight, as `V = W^T U / sigma`
        possible &= work.input_saved_elsewhere and work.gram and work.basis_at == "output"
    (flops, numbers), (flops_by_rows, numbers_by_rows) = _by_weight(work), _by_rows(work)
    return possible and flops + 2 * work.balance * numbers < flops_by_rows + 2 * work.balance * numbers_by_rows


def cost(plan: Plan, work: Work) -> int:
    """Flops beyond the frozen layer, forward and backward; what is made once per value of delta is included."""
    if plan == "two-sided":
        return _two_sided(work)
    if plan == "factored":
        return _factored(work) + _low_rank_term(work) + _pull_back(work)
    return materializing(work) + _gradient(work)[0] * work.learns


def materializing(work: Work) -> int:
    """Flops of making the shifted weight: `Q diag(e) Q^T`, its product with W, and the other directions."""
    r, m = work.r, work.m
    if not work.one_sided:
        return 2 * r * m * work.two_sided
    near_zero = work.near_zero * (work.learns and not gradient_by_weight(work))
    return 2 * r * r * (work.one_sided + m) + 2 * r * m * (work.two_sided + near_zero)


def _factored(work: Work) -> int:
    products = 2 + (work.learns or work.input_gradient) + work.input_gradient
    return 2 * work.rows * work.r * work.one_sided * products


def _two_sided(work: Work) -> int:
    """Encode and decode, and their way back, which takes the place of the frozen layer's."""
    frozen = work.encode * work.decode * (work.skips_frozen_product + work.input_gradient)
    return _low_rank_term(work) - 2 * work.bottleneck_rows * frozen


def _gradient(work: Work) -> tuple[int, int]:
    """Flops of delta's gradient in the materialized plan, and numbers kept for it."""
    return _by_weight(work) if gradient_by_weight(work) else _by_rows(work)


def _by_weight(work: Work) -> tuple[int, int]:
    r, m = work.r, work.m
    by_basis = 2 * r * r * (m + work.one_sided) if work.one_sided else 0
    flops = 2 * work.bottleneck_rows * r * m + 2 * r * m * work.two_sided + by_basis
    return flops, 0 if work.input_saved_elsewhere else work.bottleneck_rows * work.encode


def _by_rows(work: Work) -> tuple[int, int]:
    rows, r, explicit = work.rows, work.r, work.bottleneck_rows * (work.two_sided + work.near_zero)
    flops = 2 * explicit * (work.encode + work.decode) + _pull_back(work)
    if work.gram and kernels.prefers_gram(rows, r, work.one_sided):
        flops += 2 * rows * r**2 + 2 * r**2 * work.one_sided
    else:
        flops += 4 * rows * r * work.one_sided
    met = 0 if not work.one_sided or (work.basis_at == "input" and work.input_saved_elsewhere) else rows * r
    return flops, met + explicit


def _low_rank_term(work: Work) -> int:
    """Encode and decode of two-sided directions, and their way back as far as it is needed."""
    encode, decode = 1 + work.input_gradient, 1 + (work.learns or work.input_gradient)
    return 2 * work.bottleneck_rows * work.two_sided * (work.encode * encode + work.decode * decode)


def _pull_back(work: Work) -> int:
    """The frozen layer's own backward, where only delta needs what arrives at the input."""
    only_delta = work.one_sided and work.basis_at == "input" and work.learns and not work.input_gradient
    return 2 * work.bottleneck_rows * work.r * work.m if only_delta else 0
