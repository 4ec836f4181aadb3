"""What a server is started with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spectra.bases.prediction import PREDICTION_TYPE
from spectra.bases.quantisation import QUANTIZE, SPECTRA_FROM
from spectra.bases.single_file import COMPONENTS_FROM
from spectra.serving.network import NetworkSettings
from spectra.settings import check_ranges, setting


@dataclass(frozen=True)
class BaseSettings:
    """The base that a server has in memory, and how it is loaded."""

    base: str = setting(
        "", "Base model: a diffusers folder, a .safetensors checkpoint or a hub id.", default_text="embedded"
    )
    components_from: str = setting(**COMPONENTS_FROM)
    prediction_type: str = setting(**PREDICTION_TYPE)
    dtype: str = setting("float32", "Precision of the weights.", choices=("float32", "float16", "bfloat16"))
    quantize: str = setting(**QUANTIZE)
    spectra_from: str = setting(**SPECTRA_FROM)


@dataclass(frozen=True)
class ServeSettings(NetworkSettings, BaseSettings):
    """The base and the shifts that are served, where, and how much one request may ask for."""

    shifts: Path = setting(
        Path("out"), "Folder of shifts, which are found by name in it and below; it may grow while it is served."
    )
    batch: int = setting(8, "Pictures drawn at once, whatever their shifts.", least=1, panel="Limits")
    wait: float = setting(0.05, "Seconds that a request waits for others of its batch.", least=0, panel="Limits")
    queue: int = setting(128, "Requests in flight; more are told to come again.", least=1, panel="Limits")
    timeout: float = setting(300.0, "Seconds after which a request is given up.", above=0, panel="Limits")
    max_images: int = setting(8, "Pictures of one request.", least=1, panel="Limits")
    max_steps: int = setting(100, "Denoising steps of one request.", least=1, panel="Limits")
    max_side: int = setting(2048, "Pixels of a picture's longer side.", least=8, panel="Limits")
    max_loaded: int = setting(
        256, "Shifts kept loaded; what was not used for longest is forgotten.", least=1, panel="Limits"
    )

    def __post_init__(self) -> None:
        """Refuse a value out of range by an InputError."""
        check_ranges(self)
