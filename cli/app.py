"""Assembles `spectra` from its commands, and turns what can go wrong into one line and an exit code."""

from __future__ import annotations

import errno
import functools
import gc
import importlib
import sys
from pathlib import Path
from typing import Annotated

import typer

import spectra
from spectra.cli import output
from spectra.errors import SpectraError
from spectra.io.atomic_writes import REASONS
from spectra.training.processes.launch import process_number, speaks

COMMANDS = (
    "train",
    "fleet",
    "plan",
    "generate",
    "edit",
    "mix",
    "serve",
    "studio",
    "subjects",
    "decompose",
    "cache",
    "inspect",
    "diff",
    "merge",
    "adjust",
    "bake",
    "extract",
    "transplant",
    "convert",
    "pack",
    "push",
    "pull",
    "verify",
    "bench",
)
"""In the order `--help` shows them. Each is a file beside this one, with the command under the same name in it."""

_GONE = {
    errno.ENOENT: "it is not there, or not any more; check the path",
    errno.ESTALE: "it is not there any more; check the path",
    errno.EIO: "its disk cannot be read or written; check the disk",
    errno.ENODEV: "its disk is gone; check the disk",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
    errno.ENFILE: "too many files are open on this machine; close some",
}
"""What can happen to inputs while a command runs, by `errno`."""

app = typer.Typer(
    name="spectra",
    help="Spectral shifts: fine-tunings of a diffusion model that are a vector per layer.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        output.line(f"spectra {spectra.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@functools.cache
def _register(name: str) -> None:
    command = getattr(importlib.import_module(f"spectra.cli.{name}"), name)
    if isinstance(command, typer.Typer):
        app.add_typer(command)
    else:
        app.registered_commands.append(command)


def main(argv: list[str] | None = None) -> int:
    """Run one command line and return its exit code.

    0 done; 1 a known failure, in one line on stderr; 2 wrong usage; 130 interrupted. Anything that is none of
    these is a bug and keeps its traceback.

    Args:
        argv: the arguments after the program's name; by default those of this process.
    """
    arguments = sys.argv[1:] if argv is None else argv
    # Declaring all commands takes as long as importing numpy; a command line needs its own.
    for name in arguments[:1] if arguments and arguments[0] in COMMANDS else COMMANDS:
        _register(name)
    output.prepare()
    try:
        Path.cwd()
    except OSError:
        output.failure("the folder that this shell is in is gone, or cannot be read; change to another one (cd)")
        return 1
    try:
        with output.plain_warnings(), output.silent(process_number() > 0 and arguments[:1] == ["train"]):
            app(args=arguments, prog_name="spectra")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except KeyboardInterrupt:
        return 130
    except SpectraError as error:
        if speaks():
            output.failure(str(error))
        return 1
    except OSError as error:
        reason = {**REASONS, **_GONE}.get(error.errno or 0)
        if reason is None:
            raise
        output.failure((f"{error.filename}: " if error.filename else "") + reason)
        return 1
    finally:
        if argv is None:
            gc.freeze()  # the process ends: to look through all of torch for garbage once more takes 0.3 s
    return 0
