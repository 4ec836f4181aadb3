"""TOML files: read, and the values of one written."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from spectra.errors import InputError
from spectra.io.foreign_values import check_values

_LONGEST = 1 << 18
"""A limit in bytes; a thousand concepts take less."""

_TOKENS = re.compile(
    r"""(?P<deep>(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){16})"""
    r"""|\"{3}(?:[^"\\]++|\\.|"(?!""))*+\"{3}|'{3}.*?'{3}|"(?:[^"\\\n]++|\\.)*+"?|'[^'\n]*+'?|\#[^\n]*+|[\w-]++|[^"'\#\w-]++""",
    re.DOTALL,
)
"""Strings and comments, so that what is in them is passed over, and keys of 16 parts, which take tomllib squares."""


def read_toml(path: Path, option: str) -> dict[str, Any]:
    """The values in a TOML file that was given as `option`.

    Raises:
        InputError: no such file, not TOML, or values that nothing here can use.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(_LONGEST + 1)
        if len(data) > _LONGEST:
            raise InputError(f"{path}: more than {_LONGEST:,} bytes; {option} expects a TOML file of settings")
        text = data.decode("utf-8-sig").replace("\r\n", "\n")  # Windows marks the beginning of a text
        if any(found["deep"] for found in _TOKENS.finditer(text)):
            raise InputError(f"{path}: keys in more than 16 parts; {option} expects a TOML file of settings")
        values = tomllib.loads(text)
        check_values(values, settings=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {option} expects a TOML file") from error
    except InputError:
        raise
    except RecursionError as error:
        raise InputError(f"{path}: nested too deep; {option} expects a TOML file of settings") from error
    except ValueError as error:  # not TOML, not UTF-8, numbers of thousands of digits, ...
        raise InputError(f"{path}: not a TOML file ({error}); {option} expects one of settings") from error
    return values


def toml_value(value: Any) -> str:
    """A string, number, boolean or list of these as TOML.

    What JSON writes of them is TOML too, but for DEL, which JSON leaves as it is.
    """
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
