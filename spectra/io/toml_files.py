"""TOML files: read, and the values of one written."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from spectra.errors import InputError


def read_toml(path: Path, option: str) -> dict[str, Any]:
    """The values in a TOML file that was given as `option`.

    Raises:
        InputError: no such file, or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows marks the beginning of a text
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); {option} expects a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file ({error})") from error


def toml_value(value: Any) -> str:
    """A string, number, boolean or list of these as TOML.

    What JSON writes of them is TOML too, but for DEL, which JSON leaves as it is.
    """
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
