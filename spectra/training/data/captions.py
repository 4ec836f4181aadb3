"""Captions beside pictures: `name.txt`, or a picture's `file_name` in `metadata.jsonl` or `captions.json`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from spectra.errors import PictureError

PLACE = "{caption}"
"""What stands for a picture's own caption in a prompt."""

SUFFIXES = (".txt", ".caption")
LISTS = ("metadata.jsonl", "captions.json")
KEYS = ("text", "caption", "prompt")
"""What a list may call a picture's caption; the first that is there counts."""

_MOST_BYTES = 2**16
_MOST_BYTES_OF_A_LIST = 2**26


def find_captions(pictures: Sequence[Path], files: Iterable[Path]) -> tuple[dict[Path, str], set[Path]]:
    """The captions of pictures, and the files that they are read from. A file of its own goes before a list.

    Args:
        pictures: their files.
        files: all files that lie in their folders.

    Raises:
        PictureError: a file that holds no captions as it should.
    """
    captions: dict[Path, str] = {}
    used: set[Path] = set()
    known = set(pictures)
    for file in sorted(files):
        if file.name in LISTS:
            used.add(file)
            listed = {file.parent / name: caption for name, caption in _read_list(file).items()}
            captions |= {path: caption for path, caption in listed.items() if path in known}
    for picture in pictures:
        for suffix in SUFFIXES:
            file = picture.with_suffix(suffix)
            if file.is_file():
                used.add(file)
                captions[picture] = _one_line(_read_text(file, _MOST_BYTES))
                break
    return {path: caption for path, caption in captions.items() if caption}, used


def fill_prompt(prompt: str, caption: str) -> str:
    """The prompt of a picture: its caption, in the prompt's place for it if there is one; without a caption the prompt.

    Commas and blanks around the place go with it where there is no caption.
    """
    if PLACE not in prompt:
        return caption or prompt
    if caption:
        return prompt.replace(PLACE, caption)
    return ", ".join(filter(None, (part.strip(" ,;:") for part in prompt.split(PLACE))))


def _read_list(path: Path) -> dict[str, str]:
    """Captions by file name: a JSON object a line, a list of them, or one object of captions by file name."""
    text = _read_text(path, _MOST_BYTES_OF_A_LIST)
    try:
        if path.suffix == ".jsonl":
            entries: Any = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PictureError(f"{path}: not JSON ({error}); repair or remove it") from error
    if isinstance(entries, dict):
        entries = [{"file_name": name, "text": caption} for name, caption in entries.items()]
    found = {}
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries], 1):
        name = entry.get("file_name") if isinstance(entry, dict) else None
        caption = next((entry[key] for key in KEYS if key in entry), None) if name else None
        if not isinstance(name, str) or not isinstance(caption, str):
            raise PictureError(
                f"{path}: entry {number}: expected an object with file_name and {' or '.join(KEYS)}, as in "
                '{"file_name": "a.png", "text": "a red fox"}; repair or remove it'
            )
        found[name] = _one_line(caption)
    return found


def _read_text(path: Path, most: int) -> str:
    try:
        if path.stat().st_size > most:
            raise PictureError(
                f"{path}: expected captions, at most {most:,} bytes of them, got {path.stat().st_size:,}"
            )
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PictureError(f"{path}: not a text in UTF-8; expected a caption") from error
    except OSError as error:
        raise PictureError(f"{path}: cannot be read ({error.strerror}); expected a caption") from error


def _one_line(text: str) -> str:
    return " ".join(text.split())
