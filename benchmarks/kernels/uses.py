"""How the audit calls the Triton kernel: what is passed, what is aligned, what it costs, what was tried.

The calls are those of a Stable Diffusion layer: contiguous channels, widths that are multiples of 16, a basis with
contiguous columns. The number of one-sided directions is any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spectra.benchmarks.kernels.compiled import ARCHITECTURES, Signature
from spectra.kernels.configurations import WIDTHS, Configuration, split


@dataclass(frozen=True)
class Problem:
    """The layer of a projection: `n` rows, `r` channels, `h` directions, `m` columns of the weight."""

    n: int
    r: int
    h: int
    m: int


NARROW = Problem(n=8192, r=128, h=120, m=1152)
"""A layer of a small model."""

MIDDLING = Problem(n=8192, r=320, h=304, m=2880)
"""SD 1.5's widest activation at 512 px, batch 2."""

WIDE = Problem(n=512, r=1280, h=1216, m=11520)
"""SD 1.5's deepest convolutions: the bottleneck is too wide to stay on chip, and PyTorch computes."""


@dataclass(frozen=True)
class Use:
    """One way the kernel is called.

    Attributes:
        width: directions at most, of `configurations.WIDTHS`.
        pointers: arguments that are tensors of the element type; others by their type.
        ones: strides that are 1.
        odd: extents that may be no multiple of 16: the number of directions, and that of rows.
        problem: the layer of its projection.
    """

    width: int
    pointers: Mapping[str, str]
    ones: tuple[str, ...]
    odd: tuple[str, ...]
    problem: Problem

    def work(self) -> tuple[float, float]:
        """Flops of the problem, and elements that it moves through memory; the input is read again to be added."""
        p = self.problem
        return 4 * p.n * p.r * p.h, p.n * (3 * p.r + p.h) + 2 * p.r * p.h


_EXTENTS = ("P", "C", "D", "h", "T", "adapters", "span")
_STRIDES = ("x_s", "x_p", "x_c", "right_h", "left_h", *(f"{name}_{at}" for name in ("residual", "out") for at in "spd"))
_INTEGERS = (*_EXTENTS, *_STRIDES)
_E = "element"


def _apply(width: int, *, backward: bool = False, batched: bool = False, channels_first: bool = False) -> Use:
    pointers = dict.fromkeys(("x_ptr", "right_ptr", "left_ptr", "residual_ptr", "out_ptr", "t_ptr"), _E)
    pointers |= {"values_ptr": "*fp32", "sums_ptr" if backward else "offset_ptr": "*fp32"}
    if batched:
        pointers["index_ptr"] = "*i64"
    ones = ("x_p", "residual_p", "out_p") if channels_first else ("x_c", "residual_d", "out_d")
    odd = ("h",) if channels_first else ("P", "h")
    return Use(width, pointers, ones, odd, NARROW if width <= NARROW.r else MIDDLING)


USES: Mapping[str, Use] = {
    **{
        f"{name}, h <= {width}": _apply(width, **kind)
        for width in WIDTHS
        for name, kind in {
            "factored apply": {},
            "factored backward": {"backward": True},
            "batched apply": {"batched": True},
        }.items()
    },
    "factored apply, channels first, h <= 320": _apply(320, channels_first=True),
}
"""Every use, by the name of its rows. A term of few directions is the factored apply's call."""

_CANDIDATES: Mapping[int, tuple[Configuration, ...]] = {
    width: tuple(Configuration(*each) for each in tried)
    for width, tried in {
        128: (
            (128, 64, 64, 8, 3),
            (128, 64, 64, 4, 3),
            (128, 32, 64, 8, 3),
            (64, 64, 64, 4, 2),
            (64, 32, 64, 4, 3),
            (32, 64, 64, 4, 3),
            (32, 64, 64, 4, 2),
            (32, 32, 64, 4, 3),
        ),
        320: (
            (128, 32, 32, 8, 2),
            (64, 32, 64, 8, 3),
            (64, 32, 32, 8, 2),
            (64, 32, 32, 4, 2),
            (32, 32, 64, 4, 3),
            (32, 32, 32, 4, 2),
        ),
    }.items()
}


def candidates(width: int, arch: str) -> tuple[Configuration, ...]:
    """What was tried; `configurations.CONFIGURATIONS` has those that were found good."""
    if ARCHITECTURES[arch].backend == "cuda":
        return _CANDIDATES[width]
    # AMD's pipeline holds its stages in registers: a second one is all that pays.
    return tuple(dict.fromkeys(c._replace(stages=min(c.stages, 2)) for c in _CANDIDATES[width]))


def signature(use: Use, dtype: str, configuration: Configuration) -> Signature:
    """How the kernel is called with elements of `dtype`."""
    types = dict.fromkeys(_INTEGERS, "i32")
    types |= {name: f"*{dtype}" if kind == _E else kind for name, kind in use.pointers.items()}
    sizes = {name: value for name, value in configuration.options().items() if name.startswith("BLOCK")}
    h1, h2 = split(use.width)
    return Signature(
        types=types,
        constants={"H1": h1, "H2": h2, **sizes},
        ones=use.ones,
        aligned=[name for name in _INTEGERS if name not in (*use.ones, *use.odd, "adapters")],
    )
