"""JSON and TOML of strangers: parsed, or refused by a ValueError or one line."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from spectra.errors import InputError
from spectra.io.foreign_values import LONGEST_JSON, parse_json, read_json
from spectra.io.toml_files import read_toml


def test_plain_values_are_read(tmp_path: Path) -> None:
    text = '{"a": [1, -2.5, true, null, "ü", {"b": 18446744073709551615}]}'
    expected = {"a": [1, -2.5, True, None, "ü", {"b": 2**64 - 1}]}
    assert parse_json(text) == parse_json(text.encode()) == expected
    (tmp_path / "a").write_text(text, encoding="utf-8")
    assert read_json(tmp_path / "a") == expected


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "{",
            "NaN",
            "-Infinity",
            "1e999",
            "[1e999]",
            "9" * 5000,
            "18446744073709551616",
            "[-9223372036854775809]",
        ),
        *("[" * 100_000, '{"a":' * 100_000, "[" * 150 + "]" * 150, '"\\ud800"', '{"\\udc00": 1}'),
        "[" + "1," * LONGEST_JSON + "1]",
        b"\xff\xfe",
    ],
    ids=lambda text: str(text[:12]),
)
def test_what_nothing_can_use_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match="."):
        parse_json(text)


DEEP = "a." * 3000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = " + "9" * 5000, "not a TOML file"),
        ("a = 0x" + "f" * 5000, "more than 64 bits"),
        ('a = "b\\u0000"', "NUL"),
        ("a = " + "[" * 5000, "nested too deep"),
        ("a = " + "{a=" * 5000, "nested too deep"),
        ("a = " + "[" * 150 + "]" * 150, "nested too deep"),
        (f"{DEEP}a = 1", "16 parts"),
        (f"[{DEEP}a]", "16 parts"),
        (f"[[ {DEEP}a ]]", "16 parts"),
        (f"x = {{ {DEEP}a = 1 }}", "16 parts"),
        ("'a' . \"b\" ." * 1000 + "a = 1", "16 parts"),
        ("# c\n" * 100_000, "more than"),
        (b"\xff", "not a TOML file"),
        ("a = 1\na = 2", "not a TOML file"),
    ],
    ids=lambda text: str(text[:12]),
)
def test_toml_that_nothing_can_use_is_one_line_at_once(text: str | bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    began = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    with pytest.raises(InputError, match=message) as caught:
        read_toml(file, "--config")
    assert str(caught.value).startswith(f"{file}: ") and "--config" in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - began < 1


def test_dots_in_strings_and_comments_are_no_keys(tmp_path: Path) -> None:
    dots = ".".join("abcdefghijklmnopqrstuvwxyz")
    text = f'# {dots}.\na = "{dots}."\nb = """\n{dots}.\n\\""" {dots}."""\nc = \'{dots}.\'\n[a1.b.c]\nd.e = 1\r\n'
    (tmp_path / "a").write_text(text, encoding="utf-8")
    assert read_toml(tmp_path / "a", "--config") == {
        **{"a": f"{dots}.", "b": f'{dots}.\n""" {dots}.', "c": f"{dots}."},
        "a1": {"b": {"c": {"d": {"e": 1}}}},
    }
