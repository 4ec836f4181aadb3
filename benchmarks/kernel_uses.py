"""How the audit calls each Triton kernel: what is passed, what is aligned, what it costs, what was tried.

The calls are those of a Stable Diffusion layer: contiguous channels, widths that are multiples of 16, a basis with
contiguous columns. The number of directions in the head is any.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from spectra.benchmarks.compiled import ARCHITECTURES, Signature
from spectra.kernels.configurations import KEPT, WIDTHS, Configuration, split


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
"""Its deepest convolutions: the bottleneck is too wide to stay on chip, and PyTorch computes."""


@dataclass(frozen=True)
class Use:
    """One way a kernel is called.

    Attributes:
        kernel: its function's name.
        table: the entry of `configurations.KEPT`.
        pointers: arguments that are tensors of the element type; others by their type.
        constants: constexpr arguments, those of the configuration apart.
        ones: strides that are 1.
        odd: extents that may be no multiple of 16: the number of directions, and that of rows.
        problem: the layer of its projection.
        work: flops of a problem, and elements that it moves through memory.
    """

    kernel: str
    table: str
    pointers: Mapping[str, str]
    constants: Mapping[str, Any]
    ones: tuple[str, ...]
    odd: tuple[str, ...]
    problem: Problem
    work: Callable[[Problem], tuple[float, float]]


_INTEGERS: Mapping[str, str] = {
    "apply": "P C D h T adapters span x_s x_p x_c right_h left_h residual_s residual_p residual_d out_s out_p out_d",
    "column_sums": "S P C h a_s a_p a_c b_s b_p b_c basis_h",
}
_NEVER_ALIGNED = {"S", "adapters"}
_E = "element"
_MODULES = {"apply": "triton_apply", "column_sums": "triton_gradient"}


def _apply(size: int, *, backward: bool = False, batched: bool = False, channels_first: bool = False) -> Use:
    pointers = dict.fromkeys(("x_ptr", "right_ptr", "left_ptr", "residual_ptr", "out_ptr", "t_ptr"), _E)
    pointers |= {"values_ptr": "*fp32", "sums_ptr" if backward else "offset_ptr": "*fp32"}
    if batched:
        pointers["index_ptr"] = "*i64"
    h1, h2 = split(size)

    def work(p: Problem) -> tuple[float, float]:
        return 4 * p.n * p.r * p.h, p.n * (3 * p.r + p.h) + 2 * p.r * p.h  # x is read again to be added

    ones = ("x_p", "residual_p", "out_p") if channels_first else ("x_c", "residual_d", "out_d")
    odd = ("h",) if channels_first else ("P", "h")
    problem = NARROW if size <= NARROW.r else MIDDLING
    return Use("apply", f"apply-{size}", pointers, {"H1": h1, "H2": h2}, ones, odd, problem, work)


USES: Mapping[str, Use] = {
    **{
        f"{name}, h <= {size}": _apply(size, **kind)
        for size in WIDTHS
        for name, kind in {
            "factored apply": {},
            "factored backward": {"backward": True},
            "batched apply": {"batched": True},
        }.items()
    },
    "factored apply, channels first, h <= 320": _apply(320, channels_first=True),
    "shift gradient": Use(
        "column_sums",
        "column_sums",
        {"a_ptr": _E, "b_ptr": _E, "basis_ptr": _E, "offset_ptr": "*fp32", "sums_ptr": "*fp32"},
        {},
        ("a_c", "b_c"),
        ("P", "h"),
        MIDDLING,
        lambda p: (4 * p.n * p.r * p.h, 2 * p.n * p.r + p.r * p.h),
    ),
}
"""Every use, by the name of its rows. A term of few directions is the factored apply's call."""

_SIZES = {"apply": ("P", "C", "D"), "column_sums": ("P", "C", "H")}


def _tried(kernel: str, *rows: tuple[int, int, int, int, int]) -> tuple[Configuration, ...]:
    names = [f"BLOCK_{name}" for name in _SIZES[kernel]]
    return tuple(Configuration(dict(zip(names, row[:3], strict=True)), *row[3:]) for row in rows)


_CANDIDATES: Mapping[str, tuple[Configuration, ...]] = {
    "apply-128": _tried(
        "apply",
        (128, 64, 64, 8, 3),
        (128, 64, 64, 4, 3),
        (128, 32, 64, 8, 3),
        (64, 64, 64, 4, 2),
        (64, 32, 64, 4, 3),
        (32, 64, 64, 4, 3),
        (32, 64, 64, 4, 2),
        (32, 32, 64, 4, 3),
    ),
    "apply-320": _tried(
        "apply",
        (128, 32, 32, 8, 2),
        (64, 32, 64, 8, 3),
        (64, 32, 32, 8, 2),
        (64, 32, 32, 4, 2),
        (32, 32, 64, 4, 3),
        (32, 32, 32, 4, 2),
    ),
    "column_sums": _tried(
        "column_sums",
        (128, 32, 128, 8, 3),
        (128, 64, 64, 8, 3),
        (64, 64, 128, 8, 3),
        (64, 64, 64, 4, 3),
        (32, 64, 64, 4, 3),
    ),
}


def candidates(table: str, arch: str) -> tuple[Configuration, ...]:
    """What was tried for a kernel; `KEPT` has those of them that were found good."""
    if ARCHITECTURES[arch].backend == "cuda":
        return _CANDIDATES[table]
    # AMD's pipeline holds its stages in registers: a second one is all that pays.
    fewer = {c._replace(stages=min(c.stages, 2)).label: c for c in _CANDIDATES[table]}
    return tuple(c._replace(stages=min(c.stages, 2)) for c in fewer.values())


def kept(table: str, arch: str) -> tuple[Configuration, ...]:
    """What a launch chooses among."""
    return KEPT[table, arch]


def kernel_of(use: Use) -> Any:
    """The `triton.jit` function of a use."""
    return getattr(importlib.import_module(f"spectra.kernels.{_MODULES[use.kernel]}"), use.kernel)


def signature(use: Use, dtype: str, configuration: Configuration) -> Signature:
    """How the kernel of a use is called with elements of `dtype`."""
    integers = _INTEGERS[use.kernel].split()
    types = dict.fromkeys(integers, "i32")
    types |= {name: f"*{dtype}" if kind == _E else kind for name, kind in use.pointers.items()}
    return Signature(
        types=types,
        constants={**use.constants, **configuration.blocks},
        ones=use.ones,
        aligned=[name for name in integers if name not in (*use.ones, *use.odd, *_NEVER_ALIGNED)],
    )
