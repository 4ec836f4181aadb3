"""Folder and size limit of the spectrum cache, as the environment says."""

from __future__ import annotations

import os
import re
from pathlib import Path

from spectra.errors import InputError

FOLDER_VARIABLE = "SPECTRA_CACHE"
LIMIT_VARIABLE = "SPECTRA_CACHE_LIMIT"

DEFAULT_LIMIT = 40 * 10**9
"""40 GB. The spectra of FLUX.1 take about 19 GB, of SDXL 4.4 GB, of Stable Diffusion 1.5 0.9 GB."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def default_root() -> Path:
    """`SPECTRA_CACHE`, else the platform's cache folder for this user."""
    given = os.environ.get(FOLDER_VARIABLE)
    if given:
        return Path(given).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("spectra", appauthor=False) / "spectra"


def prior_root() -> Path:
    """The folder of class pictures, inside the cache's, since they too can be made again."""
    return default_root() / "prior"


def default_limit() -> int:
    """`SPECTRA_CACHE_LIMIT` in bytes, else `DEFAULT_LIMIT`.

    Raises:
        InputError: it is no size.
    """
    given = os.environ.get(LIMIT_VARIABLE)
    return parse_size(given, what=LIMIT_VARIABLE) if given else DEFAULT_LIMIT


def parse_size(text: str, *, what: str = "size") -> int:
    """The bytes of a size such as `20GB`, `500 MiB`, `1.5G` or `1000`.

    Raises:
        InputError: it is no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?\s*", text.upper())
    if match is None:
        raise InputError(f"{what}: expected a size such as 20GB, 500MiB or 1000 (bytes), got {text!r}")
    return int(float(match[1]) * _UNITS[match[2] or ""])
