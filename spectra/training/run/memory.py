"""The precision in which a base trains, what is computed again rather than kept, and how much memory was in use."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from spectra.bases.pipeline import BaseLocation
from spectra.bases.weight_files import base_weights
from spectra.errors import BaseError
from spectra.families.family import Family
from spectra.layers.quantised_weights import stored_parts
from spectra.naming.target_subsets import DENOISERS
from spectra.training.config import TrainConfig
from spectra.training.data.collage import CollageSource
from spectra.training.data.latents import PictureSource
from spectra.training.data.prompt_embeddings import Conditions

SMALL = 2**28
"""Bytes of a denoiser's weights below which memory is not thought of: such a model fits anywhere."""


def load_dtype(precision: str, location: BaseLocation) -> torch.dtype:
    """The dtype in which a base is loaded for a training.

    Args:
        precision: a dtype's name, or "stored": bfloat16 where the denoiser's files are so, else float32. Gradients
            that pass through float16 would vanish without a scaled loss.
    """
    if precision != "stored":
        dtype: torch.dtype = getattr(torch, precision)
        return dtype
    try:
        weights = base_weights(location)
    except BaseError:  # said better when the base is loaded
        return torch.float32
    stored = {weights.dtype(name) for name in weights if name.split(".")[0] in DENOISERS}
    return torch.bfloat16 if stored == {"bfloat16"} else torch.float32


def is_large(model: nn.Module) -> bool:
    """Whether a denoiser's weights are so many that memory is thought of before time."""
    return sum(part.nbytes for part in _parts(model)) >= SMALL


def _parts(model: nn.Module) -> list[Tensor]:
    return [part for parameter in model.parameters() for part in stored_parts(parameter)]


def checkpoints(
    config: TrainConfig,
    pipe: Any,
    family: Family,
    conditions: Conditions,
    sources: Sequence[PictureSource | CollageSource],
) -> bool:
    """Whether blocks of the model are computed again in the backward pass: as was asked for, or as is counted.

    They are where what a step's forward keeps for its backward takes more memory than the model's weights. That is
    counted in a forward of one sample that keeps nothing; of a small model nothing is counted.

    Args:
        sources: of the samples of a step, as many of each as a batch has.
    """
    if config.gradient_checkpointing is not None:
        return config.gradient_checkpointing
    model: Any = getattr(pipe, family.model)
    parts = _parts(model)
    weights = sum(part.nbytes for part in parts)
    if weights < SMALL:
        return False

    def forward() -> Tensor:
        with torch.no_grad():
            condition = conditions.frozen(sources[0].every_prompt()[:1]).to(model.dtype)
        noisy = torch.randn((1, *sources[0].latent_shape), device=model.device, dtype=model.dtype, requires_grad=True)
        return family.predict(pipe, noisy, torch.full((1,), 500, device=model.device), condition)

    return config.batch * len(sources) * kept_bytes(forward, parts) > weights


def peak_memory(device: torch.device) -> int:
    """The most bytes that were in use so far: of an accelerator's memory, or else of the process; 0 if not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows has none
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def kept_bytes(forward: Callable[[], Tensor], known: Sequence[Tensor]) -> int:
    """Bytes that autograd would keep of a forward, each storage once, without those of `known`."""
    seen = {part.untyped_storage()._cdata: StorageWeakRef(part.untyped_storage()) for part in known}
    total = 0

    def note(tensor: Tensor) -> None:
        nonlocal total
        for part in stored_parts(tensor):
            storage = part.untyped_storage()
            key = storage._cdata
            if key not in seen or seen[key].expired():  # a storage that is gone leaves its place to others
                seen[key] = StorageWeakRef(storage)
                total += storage.nbytes()

    def refuse(_: None) -> Tensor:
        raise RuntimeError("a forward that was counted has no backward")

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, refuse):
        forward()
    return total
