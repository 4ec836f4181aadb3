"""Inputs that were found once, kept in tests/hostile/corpus."""

from __future__ import annotations

from pathlib import Path

CORPUS = Path(__file__).parents[2] / "hostile" / "corpus"


def corpus(suffix: str) -> list[bytes]:
    """The kept inputs with this ending."""
    return [path.read_bytes() for path in sorted(CORPUS.glob(f"*{suffix}"))]
