"""A projection, not a measurement: the least time that a training step of each method takes on a device.

The device is given as FLOP/s and byte/s. Every operation of a step runs on the meta device and is charged the longer of
its arithmetic and its traffic: what it reads and writes, once each. Operations follow one another, as in eager PyTorch;
launches cost nothing, caches save nothing, and attention is one fused operation. `fused` charges products and the
optimizer alone, as if a compiler had fused every other operation into them. The row `svdiff` uses the Triton kernels,
`svdiff-plain` PyTorch's operations. AdamW's step is one pass over parameters, gradients and state. Products in float32
are charged at 1/12 of the 16-bit rate (H100: 67 of 800 TFLOP/s).

`spectra bench kernels` has the same projection for each kernel.
"""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from spectra.benchmarks.case import Bench, Case, Column, Row
from spectra.benchmarks.steps.memory import attention_as_on_a_device
from spectra.benchmarks.steps.methods import FORM, METHODS, Method, prepare
from spectra.benchmarks.steps.models import denoiser

if TYPE_CHECKING:
    from torch import Tensor

FLOAT32_SHARE = 1 / 12
"""The share of the 16-bit rate that float32 products reach."""

OPTIMIZER = "AdamW"

_FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "detach"}
"""Operations that touch no element, views apart."""


class Tally:
    """What a step does: seconds by operation, those of products and the optimizer, FLOPs and bytes in all."""

    def __init__(self, flops: float, bandwidth: float) -> None:
        self._rate, self._bandwidth = flops, bandwidth
        self.flops = 0
        self.bytes = 0
        self.seconds: dict[str, float] = defaultdict(float)
        self.fused = 0.0

    def charge(self, name: str, flops: int, traffic: int, *, half: bool) -> None:
        """One operation; `half` where its products are of a 16-bit type."""
        rate = self._rate if half else self._rate * FLOAT32_SHARE
        self.flops += flops
        self.bytes += traffic
        seconds = max(flops / rate, traffic / self._bandwidth)
        self.seconds[name] += seconds
        if flops or name == OPTIMIZER:
            self.fused += seconds

    @contextlib.contextmanager
    def listen(self) -> Iterator[None]:
        """Charges every operation that runs within the block."""
        from torch.utils._python_dispatch import TorchDispatchMode

        charge = self._charge

        class Listener(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                out = func(*args, **(kwargs or {}))
                charge(func, args, kwargs or {}, out)
                return out

        listener: Any = Listener  # PyTorch's base class is untyped
        with listener():
            yield

    def _charge(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        import torch

        name = func.overloadpacket.__name__
        views = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if views or name in _FREE:
            return
        read, written = list(_tensors((args, kwargs))), list(_tensors(out))
        half = any(t.dtype in (torch.bfloat16, torch.float16) for t in (*read, *written))
        traffic = sum(map(_bytes, read)) + sum(map(_bytes, written))
        if func.namespace == "spectra":
            extra, flops = _kernel(name, args)
            traffic += extra
        else:
            flops = _flops(func, args, kwargs, out)
        self.charge(name, flops, traffic, half=half)


def _tensors(value: Any) -> Iterator[Tensor]:
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _tensors(inner)


def _bytes(tensor: Tensor) -> int:
    """What reading it moves: an expanded tensor is no larger than its storage."""
    return min(tensor.nbytes, tensor.untyped_storage().nbytes())


def _flops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

    name = func.overloadpacket.__name__
    if name == "_scaled_dot_product_flash_attention_for_cpu":
        return int(sdpa_flop_count(*(t.shape for t in args[:3])))
    if name == "_scaled_dot_product_flash_attention_for_cpu_backward":
        return int(sdpa_backward_flop_count(*(t.shape for t in args[:4])))
    formula = flop_registry.get(func.overloadpacket)
    return int(formula(*args, **kwargs, out_val=out)) if formula else 0


def _kernel(name: str, args: tuple[Any, ...]) -> tuple[int, int]:
    """Bytes beyond arguments and results, and FLOPs, of the operators of `kernels/torch_operators.py`."""
    first = args[0]
    right, left = (args[1], args[2]) if name == "low_rank_apply" else (args[3], args[2])
    flops = 2 * first.shape[0] * first.shape[1] * right.shape[1] * (right.shape[0] + left.shape[0])
    adds_input = args[7] if name == "low_rank_apply" else args[6]
    return (first.nbytes if adds_input else 0), flops  # it is read again to be added


@contextlib.contextmanager
def _as_on_a_gpu(kernels: bool) -> Iterator[None]:
    """Within the block the meta device computes as a GPU does, by Triton's operators or without."""
    from unittest import mock

    import torch

    from spectra.kernels import product_dtype

    def on_gpu(device: torch.device, dtype: torch.dtype) -> torch.dtype:
        return product_dtype(torch.device("cuda"), dtype)

    with (
        mock.patch("spectra.kernels.devices.architecture", return_value="sm_90" if kernels else None),
        mock.patch("spectra.kernels.product_dtype", on_gpu),
    ):
        yield


def project(method: Method, *, flops: float, bandwidth: float, kernels: bool = False) -> Tally:
    """The tally of one training step.

    Args:
        method: on the meta device, planned for "cuda".
        flops: of the device in 16-bit products, FLOP/s.
        bandwidth: of it, byte/s.
        kernels: whether the Triton kernels take the place of PyTorch's operations.
    """
    tally = Tally(flops, bandwidth)
    with _as_on_a_gpu(kernels), attention_as_on_a_device(method), tally.listen():
        method.step()
    # AdamW reads a parameter, its gradient and two moments, and writes all but the gradient.
    trained = sum(parameter.nbytes for parameter in method.parameters.values())
    tally.charge(OPTIMIZER, 0, 7 * trained, half=False)
    return tally


def _items(bench: Bench) -> list[str]:
    return [*METHODS, "svdiff-plain"]


def _measure(bench: Bench, item: str) -> Row:
    import torch

    model, shape = denoiser(
        str(bench.settings["model"]),
        resolution=bench.integer("resolution"),
        batch=bench.integer("batch"),
        dtype=getattr(torch, str(bench.settings["dtype"])),
    )
    form = bench.integer("directions"), bench.integer("outer")
    method = prepare(item.removesuffix("-plain"), model, None, "cuda", *form)
    method.settle()
    rates = {name: float(bench.settings[key]) * 1e12 for name, key in (("flops", "tflops"), ("bandwidth", "tbytes"))}
    tally = project(method, **rates, kernels=item == "svdiff")
    longest = sorted(tally.seconds.items(), key=lambda pair: -pair[1])[:8]
    milliseconds = {name: _milliseconds(seconds) for name, seconds in longest}
    return {
        "method": item,
        "resolution": shape.resolution,
        "tflop": round(tally.flops / 1e12, 4),
        "gigabytes": round(tally.bytes / 1e9, 3),
        "projection_ms": _milliseconds(math.fsum(tally.seconds.values())),
        "projection_fused_ms": _milliseconds(tally.fused),
        "projection_longest_ms": milliseconds,
    }


_RATIOS = (("shift", "frozen"), ("shift", "lora-4"), ("shift", "lora-16"), ("svdiff", "lora-4"), ("paper", "svdiff"))


def _milliseconds(seconds: float) -> float:
    return float(f"{1e3 * seconds:.5g}")


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    found = {row["method"]: row for row in rows}
    return {
        f"{key.removesuffix('_ms')}_{slow}_over_{fast}": round(found[slow][key] / found[fast][key], 3)
        for key in ("projection_ms", "projection_fused_ms")
        for slow, fast in _RATIOS
        if {slow, fast} <= found.keys()
    }


CASE = Case(
    name="roofline",
    title="PROJECTION, no measurement: least time of a training step",
    key="method",
    figure="projection_ms",
    items=_items,
    measure=_measure,
    summarise=_summarise,
    settings={
        "model": "sd15",
        "resolution": 0,
        "batch": 2,
        "dtype": "bfloat16",
        "tflops": 800.0,
        "tbytes": 3.0,
        **FORM,
    },
    columns=(
        Column("method"),
        Column("tflop", "TFLOP", ".2f"),
        Column("gigabytes", "GB moved", ".1f"),
        Column("projection_ms", "projection, ms", ".1f"),
        Column("projection_fused_ms", "fused, ms", ".1f"),
    ),
    needs=("peft",),
)
"""`tflops` is of 16-bit products; the defaults are an H100's. A `resolution` of 0 is the model's own."""
