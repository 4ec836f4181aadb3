"""`spectra inspect`: what a shift file holds."""

from __future__ import annotations

import typer


def register(app: typer.Typer) -> None:
    """Adds the command."""
