"""The processes of a training as one of them sees them: whose samples are whose, and what all of them sum up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from spectra.errors import ProcessError
from spectra.training.processes.watch import Watch

T = TypeVar("T")


@dataclass(eq=False)
class Processes:
    """One process of those that train together, or the only one.

    Everything random of a step is drawn by each of them for all samples; of those it takes its own.

    Attributes:
        number: of this process; 0 is the first, which alone writes and tells.
        count: of all.
        device: of what is summed.
        watch: whether the others are alive; None where there are none.
        lockstep: the model is in parts, so that all processes call it as often, with samples of their own or not.
        stop: the training shall end after this step. Each `total` lets all know.
        reduced: bytes of gradients that a step sums over the processes.
    """

    number: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    watch: Watch | None = None
    lockstep: bool = False
    stop: bool = False
    reduced: int = 0

    @property
    def first(self) -> bool:
        """Whether this one writes and tells."""
        return self.number == 0

    @property
    def draws(self) -> bool:
        """Whether this one draws pictures: where the model is in parts, all must."""
        return self.first or self.lockstep

    def rows(self, count: int, before: int) -> list[int]:
        """Which of `count` samples are this process's, `before` samples of the same step having been dealt."""
        return [row for row in range(count) if (before + row) % self.count == self.number]

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """The pieces of some work that are for this process: they are dealt out in turn."""
        return items[self.number :: self.count]

    def reduce(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the parameters' gradients over all processes, in one buffer.

        A parameter that no sample reaches has none in any process.

        Raises:
            ProcessError: another process has ended.
        """
        if self.count == 1:
            return
        gradients = [each.grad for each in parameters if each.grad is not None]
        flat = torch.cat([each.reshape(-1) for each in gradients])
        if self.reduced != flat.nbytes:
            smallest = self._collective(torch.tensor([flat.nbytes, -flat.nbytes]), dist.ReduceOp.MIN).tolist()
            if smallest != [flat.nbytes, -flat.nbytes]:
                raise AssertionError("expected gradients of the same parameters in all processes")
            self.reduced = flat.nbytes
        parts = self._collective(flat).split([each.numel() for each in gradients])
        for gradient, summed in zip(gradients, parts, strict=True):
            gradient.copy_(summed.view_as(gradient))

    def total(self, values: Sequence[float]) -> list[float]:
        """Each of the numbers summed over all processes; lets all know, too, whether one was told to stop.

        Raises:
            ProcessError: another process has ended.
        """
        if self.count == 1:
            return list(values)
        *summed, stop = self._collective(torch.tensor([*values, float(self.stop)], dtype=torch.float64)).tolist()
        self.stop = stop > 0
        return summed

    def wait(self) -> None:
        """Go on once all processes have come here.

        Raises:
            ProcessError: another process has ended.
        """
        self._collective(torch.zeros(1))

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, for all.

        Raises:
            ProcessError: another process has ended.
        """
        if self.count == 1:
            return make()
        made: list[T | None] = [make() if self.first else None]
        with self.heard():
            dist.broadcast_object_list(made, src=0, device=self.device)
        return made[0]  # type: ignore[return-value]

    def first_then_others(self, call: Callable[[], T]) -> T:
        """The first process calls, the others once it is done, and all go on once those are.

        Raises:
            ProcessError: another process has ended.
        """
        if self.first:
            found = call()
            self.wait()
        else:
            self.wait()
            found = call()
        self.wait()
        return found

    def gather(self, value: T) -> list[T]:
        """What each process has, in their order.

        Raises:
            ProcessError: another process has ended.
        """
        if self.count == 1:
            return [value]
        found: list[T | None] = [None] * self.count
        with self.heard():
            dist.all_gather_object(found, value)
        return found  # type: ignore[return-value]

    @contextmanager
    def heard(self) -> Iterator[None]:
        """What torch raises in the block because another process has ended is told as that.

        Raises:
            ProcessError: one has.
        """
        try:
            yield
        except RuntimeError as error:
            if self.watch is None or not _is_loss(error):
                raise
            raise ProcessError(self.watch.why()) from error

    def _collective(self, values: Tensor, operation: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM) -> Tensor:
        if self.count > 1:
            values = values.to(self.device)
            with self.heard():
                dist.all_reduce(values, operation)
        return values


def _is_loss(error: RuntimeError) -> bool:
    """Whether an error is one of the connection to other processes."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


ALONE = Processes()
"""The only process of a training."""
