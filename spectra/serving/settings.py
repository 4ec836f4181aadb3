"""What a server is started with."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from spectra.bases.prediction import PREDICTION_TYPE
from spectra.bases.quantisation import QUANTIZE, SPECTRA_FROM
from spectra.bases.single_file import COMPONENTS_FROM
from spectra.errors import InputError
from spectra.settings import check_ranges, setting


@dataclass(frozen=True)
class ServeSettings:
    """The base and the shifts that are served, where, and how much one request may ask for."""

    base: str = setting(
        "", "Base model: a diffusers folder, a .safetensors checkpoint or a hub id.", default_text="embedded"
    )
    components_from: str = setting(**COMPONENTS_FROM)
    prediction_type: str = setting(**PREDICTION_TYPE)
    dtype: str = setting("float32", "Precision of the weights.", choices=("float32", "float16", "bfloat16"))
    quantize: str = setting(**QUANTIZE)
    spectra_from: str = setting(**SPECTRA_FROM)
    shifts: Path = setting(
        Path("out"), "Folder of shifts, which are found by name in it and below; it may grow while it is served."
    )
    host: str = setting("127.0.0.1", "Address to listen at; all but this machine's own take a token.", panel="Network")
    port: int = setting(8000, "Port to listen at; 0 for any that is free.", least=0, most=65535, panel="Network")
    token_file: Path | None = setting(
        None,
        "File with the token that every request must bear; by default the variable SPECTRA_TOKEN has it.",
        panel="Network",
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

    @property
    def needs_token(self) -> bool:
        """Whether others than this machine can reach the address."""
        if self.host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return True


def read_token(settings: ServeSettings, environment: str) -> str:
    """The token of a server, empty where it takes none.

    Args:
        environment: what the variable SPECTRA_TOKEN holds.

    Raises:
        InputError: the file cannot be read or is empty, or an address takes a token and none is given.
    """
    token = environment.strip()
    if settings.token_file is not None:
        try:
            token = settings.token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{settings.token_file}: expected a text file with a token ({error})") from error
        if not token:
            raise InputError(f"{settings.token_file}: expected a token, the file is empty")
    if settings.needs_token and not token:
        raise InputError(
            f"{settings.host} can be reached by others: give a token by --token-file FILE or the variable "
            "SPECTRA_TOKEN, or serve this machine alone with --host 127.0.0.1"
        )
    return token
