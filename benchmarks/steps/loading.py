"""What loading a shift into a live UNet takes beside a LoRA of rank 16 by PEFT on the same layers; whether it leaks.

`load` times, interleaved, the loading of a LoRA's file by diffusers and PEFT, the loading of a shift's file beside the
weights (`spectra.unfuse`) and the replacement of one in place. Spectra are in the cache, and the weights' fingerprints
known, as after a first load; `first_s` is that first one, which hashes the weights. `fused_*` are the same in the
weights, and `lora_fused_s` is the LoRA loaded and fused into them by `fuse_lora`. Seconds are CPU time of the process,
which a busy machine changes least.

`churn` loads, activates and unloads a shift again and again, and compares the process's memory and the model's weights
with those after a tenth of that.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.benchmarks.case import Bench, Case, Column, Goal, Row
from spectra.benchmarks.steps.models import denoiser

if TYPE_CHECKING:
    from torch import nn

    from spectra.shift.shift import SpectralShift
    from spectra.spectrum.cache.spectrum_cache import SpectrumCache

LAYERS = ("to_q", "to_k", "to_v", "to_out.0")
"""What both adapt: the projections of attention, as diffusers' examples do."""

RANK = 16


def measure(bench: Bench, item: str) -> Row:
    """One row; see the module."""
    with tempfile.TemporaryDirectory() as folder:
        return {"what": item, **(_load if item == "load" else _churn)(bench, Path(folder))}


def _load(bench: Bench, folder: Path) -> Row:
    import spectra
    from spectra.spectrum.cache.spectrum_cache import SpectrumCache

    unet, cache = _unet(bench), SpectrumCache(folder / "cache")
    lora = _lora_file(unet, folder)
    files = [folder / f"{number}.safetensors" for number in range(2)]
    for number, file in enumerate(files):
        spectra.write_shift(_shift(bench, unet, cache, number), file)
    _forget_fingerprints()
    spectra.unfuse(unet)
    first = _seconds(lambda: spectra.load(unet, files[0], "x", cache=cache))
    spectra.unload(unet)
    found: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[[], object]) -> None:
        found.setdefault(name, []).append(_seconds(call))

    def load_lora() -> None:
        unet.load_lora_adapter(lora.parent, weight_name=lora.name, prefix=None)

    def load_and_fuse_lora() -> None:
        load_lora()
        unet.fuse_lora()

    for _ in range(bench.integer("repetitions")):
        timed("lora_s", load_lora)
        _remove_lora(unet)
        with _put_back(unet):
            timed("lora_fused_s", load_and_fuse_lora)
            _remove_lora(unet)
        spectra.load(unet, files[0], "x", cache=cache)  # the weights were written: their fingerprints are known again
        spectra.unload(unet)
        for fused in ("", "fused_"):
            (spectra.fuse if fused else spectra.unfuse)(unet)
            timed(f"{fused}load_s", lambda: spectra.load(unet, files[0], "x", cache=cache))
            timed(f"{fused}swap_s", lambda: spectra.load(unet, files[1], "x", hotswap=True, cache=cache))
            spectra.unload(unet)
    row = {name: statistics.median(times) for name, times in found.items()}
    return {
        **row,
        "first_s": first,
        "load_ratio": row["load_s"] / row["lora_s"],
        "swap_ratio": row["swap_s"] / row["lora_s"],
        "fused_load_ratio": row["fused_load_s"] / row["lora_fused_s"],
        "fused_swap_ratio": row["fused_swap_s"] / row["lora_fused_s"],
    }


