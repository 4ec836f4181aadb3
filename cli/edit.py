"""`spectra edit`: one picture, drawn again as another caption says."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectra.cli import output
from spectra.cli.options import check_device, command, device_option, force_option, json_option, output_option
from spectra.cli.tables import plain
from spectra.editing.settings import EditSettings, make_edit_settings, training_settings
from spectra.errors import InputError
from spectra.settings import declared_settings, setting

_MOSTLY = 0.9
"""Where the unedited picture stays in more of an edit than that, and nobody asked for it, a hint is shown."""


@dataclass(frozen=True)
class _Options:
    inversion: bool | None = setting(
        None,
        "Begin with the noise that the picture comes from, or with fresh noise as --noise-mix 1 does.",
        panel=declared_settings(EditSettings)["anchor"].panel,
        default_text="inversion",
    )
    device: str = device_option("compute on")
    out: Path = output_option("Output folder.", Path("edits"), "DIR")
    force: bool = force_option("an earlier edit's folder")
    json: bool = json_option()


@command(
    _Options,
    'spectra edit fox.png --caption "a drawing of a fox" --edit "a drawing of a fox on a blue background" -o blue',
    'spectra edit fox.png --caption "a drawing of a fox" --edit "a fox on a red background" '
    "--shift blue/training/blue.safetensors --noise-mix 0 --noise-mix .4 -o red     "
    "(what was learnt is used again; every combination, on one sheet)",
    library=declared_settings(EditSettings) | training_settings(),
)
def edit(options: _Options, given: dict[str, Any]) -> None:
    """Edits one picture (CoSINE): learns it with its caption, then draws it with another.

    Leaves the pictures, a contact sheet, and what was learnt; says how well inversion leads back to the picture, and
    when the base cannot show such a picture.
    """
    if options.inversion is not None and "noise_mixes" in given:
        raise InputError("--noise-mix says how far the inversion is used: leave out --inversion and --no-inversion")
    if options.inversion is False:
        given["noise_mixes"] = (1.0,)
    from spectra.editing.edit import edit as run

    settings = make_edit_settings(**given)
    check_device(options.device)
    report = run(settings, options.out, force=options.force, device=options.device, progress=output.progress())
    for warning in report["base_fitness"]["warnings"]:
        output.say(f"warning: {warning}")
    for each in report["pictures"]:
        if each["kept"] >= _MOSTLY and "keeps" not in given:
            output.say(
                f"hint: the unedited picture stays in {each['kept']:.0%} of {each['prompt']!r}; "
                "--keep 0 draws all of an edit, shapes too"
            )
    output.result(report, json=options.json, human=lambda: _show(report))


def _show(report: dict[str, Any]) -> Iterator[output.Part]:
    training, fitness = report["training"], report["base_fitness"]
    yield plain("Learnt", "bold")
    if training:
        yield (
            f"  {training['prompt']}, loss {training['loss_before']:.4f} -> {training['loss_after']:.4f} in "
            f"{training['steps']} steps, {training['train_seconds']:.0f} s"
        )
    yield f"  {report['shift']}"
    yield plain("The base", "bold")
    yield (
        f"  its VAE keeps {fitness['vae_psnr']:.1f} dB of the picture; "
        f"untrained, it explains {fitness['explained']:.0%}"
    )
    yield plain("Inversion, and back", "bold")
    many = len({each["scale"] for each in report["inversions"]}) > 1
    for each in report["inversions"]:
        scale = f", scale {each['scale']:g}" if many else ""
        yield f"  {each['psnr']:.1f} dB, error {each['error']:.2%}: {each['prompt']}{scale}"
    yield plain("Pictures", "bold")
    yield f"  {len(report['pictures'])} in {report['folder']}; all on {report['sheet']}"
    yield "next: edits without learning again, with --shift " + shlex.quote(report["shift"])
