"""The one reader of safetensors headers: what safetensors itself writes and refuses is the measure."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from spectra.io.safetensors_header import (
    LONGEST_HEADER,
    MOST_TENSORS,
    HeaderError,
    build_header,
    leading_metadata,
    read_header,
)


def write(path: Path, entries: object, data: int) -> Path:
    text = json.dumps(entries).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
    return path


def entry(start: int, stop: int, shape: tuple[float, ...] = (2,), dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def test_what_safetensors_writes_is_read(tmp_path: Path) -> None:
    arrays = {"b": np.ones((2, 3), np.float16), "a": np.arange(4.0), "c": np.zeros(0, np.int64)}
    save_file(arrays, tmp_path / "a", {"format": "x"})
    header = read_header(tmp_path / "a")
    data = (tmp_path / "a").read_bytes()
    assert (dict(header.metadata), header.file_bytes) == ({"format": "x"}, len(data))
    for key, tensor in header.tensors.items():
        assert (tensor.key, tensor.dtype, tensor.shape) == (key, arrays[key].dtype.name, arrays[key].shape)
        assert data[tensor.start : tensor.stop] == arrays[key].tobytes()


def test_safetensors_reads_what_is_built(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(
        build_header({"k": "v"}, {"a": ("bfloat16", (2, 3)), "b": ("float64", (1,))}) + bytes(20)
    )
    with safe_open(tmp_path / "a", framework="numpy") as file:
        assert (file.metadata(), sorted(file.keys())) == ({"k": "v"}, ["a", "b"])
        assert file.get_slice("a").get_shape() == [2, 3]


@pytest.mark.parametrize(
    ("entries", "data", "message"),
    [
        ({"a": entry(0, 8), "b": entry(4, 12)}, 12, "overlaps"),
        ({"a": entry(0, 8), "b": entry(12, 20)}, 20, "gap"),
        ({"a": entry(0, 12)}, 12, "does not fit its shape"),
        ({"a": entry(8, 0)}, 0, "does not fit its shape"),
        ({"a": entry(-8, 0)}, 0, "whole numbers"),
        ({"a": entry(0, 8, (2.0,))}, 8, "whole numbers"),
        ({"a": entry(0, 8)}, 7, "expected .* bytes, got"),
        ({"a": {"dtype": "F32"}}, 8, "shape"),
        ({"__metadata__": {"a": 1}}, 0, "expected text"),
        ([1, 2], 0, "."),
    ],
)
def test_what_safetensors_refuses_is_refused(entries: object, data: int, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a", entries, data)
    with pytest.raises(HeaderError, match=message):
        read_header(path)
    with pytest.raises(SafetensorError), safe_open(path, framework="numpy"):
        pass


def raw(path: Path, text: bytes, data: int = 0) -> Path:
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
    return path


TENSOR = '{"dtype":"F32","shape":[2],"data_offsets":[%d,%d]}'


@pytest.mark.parametrize(
    ("text", "data", "message"),
    [
        (f'{{"a":{TENSOR % (0, 8)},"a":{TENSOR % (0, 8)}}}', 8, "a is there twice"),
        (f'{{"__metadata__":{{"k":"1","k":"2"}},"a":{TENSOR % (0, 8)}}}', 8, "k is there twice"),
        ('{"a":{"dtype":"F32","dtype":"F32","shape":[2]}}', 8, "twice"),
        ('{"__metadata__":{"k":"\\ud800"}}', 0, "Unicode"),
        ('{"\\udc00":%s}' % (TENSOR % (0, 8)), 8, "Unicode"),
        ('{"__metadata__":{"__metadata__":"\\ud800"}}', 0, "Unicode"),
        ('{"\\u005f_metadata__":%s}' % (TENSOR % (0, 8)), 8, "expected text"),
        ("[" * 100_000, 0, "expected text"),
        ('{"a":' * 50_000, 0, "expected text"),
        ('{"__metadata__":[]}', 0, "expected text"),
        ('{"__metadata__":null}', 0, "expected text"),
        ("[]", 0, "expected text"),
        ('{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,8]}}' % ("9" * 5000), 8, "whole numbers"),
        ('{"a":{"dtype":"F32","shape":[0,%s],"data_offsets":[0,0]}}' % ("9" * 200), 0, "no tensor has such a shape"),
        ('{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,4]}}' % ("1," * 40 + "1"), 4, "no tensor has such"),
        ('{"a":{"dtype":["F32"],"shape":[2],"data_offsets":[0,8]}}', 8, "whole numbers"),
        ('{"a":{"dtype":[1],"shape":[2],"data_offsets":[0,8]}}', 8, "does not fit"),
        ('{"a":{"dtype":"F32","shape":"F32","data_offsets":[0,8]}}', 8, "whole numbers"),
        ('{"a":{"dtype":"F32","shape":[2],"data_offsets":"F32"}}', 8, "whole numbers"),
        ('{"a":{"dtype":"F32","shape":[02],"data_offsets":[0,8]}}', 8, "delimiter|Expecting"),
        ('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}}', 8, "whole numbers"),
        ('{"a":%s}x' % (TENSOR % (0, 8)), 8, "expected text"),
    ],
)
def test_what_only_a_stranger_writes_is_refused(text: str, data: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(HeaderError, match=message):
        read_header(raw(tmp_path / "a", text.encode(), data))


def test_any_order_of_fields_and_any_blanks_are_read(tmp_path: Path) -> None:
    text = (
        '{"a\\"\\u00e9" : {"shape":[ 2 ],\n"data_offsets": [0 , 8],\t"dtype" : "F32" } ,"__metadata__": { "k": "v"}}  '
    )
    header = read_header(raw(tmp_path / "a", text.encode(), 8))
    assert (list(header.tensors), dict(header.metadata)) == (['a"é'], {"k": "v"})
    assert leading_metadata(text.encode()) is None
    assert leading_metadata(b'{"__metadata__": {"k": "v"}, "a": [broken') == {"k": "v"}


def test_more_tensors_than_there_can_be_are_not_parsed(tmp_path: Path) -> None:
    entries = ",".join(f'"{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(MOST_TENSORS + 1))
    with pytest.raises(HeaderError, match="more than 32,768 tensors"):
        read_header(raw(tmp_path / "a", f"{{{entries}}}".encode()))
    strings = ",".join(f'"{i}":""' for i in range(5000))
    with pytest.raises(HeaderError, match="expected text"):
        read_header(raw(tmp_path / "a", f'{{"__metadata__":{{{strings}}}}}'.encode()))


def test_a_length_that_cannot_be_is_not_read(tmp_path: Path) -> None:
    for length in (0, 1, 100, LONGEST_HEADER + 1, 2**63):
        (tmp_path / "a").write_bytes(length.to_bytes(8, "little") + b"{}")
        with pytest.raises(HeaderError, match="no header"):
            read_header(tmp_path / "a")
