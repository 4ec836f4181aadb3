"""`spectra generate`: pictures from a base and any number of shifts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectra.cli import output
from spectra.cli.next_steps import following
from spectra.cli.options import check_device, command, device_option, force_option, json_option, output_option
from spectra.cli.tables import plural
from spectra.generation.settings import GenerateSettings, Sampling, make_generate_settings
from spectra.settings import declared_settings, setting

SETTINGS = declared_settings(GenerateSettings) | declared_settings(Sampling)
"""The library's settings that this command takes."""
del SETTINGS["eta"]  # noise of an edit


@dataclass(frozen=True)
class _Options:
    count: int = setting(1, "Pictures of each prompt and seed, from seeds that follow each.", least=1)
    device: str = device_option("draw on")
    out: Path = output_option("Output folder.", Path("pictures"), "DIR")
    force: bool = force_option("an earlier output folder")
    json: bool = json_option()


@command(
    _Options,
    'spectra generate --prompt "a drawing of a fox" --count 4 -o foxes',
    'spectra generate --shift out/fox/fox.safetensors:0.8 --prompt "a drawing of a [V1] fox" --seed 7 -o pictures',
    "spectra generate --shift fox.safetensors:1,.5,0 --shift wolf.safetensors:0,.5,1 "
    '--prompt "a drawing of a [V1] fox" -o from-fox-to-wolf',
    library=SETTINGS,
)
def generate(options: _Options, given: dict[str, Any]) -> None:
    """Draws every prompt with every seed: PNGs with their settings inside, and a contact sheet."""
    from spectra.generation.generate import generate as run

    seeds = [first + number for first in given.pop("seeds", (0,)) for number in range(options.count)]
    settings = make_generate_settings(**given, seeds=tuple(dict.fromkeys(seeds)))
    check_device(options.device)
    found = run(settings, options.out, force=options.force, device=options.device, progress=output.progress())
    count, seconds = len(found["pictures"]), found["seconds"]
    lines = [f"{plural(count, 'picture')} in {found['folder']} ({seconds:.1f} s)", f"contact sheet: {found['sheet']}"]
    if given.get("shifts"):
        lines.append("next: the same at several strengths, with scales behind the file: --shift FILE:1,.7,.4")
    else:
        lines.append(following("spectra", "train", "--help") + "     (how to teach it a subject)")
    output.result(found, json=options.json, human=lambda: lines)
