"""Loading a base: the embedded one, a diffusers folder, a single-file checkpoint, or a hub id."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spectra.bases.embedded import NAME
from spectra.bases.embedded import path as embedded_path
from spectra.bases.missing_packages import missing_package
from spectra.bases.prediction import AUTO, marked_prediction, with_prediction
from spectra.bases.quantisation import Quantisation, find_denoiser, parse_quantisation, quantised_from_file, read_gguf
from spectra.bases.single_file import configuration_folder, load_single_file
from spectra.bases.text_to_image import text_to_image
from spectra.errors import BaseError, InputError

if TYPE_CHECKING:
    import torch


_FILES = (".safetensors", ".gguf", ".ckpt", ".bin", ".pt")
"""Endings of files, which no hub id has."""


@dataclass(frozen=True)
class BaseLocation:
    """A base that was found: what the user called it, of which kind it is, and the path or hub id that loads it.

    Attributes:
        components_from: the diffusers folder that has what a single file lacks; empty for that beside it.
        prediction_type: of the model, one of `PREDICTIONS`, where the user knows better; or what the base says.
    """

    name: str
    kind: Literal["folder", "file", "hub"]
    target: str
    components_from: str = ""
    prediction_type: str = AUTO

    @property
    def options(self) -> tuple[str, ...]:
        """What the command line takes, beside `--base`, to load it so."""
        folder = ("--components-from", self.components_from) if self.components_from else ()
        return folder + (() if self.prediction_type == AUTO else ("--prediction-type", self.prediction_type))

    @property
    def bytes(self) -> int:
        """Bytes of the base's weights on disk; 0 for a hub id."""
        if self.kind == "hub":
            return 0
        path = Path(self.target)
        files = [path] if path.is_file() else path.rglob("*.safetensors")
        return sum(file.stat().st_size for file in files)


def find_base(base: str | BaseLocation, components_from: str = "", prediction_type: str = AUTO) -> BaseLocation:
    """Find what `base` names, without loading it; empty is the embedded base, and a location is itself.

    Raises:
        BaseError: nothing there, something that is not a base, or components for one that is not a single file.
    """
    if isinstance(base, BaseLocation):
        return base
    found = _find(base)
    if components_from:
        if found.kind != "file":
            raise BaseError(
                f"{found.name}: components from a folder are for a base that is a single file; leave it out"
            )
        configuration_folder(Path(found.target), components_from)
    return replace(found, components_from=components_from, prediction_type=prediction_type)


def _find(base: str) -> BaseLocation:
    if base in ("", NAME):
        return _folder(NAME, embedded_path())
    path = Path(base)
    if path.is_dir():
        return _folder(base, path)
    if path.is_file():
        if path.suffix != ".safetensors":
            raise BaseError(
                f"{base}: a base is a diffusers folder or a .safetensors checkpoint; "
                f"{path.suffix or 'this kind of'} files are not read (a pickle can run code)"
            )
        return BaseLocation(base, "file", str(path))
    near = _nearest(path)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", base) and base[0] not in ".~" and not near and path.suffix not in _FILES:
        return BaseLocation(base, "hub", base)
    expected = "expected a diffusers folder, a .safetensors file or a hub id (owner/name)"
    raise BaseError(f"{base}: no base there; {f'did you mean {near}?' if near else expected}")


def _nearest(path: Path) -> str:
    """What lies in the same folder and has nearly the same name, or empty."""
    beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    return "".join(str(path.with_name(name)) for name in difflib.get_close_matches(path.name, beside, 1, cutoff=0.8))


def _folder(name: str, path: Path) -> BaseLocation:
    if not (path / "model_index.json").is_file():
        raise BaseError(f"{path}: not a diffusers pipeline folder (it has no model_index.json)")
    return BaseLocation(name, "folder", str(path))


_KEPT: dict[tuple[object, ...], Any] | None = None
"""Pipelines by what they were loaded with, in a process that keeps them."""


def keep_bases() -> None:
    """From now on this process keeps the base that it loaded last, and hands it out again.

    For a process that trains concept after concept: each gives the base back as it was.
    """
    global _KEPT
    if _KEPT is None:
        _KEPT = {}


