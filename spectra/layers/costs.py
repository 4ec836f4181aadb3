"""What each plan costs beyond the frozen layer, in flops and memory; a test holds both against what PyTorch counts.

A product of `[a, b]` and `[b, c]` counts `2 a b c`; additions and scalings of activations count nothing.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from spectra import kernels

Plan = Literal["factored", "projected", "two-sided", "rebuilt"]
ONE_BASIS: tuple[Plan, ...] = ("factored", "projected", "rebuilt")
TWO_BASES: tuple[Plan, ...] = ("two-sided", "rebuilt")
EVERY: tuple[Plan, ...] = ("two-sided", *ONE_BASIS)

_BALANCE = {"cpu": 40}
_ACCELERATOR = 1068

SPARE = 3
"""How many times over the other side of a weight that is not square must pay: it fills as much memory as the weight
for good, and saves less of it than a square weight's."""


def balance(device: str) -> int:
    """Flops that a number kept in memory is worth, on a kind of device.

    An H100 computes 534 in bfloat16 (800 TFLOP/s) while it moves one (3.0 TB/s). That is doubled, since memory is also
    what runs out, and stands for all accelerators and precisions; 40 is two cores of a CPU in float32.
    """
    return _BALANCE.get(device, _ACCELERATOR)


class Work(NamedTuple):
    """One forward of one layer, and its backward.

    Attributes:
        place: which activation the basis meets.
        n: rows of that activation.
        middle: rows of the narrow middle of an explicit term.
        r, m: smaller and larger side of the weight.
        head: directions of the basis; 0 where both sides of all are kept, and no plan goes by the basis alone.
        both: whether both sides of all directions are kept.
        tail: directions with both sides explicit.
        low: further ones that are explicit in the rebuilt plan (`rebuilding.REBUILT_FLOOR`).
        encode, decode: channels before and after the narrow middle; 0 where it is a gather.
        learns: whether delta takes a gradient.
        input_gradient: whether the layer's input does.
        gram: whether delta's gradient may go through the Gram matrix.
        free: whether the layer may hold its input for nothing (`kept.is_kept`), and has a use for it.
        square: whether rows and columns both meet channels, equally many; it then goes without a head if `both`.
        literal: whether the two-sided plan leaves the frozen product out.
        itemsize: bytes of a number.
        balance: of the device.
    """

    place: Literal["input", "output"]
    n: int
    middle: int
    r: int
    m: int
    head: int
    both: bool
    tail: int
    low: int
    encode: int
    decode: int
    learns: bool
    input_gradient: bool
    gram: bool
    free: bool
    square: bool
    literal: bool
    itemsize: int
    balance: int

    def key(self) -> str:
        """A name for this work, under which a measured plan is remembered; the same at delta = 0 as later."""
        return " ".join([str(value) for value in self._replace(literal=False)])


def plans(work: Work) -> tuple[Plan, ...]:
    """The plans that the layer has."""
    if not work.head:
        return TWO_BASES if work.square or not work.learns else ("two-sided",)
    return EVERY if work.both else ONE_BASIS


def cheapest(work: Work) -> Plan:
    """The plan of the lowest price; on a tie the first."""
    return min(plans(work), key=lambda plan: price(plan, work))


def wants_both_sides(work: Work) -> bool:
    """Whether a layer that keeps one side should keep the other too: fewer flops, for numbers that are read."""
    if not work.learns:
        return False
    both, other_side = work._replace(both=True), SPARE * work.m * work.head
    if work.square:
        both, other_side = both._replace(head=0, tail=work.r, low=0), work.m * work.head
    return price(cheapest(both), both) + work.balance * other_side < price(cheapest(work), work)


def price(plan: Plan, work: Work) -> int:
    """Flops, and what the numbers are worth that are kept: each is written and read."""
    return cost(plan, work) + 2 * work.balance * kept(plan, work)


