"""Tensors of a pickle that its user trusts, by torch's own reader of weights alone, behind a look at what it would do.

That reader runs no code of the file, but would unpack what a zip file compressed a thousandfold, fill a bytearray of
any length, and give tensors that are larger than what is stored.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from spectra.errors import FormatError
from spectra.io.safetensors_header import MOST_TENSORS

_MADE_OF = (
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch Size",
)
_LEGACY_PICKLES = 5
_DEEPEST = 20


def read_pickle(path: Path, *, allowed: bool) -> dict[str, Tensor]:
    """The tensors of a pickle, whose dicts are joined by dots.

    Raises:
        FormatError: it is not allowed, or holds anything but tensors.
    """
    if not path.is_file():
        raise FormatError(f"{path}: no such file; check the path")
    if not allowed:
        raise FormatError(
            f"{path}: a pickle, which can run code; pass --allow-pickle if you trust it, and then only tensors are read"
        )
    try:
        _check(path)
        found: dict[str, Tensor] = {}
        for key, tensor in _flat(torch.load(path, map_location="cpu", weights_only=True)):
            if len(found) >= MOST_TENSORS or tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
                raise ValueError("more tensors, or larger ones, than it stores")
            found[key] = tensor
        return found
    except Exception as error:  # pickle raises nearly anything on a damaged or hostile file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise FormatError(f"{path}: cannot be read as a pickle of tensors ({reason})") from error


def _check(path: Path) -> None:
    """Refuses what no dictionary of tensors needs, before anything is unpickled."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as stream:
            for _ in range(_LEGACY_PICKLES):
                _check_globals(stream)
        return
    with zipfile.ZipFile(path) as archive:
        if sum(each.file_size for each in archive.infolist()) > path.stat().st_size:
            raise ValueError("its entries are compressed, or lie upon each other")
        for entry in archive.infolist():
            if entry.filename.endswith("data.pkl"):
                with archive.open(entry) as stream:
                    _check_globals(stream)  # type: ignore[arg-type]


def _check_globals(stream: BinaryIO) -> None:
    """Reads one pickle without doing what it says, and refuses one that names other functions than tensors take."""
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"):
            raise ValueError(f"it uses {opcode.name}")
        if opcode.name == "GLOBAL" and argument not in _MADE_OF and not _is_storage(str(argument)):
            raise ValueError(f"it names {argument}")


def _is_storage(name: str) -> bool:
    module, _, kind = name.partition(" ")
    return module in ("torch", "torch.storage") and kind.endswith("Storage") and kind.isalpha()


def _flat(value: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield prefix, value.detach()
        return
    if not isinstance(value, Mapping) or depth > _DEEPEST:
        raise ValueError(f"{prefix or 'it'} is {type(value).__name__}, no tensor")
    for key, inner in value.items():
        yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key), depth + 1)
