"""The metadata of a shift, and the strings of a safetensors header that hold it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NoReturn, TypeAlias

from spectra.errors import ShiftFileError
from spectra.io.foreign_values import parse_json
from spectra.spectrum.fingerprint import RESHAPE

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

Rounded: TypeAlias = Literal["float16", "bfloat16"]

STATE_FORMAT = "spectra-training-state"
"""What a training's state says that it is; `spectra.shift.shift_file` reads the shift in it."""

FORMAT = "spectra-shift"
VERSION = 1
PACKED_VERSION = 2
"""The version of packed files (spectra.shift.packing), so that a reader that does not know them says so."""

PARTS_VERSION = 3
"""The version of files with outer terms, words or deltas without their zeros, packed or not."""

FINGERPRINT_DIGITS = 8
"""Digits of each weight's fingerprint in a file: 32 bits tell which layer is wrong, all of them whether the base is."""

ROUNDED: tuple[Rounded, ...] = ("float16", "bfloat16")
"""The dtypes that bases are rounded to, in the order in which a copy is looked for."""

ROUNDED_DIGITS = 4
"""Digits of the fingerprints of each weight's rounded copies in a file; only all of them together decide anything."""

_TEXT = ("base", "base_dtype", "reshape", "subset", "licence")
_REQUIRED = ("format", "version", "base", "base_fingerprint", "base_dtype", "reshape", "fingerprints", "content_hash")
_OPTIONAL = (
    *("rounded_float16", "rounded_bfloat16", "ndims", "subset", "settings", "seed", "versions", "licence"),
    *("parents", "recipe"),
)


