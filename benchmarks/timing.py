"""Timing variants against each other, so that a busy or throttled machine slows all of them alike."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from spectra.errors import InputError


@dataclass(frozen=True)
class Spread:
    """Median, 20th and 80th percentile of repeated measurements, in seconds unless said otherwise."""

    median: float
    p20: float
    p80: float
    repetitions: int

    def divided(self, parts: int) -> Spread:
        """The seconds of each of the equal parts of what was timed."""
        return Spread(self.median / parts, self.p20 / parts, self.p80 / parts, self.repetitions)

    def row(self) -> dict[str, float | int]:
        """As JSON: `{"median", "p20", "p80", "repetitions"}`, to 4 significant digits or better."""
        return {
            "median": float(f"{self.median:.6g}"),
            "p20": float(f"{self.p20:.6g}"),
            "p80": float(f"{self.p80:.6g}"),
            "repetitions": self.repetitions,
        }


def spread(samples: Sequence[float]) -> Spread:
    """Median, 20th and 80th percentile by linear interpolation between the sorted samples.

    Raises:
        InputError: no samples.
    """
    if not samples:
        raise InputError("a spread needs at least one sample, got none; set repetitions to 1 or more")
    ordered = sorted(samples)
    return Spread(_quantile(ordered, 0.5), _quantile(ordered, 0.2), _quantile(ordered, 0.8), len(ordered))


def _quantile(ordered: Sequence[float], fraction: float) -> float:
    place = fraction * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def order(names: Sequence[str], repetition: int) -> list[str]:
    """The order of one repetition: rotated by one each time, and reversed every other time.

    Over the repetitions each variant comes first, last and after each other, so what one leaves behind (a
    warm cache, a hot core) is not always to the cost of the same neighbour.
    """
    if not names:
        return []
    turn = repetition // 2 % len(names)
    rotated = [*names[turn:], *names[:turn]]
    return rotated[::-1] if repetition % 2 else rotated


def interleaved(
    variants: Mapping[str, Callable[[], object]],
    *,
    repetitions: int = 5,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Spread]:
    """Seconds per call of each variant, measured in turns within one run.

    Args:
        variants: name to a callable without arguments; its result is dropped outside the timed span.
        repetitions: timed rounds; each round calls every variant once, in the order of `order`.
        warm_up: rounds before them that are not counted.
        clock: seconds, monotonic.

    Raises:
        InputError: fewer than one repetition.
    """
    if repetitions < 1:
        raise InputError(f"repetitions must be 1 or more, got {repetitions}")
    names = list(variants)
    for _ in range(warm_up):
        for name in names:
            variants[name]()
    samples: dict[str, list[float]] = {name: [] for name in names}
    for repetition in range(repetitions):
        for name in order(names, repetition):
            _synchronise()
            start = clock()
            result = variants[name]()
            _synchronise()
            samples[name].append(clock() - start)
            del result
    return {name: spread(values) for name, values in samples.items()}


def _synchronise() -> None:
    """Waits for the accelerator where one is in use; a process that never imported torch has none."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
