"""What each plan costs beyond the frozen layer, in flops; a test holds it against what PyTorch counts.

A product of `[a, b]` and `[b, c]` counts `2 a b c`; additions and scalings of activations count nothing.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from spectra import kernels

Plan = Literal["factored", "projected", "two-sided", "rebuilt"]
ONE_BASIS: tuple[Plan, ...] = ("factored", "projected", "rebuilt")
TWO_BASES: tuple[Plan, ...] = ("two-sided", "rebuilt")


class Work(NamedTuple):
    """One forward of one layer, and its backward.

    Attributes:
        place: which activation the basis meets.
        n: rows of that activation.
        middle: rows of the narrow middle of an explicit term.
        r, m: smaller and larger side of the weight.
        head: directions of the basis; 0 where both sides of all are kept.
        tail: directions with both sides explicit.
        low: further ones that are explicit in the rebuilt plan (`layers.REBUILT_FLOOR`).
        encode, decode: channels before and after the narrow middle; 0 where it is a gather.
        learns: whether delta takes a gradient.
        input_gradient: whether the layer's input does.
        gram: whether delta's gradient may go through the Gram matrix.
    """

    place: Literal["input", "output"]
    n: int
    middle: int
    r: int
    m: int
    head: int
    tail: int
    low: int
    encode: int
    decode: int
    learns: bool
    input_gradient: bool
    gram: bool

    def key(self) -> str:
        """A name for this work, under which a measured plan is remembered."""
        return " ".join([str(value) for value in self])


def plans(work: Work) -> tuple[Plan, ...]:
    """The plans that the layer has."""
    return ONE_BASIS if work.head else TWO_BASES


def cheapest(work: Work) -> Plan:
    """The plan of the fewest flops; on a tie the first."""
    return min(plans(work), key=lambda plan: cost(plan, work))


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
    return 2 * r * r * (work.head + m) + 2 * r * m * (work.tail + work.low * work.learns)


def _factored(work: Work) -> int:
    products = 2 + (work.learns or work.input_gradient) + work.input_gradient
    return 2 * work.n * work.r * work.head * products


def _two_sided(work: Work) -> int:
    """Encode and decode; the way back through the bases takes the place of the frozen layer's."""
    back = work.decode * (work.learns or work.input_gradient)
    return 2 * work.n * work.tail * (work.encode + work.decode + back)


def _projected(work: Work) -> int:
    products = 1 + work.input_gradient
    return 2 * work.r**2 * work.head + 2 * work.n * work.r**2 * products + _gradient(work)


def _rebuilt(work: Work) -> int:
    if not work.learns:
        return 0
    if not work.head:
        return 2 * work.n * work.r * work.m + 2 * work.r * work.m * work.tail
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
