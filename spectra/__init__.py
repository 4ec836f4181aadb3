"""Spectral shifts: fine-tunings of a diffusion model that are a vector per layer.

Names are imported when they are first used, so that `import spectra` costs nothing and the numpy-only parts
(shift files and their algebra) never import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from spectra.adapter import Adapter, attach
    from spectra.adjusting import adjust
    from spectra.baking import bake
    from spectra.cache import SpectrumCache, default_cache
    from spectra.errors import SpectraError
    from spectra.extraction import extract
    from spectra.formats.difference import write_difference
    from spectra.formats.lora_export import write_lora
    from spectra.formats.svdiff import export_svdiff, import_svdiff
    from spectra.merging import merge
    from spectra.serving import activate, disabled, load, loaded, per_sample, unload
    from spectra.shift import ShiftMetadata, SpectralShift
    from spectra.shift_file import read_shift, write_shift
    from spectra.spectrum import Spectrum, decompose
    from spectra.transplanting import transplant
    from spectra.tuning import tune

__all__ = [
    "Adapter",
    "ShiftMetadata",
    "SpectraError",
    "SpectralShift",
    "Spectrum",
    "SpectrumCache",
    "activate",
    "adjust",
    "attach",
    "bake",
    "decompose",
    "default_cache",
    "disabled",
    "export_svdiff",
    "extract",
    "import_svdiff",
    "load",
    "loaded",
    "merge",
    "per_sample",
    "read_shift",
    "transplant",
    "tune",
    "unload",
    "write_difference",
    "write_lora",
    "write_shift",
]

_HOME = {
    "export_svdiff": "formats.svdiff",
    "import_svdiff": "formats.svdiff",
    "write_difference": "formats.difference",
    "write_lora": "formats.lora_export",
    "Adapter": "adapter",
    "activate": "serving",
    "adjust": "adjusting",
    "attach": "adapter",
    "bake": "baking",
    "disabled": "serving",
    "extract": "extraction",
    "load": "serving",
    "loaded": "serving",
    "merge": "merging",
    "per_sample": "serving",
    "unload": "serving",
    "SpectrumCache": "cache",
    "default_cache": "cache",
    "SpectraError": "errors",
    "ShiftMetadata": "shift",
    "SpectralShift": "shift",
    "read_shift": "shift_file",
    "write_shift": "shift_file",
    "Spectrum": "spectrum",
    "decompose": "spectrum",
    "transplant": "transplanting",
    "tune": "tuning",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'spectra' has no attribute {name!r}")
    return getattr(importlib.import_module(f"spectra.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
