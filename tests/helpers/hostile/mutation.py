"""Spoilt copies of inputs: bytes, headers, values, entries of pickles, chunks; checksums are made right again at times,
so that what lies behind them is reached.
"""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from spectra.io.safetensors_header import HeaderError, parse_header
from spectra.shift import shift_file

ESCAPES = "\x1b]0;owned\x07\x9b31m\u202e[red]x[/red]\x00"
TEXTS = [
    *("", "..", "../../etc/passwd", "/dev/zero", "a/b", "a\\b", ESCAPES, "x" * 5000, "\ud800", "é" * 300, "~nobody/x"),
    *(
        "nan",
        "1e999",
        "-1",
        "9" * 5000,
        "0x" + "f" * 400,
        "unet.a.delta",
        "__metadata__",
        "(a+)+$",
        "{left:>999999999}",
    ),
    *("[" * 2000, '{"a":' * 2000, "[" * 150 + "]" * 150, "true", "null", "spectra-shift", "1", "2", "3", "16777216"),
]
NUMBERS = [0, 1, -1, 2, 7, 8, 255, 2**31, 2**32, 2**53, 2**62, 2**63, 2**64, 10**30, -(2**63), 0.5, -0.0, 1e308, 1e-320]
WORDS = [
    "inf",
    "nan",
    "-inf",
    "1e999",
    "true",
    "[]",
    "{}",
    "''",
    "[[]]",
    "[1, 'a']",
    "1979-05-27",
    "0x" + "f" * 40,
    "-1",
]


def mutated(data: bytes, suffix: str, rng: random.Random) -> bytes:
    """A spoilt copy; the same generator gives the same."""
    kinds: dict[str, list[Callable[[bytes, random.Random], bytes]]] = {
        ".safetensors": [_bytes, _header, _header, _text_of_header, _values],
        ".toml": [_bytes, _toml, _toml, _toml],
        ".json": [_bytes, _json, _json],
        ".pt": [_bytes, _pickle, _pickle],
        ".png": [_bytes, _chunks],
    }
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(kinds[suffix])(data, rng)
    return data


