"""The content hash of a shift file, which proves that it holds what was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from spectra.errors import ShiftFileError


class ContentHash:
    """The first 32 hex digits of the SHA-256 over everything a file says: its metadata, then its tensors."""

    def __init__(self, strings: Mapping[str, str]) -> None:
        hashed = {key: value for key, value in strings.items() if key != "content_hash"}
        self._digest = hashlib.sha256(json.dumps(hashed, ensure_ascii=False, sort_keys=True).encode())

    def add(self, key: str, dtype: str, size: int, data: bytes) -> None:
        """Adds one tensor: its key, its dtype's name, its number of values, and their bytes; in order of keys."""
        self._digest.update(f"\n{key} {dtype} {size}\n".encode())
        self._digest.update(data)

    def hexdigest(self) -> str:
        """The hash of all that was added."""
        return self._digest.hexdigest()[:32]


def check_content(expected: str, found: str) -> None:
    """Compares the content hash that a file states with the one of what was read.

    Raises:
        ShiftFileError: they differ.
    """
    if found != expected:
        raise ShiftFileError(
            f"its content hash should be {expected} but is {found}: the file was changed or damaged "
            "after it was written; fetch or make it again"
        )