def kept(plan: Plan, work: Work) -> int:
    """Numbers kept from forward to backward, or from step to step: activations, and what is made of delta.

    The layer's output counts, though others may keep it too.
    """
    if plan == "two-sided":
        return 0 if keeps_input(work) else work.middle * work.r * work.learns
    numbers = work.middle * work.tail
    if plan == "factored":
        numbers += work.n * work.head
    else:
        met = 0 if work.place == "input" and work.free else work.n * work.r
        if plan == "projected":
            numbers += met
        elif gradient_by_weight(work):
            numbers = 0 if work.free else work.middle * work.r
        else:
            numbers += met + work.middle * work.low
    made = {"factored": 0, "projected": work.r**2, "rebuilt": work.r * work.m}[plan]
    return numbers * work.learns + made


def keeps_input(work: Work) -> bool:
    """Whether the two-sided plan makes its middle again in the backward pass, of an input that is kept for nothing."""
    return work.learns and work.free and work.encode < work.balance


def gradient_by_weight(work: Work) -> bool:
    """Whether the rebuilt plan takes delta's gradient from the weight's."""
    if not work.head:
        return True
    if not (work.free and work.gram and work.place == "output"):
        return False
    activations = work.n * work.r + work.middle * (work.tail + work.low)
    return _by_weight(work) < _by_rows(work) + 2 * work.balance * activations


def cost(plan: Plan, work: Work) -> int:
    """Flops beyond the frozen layer, forward and backward; what is made once per value of delta is included."""
    if plan == "two-sided":
        return _two_sided(work)
    if plan == "rebuilt":
        return rebuilding(work) + _rebuilt(work)
    return (_factored(work) if plan == "factored" else _projected(work)) + _tail(work) + _pull(work)


def rebuilding(work: Work) -> int:
    """Flops of making the rebuilt weight: `Q diag(e) Q^T`, its product with W, the tail, and the low directions."""
    r, m = work.r, work.m
    if not work.head:
        return 2 * r * m * work.tail
    low = work.low * (work.learns and not gradient_by_weight(work))
    return 2 * r * r * (work.head + m) + 2 * r * m * (work.tail + low)


def _factored(work: Work) -> int:
    products = 2 + (work.learns or work.input_gradient) + work.input_gradient
    return 2 * work.n * work.r * work.head * products


def _two_sided(work: Work) -> int:
    """Encode and decode, and their way back, which takes the place of the frozen layer's."""
    encode = 1 + keeps_input(work) + work.input_gradient
    decode = 1 + (work.learns or work.input_gradient)
    frozen = work.encode * work.decode * (work.literal + work.input_gradient)
    return 2 * work.middle * (work.r * (work.encode * encode + work.decode * decode) - frozen)


def _projected(work: Work) -> int:
    products = 1 + work.input_gradient
    return 2 * work.r**2 * work.head + 2 * work.n * work.r**2 * products + _gradient(work)


def _rebuilt(work: Work) -> int:
    """Delta's gradient."""
    if not work.learns:
        return 0
    return _by_weight(work) if gradient_by_weight(work) else _by_rows(work)


def _by_weight(work: Work) -> int:
    r, m = work.r, work.m
    head = 2 * r * r * (m + work.head) if work.head else 0
    return 2 * work.n * r * m + 2 * r * m * work.tail + head


def _by_rows(work: Work) -> int:
    explicit = 2 * work.middle * (work.tail + work.low) * (work.encode + work.decode)
    return explicit + _gradient(work) + _pull(work)


def _gradient(work: Work) -> int:
    """Of delta's head, from the two activations."""
    if not work.learns:
        return 0
    if work.gram and kernels.prefers_gram(work.n, work.r, work.head):
        return 2 * work.n * work.r**2 + 2 * work.r**2 * work.head
    return 4 * work.n * work.r * work.head


def _tail(work: Work) -> int:
    """The explicit term: encode and decode, and their way back as far as it is needed."""
    encode, decode = 1 + work.input_gradient, 1 + (work.learns or work.input_gradient)
    return 2 * work.middle * work.tail * (work.encode * encode + work.decode * decode)


def _pull(work: Work) -> int:
    """The frozen layer's own backward, where only delta needs what arrives at the input."""
    only_delta = work.place == "input" and work.learns and not work.input_gradient
    return 2 * work.middle * work.r * work.m if only_delta else 0
