"""A spectral shift: one vector per weight, in memory and as a file.

    two or more dimensions   W_delta = U diag(ReLU(sigma + scale * delta)) V^T
    one dimension            w_delta = w + scale * delta

(SVDiff, arXiv:2303.11305, section 3.1.) A shift is plain data, numpy only; how it acts on a model is in
`spectra.adapter`. The file format is described in `docs/file-format.md`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from spectra.errors import ShiftFileError
from spectra.files import atomic_write
from spectra.metadata import (
    FINGERPRINT_DIGITS,
    JSON,
    ShiftMetadata,
    base_fingerprint,
    check_version,
    from_strings,
    to_strings,
)

__all__ = [
    "FINGERPRINT_DIGITS",
    "JSON",
    "Delta",
    "Precision",
    "ShiftMetadata",
    "SpectralShift",
    "base_fingerprint",
    "read_shift",
    "write_shift",
]

Delta: TypeAlias = npt.NDArray[np.float32]
Precision: TypeAlias = Literal["float32", "float16"]

_SUFFIX = ".delta"
_CODES: dict[Precision, str] = {"float32": "F32", "float16": "F16"}
_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)+")


class SpectralShift(Mapping[str, Delta]):
    """An immutable mapping from weight names to delta vectors, in name order.

    A name is `<component>.<module path>`, such as `unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q`. A
    delta is float32, as long as its weight has singular values (as the weight itself, if that is 1-D), in their unit.

    Attributes:
        metadata: where it comes from and what it fits.
        precision: that its values had in the file they were read from.
    """

    __slots__ = ("_deltas", "metadata", "precision")

    def __init__(
        self,
        deltas: Mapping[str, npt.NDArray[np.floating]],
        metadata: ShiftMetadata,
        *,
        precision: Precision = "float32",
    ) -> None:
        """Copies the values and checks them.

        Args:
            deltas: vectors of floats by weight name, at least one.
            metadata: must hold a fingerprint for exactly these names.
            precision: of the values, if they have been rounded.

        Raises:
            ShiftFileError: a name that is none, a delta that is not a vector of finite floats, or fingerprints for
                other names.
        """
        if not deltas:
            raise ShiftFileError("expected at least one delta, got none; choose a target that matches some weights")
        self._deltas = {name: _vector(name, deltas[name]) for name in sorted(deltas)}
        self.metadata = metadata
        self.precision = precision
        odd = sorted(self._deltas.keys() ^ metadata.fingerprints.keys())
        if odd:
            raise ShiftFileError(
                f"expected one base fingerprint per delta, but {odd[0]} has only one of the two ({len(odd)} such names)"
            )
        for name, digits in metadata.fingerprints.items():
            if not re.fullmatch(rf"[0-9a-f]{{{FINGERPRINT_DIGITS}}}", digits):
                raise ShiftFileError(
                    f"{name}: expected a fingerprint of {FINGERPRINT_DIGITS} hex digits, got {digits!r}"
                )

    def __getitem__(self, name: str) -> Delta:
        return self._deltas[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._deltas)

    def __len__(self) -> int:
        return len(self._deltas)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SpectralShift):
            return NotImplemented
        return (
            self.metadata == other.metadata
            and self._deltas.keys() == other._deltas.keys()
            and all(np.array_equal(delta, other[name]) for name, delta in self.items())
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"SpectralShift({len(self)} deltas, {self.floats} floats, base {self.metadata.base!r})"

    @property
    def floats(self) -> int:
        """Number of floats in all deltas together."""
        return sum(delta.size for delta in self.values())


def _vector(name: str, delta: npt.NDArray[np.floating]) -> Delta:
    if not _NAME.fullmatch(name):
        raise ShiftFileError(f"expected a weight name such as 'unet.conv_in', got {name!r}")
    values = np.asarray(delta)
    if not np.issubdtype(values.dtype, np.floating):
        raise ShiftFileError(f"{name}: expected a delta of floats, got {values.dtype}")
    if values.ndim != 1 or values.size == 0:
        raise ShiftFileError(f"{name}: expected a delta of shape [n], n > 0, got shape {list(values.shape)}")
    with np.errstate(over="ignore"):
        copied: Delta = np.array(values, dtype=np.float32)
    _check_finite(name, copied, "the shift cannot be used; if it was just trained, train with a lower --lr")
    copied.flags.writeable = False
    return copied


def _check_finite(name: str, values: npt.NDArray[np.floating], remedy: str) -> None:
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise ShiftFileError(f"{name}: {bad} of {values.size} values of the delta are not finite; {remedy}")


def write_shift(
    shift: SpectralShift, path: str | os.PathLike[str], *, dtype: Precision = "float32", force: bool = False
) -> int:
    """Write a shift as a safetensors file; the same shift always gives the same bytes.

    Args:
        shift: what to write.
        path: of the file. It appears whole or not at all.
        dtype: of the values in the file. float16 halves the file; its smallest step is 6e-8, its largest value 65504.
        force: replace a file that exists.

    Returns:
        Bytes written.

    Raises:
        ShiftFileError: a value that float16 cannot hold, or metadata that JSON cannot.
        OutputError: the file exists and `force` is not given, or cannot be written.
    """
    if dtype not in _CODES:
        raise ShiftFileError(f"expected dtype 'float32' or 'float16', got {dtype!r}")
    tensors: dict[str, npt.NDArray[np.floating]] = {}
    for name, delta in shift.items():
        with np.errstate(over="ignore"):
            values = delta.astype(np.dtype(dtype).newbyteorder("<"))
        _check_finite(name, values, "they do not fit into float16; write float32")
        tensors[name + _SUFFIX] = values
    strings = to_strings(replace(shift.metadata, content_hash=""))
    strings["content_hash"] = _content_hash(strings, tensors)
    data = _serialize(strings, tensors, _CODES[dtype])
    with atomic_write(Path(path), force=force) as temporary:
        temporary.write_bytes(data)
    return len(data)


def _serialize(strings: dict[str, str], tensors: Mapping[str, npt.NDArray[np.floating]], code: str) -> bytes:
    """The safetensors layout: header length (8 bytes, little endian), JSON header padded to 8 bytes, the data.

    Written here because safetensors orders the metadata at random, and a shift should give the same bytes each time.
    """
    header: dict[str, object] = {"__metadata__": strings}
    offset = 0
    for key in sorted(tensors):
        values = tensors[key]
        header[key] = {"dtype": code, "shape": list(values.shape), "data_offsets": [offset, offset + values.nbytes]}
        offset += values.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(tensors[key].tobytes() for key in sorted(tensors))


def _content_hash(strings: Mapping[str, str], tensors: Mapping[str, npt.NDArray[np.floating]]) -> str:
    """The first 32 hex digits of the SHA-256 over everything the file says: its metadata and its tensors."""
    described = {key: value for key, value in strings.items() if key != "content_hash"}
    digest = hashlib.sha256(json.dumps(described, ensure_ascii=False, sort_keys=True).encode())
    for key in sorted(tensors):
        digest.update(f"\n{key} {tensors[key].dtype.name} {tensors[key].size}\n".encode())
        digest.update(tensors[key].tobytes())
    return digest.hexdigest()[:32]


def read_shift(path: str | os.PathLike[str]) -> SpectralShift:
    """Read a shift file, strictly: everything in it is understood, and its content hash is right, or it is refused.

    Args:
        path: of the file; float32 or float16. float16 values are widened, which is exact.

    Raises:
        ShiftFileError: no such file, not a shift, damaged, or of a later format version.
    """
    try:
        return _read(Path(path))
    except ShiftFileError as error:
        raise ShiftFileError(f"{os.fspath(path)}: {error}") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise ShiftFileError(
            f"{os.fspath(path)}: cannot be read ({reason}); check the path and its permissions"
        ) from error


def _read(path: Path) -> SpectralShift:
    if not path.is_file():
        raise ShiftFileError("it is a folder; name a file" if path.is_dir() else "no such file; check the path")
    try:
        with safe_open(path, framework="numpy") as file:
            strings: dict[str, str] = file.metadata() or {}
            check_version(strings)
            keys = sorted(file.keys())
            codes = {_check_entry(key, file.get_slice(key)) for key in keys}
            tensors = {key: file.get_tensor(key) for key in keys}
    except (SafetensorError, UnicodeError) as error:
        raise ShiftFileError(f"not a whole safetensors file ({error}); fetch or make it again") from error
    if len(codes) > 1:
        raise ShiftFileError("expected all deltas in one dtype, got both F16 and F32; the file is damaged")
    names = [key.removesuffix(_SUFFIX) for key in keys]
    metadata = from_strings(strings, names)
    found = _content_hash(strings, tensors)
    if found != metadata.content_hash:
        raise ShiftFileError(
            f"its content hash should be {metadata.content_hash} but is {found}: the file was changed or damaged "
            "after it was written; fetch or make it again"
        )
    precision: Precision = "float16" if codes == {"F16"} else "float32"
    return SpectralShift(dict(zip(names, tensors.values(), strict=True)), metadata, precision=precision)


def _check_entry(key: str, entry: object) -> str:
    """The dtype code of one tensor of the file, before it is read."""
    code: str = entry.get_dtype()  # type: ignore[attr-defined]
    shape: list[int] = entry.get_shape()  # type: ignore[attr-defined]
    if not key.endswith(_SUFFIX):
        raise ShiftFileError(f"expected keys that end in {_SUFFIX!r}, got {key!r}; the file holds something else too")
    if code not in _CODES.values():
        raise ShiftFileError(f"{key}: expected F32 or F16, got {code}")
    if len(shape) != 1:
        raise ShiftFileError(f"{key}: expected a delta of shape [n], got shape {shape}")
    return code
