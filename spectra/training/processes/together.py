"""The beginning and the end of several processes that train together: an error of one ends all, and one tells it."""

from __future__ import annotations

import atexit
import datetime
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.distributed as dist

from spectra.errors import InputError, ProcessError, SpectraError
from spectra.generation.drawing import best_device
from spectra.training.processes.group import ALONE, Processes
from spectra.training.processes.launch import process_count
from spectra.training.processes.sharding import is_asked_for
from spectra.training.processes.watch import StopSignal, Watch

LONGEST_WORK = datetime.timedelta(days=1)
"""For so long the others wait for the first process, which draws pictures alone; whether it is alive, `Watch` sees."""

_uses = itertools.count()
"""Numbers of the trainings that processes have taken together, one after the other."""


@contextmanager
def together(device: str = "") -> Iterator[Processes]:
    """The processes that a launcher has started, joined for as long as the block runs.

    An error that leaves the block in one of them ends all: in one of them it is raised as it is, the others exit.

    Args:
        device: "cpu" keeps them off GPUs.

    Raises:
        InputError: more processes on this machine than GPUs, or a launcher's plugin that is not for shifts.
        ProcessError: another process has ended.
        SystemExit: in the processes that do not tell why.
    """
    if process_count() == 1:
        yield replace(ALONE)
        return
    lockstep, place = is_asked_for(), _join(device)
    store = dist.distributed_c10d._get_default_store()
    watch = Watch(store, dist.get_rank(), dist.get_world_size(), f"spectra/{next(_uses)}")
    processes = Processes(dist.get_rank(), dist.get_world_size(), place, watch, lockstep)

    def stop() -> None:
        processes.stop = True
        watch.stopped()

    try:
        with StopSignal(stop):
            yield processes
    except SpectraError as error:
        if not isinstance(error, ProcessError):
            watch.publish(str(error))
        _leave()
        if watch.speaks():
            raise
        raise SystemExit(1) from error
    except Exception as error:
        watch.publish(f"process {processes.number} of this training failed ({type(error).__name__})")
        _leave()
        raise
    finally:
        watch.close()


def _join(device: str) -> torch.device:
    """Join the others, by accelerate; where this process computes."""
    from accelerate.state import PartialState

    cpu = (device or best_device()) == "cpu"
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if not cpu and here > gpus:
        raise InputError(f"expected at most as many processes as GPUs, {gpus} here, got {here}; start fewer")
    if not dist.is_initialized():
        atexit.register(_leave)
    PartialState._reset_state()
    found: torch.device = PartialState(cpu=cpu, timeout=LONGEST_WORK).device
    return torch.device("cpu") if found.type == "cpu" else found  # which "cpu:0" is not, to torch


def _leave() -> None:
    """Let go of the others, so that one that waits for this process need not."""
    if dist.is_initialized():
        dist.destroy_process_group()