@dataclass(frozen=True)
class ShiftMetadata:
    """Origin of a shift, and the base that it fits.

    Attributes:
        base: id or path by which the base was named, for people; the fingerprints decide.
        fingerprints: by weight name, the first 8 hex digits of `fingerprint.fingerprint` of the base's weight.
        base_dtype: of the base's weights when their spectra were taken, such as "float32".
        reshape: how a weight becomes a matrix.
        ndims: by weight name, how many dimensions the weight has; empty where that is not known.
        rounded: by dtype ("float16", "bfloat16") and weight name, the first 4 hex digits of the fingerprint that the
            base's weight has when it is rounded to that dtype; empty where that is not known.
        subset: what was trained, as given to `--target`.
        settings: of the training, all of them.
        seed: of the training.
        versions: of the packages that made it.
        licence: of the shift, if its maker names one.
        parents: content hashes of the shifts that this one was made from.
        recipe: how it was made from its parents.
        content_hash: of the file it was read from; empty in a shift that was not. Not compared: two shifts that
            differ in nothing else are equal.
    """

    base: str
    fingerprints: Mapping[str, str]
    base_dtype: str = "float32"
    reshape: str = RESHAPE
    ndims: Mapping[str, int] = field(default_factory=dict)
    rounded: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    subset: str = ""
    settings: Mapping[str, JSON] = field(default_factory=dict)
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    licence: str = ""
    parents: tuple[str, ...] = ()
    recipe: JSON = None
    content_hash: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for name in ("fingerprints", "ndims", "settings", "versions"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        rounded = {dtype: MappingProxyType(dict(digits)) for dtype, digits in self.rounded.items()}
        object.__setattr__(self, "rounded", MappingProxyType(rounded))
        object.__setattr__(self, "parents", tuple(self.parents))

    @property
    def base_fingerprint(self) -> str:
        """One name for all the weights that the shift fits: 16 hex digits made of their fingerprints."""
        digest = hashlib.sha256()
        for name in sorted(self.fingerprints):
            digest.update(f"{name}\0{self.fingerprints[name]}\n".encode())
        return digest.hexdigest()[:16]


def to_strings(metadata: ShiftMetadata) -> dict[str, str]:
    """The header's strings, without the content hash. What is empty is left out, to keep small shifts small.

    Raises:
        ShiftFileError: settings or a recipe that JSON cannot hold (NaN, infinity, an object), text that is not
            Unicode (a path in another encoding), or parents that are no content hashes.
    """
    _check_parents(metadata.parents)
    strings = {
        "format": FORMAT,
        "version": str(VERSION),
        **{key: getattr(metadata, key) for key in _TEXT},
        "base_fingerprint": metadata.base_fingerprint,
        "fingerprints": _join(metadata.fingerprints),
        **{f"rounded_{dtype}": _join(metadata.rounded.get(dtype, {})) for dtype in ROUNDED},
        "ndims": _join(metadata.ndims),
        **{key: _dump(key, dict(getattr(metadata, key)) or None) for key in ("settings", "versions")},
        "seed": _dump("seed", metadata.seed),
        "parents": ",".join(metadata.parents),
        "recipe": _dump("recipe", metadata.recipe),
    }
    for key, value in strings.items():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ShiftFileError(f"the shift's {key} is not Unicode text: {value!r}; name it otherwise") from error
    return {key: value for key, value in strings.items() if value or key in _REQUIRED}


def _join(digits: Mapping[str, str | int]) -> str:
    return "".join(str(digits[name]) for name in sorted(digits))


def from_strings(strings: Mapping[str, str], names: Iterable[str]) -> ShiftMetadata:
    """The metadata held by a header's strings.

    Args:
        strings: of the header, the content hash included.
        names: of the weights, to which the fingerprints belong in sorted order.

    Raises:
        ShiftFileError: another format or a later version; an entry that is missing, unknown or malformed.
    """
    check_version(strings)
    missing = [key for key in _REQUIRED if key not in strings]
    if missing:
        raise ShiftFileError(f"the metadata lacks {', '.join(missing)}; the file is damaged or was not made by spectra")
    unknown = sorted(set(strings) - set(_REQUIRED) - set(_OPTIONAL))
    if unknown:
        raise ShiftFileError(
            f"the metadata holds {', '.join(map(repr, unknown))}, which format version {strings['version']} does not "
            "know; update spectra, or write the file again"
        )
    if not re.fullmatch(r"[0-9a-f]{16}", strings["base_fingerprint"]):
        _malformed("base_fingerprint", "16 hex digits", strings["base_fingerprint"])
    if strings["reshape"] != RESHAPE:
        raise ShiftFileError(
            f"the shift was trained with the reshape rule {strings['reshape']!r}, this version knows {RESHAPE!r} only"
        )
    seed = strings.get("seed", "")
    if not re.fullmatch(r"(-?[0-9]{1,20})?", seed):
        _malformed("seed", "a whole number", seed)
    parents = tuple(strings["parents"].split(",")) if strings.get("parents") else ()
    _check_parents(parents)
    ordered = sorted(names)
    versions = _load_dict("versions", strings)
    if not all(isinstance(version, str) for version in versions.values()):
        _malformed("versions", "a JSON object of strings", strings["versions"][:40])
    return ShiftMetadata(
        **{key: strings.get(key, "") for key in _TEXT},
        fingerprints=_split("fingerprints", strings["fingerprints"], ordered, FINGERPRINT_DIGITS),
        rounded={
            dtype: _split(f"rounded_{dtype}", strings[f"rounded_{dtype}"], ordered, ROUNDED_DIGITS)
            for dtype in ROUNDED
            if f"rounded_{dtype}" in strings
        },
        ndims=_split_ndims(strings.get("ndims", ""), ordered),
        settings=_load_dict("settings", strings),
        seed=int(seed) if seed else None,
        versions={package: str(version) for package, version in versions.items()},
        parents=parents,
        recipe=_load("recipe", strings.get("recipe", "null")),
        content_hash=strings["content_hash"],
    )


def check_version(strings: Mapping[str, str]) -> None:
    """Refuses a header that is not of a shift, or of a version that cannot be read.

    Raises:
        ShiftFileError: it is one of these.
    """
    if strings.get("format") != FORMAT:
        raise ShiftFileError(
            f"expected a spectral shift (format {FORMAT!r} in its metadata), this is another file; spectra extract "
            "makes a shift of a LoRA or a fine-tuned model, spectra convert of other SVDiff files and embeddings"
        )
    version = strings.get("version", "")
    if not re.fullmatch(r"[0-9]{1,9}", version) or int(version) < 1:
        _malformed("version", "a whole number", version)
    if int(version) > PARTS_VERSION:
        raise ShiftFileError(
            f"the file is of format version {version}, this spectra reads up to version {PARTS_VERSION}; update spectra"
        )


def version_of(strings: Mapping[str, str]) -> int:
    """The format version of a header that `check_version` has seen."""
    return int(strings["version"])


def is_packed(strings: Mapping[str, str]) -> bool:
    """Whether a header that `check_version` has seen is of a packed file."""
    return version_of(strings) == PACKED_VERSION or (version_of(strings) == PARTS_VERSION and "steps" in strings)


def _check_parents(parents: tuple[str, ...]) -> None:
    for parent in parents:
        if not re.fullmatch(r"[0-9a-f]{32}", parent):
            _malformed("parents", "content hashes of 32 hex digits", parent)


def _split(key: str, joined: str, names: list[str], n: int) -> dict[str, str]:
    if not re.fullmatch(rf"[0-9a-f]{{{n * len(names)}}}", joined):
        _malformed(key, f"{n} hex digits for each of {len(names)} weights", f"{joined[:12]}...")
    return {name: joined[i * n : (i + 1) * n] for i, name in enumerate(names)}


def _split_ndims(joined: str, names: list[str]) -> dict[str, int]:
    if joined and not re.fullmatch(rf"[1-9]{{{len(names)}}}", joined):
        _malformed("ndims", f"a digit for each of {len(names)} weights", f"{joined[:12]}...")
    return dict(zip(names, map(int, joined), strict=False))


def _dump(key: str, value: JSON) -> str:
    if value is None:
        return ""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise ShiftFileError(f"the shift's {key} cannot be written as JSON: {error}") from error


def _load(key: str, text: str) -> JSON:
    try:
        value: JSON = parse_json(text)
    except ValueError as error:
        _malformed(key, "JSON", f"{text[:40]} ({error})")
    return value


def _load_dict(key: str, strings: Mapping[str, str]) -> dict[str, JSON]:
    value = _load(key, strings.get(key, "{}"))
    if not isinstance(value, dict):
        _malformed(key, "a JSON object", strings[key][:40])
    return value


def _malformed(key: str, expected: str, got: str) -> NoReturn:
    raise ShiftFileError(f"the metadata's {key!r} should be {expected}, but is {got!r}; the file is damaged or foreign")
