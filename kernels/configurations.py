"""Tile sizes, warps and stages that the autotuner may choose among: plain data, without torch or Triton.

Every configuration kept here was compiled for its architecture by `spectra bench kernels`, spills no register, fits
the shared memory, and uses tensor cores for 16-bit products; `benchmarks/kernel_uses.py` lists what else was tried.
That keeps a first call short: nothing is compiled that could not have been chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

Width = Literal["half", "single"]

MIDDLES = (128, 320)
"""Widths of the middle `h` of `apply` that have configurations of their own. Beyond the last, or in float32 beyond
`MIDDLE_LIMIT`, two `matmul` are used: there the middle's trip through memory is short beside the arithmetic."""

MIDDLE_LIMIT: Mapping[Width, int] = {"half": 320, "single": 128}


class Configuration(NamedTuple):
    """One choice of the autotuner: sizes by the kernel's own names (`BLOCK_P`, ...), warps, pipeline stages."""

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
        raise ValueError(f"a middle has at least one direction, got h={h}")
    first = max(16, 1 << (h.bit_length() - 1))
    rest = h - first
    second = 0 if rest <= 0 else max(16, 1 << (rest - 1).bit_length())
    return (first, second) if second < first else (2 * first, 0)


def middle(h: int, width: Width) -> int | None:
    """The class of `MIDDLES` that `h` directions fall into, or None where the middle does not fit on chip."""
    return next((size for size in MIDDLES if h <= size <= MIDDLE_LIMIT[width]), None)


def _apply(p: int, c: int, d: int, warps: int, stages: int) -> Configuration:
    return Configuration({"BLOCK_P": p, "BLOCK_C": c, "BLOCK_D": d}, warps, stages)


def _matmul(p: int, d: int, k: int, warps: int, stages: int) -> Configuration:
    return Configuration({"BLOCK_P": p, "BLOCK_D": d, "BLOCK_K": k}, warps, stages)


def _sums(p: int, c: int, h: int, warps: int, stages: int) -> Configuration:
    return Configuration({"BLOCK_P": p, "BLOCK_C": c, "BLOCK_H": h}, warps, stages)


KEPT: Mapping[tuple[str, Width, str], tuple[Configuration, ...]] = {
    ("apply-128", "half", "sm_80"): (_apply(64, 32, 64, 4, 3),),
    ("apply-128", "half", "sm_90"): (_apply(64, 32, 64, 4, 3), _apply(128, 64, 64, 8, 3)),
    ("apply-128", "half", "sm_100"): (_apply(64, 32, 64, 4, 3),),
    ("apply-128", "half", "gfx942"): (_apply(64, 32, 64, 4, 2), _apply(128, 32, 64, 8, 2)),
    ("apply-320", "half", "sm_80"): (_apply(32, 32, 32, 4, 2),),
    ("apply-320", "half", "sm_90"): (_apply(64, 32, 32, 8, 2), _apply(64, 32, 64, 8, 3)),
    ("apply-320", "half", "sm_100"): (_apply(64, 32, 32, 8, 2), _apply(64, 32, 64, 8, 3)),
    ("apply-320", "half", "gfx942"): (_apply(64, 32, 32, 8, 2),),
    ("apply-128", "single", "sm_80"): (_apply(32, 16, 32, 8, 2),),
    ("apply-128", "single", "sm_90"): (_apply(32, 16, 32, 8, 2),),
    ("apply-128", "single", "sm_100"): (_apply(32, 16, 32, 8, 2),),
    ("apply-128", "single", "gfx942"): (_apply(32, 16, 32, 4, 2),),
    ("matmul", "half", "sm_80"): (_matmul(128, 128, 64, 8, 3), _matmul(64, 64, 64, 4, 4)),
    ("matmul", "half", "sm_90"): (
        _matmul(128, 256, 64, 8, 3),
        _matmul(128, 128, 64, 8, 3),
        _matmul(64, 64, 64, 4, 4),
    ),
    ("matmul", "half", "sm_100"): (_matmul(128, 128, 64, 8, 3), _matmul(64, 64, 64, 4, 4)),
    ("matmul", "half", "gfx942"): (_matmul(128, 128, 32, 4, 2), _matmul(64, 128, 64, 4, 2)),
    ("matmul", "single", "sm_80"): (_matmul(64, 64, 16, 8, 2),),
    ("matmul", "single", "sm_90"): (_matmul(64, 64, 16, 8, 2),),
    ("matmul", "single", "sm_100"): (_matmul(64, 64, 16, 8, 2),),
    ("matmul", "single", "gfx942"): (_matmul(64, 64, 16, 8, 2),),
    ("column_sums", "half", "sm_80"): (_sums(64, 64, 128, 8, 3),),
    ("column_sums", "half", "sm_90"): (_sums(128, 64, 64, 8, 3), _sums(64, 64, 128, 8, 3)),
    ("column_sums", "half", "sm_100"): (_sums(128, 64, 64, 8, 3), _sums(64, 64, 128, 8, 3)),
    ("column_sums", "half", "gfx942"): (_sums(64, 64, 128, 8, 2),),
    ("column_sums", "single", "sm_80"): (_sums(64, 16, 64, 8, 2),),
    ("column_sums", "single", "sm_90"): (_sums(64, 16, 64, 8, 2),),
    ("column_sums", "single", "sm_100"): (_sums(64, 16, 64, 8, 2),),
    ("column_sums", "single", "gfx942"): (_sums(64, 16, 64, 8, 2),),
}
"""By kernel, element width and architecture. Those of sm_80 serve every other NVIDIA GPU too, consumer cards among
them, and so keep within the 99 KiB of shared memory that a block has there."""


FINISH = Configuration({"BLOCK": 32, "BLOCK_H": 128}, 4, 1)
"""Of the second stage of the sums, which is too short to tune."""

INTERPRETED: Mapping[str, Configuration] = {
    "apply": _apply(32, 32, 32, 4, 1),
    "matmul": _matmul(32, 32, 32, 4, 1),
    "column_sums": _sums(32, 32, 32, 4, 1),
}
"""For the interpreter: small, so that small inputs still take every loop and mask."""
