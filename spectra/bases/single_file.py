"""A pipeline from a single-file checkpoint: its weights from the file, all else from a diffusers folder.

A checkpoint has no configuration and no tokenizers, and many have no text encoders or VAE. Those come from a folder;
where there is none, the configuration is that of the published base that the file's tensors are like, from the hub.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from spectra.bases.index_files import read_index, read_object
from spectra.bases.original_layouts import original_layout
from spectra.errors import BaseError
from spectra.io.safetensors_header import StoredTensor
from spectra.io.tensor_files import read_rows, stored_tensors
from spectra.naming.target_subsets import DENOISERS, TEXT_ENCODERS, weight_name

if TYPE_CHECKING:
    import torch

Reader: TypeAlias = "Callable[[], torch.Tensor]"

COMPONENTS_FROM: Mapping[str, Any] = {
    "default": "",
    "help": "Diffusers folder with what a base that is a single file lacks: its configuration and tokenizer, and text "
    "encoders and VAE if it has none.",
    "metavar": "DIR",
    "default_text": "the folder of its name beside it",
    "path": True,
}
"""What commands that load a base declare of the setting `components_from`."""

_VAE = ("first_stage_model.", "vae.")
"""What the keys of a VAE begin with."""

_TIED = {"shared.weight": "encoder.embed_tokens.weight", "encoder.embed_tokens.weight": "shared.weight"}
"""T5's table, which a file holds under either name."""


def configuration_folder(path: Path, components_from: str = "") -> Path | None:
    """The folder that has a checkpoint's configuration: the one that is named, or that beside it of its name; or None.

    Raises:
        BaseError: the named one is no diffusers folder.
    """
    folder = Path(components_from) if components_from else path.with_suffix("")
    if (folder / "model_index.json").is_file():
        return folder
    if components_from:
        raise BaseError(f"{components_from}: expected a diffusers pipeline folder, which has a model_index.json")
    return None


def load_single_file(
    path: Path, components_from: str, dtype: torch.dtype, denoiser: Callable[[Path], Mapping[str, Any]] | None = None
) -> Any:
    """The pipeline of a checkpoint, in a dtype.

    Args:
        components_from: the diffusers folder that has what the file lacks; empty for that beside it of its name, or
            the hub's.
        denoiser: makes it, by the name of its component, given the folder with the configuration; by default it is
            read from the file.

    Raises:
        BaseError: of no known layout, or without a component that is not in the folder either.
    """
    from diffusers import DiffusionPipeline

    stored = stored_tensors(path)
    readers: dict[str, Mapping[str, Reader]] = {
        name: {key: place.read for key, place in places.items()} for name, places in original_layout(stored).items()
    }
    if not set(DENOISERS) & readers.keys():
        raise BaseError(
            f"{path}: not a checkpoint of Stable Diffusion, SDXL, SD3, Flux, Chroma, Flux.2, Qwen-Image or Z-Image "
            "(it has no denoiser in the layout of theirs); give a diffusers folder instead"
        )
    folder = configuration_folder(path, components_from) or _published_configuration(stored)
    if any(key.startswith(_VAE) for key in stored):
        readers["vae"] = _vae(stored, folder / "vae")
    index = read_index(folder)
    listed = {name: value for name, value in index.items() if isinstance(value, list)}
    made = {} if denoiser is None else dict(denoiser(folder))
    left_out = _left_out(folder, index["_class_name"], listed, readers.keys() | made.keys(), path)
    parts = made | {
        name: _load_model(path, name, _class(*value), folder / name, readers[name], dtype)
        for name, value in listed.items()
        if name in readers and name not in left_out and name not in made
    }
    return DiffusionPipeline.from_pretrained(
        str(folder), dtype=dtype, use_safetensors=True, local_files_only=True, **parts, **left_out
    )


