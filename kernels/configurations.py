"""Tile sizes, warps and pipeline stages of the Triton kernels, and which of them a launch takes: plain data.

Nothing is tuned by the clock. The shapes and the device alone decide (`choose`), so that every sum is taken in the same
order in every process, and the first call of a shape compiles one kernel.

Every configuration was compiled for its architecture by `spectra bench kernels`: it spills no register, fits the shared
memory and uses tensor cores. `benchmarks/kernel_uses.py` lists what else was tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

WIDTHS = (128, 320)
"""Numbers of directions up to which `apply` has configurations of its own. Beyond the last one its bottleneck does not
stay on chip, and two products of the vendor's library are ahead."""


class Configuration(NamedTuple):
    """Sizes by the kernel's own names (`BLOCK_P`, ...), warps, and pipeline stages."""

    blocks: Mapping[str, int]
    warps: int
    stages: int

    @property
    def label(self) -> str:
        """One word, such as `P64-C32-D32-w8-s2`."""
        sizes = (f"{name.removeprefix('BLOCK_')}{size}" for name, size in self.blocks.items())
        return "-".join((*sizes, f"w{self.warps}", f"s{self.stages}"))


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


def apply_table(h: int) -> str:
    """The entry of `KEPT` for `apply` with `h` directions, at most the last of `WIDTHS`."""
    return f"apply-{next(width for width in WIDTHS if h <= width)}"


def choose(table: str, architecture: str, processors: int, programs: Callable[[Configuration], int]) -> Configuration:
    """The first configuration whose programs occupy every multiprocessor; the last, the smallest, if none does.

    Args:
        table: a kernel's entry of `KEPT`.
        architecture: of the device.
        processors: its number of multiprocessors.
        programs: how many programs a configuration makes of the shapes at hand.
    """
    kept = KEPT[table, architecture]
    return next((each for each in kept if programs(each) >= processors), kept[-1])


def _apply(p: int, c: int, d: int, warps: int, stages: int) -> Configuration:
    return Configuration({"BLOCK_P": p, "BLOCK_C": c, "BLOCK_D": d}, warps, stages)


def _sums(p: int, c: int, h: int, warps: int, stages: int) -> Configuration:
    return Configuration({"BLOCK_P": p, "BLOCK_C": c, "BLOCK_H": h}, warps, stages)


KEPT: Mapping[tuple[str, str], tuple[Configuration, ...]] = {
    ("apply-128", "sm_80"): (_apply(64, 32, 64, 4, 3), _apply(32, 64, 64, 4, 2)),
    ("apply-128", "sm_90"): (_apply(128, 64, 64, 8, 3), _apply(64, 32, 64, 4, 3), _apply(32, 64, 64, 4, 3)),
    ("apply-128", "sm_100"): (_apply(64, 32, 64, 4, 3), _apply(32, 64, 64, 4, 3)),
    ("apply-128", "gfx942"): (_apply(128, 32, 64, 8, 2), _apply(64, 32, 64, 4, 2), _apply(32, 32, 64, 4, 2)),
    ("apply-320", "sm_80"): (_apply(32, 32, 32, 4, 2),),
    ("apply-320", "sm_90"): (_apply(64, 32, 64, 8, 3), _apply(32, 32, 32, 4, 2)),
    ("apply-320", "sm_100"): (_apply(64, 32, 64, 8, 3), _apply(32, 32, 32, 4, 2)),
    ("apply-320", "gfx942"): (_apply(64, 32, 32, 8, 2), _apply(32, 32, 32, 4, 2)),
    ("column_sums", "sm_80"): (_sums(64, 64, 128, 8, 3), _sums(32, 64, 64, 4, 3)),
    ("column_sums", "sm_90"): (_sums(128, 64, 64, 8, 3), _sums(64, 64, 64, 4, 3), _sums(32, 64, 64, 4, 3)),
    ("column_sums", "sm_100"): (_sums(128, 64, 64, 8, 3), _sums(64, 64, 64, 4, 3), _sums(32, 64, 64, 4, 3)),
    ("column_sums", "gfx942"): (_sums(64, 64, 128, 8, 2), _sums(32, 64, 64, 4, 2)),
    # The interpreter's are small, so that small inputs still take every loop and mask.
    **{(f"apply-{width}", "interpreter"): (_apply(32, 32, 32, 4, 1), _apply(16, 32, 32, 4, 1)) for width in WIDTHS},
    ("column_sums", "interpreter"): (_sums(32, 32, 32, 4, 1), _sums(16, 32, 32, 4, 1)),
}
"""By kernel and architecture, the largest tiles first. Those of sm_80 serve every NVIDIA GPU that has no entry of its
own, consumer cards among them, and so keep within the 99 KiB of shared memory that a block has there."""
