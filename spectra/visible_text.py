"""Text of strangers as it may be shown: what a terminal would obey, or hide, stands there as an escape.

File names, metadata, keys and values come from anywhere. ESC, BEL and the C1 bytes move the cursor or rename the
window; marks of direction turn a line around; lone surrogates cannot be encoded at all.
"""

from __future__ import annotations

import re

LONGEST_LINE = 1000
"""Characters of a message; a longer one loses its middle, so that what failed and what to do are both left."""

_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
"""C0, DEL and C1, line separators, marks of direction, surrogates, and tags, which are letters that nobody sees."""


def visible(text: str, keep: str = "") -> str:
    r"""Text with every control character as an escape such as `\x1b`, apart from those to keep."""
    return _CONTROLS.sub(lambda found: found[0] if found[0] in keep else _escape(ord(found[0])), text)


def visible_json(text: str) -> str:
    r"""JSON that means the same, with every control character as JSON's own escape, `\u001b`."""
    return _CONTROLS.sub(lambda found: _json_escape(found[0]), text)


def one_line(text: str) -> str:
    """A message on one line of at most about `LONGEST_LINE` characters, all of them visible."""
    line = visible(" ".join(text.split()))
    if len(line) <= LONGEST_LINE:
        return line
    first, last = LONGEST_LINE * 3 // 5, LONGEST_LINE // 3
    return f"{line[:first]} [{len(line) - first - last:,} characters left out] {line[-last:]}"


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
