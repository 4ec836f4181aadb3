"""Several weights in work at once, in threads, torch's own threads divided among them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, TypeVar

from spectra.progress import Progress, working

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

T = TypeVar("T")

MAX_WORKERS = 4
"""Each holds one weight in float64 several times over. Torch's threads are divided among them."""


def _processors() -> int:
    """Processors that this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def for_each(names: Collection[str], one: Callable[[str], T], label: str, progress: Progress) -> dict[str, T]:
    """Results of `one(name)` for each name, by name, several at once in threads; raises what it raises."""
    from concurrent.futures import as_completed

    found: dict[str, T] = {}
    workers = max(1, min(MAX_WORKERS, len(names), _processors()))
    with working(progress, label, len(names)), side_by_side(workers) as pool:
        pending = {pool.submit(one, name): name for name in names}
        try:
            for done in as_completed(pending):
                found[pending[done]] = done.result()
                progress.advance(1, pending[done])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {name: found[name] for name in names}


@contextlib.contextmanager
def side_by_side(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool that decomposes several weights at once, torch's threads divided among them.

    An eigenproblem gains less from a second thread than a second eigenproblem does.
    """
    from concurrent.futures import ThreadPoolExecutor

    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // workers))
    try:
        with ThreadPoolExecutor(workers) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)
