"""`spectra verify`: whether shift files are whole, and whether they fit a base. Without a base it needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spectra.bases.embedded import NAME
from spectra.cli import output
from spectra.cli.quiet import quiet_libraries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from spectra.compatibility.verification import Verdict

_EXAMPLE = "Example:  spectra verify fox.safetensors     |     spectra verify shifts/ --base ./stable-diffusion-v1-5"


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command(epilog=_EXAMPLE)
    def verify(
        files: Annotated[
            list[Path], typer.Argument(metavar="FILE", help="Shift files, or folders of them.", show_default=False)
        ],
        base: Annotated[
            str,
            typer.Option(
                help=f"Whose weights to compare: diffusers folder, .safetensors file, hub id, or {NAME}.",
                show_default=False,
            ),
        ] = "",
        variant: Annotated[
            str | None, typer.Option(help="Of the base's files, such as fp16.", show_default=False)
        ] = None,
        json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ) -> None:
        """Checks structure, values and content hash of shifts; with --base, that they were trained on it.

        One line for each file; exit code 1 if one fails.
        """
        from spectra.compatibility.verification import shift_files, verify

        if base:
            quiet_libraries()
        verdicts = verify(shift_files(files), base or None, variant=variant, progress=output.progress())
        failed = sum(not verdict.ok for verdict in verdicts)
        found: dict[str, Any] = {
            "ok": not failed,
            "failed": failed,
            "base": base or None,
            "files": [
                {"file": str(each.file), "ok": each.ok, "said": each.message, "weights": dict(each.matches)}
                for each in verdicts
            ],
        }
        output.result(found, json=json, human=lambda console: _show(console, verdicts))
        if failed:
            output.failure(f"{failed} of {len(verdicts)} shifts failed")
            raise typer.Exit(1)


def _show(console: Console, verdicts: Sequence[Verdict]) -> None:
    for verdict in verdicts:
        console.print(
            f"{'ok    ' if verdict.ok else 'failed'}  {verdict.file}: {verdict.message}", markup=False, soft_wrap=True
        )