def _churn(bench: Bench, folder: Path) -> Row:
    import spectra
    from spectra.spectrum.cache.spectrum_cache import SpectrumCache

    unet, _ = denoiser("embedded", device="cpu")
    model, cache, times = unet.module, SpectrumCache(folder / "cache"), bench.integer("times")
    shift = _shift(bench, model, cache, 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    memory = 0
    for number in range(times):
        spectra.load(model, shift, "x", cache=cache, activate=False)
        spectra.activate(model, {"x": 0.5})
        spectra.unload(model)
        if number == times // 10:
            memory = _resident()
    grown = _resident() / memory - 1
    differing = sum(int((value != before[name]).sum()) for name, value in model.state_dict().items())
    return {"times": times, "memory_grown": grown, "values_differing": differing}


def _unet(bench: Bench) -> Any:
    return denoiser(str(bench.settings["model"]), device="cpu")[0].module


def _shift(bench: Bench, unet: nn.Module, cache: SpectrumCache, seed: int) -> SpectralShift:
    """A random shift of few directions and outer terms on the adapted layers."""
    import torch

    import spectra

    targets = ",".join(f"unet.*.{layer}" for layer in LAYERS)
    directions, outer = bench.integer("directions"), bench.integer("outer")
    adapter = spectra.attach(unet, targets, directions=directions, outer=outer, cache=cache)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    shift = adapter.shift(base="bench")
    adapter.detach()
    return shift


def _lora_file(unet: Any, folder: Path) -> Path:
    from peft import LoraConfig

    unet.add_adapter(LoraConfig(r=RANK, target_modules=list(LAYERS), init_lora_weights=False), "lora")
    unet.save_lora_adapter(folder, "lora", weight_name="lora.safetensors")
    _remove_lora(unet)
    return folder / "lora.safetensors"


def _remove_lora(unet: Any) -> None:
    from diffusers.utils import recurse_remove_peft_layers

    recurse_remove_peft_layers(unet)
    unet._hf_peft_config_loaded = False
    del unet.peft_config


@contextlib.contextmanager
def _put_back(unet: Any) -> Iterator[None]:
    """Afterwards the adapted weights are what they were, bit for bit: unfusing a LoRA leaves rounding."""
    import torch

    weights = {path: value for path, value in unet.named_parameters() if path.removesuffix(".weight").endswith(LAYERS)}
    before = {path: value.detach().clone() for path, value in weights.items()}
    yield
    with torch.no_grad():
        for path, value in weights.items():
            value.copy_(before[path])


def _forget_fingerprints() -> None:
    from spectra.adapters import known_fingerprints

    known_fingerprints.forget()


def _seconds(call: Callable[[], object]) -> float:
    gc.collect()
    began = time.process_time()
    call()
    return time.process_time() - began


def _resident() -> int:
    """Bytes of memory that the process has now."""
    import os

    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    found = {name: value for row in rows for name, value in row.items()}
    names = ("load_ratio", "swap_ratio", "fused_load_ratio", "fused_swap_ratio", "memory_grown", "values_differing")
    return {name: found[name] for name in names if name in found}


CASE = Case(
    name="loading",
    title="loading and replacing a shift, against loading a LoRA of rank 16",
    key="what",
    items=lambda bench: ["load", "churn"],
    measure=measure,
    summarise=_summarise,
    settings={"model": "sd15", "directions": 32, "outer": 1, "repetitions": 5, "times": 10_000, "seed": 0},
    needs=("peft",),
    columns=(
        Column("what"),
        Column("lora_s", "LoRA, CPU s", ".3f"),
        Column("lora_fused_s", "LoRA, fused", ".3f"),
        Column("load_s", "load", ".3f"),
        Column("swap_s", "replace", ".4f"),
        Column("first_s", "first load", ".3f"),
        Column("fused_load_s", "load, in weights", ".3f"),
        Column("fused_swap_s", "replace, in weights", ".3f"),
        Column("memory_grown", "memory grown", ".4f"),
        Column("values_differing", "values differing"),
    ),
    goals=(
        Goal("load_ratio", "<=", 1.0),
        Goal("swap_ratio", "<=", 0.1),
        Goal("fused_load_ratio", "<=", 1.0),
        Goal("memory_grown", "<=", 0.01),
        Goal("values_differing", "==", 0),
    ),
)
