"""Values in JSON and TOML of others: parsed, and of a kind that all code behind can rely on.

Both allow what nothing here needs and much breaks on: numbers without end, infinity written as 1e999, nesting that uses
up the stack of whoever walks it, halves of surrogate pairs, and NUL in what may become a path.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

LONGEST_JSON = 1 << 21
"""A limit in bytes. A list of two bytes takes 64 in memory."""

_DEEPEST = 100
_LEAST, _MOST = -(1 << 63), (1 << 64) - 1


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is none, is longer than `LONGEST_JSON`, or holds what `check_values` refuses.
    """
    if len(text) > LONGEST_JSON:
        raise ValueError(f"more than {LONGEST_JSON:,} bytes")
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    check_values(value)
    return value


def read_json(path: Path) -> Any:
    """The value in a JSON file.

    Raises:
        ValueError: see `parse_json`.
        OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        return parse_json(stream.read(LONGEST_JSON + 1))


def check_values(value: Any, *, settings: bool = False) -> None:
    """Checks what was parsed.

    Args:
        value: of JSON or TOML.
        settings: it may name paths, so NUL is refused; numbers are not looked at, since each has a range of its own.

    Raises:
        ValueError: lists and tables in each other deeper than 100, a whole number of more than 64 bits, one that is
            not finite, text that is not Unicode.
    """
    left = [(value, 0)]
    while left:
        each, depth = left.pop()
        if depth > _DEEPEST:
            raise ValueError("nested too deep")
        if isinstance(each, dict):
            left += [(inner, depth + 1) for pair in each.items() for inner in pair]
        elif isinstance(each, list):
            left += [(inner, depth + 1) for inner in each]
        elif isinstance(each, str):
            if not each.isascii():
                each.encode()  # UnicodeEncodeError is a ValueError
            if settings and "\0" in each:
                raise ValueError("text with a NUL character")
        elif isinstance(each, int) and not _LEAST <= each <= _MOST:
            raise ValueError("a whole number of more than 64 bits")
        elif isinstance(each, float) and not (settings or math.isfinite(each)):
            raise ValueError("a number that is not finite")
