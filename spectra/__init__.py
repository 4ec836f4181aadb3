"""Spectral shifts: fine-tunings of a diffusion model that are a vector per layer.

Names are imported when they are first used, so that `import spectra` costs nothing and the numpy-only parts
(shift files and their algebra) never import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from spectra.version import __version__ as __version__

if TYPE_CHECKING:
    from spectra.adapters.loaded_shifts import activate, disabled, load, loaded, per_sample, unload
    from spectra.adapters.plan_tuning import tune
    from spectra.adapters.spectra_from import spectra_from
    from spectra.adapters.training_adapter import Adapter, attach
    from spectra.combine.adjusting import adjust
    from spectra.combine.merging import merge
    from spectra.convert.baking import bake
    from spectra.convert.extraction import extract
    from spectra.convert.full_difference import write_difference
    from spectra.convert.lora.peft_folder import write_peft_folder
    from spectra.convert.lora.writing import write_lora
    from spectra.convert.svdiff.conversion import export_svdiff, import_svdiff
    from spectra.convert.tools.check import check_export
    from spectra.convert.transplanting import transplant
    from spectra.errors import SpectraError
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

__all__ = [
    "Adapter",
    "OuterTerms",
    "PartialSpectrum",
    "PlanRequest",
    "ShiftMetadata",
    "SpectraError",
    "SpectralShift",
    "Spectrum",
    "SpectrumCache",
    "WordVectors",
    "activate",
    "adjust",
    "attach",
    "bake",
    "check_export",
    "decompose",
    "decompose_leading",
    "default_cache",
    "disabled",
    "export_svdiff",
    "extract",
    "import_svdiff",
    "load",
    "loaded",
    "merge",
    "per_sample",
    "plan",
    "read_shift",
    "spectra_from",
    "transplant",
    "tune",
    "unload",
    "write_difference",
    "write_lora",
    "write_peft_folder",
    "write_shift",
]

_HOME = {
    "export_svdiff": "convert.svdiff.conversion",
    "import_svdiff": "convert.svdiff.conversion",
    "write_difference": "convert.full_difference",
    "write_lora": "convert.lora.writing",
    "write_peft_folder": "convert.lora.peft_folder",
    "check_export": "convert.tools.check",
    "Adapter": "adapters.training_adapter",
    "activate": "adapters.loaded_shifts",
    "adjust": "combine.adjusting",
    "attach": "adapters.training_adapter",
    "bake": "convert.baking",
    "disabled": "adapters.loaded_shifts",
    "extract": "convert.extraction",
    "load": "adapters.loaded_shifts",
    "loaded": "adapters.loaded_shifts",
    "merge": "combine.merging",
    "per_sample": "adapters.loaded_shifts",
    "spectra_from": "adapters.spectra_from",
    "unload": "adapters.loaded_shifts",
    "SpectrumCache": "spectrum.cache.spectrum_cache",
    "default_cache": "spectrum.cache.spectrum_cache",
    "SpectraError": "errors",
    "PlanRequest": "planning.request",
    "plan": "planning.plan",
    "ShiftMetadata": "shift.metadata",
    "OuterTerms": "shift.outer_terms",
    "WordVectors": "shift.word_vectors",
    "SpectralShift": "shift.shift",
    "read_shift": "shift.shift_file",
    "write_shift": "shift.shift_file",
    "Spectrum": "spectrum.spectrum",
    "PartialSpectrum": "spectrum.partial",
    "decompose": "spectrum.decomposition",
    "decompose_leading": "spectrum.leading",
    "transplant": "convert.transplanting",
    "tune": "adapters.plan_tuning",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'spectra' has no attribute {name!r}")
    return getattr(importlib.import_module(f"spectra.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
