"""For the day a GPU is there: one command that checks every kernel on it and then times kernels and whole steps.

    check ...    a kernel on odd shapes against float64: its error, as a multiple of plain PyTorch's in the same type
    kernel ...   the same on a layer's shapes, then forward and backward timed in turns: ours, PyTorch's products
                 (cuBLAS), the same compiled, and for scale what a LoRA of rank 4 adds to the layer
    step ...     a whole training step of every method, PEFT's LoRA among them, as `spectra bench step` runs it, eager
                 or compiled

A kernel whose error is more than twice plain PyTorch's is not timed: its row fails. `--set device=cpu --set tiny=true`
runs all of it small on a CPU, where PyTorch takes the place of Triton.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from spectra.benchmarks import step
from spectra.benchmarks.case import Bench, Case, Column, Goal, Row
from spectra.benchmarks.kernel_uses import MIDDLING, NARROW, WIDE, Problem
from spectra.benchmarks.methods import LORA_RANK, Method
from spectra.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ALLOWED = 2.0
"""Times plain PyTorch's error that a kernel may make."""

SHAPES = {"narrow": NARROW, "middling": MIDDLING, "wide": WIDE}

ODD = {"one row": Problem(1, 65, 33, 70), "odd": Problem(77, 321, 317, 333), "long": Problem(4099, 40, 24, 360)}

TINY = {"tiny": Problem(24, 16, 12, 40)}

FEW = 32
"""Directions of a term that keeps few of them."""

_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}

_CALLS = 20
"""Calls of a kernel in one timing on a GPU, where a launch is short beside the clock."""


@dataclass(frozen=True)
class Job:
    """One use of a kernel.

    Attributes:
        ours: the dispatched function.
        plain: the same formula in PyTorch's operations.
        inputs: of both; those that require a gradient get one.
    """

    ours: Callable[..., Tensor]
    plain: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]


def _factored(p: Problem, made: Made) -> Job:
    from spectra import kernels

    def plain(a: Tensor, basis: Tensor, e: Tensor) -> Tensor:
        return a + ((a @ basis) * e.to(a.dtype)) @ basis.T

    return Job(kernels.factored_apply, plain, (made.activation(p.n, p.r), made.basis(p), made.vector(p.h)))