def _bytes(data: bytes, rng: random.Random) -> bytes:
    found, place = bytearray(data), rng.randrange(len(data) + 1)
    match rng.randrange(6):
        case 0:
            del found[place : place + rng.choice((1, 2, 8, 100))]
        case 1:
            found[place:place] = rng.randbytes(rng.choice((1, 2, 8)))
        case 2:
            found[place:place] = found[place : place + rng.choice((4, 30, 200))]
        case 3:
            found = found[:place]
        case 4:
            found[place : place + 4] = rng.choice(
                (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\x80", b"\xff\xff\xff\x7f")
            )
        case _:
            for _ in range(rng.choice((1, 1, 3, 10))):
                if found:
                    found[rng.randrange(len(found))] = rng.randrange(256)
    return bytes(found)


def _spoilt(value: Any, rng: random.Random, depth: int = 0) -> Any:
    """A JSON value with one part of it replaced, left out, doubled or wrapped."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        found, key = dict(value), rng.choice(list(value))
        match rng.randrange(8):
            case 0:
                del found[key]
            case 1:
                found[rng.choice(TEXTS)] = found.pop(key)
            case 2:
                found[rng.choice(TEXTS)] = found[key]
            case _:
                found[key] = _spoilt(found[key], rng, depth + 1)
        return found
    if isinstance(value, list) and value and rng.random() < 0.9:
        items, place = list(value), rng.randrange(len(value))
        match rng.randrange(6):
            case 0:
                del items[place]
            case 1:
                items = items * rng.choice((2, 40))
            case _:
                items[place] = _spoilt(items[place], rng, depth + 1)
        return items
    if isinstance(value, str) and value and rng.random() < 0.4:
        if value[:1] in "[{":
            try:
                return json.dumps(_spoilt(json.loads(value), rng, depth + 1))
            except (ValueError, RecursionError):
                pass
        place = rng.randrange(len(value))
        return value[:place] + rng.choice((*TEXTS, "0", ",", "x")) + value[place + rng.randrange(3) :]
    return rng.choice([rng.choice(TEXTS), rng.choice(NUMBERS), None, True, [], {}, [value], {"a": value}, [[value]]])


def _split(data: bytes) -> tuple[bytes, bytes]:
    length = int.from_bytes(data[:8], "little")
    return data[8 : 8 + length], data[8 + length :]


def _joined(text: bytes, values: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text + values


def _header(data: bytes, rng: random.Random) -> bytes:
    """Another header over the same values."""
    text, values = _split(data)
    try:
        entries = json.loads(text)
        assert isinstance(entries, dict)
        strings = entries.get("__metadata__")
        if isinstance(strings, dict) and strings and rng.random() < 0.5:
            entries = {**entries, "__metadata__": _spoilt(strings, rng)}
        else:
            entries = _spoilt(entries, rng)
        spoilt = json.dumps(entries, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError, AssertionError, AttributeError):
        return _bytes(data, rng)
    return _hashed(_joined(spoilt, values)) if rng.random() < 0.7 else _joined(spoilt, values)


def _text_of_header(data: bytes, rng: random.Random) -> bytes:
    """A header with a piece of its text replaced: lengths, escapes, keys twice."""
    text, values = _split(data)
    pieces = re.split(rb"([\[\]{},:])", text)
    place = rng.randrange(len(pieces))
    new = rng.choice([b"", b"[" * 3000, b'"\\ud800"', b"1e999", b"-0.0", b"9" * 5000, b"null", pieces[place] * 2])
    pieces[place] = new
    if rng.random() < 0.1:
        return rng.choice((2**63, 2**40, 10**7 + 1, len(text) + 1)).to_bytes(8, "little") + text + values
    return _joined(b"".join(pieces), values)


def _values(data: bytes, rng: random.Random) -> bytes:
    """Other values under the same header: NaN, infinity, the largest and the smallest numbers."""
    text, values = _split(data)
    if not values:
        return _bytes(data, rng)
    place = rng.randrange(0, len(values), 4)
    new = struct.pack("<f", rng.choice((float("nan"), float("inf"), 3e38, -3e38, 1e-45, -0.0, rng.gauss(0, 1))))
    changed = values[:place] + new[: len(values) - place] + values[place + 4 :]
    return _hashed(_joined(text, changed)) if rng.random() < 0.8 else _joined(text, changed)


def _hashed(data: bytes) -> bytes:
    """The file with the content hash that a shift of this content has; others stay as they are."""
    try:
        header = parse_header(Path(), _split(data)[0], len(data))
        if header.metadata.get("format") != "spectra-shift":
            return data
        arrays = {
            key: np.frombuffer(data[each.start : each.stop], np.dtype(each.dtype))
            for key, each in header.tensors.items()
        }
        right = shift_file._content_hash(header.metadata, arrays)
    except (HeaderError, TypeError, ValueError, SyntaxError):  # numpy reads the name of a dtype as code
        return data
    stated = header.metadata.get("content_hash", "")
    return data.replace(stated.encode(), right.encode(), 1) if re.fullmatch("[0-9a-f]{32}", stated) else data


def _toml(data: bytes, rng: random.Random) -> bytes:
    """A line of TOML with another value or key, twice, or not at all."""
    lines = data.decode("utf-8", "replace").split("\n")
    place = rng.randrange(len(lines))
    name, _, value = lines[place].partition("=")
    match rng.randrange(8):
        case 0:
            del lines[place]
        case 1:
            lines.insert(rng.randrange(len(lines)), lines[place])
        case 2:
            lines[place] = f"{rng.choice(['a.' * 3000 + 'a', 'x', chr(34) + 'a' * 3000 + chr(34)])} = {value or 1}"
        case 3:
            lines[place] = rng.choice(
                ["[a", "[[concept]]", "[[shifts]]", "[" + "a." * 3000 + "a]", "= 1", "x = {a = 1}"]
            )
        case 4:
            lines[place] = f"{name}= {rng.choice(['[' * 3000, '{a=' * 1500, *WORDS])}"
        case 5:
            lines[place] = f"{name}= {json.dumps(rng.choice(NUMBERS))}"
        case _:
            text = rng.choice(TEXTS).replace("\ud800", "").replace("\x7f", "")
            lines[place] = f"{name}= {json.dumps(text)}"
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _json(data: bytes, rng: random.Random) -> bytes:
    try:
        return json.dumps(_spoilt(json.loads(data), rng), ensure_ascii=rng.random() < 0.7).encode(
            "utf-8", "surrogatepass"
        )
    except (ValueError, RecursionError):
        return _bytes(data, rng)


def _pickle(data: bytes, rng: random.Random) -> bytes:
    """The same zip file with another pickle in it, compressed at times."""
    try:
        found = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(found, "w") as new:
            for entry in old.infolist():
                content = old.read(entry)
                if entry.filename.endswith("data.pkl"):
                    content = rng.choice((_opcodes, _bytes))(content, rng)
                elif rng.random() < 0.1:
                    content = rng.choice((content[:-1], bytes(1 << 20), b""))
                how = zipfile.ZIP_DEFLATED if rng.random() < 0.2 else zipfile.ZIP_STORED
                new.writestr(entry.filename, content, how)
        return found.getvalue()
    except Exception:
        return _bytes(data, rng)


def _opcodes(data: bytes, rng: random.Random) -> bytes:
    """A pickle with instructions put in: functions to call, numbers without end, a list in itself."""
    evil = [
        *(b"cos\nsystem\nX\x02\x00\x00\x00id\x85R", b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R", b"ctorch\nload\n"),
        *(b"]q\x00h\x00a", b"}q\x00", b"(" * 500, b"r\xff\xff\xff\x7f", b"\x8a\x08" + b"\xff" * 8, b"0", b"\x85" * 200),
        *(b"I99999999999999999999\n", b"Gb\x7f\xff\xff\xff\xff\xff\xff", b"K\x00", b"J\xff\xff\xff\x7f", b"N", b"."),
    ]
    place = rng.randrange(len(data))
    return data[:place] + rng.choice(evil) + data[place + rng.choice((0, 0, 1, 2, 5)) :]


def _chunks(data: bytes, rng: random.Random) -> bytes:
    """A picture with a number of its first bytes changed, and the checksums of a PNG's chunks right again."""
    found = bytearray(data or b"x")
    for _ in range(rng.choice((1, 2))):
        place = rng.randrange(min(len(found), 120))
        found[place : place + 2] = rng.choice((b"\xff\xff", b"\0\0", b"\x7f\xff", b"\0\1", rng.randbytes(2)))
    if data[:4] != b"\x89PNG":
        return bytes(found)
    made, place = bytearray(data[:8]), 8
    while place + 12 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        body = bytes(found[place + 4 : place + 8 + size])
        made += data[place : place + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        place += 12 + size
    return bytes(made)