def load_pipeline(
    base: str | BaseLocation = "",
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    quantize: str = "",
) -> Any:
    """Load the pipeline of a base (`diffusers.DiffusionPipeline`), in evaluation mode, without bars of its own.

    Args:
        base: as `find_base` takes it; empty is the embedded base.
        dtype: of the weights; float32 by default, since shifts are exact on that.
        quantize: how the denoiser is quantised, as `quantisation.parse_quantisation` takes it; a base that is stored
            quantised is loaded as it is.

    Raises:
        BaseError: the base is missing, damaged, or cannot be fetched.
        InputError: it cannot be quantised so here.
    """
    location, quantisation = find_base(base), parse_quantisation(quantize)
    key = (location, dtype, str(device), quantize)
    if _KEPT is not None and key in _KEPT:
        return _KEPT[key]
    if quantisation is not None:
        quantisation.require()
    import torch
    from diffusers import DiffusionPipeline

    dtype = dtype or torch.float32
    try:
        with _no_bars():
            if location.kind == "file":
                file = Path(location.target)
                made = None if quantisation is None else partial(quantised_from_file, file, quantisation, dtype)
                pipe = load_single_file(file, location.components_from, dtype, made)
            else:
                pipe = DiffusionPipeline.from_pretrained(
                    location.target,
                    dtype=dtype,
                    use_safetensors=True,
                    local_files_only=location.kind == "folder",
                    **({} if quantisation is None else _quantised(location, quantisation, dtype)),
                )
        _set_prediction(pipe, location)
        pipe = text_to_image(pipe, location.name)
    except InputError:
        raise
    except Exception as error:  # diffusers, transformers, safetensors and the hub each raise kinds of their own
        raise BaseError(why_not_loaded(location, error)) from error
    pipe.set_progress_bar_config(disable=True)
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval().requires_grad_(False)
    pipe = pipe.to(device)
    if _KEPT is not None:
        _KEPT.clear()
        _KEPT[key] = pipe
    return pipe


def _quantised(location: BaseLocation, quantisation: Quantisation, dtype: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` is given for a quantised denoiser: its configuration, or the model itself."""
    folder = local_folder(location)
    if quantisation.file is not None:
        return read_gguf(quantisation.file, folder, dtype)
    return {"quantization_config": quantisation.pipeline_config(find_denoiser(folder)[0], dtype)}


def _set_prediction(pipe: Any, location: BaseLocation) -> None:
    """Make the scheduler one for what the base's model predicts, where its file or its user says so."""
    marked, zero_snr = marked_prediction(Path(location.target)) if location.kind == "file" else ("", False)
    kind = marked if location.prediction_type == AUTO else location.prediction_type
    if kind:
        pipe.register_modules(scheduler=with_prediction(pipe.scheduler, kind, zero_snr))


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Turn off the progress bars of loading, since the library prints nothing; what was set before is set again."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    loggings = [log for log in (diffusers_logging, transformers_logging) if log.is_progress_bar_enabled()]
    for log in loggings:
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log in loggings:
            log.enable_progress_bar()


def local_folder(location: BaseLocation, variant: str | None = None) -> Path:
    """The folder of a base that is one, fetched from the hub if it is not here yet.

    Raises:
        BaseError: it cannot be fetched.
    """
    if location.kind == "folder":
        return Path(location.target)
    from diffusers import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(location.target, variant=variant, use_safetensors=True))
    except Exception as error:  # diffusers and the hub raise many kinds
        raise BaseError(why_not_loaded(location, error)) from error


def _index(location: BaseLocation) -> Path:
    """The pipeline's index, of a hub id where it has been fetched; nothing is there of a single file."""
    if location.kind != "hub":
        return Path(location.target) / "model_index.json"
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(location.target, "model_index.json")
    return Path(found if isinstance(found, str) else "model_index.json of no folder")


def why_not_loaded(location: BaseLocation, error: Exception) -> str:
    """What failed and what to do, in one line."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    if lacks := missing_package(_index(location)):
        return f"{location.name}: {lacks}"
    if location.kind == "hub":
        return (
            f"{location.name}: could not be fetched from the hub ({reason}); "
            "check the name and the network, or give a folder"
        )
    if location.kind == "file":
        beside = Path(location.target).with_suffix("")
        return (
            f"{location.name}: could not be loaded ({reason}); a single file has no configuration of its own: where "
            "there is no network, name a diffusers folder that has it and the tokenizer with --components-from DIR, or "
            f"put the pipeline's configuration and tokenizer into the folder {beside}"
        )
    return f"{location.name}: could not be loaded as a pipeline ({reason}); the folder may be damaged or incomplete"