def _batched(p: Problem, made: Made) -> Job:
    import torch

    from spectra import kernels

    def plain(a: Tensor, basis: Tensor, e: Tensor, index: Tensor) -> Tensor:
        return a + ((a @ basis) * e.to(a.dtype)[index][:, None]) @ basis.T

    samples = min(8, p.n)
    index = torch.arange(samples, device=made.device) % 3
    inputs = (made.activation(samples, p.n // samples, p.r), made.basis(p), made.vector(3, p.h), index)
    return Job(kernels.batched_apply, plain, inputs)


def _few(p: Problem, made: Made) -> Job:
    from spectra import kernels

    def ours(x: Tensor, y: Tensor, left: Tensor, right: Tensor, d: Tensor) -> Tensor:
        return kernels.low_rank_apply(x, y, (left, right), d)

    def plain(x: Tensor, y: Tensor, left: Tensor, right: Tensor, d: Tensor) -> Tensor:
        return y + ((x @ right) * d.to(x.dtype)) @ left.T

    few = replace(p, h=min(p.h, FEW))
    left, right = made.basis(few), made.basis(few, p.m)
    return Job(ours, plain, (made.activation(p.n, p.m), made.activation(p.n, p.r), left, right, made.vector(few.h)))


JOBS: dict[str, Callable[[Problem, Made], Job]] = {
    "factored apply": _factored,
    "batched apply": _batched,
    "few directions": _few,
}


class Made:
    """Random inputs on a device, from one seed; matrices are rounded to `dtype`, vectors are float32."""

    def __init__(self, device: str, dtype: torch.dtype, seed: int) -> None:
        import torch

        self.device, self._dtype = device, dtype
        self._generator = torch.Generator().manual_seed(seed)

    def _random(self, *shape: int) -> Tensor:
        import torch

        return torch.randn(*shape, generator=self._generator)

    def activation(self, *shape: int, learns: bool = True) -> Tensor:
        """Normal values."""
        return self._random(*shape).to(self.device, self._dtype).requires_grad_(learns)

    def vector(self, *shape: int, learns: bool = True) -> Tensor:
        """Normal values of deviation .1."""
        return (0.1 * self._random(*shape)).to(self.device).requires_grad_(learns)

    def basis(self, p: Problem, rows: int = 0) -> Tensor:
        """`[rows or r, h]` with orthonormal columns, which are contiguous, as a layer holds them."""
        import torch

        q: Tensor = torch.linalg.qr(self._random(rows or p.r, p.h))[0]
        return q.to(self.device, self._dtype).T.contiguous().T


def results(function: Callable[..., Tensor], inputs: Sequence[Tensor], grad: Tensor | None = None) -> list[Tensor]:
    """The output and, where an input learns, the gradients for `grad` (of the output's shape; ones by default)."""
    import torch

    learning = [x for x in inputs if x.requires_grad]
    out = function(*inputs)
    if not learning:
        return [out]
    return [out.detach(), *torch.autograd.grad(out, learning, torch.ones_like(out) if grad is None else grad.to(out))]


def error_ratio(job: Job, seed: int) -> float:
    """The worst of output and gradients: `||ours - exact|| / ||plain - exact||`, with `exact` in float64.

    Plain's error is taken as at least an eighth of the type's rounding: it is 0 where it is lucky.
    """
    import torch

    inputs64 = [
        x.detach().to(torch.float64).requires_grad_(x.requires_grad) if x.is_floating_point() else x for x in job.inputs
    ]
    shape = job.plain(*job.inputs).shape
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(job.inputs[0].device)
    grad = grad.to(job.inputs[0].dtype)
    exact = results(job.plain, inputs64, grad)
    plain, ours = (results(function, job.inputs, grad) for function in (job.plain, job.ours))
    floor = torch.finfo(job.inputs[0].dtype).eps / 8
    ratios = []
    for wanted, usual, found in zip(exact, plain, ours, strict=True):
        scale = wanted.norm()
        errors = [float((value.double() - wanted).norm() / scale) for value in (found, usual)]
        ratios.append(errors[0] / max(errors[1], floor))
    return round(max(ratios), 3)


def _shapes(bench: Bench) -> tuple[dict[str, Problem], dict[str, Problem]]:
    return (TINY, TINY) if bench.settings["tiny"] else (ODD, SHAPES)


def _items(bench: Bench) -> list[str]:
    import torch

    device = str(bench.settings["device"])
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("no GPU here: PyTorch finds no CUDA or ROCm device; --set device=cpu --set tiny=true tries it")
    checks, shapes = _shapes(bench)
    compiled = [f"step {name}, compiled" for name in _models(bench)] if bench.settings["compiler"] else []
    return [
        *(f"check {job}, {shape}, {dtype}" for job in JOBS for shape in checks for dtype in _DTYPES),
        *(f"kernel {job}, {shape}, {dtype}" for job in JOBS for shape in shapes for dtype in ("bf16", "fp32")),
        *(f"step {name}, eager" for name in _models(bench)),
        *compiled,
    ]


def _models(bench: Bench) -> list[str]:
    return [name for name in str(bench.settings["models"]).split(",") if name]


def _measure(bench: Bench, item: str) -> Row:
    kind, _, rest = item.partition(" ")
    if kind == "step":
        name, _, how = rest.partition(", ")
        return {"item": item, **_step(bench, name, how == "compiled")}
    job_name, shape, dtype = rest.split(", ")
    problem = _shapes(bench)[kind == "kernel"][shape]
    return {"item": item, **_kernel(bench, job_name, problem, dtype, timed=kind == "kernel")}


def _kernel(bench: Bench, name: str, problem: Problem, dtype: str, *, timed: bool) -> Row:
    import torch

    from spectra import kernels

    made = Made(str(bench.settings["device"]), getattr(torch, _DTYPES[dtype]), bench.seed)
    job = JOBS[name](problem, made)
    floating = [x for x in job.inputs if x.dtype == getattr(torch, _DTYPES[dtype])]
    row: dict[str, Any] = {
        "backend": "triton" if kernels.uses_triton(floating[0]) else "torch",
        "error_ratio": error_ratio(job, bench.seed),
    }
    if row["error_ratio"] > ALLOWED:
        raise ValueError(f"its error is {row['error_ratio']} times plain PyTorch's; {ALLOWED} is allowed")
    if timed:
        variants = {"ours": job.ours, "plain": job.plain}
        if bench.settings["compiler"]:
            variants["compiled"] = torch.compile(job.plain, backend=str(bench.settings["compiler"]), dynamic=False)
        calls = {key: _repeated(function, job.inputs) for key, function in variants.items()}
        lora, inputs = _lora(problem, made)
        times = bench.time({**calls, "lora": _repeated(lora, inputs)}, warm_up=3)
        count = _calls(made.device)
        row |= {f"{key}_us": round(1e6 * spread.median / count, 3) for key, spread in times.items()}
        row["plain_over_ours"] = round(times["plain"].median / times["ours"].median, 3)
    return row


def _calls(device: str) -> int:
    return _CALLS if device == "cuda" else 1


def _repeated(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(_calls(inputs[0].device.type)):
            results(function, inputs)

    return run


def _lora(p: Problem, made: Made) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """What a LoRA adds to the layer's own output, as PEFT computes it: `y + B(A(x)) * scaling`, and its inputs."""

    def forward(x: Tensor, y: Tensor, down: Tensor, up: Tensor) -> Tensor:
        return y + (x @ down) @ up * 2.0

    inputs = (made.activation(p.n, p.m), made.activation(p.n, p.r), made.activation(p.m, LORA_RANK))
    return forward, (*inputs, made.activation(LORA_RANK, p.r))


def _step(bench: Bench, name: str, compiled: bool) -> Row:
    """Milliseconds of a step of each method, what each took of the device's memory, and spectra's gradient's error."""
    import torch

    methods = "frozen,lora,spectra" if compiled else "frozen,lora,full,paper,spectra"
    settings = {**bench.settings, "model": name, "methods": methods, "resolution": 0}
    made = step.prepared(Bench(settings, bench.progress))
    row: dict[str, Any] = {"backend": "triton" if settings["device"] == "cuda" else "torch"}
    if not compiled:
        row["gradient_error"] = step.gradient_error(made)
    else:
        made = {key: _compiled(method, str(settings["compiler"])) for key, method in made.items()}
    steps = {key: step.stepper(method) for key, method in made.items()}
    row["peak_mb"] = {key: _peak(run) for key, run in steps.items()} if settings["device"] == "cuda" else None
    times = bench.time(steps)
    row |= {f"{key}_us": round(1e6 * spread.median, 1) for key, spread in times.items()}
    row["spectra_over_lora"] = round(times["spectra"].median / times["lora"].median, 4)
    row["ours_us"] = row.pop("spectra_us")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return row


def _compiled(method: Method, compiler: str) -> Method:
    import torch

    module: Any = torch.compile(method.model.module, backend=compiler, dynamic=False)
    return replace(method, model=replace(method.model, module=module))


def _peak(run: Callable[[], None]) -> float:
    """MB that one step allocates at most, beyond what was there."""
    import torch

    run()  # the optimizer's state and the tuner's choices are there from now on
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return round((torch.cuda.max_memory_allocated() - before) / 1e6, 1)


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    checked = [row["error_ratio"] for row in rows if "error_ratio" in row]
    steps = {row["item"]: row["spectra_over_lora"] for row in rows if "spectra_over_lora" in row}
    kernels = [row["plain_over_ours"] for row in rows if "plain_over_ours" in row]
    summary: dict[str, Any] = {f"spectra_over_lora, {item}": ratio for item, ratio in steps.items()}
    if checked:
        summary["error_ratio"] = max(checked)
    if kernels:
        summary["kernels_faster_than_plain"] = f"{sum(ratio > 1 for ratio in kernels)} of {len(kernels)}"
    return summary


CASE = Case(
    name="gpu",
    title="on a GPU: kernels checked, then timed; whole training steps",
    key="item",
    items=_items,
    measure=_measure,
    summarise=_summarise,
    settings={
        "device": "cuda",
        "models": "sd15,sdxl",
        "batch": 2,
        "dtype": "bfloat16",
        "compiler": "inductor",
        "tiny": False,
        "repetitions": 10,
        "seed": 0,
    },
    columns=(
        Column("item"),
        Column("error_ratio", "error", ".2f"),
        Column("ours_us", "ours, us", ",.1f"),
        Column("plain_us", "plain", ",.1f"),
        Column("compiled_us", "compiled", ",.1f"),
        Column("lora_us", "LoRA", ",.1f"),
    ),
    goals=(Goal("error_ratio", "<=", ALLOWED),),
    needs=("peft",),
)
"""`compiler` is torch.compile's backend, empty for none; each of `models` is measured at its own size."""
