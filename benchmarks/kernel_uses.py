"""How the audit calls each Triton kernel: what is passed, what is aligned, what it costs, what was tried.

The calls are those of a Stable Diffusion layer: contiguous channels, widths that are multiples of 16, a basis with
contiguous columns. The number of directions in the head is any.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spectra.benchmarks.compiled import ARCHITECTURES, Signature
from spectra.kernels.configurations import FINISH, KEPT, MIDDLES, Configuration, Width, split


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
"""Its deepest convolutions: the middle is too wide to stay on chip."""


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
    "apply": "P C D h T bucket a_s a_p a_c right_c right_h left_d left_h out_s out_p out_d values_a",
    "matmul": "P K D b_rows h bucket x_s x_p x_k b_d b_k out_s out_p out_d residual_s residual_p residual_d values_a"
    " other_s other_p",
    "column_sums": "S P C h T bucket a_s a_p a_c b_s b_p b_c basis_c basis_h",
    "finish": "S blocks h T",
}
_NEVER_ALIGNED = {"bucket", "S", "blocks", "values_a"}
_E = "element"
_MODULES = {
    "apply": "triton_apply",
    "matmul": "triton_matmul",
    "column_sums": "triton_gradient",
    "finish": "triton_gradient",
}


def _apply(
    size: int,
    *,
    backward: bool = False,
    two_sided: bool = False,
    batched: bool = False,
    channels_first: bool = False,
) -> Use:
    pointers = dict.fromkeys(("a", "right", "left", "out", "t"), _E) | {"values": "*fp32"}
    if backward:
        pointers["partial"] = "*fp32"
    elif not two_sided:
        pointers["offset"] = "*fp32"
    if two_sided:
        pointers["sigma"] = "*fp32"
    if batched:
        pointers["index"] = "*i64"
    h1, h2 = split(size)
    constants = {
        "RESIDUAL": not two_sided,
        "KEEP": not backward,
        "FORM": "shifted" if two_sided else "given",
        "H1": h1,
        "H2": h2,
    }
    outside = 1 if two_sided else 2  # reads of `a`: once for the product, once to add it

    def work(p: Problem) -> tuple[float, float]:
        return 4 * p.n * p.r * p.h, p.n * (p.r * (outside + 1) + p.h) + 2 * p.r * p.h

    contiguous = ("a_p", "out_p") if channels_first else ("a_c", "out_d")
    odd = ("h",) if channels_first else ("P", "h")
    problem = NARROW if size <= NARROW.r else MIDDLING
    return Use("apply", f"apply-{size}", pointers, constants, (*contiguous, "right_c", "left_d"), odd, problem, work)


def _matmul(
    pointers: Sequence[str],
    ones: tuple[str, ...],
    odd: tuple[str, ...],
    problem: Problem,
    work: Callable[[Problem], tuple[float, float]],
    form: str = "given",
) -> Use:
    vectors = ("values", "sigma", "offset", "partial")
    types = {name: "*fp32" if name in vectors else _E for name in ("x", "b", "out", *pointers)}
    return Use("matmul", "matmul", types, {"FORM": form}, ones, odd, problem, work)


USES: Mapping[str, Use] = {
    **{
        f"{name}, h <= {size}": _apply(size, **kind)
        for size in MIDDLES
        for name, kind in {
            "factored apply": {},
            "factored backward": {"backward": True},
            "two-sided apply": {"two_sided": True},
            "batched apply": {"batched": True},
        }.items()
    },
    "factored apply, channels first, h <= 320": _apply(320, channels_first=True),
    "encode": _matmul(
        ("offset",),
        ("x_k", "b_k", "out_d"),
        ("P", "b_rows"),
        WIDE,
        lambda p: (2 * p.n * p.r * p.h, p.n * (p.r + p.h) + p.r * p.h),
    ),
    "encode backward": _matmul(
        ("other", "partial"),
        ("x_k", "b_k", "out_d"),
        ("P", "b_rows"),
        WIDE,
        lambda p: (2 * p.n * p.r * p.h, p.n * (p.r + 2 * p.h) + p.r * p.h),
    ),
    "decode": _matmul(
        ("residual", "values"),
        ("x_k", "b_d", "out_d", "residual_d"),
        ("P", "h"),
        WIDE,
        lambda p: (2 * p.n * p.r * p.h, p.n * (2 * p.r + p.h) + p.r * p.h),
    ),
    "rebuild, projector": _matmul(
        ("values", "sigma"),
        ("x_p", "b_d", "out_d"),
        ("K", "h"),
        MIDDLING,
        lambda p: (2 * p.r**2 * p.h, 2 * p.r * p.h + p.r**2),
        "relative",
    ),
    "rebuild, weight": _matmul(
        ("residual",),
        ("x_p", "b_k", "out_p", "residual_p"),
        (),
        MIDDLING,
        lambda p: (2 * p.r**2 * p.m, 2 * p.r * p.m + p.r**2),
    ),
    "shift gradient": Use(
        "column_sums",
        "column_sums",
        {"a": _E, "b": _E, "basis": _E, "offset": "*fp32", "partial": "*fp32"},
        {},
        ("a_c", "b_c", "basis_c"),
        ("P", "h"),
        MIDDLING,
        lambda p: (4 * p.n * p.r * p.h, 2 * p.n * p.r + p.r * p.h),
    ),
    "sums, second stage": Use(
        "finish",
        "finish",
        dict.fromkeys(("partial", "sigma", "values", "over", "out"), "*fp32") | {"index": "*i64"},
        {},
        (),
        ("h",),
        MIDDLING,
        lambda p: (p.n // 64 * p.h, p.n // 64 * p.h),
    ),
}
"""Every use, by the name of its rows."""

_SIZES = {"apply": ("P", "C", "D"), "matmul": ("P", "D", "K"), "column_sums": ("P", "C", "H")}


def _tried(kernel: str, *rows: tuple[int, int, int, int, int]) -> tuple[Configuration, ...]:
    names = [f"BLOCK_{name}" for name in _SIZES[kernel]]
    return tuple(Configuration(dict(zip(names, row[:3], strict=True)), *row[3:]) for row in rows)


_CANDIDATES: Mapping[tuple[str, Width], tuple[Configuration, ...]] = {
    ("apply-128", "half"): _tried(
        "apply", (64, 32, 64, 4, 3), (64, 64, 64, 4, 2), (128, 32, 64, 8, 3), (128, 64, 64, 8, 3), (128, 64, 64, 4, 3)
    ),
    ("apply-320", "half"): _tried(
        "apply", (32, 32, 32, 4, 2), (64, 32, 32, 8, 2), (64, 32, 64, 8, 3), (128, 32, 32, 8, 2), (64, 32, 32, 4, 2)
    ),
    ("apply-128", "single"): _tried("apply", (32, 16, 32, 4, 2), (32, 16, 32, 8, 2), (64, 16, 32, 8, 2)),
    ("matmul", "half"): _tried(
        "matmul",
        (128, 128, 64, 8, 3),
        (128, 128, 32, 4, 4),
        (64, 128, 64, 4, 3),
        (64, 64, 64, 4, 4),
        (128, 256, 64, 8, 3),
    ),
    ("matmul", "single"): _tried("matmul", (64, 64, 16, 8, 2), (64, 64, 16, 4, 2), (32, 64, 16, 4, 3)),
    ("column_sums", "half"): _tried(
        "column_sums", (64, 64, 64, 4, 3), (128, 64, 64, 8, 3), (64, 64, 128, 8, 3), (128, 32, 128, 8, 3)
    ),
    ("finish", "single"): (FINISH,),
    ("column_sums", "single"): _tried("column_sums", (32, 16, 32, 4, 2), (32, 16, 64, 4, 2), (64, 16, 64, 8, 2)),
}


def candidates(table: str, width: Width, arch: str) -> tuple[Configuration, ...]:
    """What was tried for a kernel; `KEPT` has those of them that were found good."""
    tried = _CANDIDATES.get((table, width), ())
    if ARCHITECTURES[arch].backend == "cuda":
        return tried
    # AMD's pipeline holds its stages in registers: a second one is all that pays.
    return tuple(c._replace(stages=min(c.stages, 2)) for c in tried)


def kept(table: str, width: Width, arch: str) -> tuple[Configuration, ...]:
    """What the autotuner chooses among."""
    if (table, width) == ("finish", "single"):
        return (FINISH,)
    return KEPT.get((table, width, arch), ())


def kernel_of(use: Use) -> Any:
    """The `triton.jit` function of a use."""
    return getattr(importlib.import_module(f"spectra.kernels.{_MODULES[use.kernel]}"), use.kernel)


def signature(use: Use, dtype: str, configuration: Configuration) -> Signature:
    """How the kernel of a use is called with elements of `dtype`."""
    integers = _INTEGERS[use.kernel].split()
    types = dict.fromkeys(integers, "i32") | {"multiplier": "fp32"}
    types |= {name: f"*{dtype}" if kind == _E else kind for name, kind in use.pointers.items()}
    precision = "ieee" if dtype == "fp32" else "tf32"
    constants = {"PRECISION": precision, **use.constants, **configuration.blocks}
    names = kernel_of(use).arg_names
    return Signature(
        types={name: kind for name, kind in types.items() if name in names},
        constants={name: value for name, value in constants.items() if name in names},
        ones=use.ones,
        aligned=[name for name in integers if name not in (*use.ones, *use.odd, *_NEVER_ALIGNED)],
    )
