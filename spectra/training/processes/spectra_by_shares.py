"""Spectra that the cache lacks, each computed by one of the processes of a training and read by all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spectra.adapters.bind import ALL, bind
from spectra.adapters.binding import Binding
from spectra.adapters.lazy_values import LazyValues
from spectra.families import Target
from spectra.progress import Progress
from spectra.spectrum.cache.spectrum_cache import default_cache
from spectra.training.processes.group import Processes


def bind_by_shares(
    targets: Sequence[Target], directions: Mapping[str, int], processes: Processes, progress: Progress
) -> dict[str, Binding]:
    """`bind`, once every process has computed its share, and all have put theirs into one cache.

    Raises:
        ProcessError: another process has ended.
        As `bind`.
    """
    if processes.count > 1:
        matrices = [each for each in targets if each.weight.ndim > 1 and directions.get(each.name, ALL)]
        # The largest come first, so that shares are about equal.
        mine = processes.share(sorted(matrices, key=lambda each: (-each.shape.numel(), each.name)))
        for count in {directions.get(each.name, ALL) for each in mine}:
            some = {each.name: each.values for each in mine if directions.get(each.name, ALL) == count}
            default_cache().fill(LazyValues(some), progress, directions=None if count == ALL else count)
        processes.wait()
    return bind(targets, directions, progress=progress)
