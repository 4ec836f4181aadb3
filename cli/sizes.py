"""Bytes as people read them."""

from __future__ import annotations


def readable(count: int) -> str:
    """Three digits and a decimal unit: 850 bytes, 17.7 kB, 889 MB."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 99.95 else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
