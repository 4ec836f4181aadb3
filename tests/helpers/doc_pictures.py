"""The pictures of the documents, and what made each: docs/pictures/made.json.

A picture that a block makes is stale when its commands are others now, or when a setting that they meant by default has
another value. Settings that did not exist when it was made do not count: they begin with what was done before.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import doc_blocks

import spectra

FOLDER = doc_blocks.DOCS / "pictures"
RECORD = FOLDER / "made.json"


def keep(picture: str, source: Path, block: doc_blocks.Block) -> None:
    """Take a picture that a block has made among those of the documents."""
    shutil.copyfile(source, FOLDER / picture)
    note(picture, block)


def note(picture: str, block: doc_blocks.Block) -> None:
    """Write down what has made a picture."""
    made = record()
    made[picture] = {
        "page": str(block.page.relative_to(doc_blocks.ROOT)),
        "version": spectra.__version__,
        "commands": [_as_written(command) for command in block.commands()],
    }
    RECORD.write_text(json.dumps(dict(sorted(made.items())), indent=1) + "\n", encoding="utf-8")


def record() -> dict[str, Any]:
    """What made each picture; `by` where that is a bench or a script."""
    found: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    return found


def makers() -> dict[str, doc_blocks.Block]:
    """The block that makes each picture."""
    every = [block for page in doc_blocks.pages() for block in doc_blocks.blocks(page)]
    return {picture: block for block in every for picture, _ in block.makes}


def staleness(picture: str) -> list[str]:
    """Why a picture of a block is not what the block would make now; empty if it is."""
    was, block = record().get(picture), makers()[picture]
    if was is None or "commands" not in was:
        return ["nothing is written down of what made it"]
    now = [_as_written(command) for command in block.commands()]
    if [each["command"] for each in was["commands"]] != [each["command"] for each in now]:
        return ["its commands have changed"]
    return [
        f"{key} was {value!r} and is {after['settings'][key]!r}: {after['command']}"
        for before, after in zip(was["commands"], now, strict=True)
        for key, value in before["settings"].items()
        if key in after["settings"] and after["settings"][key] != value
    ]


def _as_written(command: list[str]) -> dict[str, Any]:
    settings = doc_blocks.settings_of(command) if command[0] == "spectra" else {}
    return {"command": " ".join(command), "settings": json.loads(json.dumps(settings, default=str))}
