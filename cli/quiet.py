"""Keeps other libraries' remarks off the terminal, where they would bury one clear line."""

from __future__ import annotations

import os


def quiet_libraries() -> None:
    """Only errors of the libraries that log on import, unless the user has set a level. Call before importing them."""
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
