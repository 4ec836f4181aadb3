"""Versions that files name: of spectra, and of the packages that decide what a picture or a shift looks like."""

from __future__ import annotations

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """Versions of spectra, torch and diffusers, by name."""
    from importlib import metadata

    return {"spectra": __version__} | {name: metadata.version(name) for name in ("torch", "diffusers")}
