"""`spectra verify`: whether shift files are whole, and whether they fit a base. Without a base it needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from spectra.bases.embedded import NAME
from spectra.cli import output
from spectra.cli.options import argument, command, json_option, variant_option
from spectra.settings import setting


@dataclass(frozen=True)
class _Options:
    files: tuple[Path, ...] = argument("Shift files, or folders of them.", "FILE")
    base: str = setting("", f"Base whose weights are compared: diffusers folder, .safetensors file, hub id, or {NAME}.")
    variant: str | None = variant_option()
    json: bool = json_option()


@command(_Options, "spectra verify fox.safetensors", "spectra verify shifts/ --base ./stable-diffusion-v1-5")
def verify(options: _Options) -> None:
    """Checks structure, values and content hash of shifts; with --base, that they were trained on it.

    With --base, deltas, outer terms and words must also have its weights' sizes, and tokens must be in its vocabulary.

    One line for each file; exit code 1 if one fails.
    """
    from spectra.compatibility.verification import verify

    verdicts = verify(options.files, options.base or None, variant=options.variant, progress=output.progress())
    failed = sum(not verdict.ok for verdict in verdicts)
    found: dict[str, Any] = {
        "ok": not failed,
        "failed": failed,
        "base": options.base or None,
        "files": [
            {"file": str(each.file), "ok": each.ok, "said": each.message, "weights": dict(each.matches)}
            for each in verdicts
        ],
    }
    lines = [f"{'ok    ' if each.ok else 'failed'}  {each.file}: {each.message}" for each in verdicts]
    output.result(found, json=options.json, human=lambda: lines)
    if failed:
        output.failure(f"{failed} of {len(verdicts)} shifts failed")
        raise typer.Exit(1)
