"""Tile sizes, warps and pipeline stages of the Triton kernel, and which of them a launch takes: plain data.

Nothing is tuned by the clock. The shapes and the device alone decide (`choose`), so that every sum is taken in the same
order in every process, and the first call of a shape compiles one kernel.

Every configuration was compiled for its architecture by `spectra bench kernels`: it spills no register, fits the shared
memory and uses tensor cores. `benchmarks/kernels/uses.py` lists what else was tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

WIDTHS = (128, 320)
"""Numbers of directions up to which there are configurations of their own. Beyond the last one the bottleneck does not
stay on chip, and two products of the vendor's library are ahead."""


class Configuration(NamedTuple):
    """Rows of a program, channels and output columns of a step of its loops; warps, and pipeline stages."""

    p: int
    c: int
    d: int
    warps: int
    stages: int

    @property
    def label(self) -> str:
        """One word, such as `P64-C32-D32-w8-s2`."""
        return f"P{self.p}-C{self.c}-D{self.d}-w{self.warps}-s{self.stages}"

    def options(self) -> dict[str, int]:
        """What the kernel is called with, by its own names."""
        sizes = {"BLOCK_P": self.p, "BLOCK_C": self.c, "BLOCK_D": self.d}
        return {**sizes, "num_warps": self.warps, "num_stages": self.stages}


def split(h: int) -> tuple[int, int]:
    """`(H1, H2)`, powers of two from 16 up (H2 may be 0), with `H1 + H2 >= h`, as narrow as two allow.

    Raises:
        ValueError: h < 1.
    """
    if h < 1:
        raise ValueError(f"expected at least one direction, got h={h}")
    first = max(16, 1 << (h.bit_length() - 1))
    rest = h - first
    second = 0 if rest <= 0 else max(16, 1 << (rest - 1).bit_length())
    return (first, second) if second < first else (2 * first, 0)


def choose(h: int, architecture: str, processors: int, programs: Callable[[Configuration], int]) -> Configuration:
    """The first configuration whose programs occupy every multiprocessor; the last, the smallest, if none does.

    Args:
        h: number of directions, at most the last of `WIDTHS`.
        architecture: of the device.
        processors: its number of multiprocessors.
        programs: how many programs a configuration makes of the rows at hand.
    """
    tiles = CONFIGURATIONS[next(width for width in WIDTHS if h <= width), architecture]
    return next((each for each in tiles if programs(each) >= processors), tiles[-1])


CONFIGURATIONS: Mapping[tuple[int, str], tuple[Configuration, ...]] = {
    key: tuple(Configuration(*each) for each in tiles)
    for key, tiles in {
        (128, "sm_80"): ((64, 32, 64, 4, 3), (32, 64, 64, 4, 2)),
        (128, "sm_90"): ((128, 64, 64, 8, 3), (64, 32, 64, 4, 3), (32, 64, 64, 4, 3)),
        (128, "sm_100"): ((64, 32, 64, 4, 3), (32, 64, 64, 4, 3)),
        (128, "gfx942"): ((128, 32, 64, 8, 2), (64, 32, 64, 4, 2), (32, 32, 64, 4, 2)),
        (320, "sm_80"): ((32, 32, 32, 4, 2),),
        (320, "sm_90"): ((64, 32, 64, 8, 3), (32, 32, 32, 4, 2)),
        (320, "sm_100"): ((64, 32, 64, 8, 3), (32, 32, 32, 4, 2)),
        (320, "gfx942"): ((64, 32, 32, 8, 2), (32, 32, 32, 4, 2)),
        # The interpreter's are small, so that small inputs still take every loop and mask.
        (128, "interpreter"): ((32, 32, 32, 4, 1), (16, 32, 32, 4, 1)),
        (320, "interpreter"): ((32, 32, 32, 4, 1), (16, 32, 32, 4, 1)),
    }.items()
}
"""By the largest number of directions and the architecture, the largest tiles first. Those of sm_80 serve every NVIDIA
GPU that has no entry of its own, consumer cards among them, and so keep within the 99 KiB of shared memory that a block
has there."""
