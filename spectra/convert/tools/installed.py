"""What diffusers and PEFT load: their own loaders run on a skeleton of the base, its modules without weights.

So it is the installed version that is asked, and no rule of theirs is repeated here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from spectra.convert.module_names import is_embedding, live_path
from spectra.convert.tools.reading import Base, ExportedFile, Reading
from spectra.naming.original_names import Architecture
from spectra.naming.target_subsets import component_of, path_of, weight_name
from spectra.spectrum.spectrum import matrix

_LOADERS: Mapping[Architecture, str] = {
    "sd": "StableDiffusionLoraLoaderMixin",
    "sd2": "StableDiffusionLoraLoaderMixin",
    "sdxl": "StableDiffusionXLLoraLoaderMixin",
    "sd3": "SD3LoraLoaderMixin",
    "flux": "FluxLoraLoaderMixin",
    "chroma": "FluxLoraLoaderMixin",
    "flux2": "Flux2LoraLoaderMixin",
    "qwen-image": "QwenImageLoraLoaderMixin",
    "z-image": "ZImageLoraLoaderMixin",
}
"""What diffusers' pipelines of each base load LoRA with."""

_ADAPTER = "checked"


def read_by_diffusers(file: ExportedFile, base: Base) -> Reading:
    """What a pipeline's `load_lora_weights` makes of a file."""
    if base.architecture not in _LOADERS:
        return Reading.refused(f"its pipeline for this base is not known here ({base.architecture})")
    from diffusers.loaders import lora_pipeline

    loader = getattr(lora_pipeline, _LOADERS[base.architecture])
    models = _skeletons(base)
    pipe = type("_Pipeline", (loader,), {"hf_device_map": None})()
    pipe.components = models
    for name in ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3"):
        setattr(pipe, name, models.get(name))
    return _loaded(file, models, lambda: pipe.load_lora_weights(file.path, adapter_name=_ADAPTER))


def read_by_peft(file: ExportedFile, base: Base) -> Reading:
    """What `PeftModel.from_pretrained` makes of the folder that a file is in, for the one model that it is for."""
    from peft import PeftModel

    if not (file.path.parent / "adapter_config.json").is_file() or file.path.name != "adapter_model.safetensors":
        return Reading.refused("it reads a folder with adapter_config.json and adapter_model.safetensors (--to peft)")
    models = _skeletons(base)
    if len(models) > 1:
        return Reading.refused(f"it adapts one model at a time, and the base has {', '.join(models)}")
    model = next(iter(models.values()))

    def load() -> None:
        PeftModel.from_pretrained(model, str(file.path.parent), adapter_name=_ADAPTER, low_cpu_mem_usage=True)

    return _loaded(file, models, load)


class _Skeleton(nn.Module):
    """A model of a base without weights, that takes adapters as those of diffusers and transformers do."""

    device, dtype = torch.device("cpu"), torch.float32

    def to(self, *args: Any, **options: Any) -> _Skeleton:
        """It stays where it is: there are no weights to move."""
        return self

    def load_adapter(self, adapter_name: str, adapter_state_dict: Any, peft_config: Any, **options: Any) -> None:
        """Takes an adapter as transformers' models do."""
        import peft

        inject: Any = peft.inject_adapter_in_model
        inject(peft_config, self, adapter_name, **options)
        peft.set_peft_model_state_dict(self, adapter_state_dict, adapter_name, **options)


class _Group(nn.Module):
    """Modules by name; a number counts as an index, as in a list of blocks."""

    def __getitem__(self, index: int) -> Any:
        return getattr(self, str(index))


def _skeletons(base: Base) -> dict[str, Any]:
    """The models of a base by component."""
    from diffusers.loaders.peft import PeftAdapterMixin

    kind = type("_Model", (_Skeleton, PeftAdapterMixin), {})
    models: dict[str, Any] = {}
    for name, shape in base.shapes.items():
        model = models.setdefault(component_of(name), kind())
        *parents, last = live_path(name, base.shapes).split(".")
        for parent in parents:
            if not hasattr(model, parent):
                model.add_module(parent, _Group())
            model = getattr(model, parent)
        model.add_module(last, _layer(shape, is_embedding(name)))
    if "unet" in models:
        blocks = {path_of(name).split(".")[3] for name in base.shapes if name.startswith("unet.down_blocks.0.resnets.")}
        models["unet"].config = SimpleNamespace(layers_per_block=len(blocks))
    return models


def _layer(shape: tuple[int, ...], is_table: bool) -> nn.Module:
    """A layer whose weight is one zero, seen from every place: PEFT puts adapters where a layer's weight is."""
    layer: nn.Module
    if is_table:
        layer = nn.Embedding(shape[0], shape[1], device="meta")
    elif len(shape) == 4:
        layer = nn.Conv2d(shape[1], shape[0], shape[2:], bias=False, device="meta")
    elif len(shape) == 2:
        layer = nn.Linear(shape[1], shape[0], bias=False, device="meta")
    else:
        return nn.Identity()
    layer.weight = nn.Parameter(torch.zeros(()).expand(shape), requires_grad=False)
    return layer


def _loaded(file: ExportedFile, models: Mapping[str, Any], load: Callable[[], Any]) -> Reading:
    """What the adapters are that a loader has put into models."""
    try:
        with _quiet():
            load()
    except Exception as error:  # the loaders raise kinds of their own, and stumble over keys of others
        said = " ".join(str(error).split())[:200]
        return Reading.refused(f"its loader stops with {type(error).__name__}{f': {said}' if said else ''}")
    changes: dict[str, Callable[[], Tensor]] = {}
    for component, model in models.items():
        for path, layer in model.named_modules():
            if _ADAPTER in getattr(layer, "lora_A", {}) and not layer.lora_A[_ADAPTER].weight.is_meta:
                changes[weight_name(component, path)] = partial(_delta, layer)
    return Reading(changes)


def _delta(layer: Any) -> Tensor:
    change: Tensor = layer.get_delta_weight(_ADAPTER).detach()
    return matrix(change)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the loaders say of keys that they do not know: that is found out by other means."""
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
