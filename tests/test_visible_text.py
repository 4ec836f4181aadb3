"""What strangers wrote is shown, never obeyed: in errors, tables, lines, warnings and JSON."""

from __future__ import annotations

import io
import json
import pickle
import sys
import unicodedata
import warnings

import pytest
from rich.console import Console

from spectra.cli import output
from spectra.cli.tables import facts, plain, table
from spectra.errors import InputError, SpectraError
from spectra.visible_text import LONGEST_LINE, one_line, visible, visible_json

HOSTILE = "\x1b]0;owned\x07\x9b31m[red]bold[/red]\u202egnp.end\ud800\U000e0041"
SHOWN = r"\x1b]0;owned\x07\x9b31m[red]bold[/red]\u202egnp.end\ud800\U000e0041"


def hidden(text: str) -> list[str]:
    """Characters that no output may have."""
    return [each for each in text if each != "\n" and unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp")]


def test_control_characters_are_escapes_and_everything_else_stays() -> None:
    assert visible(HOSTILE) == SHOWN
    for kept in ("plain [red] text", "größer, 日本, 👩\u200d🚀", "\\x1b"):
        assert visible(kept) == kept
    assert visible("a\nb\tc\u2028", keep="\n") == "a\nb\\x09c\\u2028"
    every = "".join(map(chr, range(0x3000)))
    assert hidden(visible(every)) == []


def test_an_error_is_one_short_line_with_both_its_ends() -> None:
    error = InputError(f"{HOSTILE}.toml:\n  expected this, got {'x' * 5000!r}; do\r\nthat")
    text = str(error)
    assert len(text) <= LONGEST_LINE + 50
    assert hidden(text) == [] and "\n" not in text
    assert text.startswith(r"\x1b]0;owned") and text.endswith("'; do that") and "characters left out" in text
    assert str(pickle.loads(pickle.dumps(error))) == text  # noqa: S301 - an error crosses processes so
    assert str(SpectraError()) == "" and one_line(text) == text


def test_json_is_the_same_and_has_no_control_characters() -> None:
    given = json.dumps({"a": HOSTILE.replace("\ud800", "")}, ensure_ascii=False)
    shown = visible_json(given)
    assert json.loads(shown) == json.loads(given)
    assert hidden(shown) == [] and "\\u009b31m" in shown


@pytest.mark.parametrize("as_json", [False, True])
def test_results_show_it_literally(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    def human() -> list[object]:
        return [HOSTILE, plain(HOSTILE), table(HOSTILE, [HOSTILE], [(HOSTILE, HOSTILE)]), facts([("a", HOSTILE)])]

    output.result({"a": HOSTILE}, json=as_json, human=human)
    shown = capsys.readouterr().out
    assert hidden(shown) == []
    assert "[red]" in shown


def test_messages_warnings_and_bars_show_it_literally(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output.say(HOSTILE)
    output.failure(HOSTILE)
    with output.plain_warnings():
        warnings.simplefilter("always")
        warnings.warn(HOSTILE + "\nsecond", UserWarning, stacklevel=1)
    shown = capsys.readouterr().err
    assert hidden(shown) == []
    assert shown.count(SHOWN) == 3
    assert shown.splitlines()[-1] == f"warning: {SHOWN} second", "one line, and none of the source"

    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    bar = output.progress()
    bar.start(HOSTILE, 1)
    bar.advance(note=HOSTILE)
    bar.finish()
    assert SHOWN[:10] in screen.getvalue() and "[red]" in screen.getvalue()
    assert not any(each in screen.getvalue() for each in ("\x07", "\x9b", "\u202e", "\x1b]0"))


def test_rich_markup_in_headings_is_text() -> None:
    screen = io.StringIO()
    Console(file=screen, width=80).print(table("[red]name", ["[bold]b"], [("a", "1")], ("[i]all", "[u]1")))
    assert all(each in screen.getvalue() for each in ("[red]name", "[bold]b", "[i]all", "[u]1"))
