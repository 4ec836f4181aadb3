"""Spectral shifts: fine-tunings of a diffusion model that are a vector per layer.

Names are imported when they are first used, so that `import spectra` costs nothing and the numpy-only parts
(shift files and their algebra) never import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from spectra.version import __version__ as __version__

if TYPE_CHECKING:
    from spectra.adapters.diffusers_names import delete_adapters, get_active_adapters, get_list_adapters, set_adapters
    from spectra.adapters.loaded_shifts import (
        activate,
        disable,
        disabled,
        enable,
        fuse,
        loaded,
        per_sample,
        unfuse,
        unload,
    )
    from spectra.adapters.loading import load
    from spectra.adapters.plan_tuning import tune
    from spectra.adapters.saving import active_shift, save
    from spectra.adapters.spectra_from import spectra_from
    from spectra.adapters.training_adapter import Adapter, attach
    from spectra.combine.adjusting import Band, Keep, Only, OuterRank, Scale, Soft, adjust
    from spectra.combine.merging import merge
    from spectra.combine.mixing import mix
    from spectra.compatibility.verification import verify
    from spectra.convert.baking import bake
    from spectra.convert.extraction import extract
    from spectra.convert.full_difference import write_difference
    from spectra.convert.lora.peft_folder import write_peft_folder
    from spectra.convert.lora.writing import write_lora
    from spectra.convert.svdiff.conversion import export_svdiff, import_svdiff
    from spectra.convert.tools.check import check_export
    from spectra.convert.transplanting import transplant
    from spectra.editing.edit import edit
    from spectra.editing.settings import EditSettings
    from spectra.errors import (
        BaseError,
        CacheError,
        CacheWarning,
        ClippingWarning,
        DivergedError,
        FormatError,
        InputError,
        MismatchError,
        MistakesError,
        OutputError,
        OutputWarning,
        PictureError,
        PictureWarning,
        ProcessError,
        RoundedCopyWarning,
        ShiftFileError,
        SpectraError,
        TargetError,
        WeightError,
    )
    from spectra.generation.generate import generate
    from spectra.generation.settings import GenerateSettings, Sampling
    from spectra.hub.fetching import pull
    from spectra.hub.publishing import push
    from spectra.planning.plan import plan
    from spectra.planning.request import PlanRequest
    from spectra.shift.metadata import ShiftMetadata
    from spectra.shift.outer_terms import OuterTerms
    from spectra.shift.shift import SpectralShift
    from spectra.shift.shift_file import read_shift, write_shift
    from spectra.shift.word_vectors import WordVectors
    from spectra.spectrum.cache.spectrum_cache import SpectrumCache, default_cache
    from spectra.spectrum.decomposition import decompose
    from spectra.spectrum.leading import decompose_leading
    from spectra.spectrum.partial import PartialSpectrum
    from spectra.spectrum.spectrum import Spectrum
    from spectra.training.config import TrainConfig
    from spectra.training.run.train import train

__all__ = [
    "Adapter",
    "Band",
    "BaseError",
    "CacheError",
    "CacheWarning",
    "ClippingWarning",
    "DivergedError",
    "EditSettings",
    "FormatError",
    "GenerateSettings",
    "InputError",
    "Keep",
    "MismatchError",
    "MistakesError",
    "Only",
    "OuterRank",
    "OuterTerms",
    "OutputError",
    "OutputWarning",
    "PartialSpectrum",
    "PictureError",
    "PictureWarning",
    "PlanRequest",
    "ProcessError",
    "RoundedCopyWarning",
    "Sampling",
    "Scale",
    "ShiftFileError",
    "ShiftMetadata",
    "Soft",
    "SpectraError",
    "SpectralShift",
    "Spectrum",
    "SpectrumCache",
    "TargetError",
    "TrainConfig",
    "WeightError",
    "WordVectors",
    "activate",
    "active_shift",
    "adjust",
    "attach",
    "bake",
    "check_export",
    "decompose",
    "decompose_leading",
    "default_cache",
    "delete_adapters",
    "disable",
    "disabled",
    "edit",
    "enable",
    "export_svdiff",
    "extract",
    "fuse",
    "generate",
    "get_active_adapters",
    "get_list_adapters",
    "import_svdiff",
    "load",
    "loaded",
    "merge",
    "mix",
    "per_sample",
    "plan",
    "pull",
    "push",
    "read_shift",
    "save",
    "set_adapters",
    "spectra_from",
    "train",
    "transplant",
    "tune",
    "unfuse",
    "unload",
    "verify",
    "write_difference",
    "write_lora",
    "write_peft_folder",
    "write_shift",
]

_HOME = {
    "delete_adapters": "adapters.diffusers_names",
    "get_active_adapters": "adapters.diffusers_names",
    "get_list_adapters": "adapters.diffusers_names",
    "set_adapters": "adapters.diffusers_names",
    "activate": "adapters.loaded_shifts",
    "disable": "adapters.loaded_shifts",
    "disabled": "adapters.loaded_shifts",
    "enable": "adapters.loaded_shifts",
    "fuse": "adapters.loaded_shifts",
    "loaded": "adapters.loaded_shifts",
    "per_sample": "adapters.loaded_shifts",
    "unfuse": "adapters.loaded_shifts",
    "unload": "adapters.loaded_shifts",
    "load": "adapters.loading",
    "tune": "adapters.plan_tuning",
    "active_shift": "adapters.saving",
    "save": "adapters.saving",
    "spectra_from": "adapters.spectra_from",
    "Adapter": "adapters.training_adapter",
    "attach": "adapters.training_adapter",
    "Band": "combine.adjusting",
    "Keep": "combine.adjusting",
    "Only": "combine.adjusting",
    "OuterRank": "combine.adjusting",
    "Scale": "combine.adjusting",
    "Soft": "combine.adjusting",
    "adjust": "combine.adjusting",
    "merge": "combine.merging",
    "mix": "combine.mixing",
    "verify": "compatibility.verification",
    "bake": "convert.baking",
    "extract": "convert.extraction",
    "write_difference": "convert.full_difference",
    "write_peft_folder": "convert.lora.peft_folder",
    "write_lora": "convert.lora.writing",
    "export_svdiff": "convert.svdiff.conversion",
    "import_svdiff": "convert.svdiff.conversion",
    "check_export": "convert.tools.check",
    "transplant": "convert.transplanting",
    "edit": "editing.edit",
    "EditSettings": "editing.settings",
    "BaseError": "errors",
    "CacheError": "errors",
    "CacheWarning": "errors",
    "ClippingWarning": "errors",
    "DivergedError": "errors",
    "FormatError": "errors",
    "InputError": "errors",
    "MismatchError": "errors",
    "MistakesError": "errors",
    "OutputError": "errors",
    "OutputWarning": "errors",
    "PictureError": "errors",
    "PictureWarning": "errors",
    "ProcessError": "errors",
    "RoundedCopyWarning": "errors",
    "ShiftFileError": "errors",
    "SpectraError": "errors",
    "TargetError": "errors",
    "WeightError": "errors",
    "generate": "generation.generate",
    "GenerateSettings": "generation.settings",
    "Sampling": "generation.settings",
    "pull": "hub.fetching",
    "push": "hub.publishing",
    "plan": "planning.plan",
    "PlanRequest": "planning.request",
    "ShiftMetadata": "shift.metadata",
    "OuterTerms": "shift.outer_terms",
    "SpectralShift": "shift.shift",
    "read_shift": "shift.shift_file",
    "write_shift": "shift.shift_file",
    "WordVectors": "shift.word_vectors",
    "SpectrumCache": "spectrum.cache.spectrum_cache",
    "default_cache": "spectrum.cache.spectrum_cache",
    "decompose": "spectrum.decomposition",
    "decompose_leading": "spectrum.leading",
    "PartialSpectrum": "spectrum.partial",
    "Spectrum": "spectrum.spectrum",
    "TrainConfig": "training.config",
    "train": "training.run.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'spectra' has no attribute {name!r}")
    return getattr(importlib.import_module(f"spectra.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
