"""The frame of the command line: help, exit codes, one line for what is known to fail."""

from __future__ import annotations

import errno
import importlib
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import typer

import spectra
from spectra.cli import app as app_module
from spectra.cli import output
from spectra.errors import ShiftFileError


@contextmanager
def command(body: Callable[[], None]) -> Iterator[None]:
    """`spectra probe` for the length of a test."""
    app_module.app.command("probe")(body)
    try:
        yield
    finally:
        app_module.app.registered_commands.pop()


def raising(error: BaseException) -> Callable[[], None]:
    def probe() -> None:
        raise error

    return probe


def test_help_lists_every_command(spectra_cli: Callable[..., Any]) -> None:
    ran = spectra_cli("--help")
    assert ran.code == 0
    assert all(f" {name} " in ran.out for name in app_module.COMMANDS)


@pytest.mark.parametrize("name", app_module.COMMANDS)
def test_every_command_has_help_with_an_example(name: str, spectra_cli: Callable[..., Any]) -> None:
    ran = spectra_cli(name, "--help")
    assert ran.code == 0
    if "COMMAND [ARGS]" not in ran.out:  # of a group, each command shows its own
        assert "spectra " + name in ran.out.split("Usage:")[1].partition("\n")[2], "the epilog should show an example"


def test_version(spectra_cli: Callable[..., Any]) -> None:
    ran = spectra_cli("--version")
    assert (ran.code, ran.out, ran.err) == (0, f"spectra {spectra.__version__}\n", "")


@pytest.mark.parametrize("arguments", [["nonsense"], ["inspect"], ["inspect", "--nonsense", "x"]])
def test_wrong_usage_exits_with_2(arguments: list[str], spectra_cli: Callable[..., Any]) -> None:
    ran = spectra_cli(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err


def test_a_known_failure_is_one_line_and_1(spectra_cli: Callable[..., Any]) -> None:
    with command(raising(ShiftFileError("a.safetensors: expected this,\n got that; do so"))):
        ran = spectra_cli("probe")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "error: a.safetensors: expected this, got that; do so\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_refusing_disk_is_one_line_and_1(number: int, spectra_cli: Callable[..., Any]) -> None:
    with command(raising(OSError(number, "refused", "/some/file"))):
        ran = spectra_cli("probe")
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert ran.err.startswith("error: /some/file: ")


def test_an_interrupt_is_130(spectra_cli: Callable[..., Any]) -> None:
    with command(raising(KeyboardInterrupt())):
        assert spectra_cli("probe").code == 130


def test_a_bug_keeps_its_traceback(spectra_cli: Callable[..., Any]) -> None:
    with command(raising(ZeroDivisionError("bug"))), pytest.raises(ZeroDivisionError):
        spectra_cli("probe")
    with command(raising(OSError(errno.EXDEV, "bug"))), pytest.raises(OSError, match="bug"):
        spectra_cli("probe")


def test_exit_codes_of_commands_are_kept(spectra_cli: Callable[..., Any]) -> None:
    with command(raising(typer.Exit(3))):
        assert spectra_cli("probe").code == 3


def test_the_installed_command_runs_anywhere(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("spectra")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"spectra {spectra.__version__}\n")


def test_every_command_file_is_in_the_list() -> None:
    folder = Path(app_module.__file__).parent
    files = {file.stem for file in folder.glob("*.py")} - {"__init__", "__main__", "app", "output", "quick_imports"}
    with_command = {name for name in files if hasattr(importlib.import_module(f"spectra.cli.{name}"), name)}
    assert with_command == set(app_module.COMMANDS)


# Output


def test_a_result_is_json_or_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    output.result({"a": "ü", "b": [1]}, json=True, human=lambda: pytest.fail("not asked for"))
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"a": "ü", "b": [1]}
    assert captured.out.count("\n") == 1
    output.result({}, json=False, human=lambda: ["hello"])
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("hello\n", "")
    with pytest.raises(ValueError, match="JSON"):
        output.result({"a": float("nan")}, json=True, human=list)


def test_without_a_terminal_long_work_tells_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("spectra.cli.output.time.monotonic", lambda: now[0])
    bar = output.progress()
    bar.start("training", 200)
    bar.advance(100)  # by a training that is resumed
    for _ in range(100):
        now[0] += 2.0
        bar.advance(1, "loss 0.5, lr 0.01")
    bar.finish()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training 110/200, loss 0.5, lr 0.01, 180 s left"
    assert lines[1].startswith("training 120/200, ")
    assert lines[-1] == "training 190/200, loss 0.5, lr 0.01, 20 s left"
    assert len(lines) == 9
    bar.start("drawing", 1000)
    now[0] += 61
    bar.advance()
    assert capsys.readouterr().err == "drawing 1/1000, 60939 s left\n"


def test_short_work_is_silent_unless_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> None:
        bar = output.progress()
        bar.start("training", 2)
        bar.advance(note="loss 0.5")
        bar.advance()
        bar.finish()
        bar.advance()  # after the end it says nothing

    work()
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    work()
    assert "training" in screen.getvalue()
    assert capsys.readouterr().out == ""


def test_a_working_folder_that_is_gone_is_one_line(
    spectra_cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    ran = spectra_cli("subjects")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "error: the folder that this shell is in is gone, or cannot be read; change to another one (cd)\n"
    monkeypatch.undo()


def test_a_file_that_vanishes_is_one_line(spectra_cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def vanished(*_: Any) -> None:
        (tmp_path / "a.safetensors").stat()

    monkeypatch.setattr("spectra.bases.embedded.subjects.find_subject", vanished)
    ran = spectra_cli("subjects", "--subject", "fox")
    assert ran.code == 1
    assert ran.err == f"error: {tmp_path / 'a.safetensors'}: it is not there, or not any more; check the path\n"
