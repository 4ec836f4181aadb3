"""What `--help` shows, what a wrong option is told, and what a shell completes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spectra.cli import app
from spectra.cli.app import COMMANDS
from spectra.cli.help import option_names
from spectra.settings import declared_settings
from spectra.training.config import TrainConfig


def test_what_a_user_of_train_needs_is_on_one_screen(
    spectra_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = spectra_cli("train", "--help").out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    settings = declared_settings(TrainConfig)
    del settings["subject"]  # --subject is that of `subjects`
    for name, declared in settings.items():
        shown = [line for line in lines if line.startswith(f"  {option_names(name, declared).split()[0]} ")]
        assert len(shown) == bool(declared.brief), name
    assert any(line.startswith("  --help-all ") for line in lines)


@pytest.mark.parametrize("name", COMMANDS)
def test_no_line_is_wider_than_the_screen(
    name: str, spectra_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = spectra_cli(name, "--help-all" if name == "train" else "--help").out
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    assert max(len(line) for line in shown.split("Example")[0].splitlines()) <= 80


def test_wrong_options_are_told_at_once_with_what_was_meant(
    spectra_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    ran = spectra_cli("train", "--learning-rate", "3", "--rank=4", "--stepps", 5, "--xyzzy")
    assert ran.code == 2
    told = " ".join(ran.err.split())
    for wrong, right in (("--learning-rate", "--lr"), ("--rank", "--outer"), ("--stepps", "--steps")):
        assert f"no such option: {wrong} (did you mean {right}?)" in told
    assert "no such option: --xyzzy " in told
    assert "(did you mean --file-dtype?)" in spectra_cli("merge", "a", "--file_dtype", "float16").err


def test_every_command_that_writes_says_what_to_do_next() -> None:
    """By their files: a test of each command runs them. A bench's result is a line in a record."""
    folder = Path(app.__file__).parent
    for name in COMMANDS:
        text = "".join(
            file.read_text() for file in (folder / f"{name}.py", folder / f"{name}_view.py") if file.exists()
        )
        if name != "bench" and ("output_option(" in text or "--out" in text):
            assert "next_steps import" in text or '"next: ' in text or 'plain("Next"' in text, name


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("spectra tra", ["train", "transplant"]),
        ("spectra train --optim", ["--optimizer"]),
        ("spectra train --optimizer adamw", ["adamw", "adamw8bit", "adamwschedulefree"]),
    ],
)
def test_a_shell_completes_commands_options_and_choices(words: str, expected: list[str]) -> None:
    asked = {"_SPECTRA_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    program = Path(sys.executable).with_name("spectra")
    done = subprocess.run([program], env={**os.environ, **asked}, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == expected