def _left_out(
    folder: Path, pipeline: str, listed: Mapping[str, list[Any]], there: Collection[str], path: Path
) -> dict[str, None]:
    """The components of a pipeline's folder that it does without: those that it lists as none, and optional ones that
    neither the folder nor the checkpoint has, such as the safety checker.

    Raises a BaseError if neither has one that it needs.
    """
    import torch

    optional = {*_class("diffusers", pipeline)._optional_components} - {*TEXT_ENCODERS}
    found: dict[str, None] = {}
    missing = []
    for name, (library, kind) in listed.items():
        if library is None:
            found[name] = None
        elif name not in there and not any((folder / name).glob("*.safetensors")):
            is_model = issubclass(_class(library, kind), torch.nn.Module)
            if name in optional and (is_model or not (folder / name).is_dir()):
                found[name] = None
            elif is_model:
                missing.append(name)
    if missing:
        raise BaseError(
            f"{path}: the file has no {' and no '.join(missing)}, and {folder} has no weights of "
            f"{'it' if len(missing) == 1 else 'them'}: name a diffusers folder that has, with --components-from DIR"
        )
    return found


def _class(library: str, name: str) -> Any:
    """A class that a model_index.json names; those of diffusers' own pipelines are named by the pipelines' module."""
    module = library if library in ("diffusers", "transformers") else f"diffusers.pipelines.{library}"
    return getattr(importlib.import_module(module), name)


def _load_model(
    path: Path, component: str, kind: Any, config: Path, readers: Mapping[str, Reader], dtype: torch.dtype
) -> Any:
    """A model of diffusers or transformers with its configuration from a folder and its weights from the checkpoint."""
    import torch
    from accelerate import init_empty_weights

    with init_empty_weights():
        if hasattr(kind, "load_config"):
            model = kind.from_config(kind.load_config(str(config)))
        else:
            model = kind(kind.config_class.from_pretrained(str(config)))
    by_name = {weight_name(component, key): read for key, read in readers.items()}
    wide = getattr(kind, "_keep_in_fp32_modules", None) or () if dtype == torch.float16 else ()
    state: dict[str, torch.Tensor] = {}
    for key, expected in model.state_dict().items():
        read = by_name.get(weight_name(component, key)) or by_name.get(weight_name(component, _TIED.get(key, key)))
        if read is None and key == "text_projection.weight":
            state[key] = torch.eye(*expected.shape, dtype=dtype)  # SD3's files leave it out: it is the identity
            continue
        found = None if read is None else read()
        if found is None or found.shape != expected.shape:
            raise BaseError(
                f"{path}: {component}.{key} is {'missing' if found is None else list(found.shape)}, where the "
                f"configuration in {config} expects {list(expected.shape)}; give the configuration of this model with "
                "--components-from DIR"
            )
        state[key] = found.to(torch.float32 if set(wide) & set(key.split(".")) else dtype)
    model.load_state_dict(state, assign=True)
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    return model


def _vae(stored: Mapping[str, StoredTensor], config: Path) -> dict[str, Reader]:
    """What reads each tensor of a checkpoint's VAE, by diffusers' key."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    tensors = {key: read_rows(tensor) for key, tensor in stored.items() if key.startswith(_VAE)}
    settings = read_object(config / "config.json")
    return {key: partial(_same, tensor) for key, tensor in convert_ldm_vae_checkpoint(tensors, settings).items()}


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _published_configuration(stored: Mapping[str, StoredTensor]) -> Path:
    """The configuration of the published base that a file's tensors are like, from the hub."""
    import torch
    from diffusers.loaders.single_file_utils import fetch_diffusers_config
    from huggingface_hub import snapshot_download

    shapes = {key: torch.empty(tensor.shape, device="meta") for key, tensor in stored.items()}
    published = fetch_diffusers_config(shapes)["pretrained_model_name_or_path"]
    return Path(snapshot_download(published, allow_patterns=["*.json", "*.txt", "*.model"]))
