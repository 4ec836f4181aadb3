"""Counts the bits by which a shift of zero, or a shift that is removed again, changes a model: none.

For each model the outputs and all weights are compared with those from before anything was attached. A
control, the share of output values that a real shift changes, shows that the comparison could have failed. Shifts are
of all directions, and of the settings' few and outer terms, which are zero where their `a` is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.benchmarks.case import Bench, Case, Column, Goal, Row
from spectra.benchmarks.steps.methods import FORM

if TYPE_CHECKING:
    from torch import Tensor, nn

STATES = ("zero_training", "zero_evaluated", "zero_active", "disabled", "detached", "unloaded")
"""Columns that count differing values: with a shift of zero in training, in evaluation and served; within `disabled`;
after `detach` of a trained shift and after `unload` of an active one."""


@dataclass(frozen=True)
class Subject:
    """A model, which of its weights are shifted, and how to make it compute.

    Attributes:
        pipe: a pipeline or a bare model.
        parts: the modules whose weights and buffers are compared.
        targets: the shifted subset.
        outputs: runs it, always on the same input.
    """

    pipe: Any
    parts: Mapping[str, nn.Module]
    targets: str
    outputs: Callable[[], list[Tensor]]


def embedded(bench: Bench) -> Subject:
    """The embedded pipeline: two pictures from prompts, in four steps with guidance."""
    import torch
    from torch import nn

    from spectra.bases.pipeline import load_pipeline

    pipe = load_pipeline()

    def outputs() -> list[Tensor]:
        generators = [torch.Generator().manual_seed(bench.seed + n) for n in range(2)]
        prompts = ["a drawing of a fox", "a drawing of a pizza on a blue background"]
        drawn = pipe(prompts, num_inference_steps=4, guidance_scale=5.0, generator=generators, output_type="pt")
        return [drawn.images]

    parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    return Subject(pipe, parts, "unet,text-encoder", outputs)


def sd15(bench: Bench) -> Subject:
    """Stable Diffusion 1.x's UNet with random weights, on latents of 128 px."""
    import torch
    from diffusers import UNet2DConditionModel

    torch.manual_seed(bench.seed)
    build: Any = UNet2DConditionModel  # diffusers is untyped here
    unet = build(cross_attention_dim=768).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(bench.seed)
    latents = torch.randn(1, 4, 16, 16, generator=generator)
    text = torch.randn(1, 77, 768, generator=generator)

    def outputs() -> list[Tensor]:
        return [unet(latents, torch.tensor([500]), text, return_dict=False)[0].detach()]

    return Subject(unet, {"unet": unet}, "unet", outputs)


MODELS: Mapping[str, Callable[[Bench], Subject]] = {"embedded pipeline": embedded, "SD 1.x UNet": sd15}


def compare(subject: Subject, cache: Path, seed: int, directions: int | None = None, outer: int = 0) -> dict[str, Any]:
    """How many values differ from the base's in each of `STATES`, and the share that a real shift changes.

    The spectra go to `cache`, which is the caller's to remove: random weights have no place in the user's
    cache.
    """
    import torch

    import spectra
    from spectra.spectrum.cache.spectrum_cache import SpectrumCache

    spectra_cache = SpectrumCache(cache)
    outputs, weights = subject.outputs(), _weights(subject.parts)

    def differing(*, touched: bool) -> int:
        """Values of the outputs, and of the weights unless the shift is allowed to have `touched` them."""
        changed = _differing(subject.outputs(), outputs)
        return changed if touched else changed + _changed(_weights(subject.parts), weights)

    found: dict[str, Any] = {}
    adapter = spectra.attach(subject.pipe, subject.targets, directions, outer, cache=spectra_cache)
    try:
        parameters = adapter.train().by_key
        found["zero_training"] = differing(touched=False)
        adapter.eval()
        found["zero_evaluated"] = differing(touched=False)
        zero = adapter.shift(base="exact")
        random = torch.Generator().manual_seed(seed)
        moved = [key for key in parameters if key.endswith((".delta", ".a"))]
        adapter.copy({key: 0.05 * torch.randn(parameters[key].shape, generator=random) for key in moved})
        shift = adapter.shift(base="exact")
        total = sum(output.numel() for output in outputs)
        found["changed_by_shift"] = round(differing(touched=True) / total, 4)
        with adapter.disabled():
            found["disabled"] = differing(touched=False)
    finally:
        adapter.detach()
    found["detached"] = differing(touched=False)

    try:
        spectra.load(subject.pipe, zero, name="zero", cache=spectra_cache)
        spectra.load(subject.pipe, shift, name="shift", cache=spectra_cache)
        spectra.activate(subject.pipe, {"zero": 1.0})
        found["zero_active"] = differing(touched=False)
        spectra.activate(subject.pipe, {"shift": 1.0})
        served = round(differing(touched=True) / total, 4)
        found["changed_by_shift"] = min(found["changed_by_shift"], served)
        with spectra.disabled(subject.pipe):
            found["disabled"] += differing(touched=False)
    finally:
        spectra.unload(subject.pipe)
    found["unloaded"] = differing(touched=False)
    return {
        "weights": len(shift),
        "floats": sum(parameter.numel() for parameter in parameters.values()),
        "changed_by_shift": found["changed_by_shift"],
        **{state: found[state] for state in STATES},
    }


def _weights(parts: Mapping[str, nn.Module]) -> dict[str, str]:
    """Content hash of every parameter and buffer; copies would double the memory of a 3.4 GB model."""
    import hashlib

    import torch

    return {
        f"{part}.{name}": hashlib.sha256(
            memoryview(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        ).hexdigest()
        for part, module in parts.items()
        for name, value in module.state_dict(keep_vars=True).items()
    }


def _changed(weights: Mapping[str, str], before: Mapping[str, str]) -> int:
    return sum(weights.get(name) != before.get(name) for name in weights.keys() | before.keys())


def _differing(outputs: Sequence[Tensor], before: Sequence[Tensor]) -> int:
    """Values whose bits differ: -0 is not 0 here, and NaN is NaN."""
    import torch

    return sum(
        int((new.contiguous().view(torch.int32) != old.contiguous().view(torch.int32)).sum())
        for new, old in zip(outputs, before, strict=True)
    )


def _measure(bench: Bench, item: str) -> Row:
    name, few, _ = item.partition(_FEW)
    form = (bench.integer("directions"), bench.integer("outer")) if few else (None, 0)
    with tempfile.TemporaryDirectory() as folder:
        return {"model": item, **compare(MODELS[name](bench), Path(folder), bench.seed, *form)}


_FEW = ", few"
"""Ends the name of a row whose shifts are of few directions and outer terms."""


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    return {
        "values_differing": sum(row[state] for row in rows for state in STATES),
        "changed_by_shift": min(row["changed_by_shift"] for row in rows),
    }


CASE = Case(
    name="exact",
    title="values that differ from the base at a shift of zero and after unload",
    key="model",
    items=lambda bench: [f"{name}{form}" for name in MODELS for form in ("", _FEW)],
    measure=_measure,
    summarise=_summarise,
    settings={**FORM, "seed": 0},
    columns=(
        Column("model"),
        Column("weights"),
        Column("changed_by_shift", "control", ".3f"),
        Column("zero_training", "train"),
        Column("zero_evaluated", "eval"),
        Column("zero_active", "active"),
        Column("disabled"),
        Column("detached"),
        Column("unloaded"),
    ),
    goals=(Goal("values_differing", "==", 0), Goal("changed_by_shift", ">", 0.5)),
)
