"""Several processes of one training, as a launcher starts them, but forked from one that has done the imports."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code, negative for a signal, and what it said."""

    code: int
    out: str
    err: str


def in_processes(count: int, call: Callable[[int], Any], folder: Path, longest: float = 60.0) -> list[Ended]:
    """Run `call(number)` in each of `count` processes, and wait until all have ended.

    Args:
        call: what it returns is the exit code, 0 for None.
        folder: for what they say.
        longest: seconds after which not to have ended is a failure.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as that of a launcher
    folder.mkdir(parents=True, exist_ok=True)
    names = [[folder / f"{number}.{kind}" for kind in ("out", "err")] for number in range(count)]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(count)}
    place["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    pids = []
    for number in range(count):
        pid = os.fork()
        if pid == 0:
            own = {"RANK": str(number), "LOCAL_RANK": str(number), "LOCAL_WORLD_SIZE": str(count)}
            os.environ.update(place | own)
            os._exit(_run(call, number, *names[number]))
        pids.append(pid)
    codes, began = {}, time.monotonic()
    while len(codes) < count:
        for pid in set(pids) - set(codes):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
        if time.monotonic() - began > longest:
            for pid in set(pids) - set(codes):
                os.kill(pid, 9)
                os.waitpid(pid, 0)
                codes[pid] = -9
            raise AssertionError([[name.read_text()[-2000:] for name in own] for own in names])
        time.sleep(0.02)
    return [Ended(codes[pid], *(name.read_text() for name in own)) for pid, own in zip(pids, names, strict=True)]


def _run(call: Callable[[int], Any], number: int, out: Path, err: Path) -> int:
    """The exit code of a call in this process, which ends after it."""
    with out.open("w") as said, err.open("w") as told:
        os.dup2(said.fileno(), 1)
        os.dup2(told.fileno(), 2)
        sys.stdout = sys.__stdout__ = said
        sys.stderr = sys.__stderr__ = told
        try:
            return int(call(number) or 0)
        except SystemExit as ended:
            return int(ended.code or 0)
        except BaseException:
            traceback.print_exc(file=told)
            return 3
        finally:
            said.flush()
            told.flush()


@contextlib.contextmanager
def float64_training() -> Iterator[None]:
    """Trainings within the block compute in float64, parameters and loss as well."""
    from spectra.adapters import live_parameters, training_adapter
    from spectra.training.run.loop import Loop

    losses = Loop._losses

    def make(*given: Any) -> dict[str, torch.nn.Parameter]:
        made = live_parameters.make_parameters(*given)
        return {key: torch.nn.Parameter(value.detach().double()) for key, value in made.items()}

    def doubled(self: Loop, batch: Any) -> torch.Tensor:
        with mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
            return losses(self, batch)

    with (
        mock.patch("spectra.training.run.trainer.load_dtype", return_value=torch.float64),
        mock.patch.object(training_adapter, "make_parameters", make),
        mock.patch.object(Loop, "_losses", doubled),
    ):
        yield


def state(out: Path) -> dict[str, torch.Tensor]:
    """What is trained, its average and the optimizer's moments, by name, in the newest state."""
    from spectra.io.tensor_files import load_tensors
    from spectra.training.run.outputs import Outputs

    found = load_tensors(Outputs(out).find_state())[1]
    return {name: value for name, value in found.items() if name.split("/")[0] in ("shift", "result", "optimizer")}


def difference(found: Path, expected: Path) -> float:
    """The largest relative difference of two trainings' states, of the parameters and of each kind of moment."""
    one, other = state(expected), state(found)
    assert one.keys() == other.keys()
    kinds = {name.rsplit(".", 1)[-1] if name.startswith("shift") else name.rsplit("/", 1)[-1] for name in one}
    joined = [
        [torch.cat([of[name].double().ravel() for name in one if name.endswith(kind)]) for kind in kinds]
        for of in (one, other)
    ]
    return max(float((a - b).norm() / a.norm()) for a, b in zip(*joined, strict=True) if a.norm() > 0)


class Communication(TorchDispatchMode):
    """Notes every operation of torch.distributed, below all that calls it: its name and the bytes that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "c10d":
            tensors = [each for each in torch.utils._pytree.tree_leaves(args) if isinstance(each, torch.Tensor)]
            self.calls.append((function._opname, sum(each.nbytes for each in tensors)))
        return function(*args, **(kwargs or {}))
