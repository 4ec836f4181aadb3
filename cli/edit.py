"""`spectra edit`: one picture, drawn again as another caption says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spectra.cli import output
from spectra.cli.quiet import quiet_libraries

if TYPE_CHECKING:
    from rich.console import Console

_EXAMPLE = (
    'Example:  spectra edit fox.png --caption "a drawing of a fox" '
    '--edit "a drawing of a fox on a blue background" -o blue     |     '
    'spectra edit fox.png --caption "a drawing of a fox" --edit "a fox on a red background" '
    "--shift blue/training/blue.safetensors --noise-mix 0 --noise-mix .4 -o red     "
    "(what was learnt is used again; every combination, on one sheet)"
)
_MOSTLY = 0.9
"""Where the unedited picture stays in more of an edit than that, and nobody asked for it, something is to be said."""
_LEARN, _DRAW = "Learning the picture", "Drawing; an option that is repeated draws every combination"


def _option(help: str, panel: str, *names: str, shown: str | bool = False, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=shown, **more)


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command(epilog=_EXAMPLE)
    def edit(
        image: Annotated[Path, typer.Argument(help="The picture; cropped to a square of the base's size.")],
        caption: Annotated[str, typer.Option(help="What it shows.", show_default=False)],
        edits: Annotated[
            list[str], typer.Option("--edit", help="What it should show instead; repeatable.", show_default=False)
        ],
        base: Annotated[
            str, typer.Option(help="Diffusers folder, .safetensors checkpoint or hub id.", show_default="embedded")
        ] = "",
        shift: Annotated[
            Path | None, _option("Learnt from the picture before; nothing is trained.", _LEARN, metavar="FILE")
        ] = None,
        train_steps: Annotated[int | None, _option("Optimizer steps.", _LEARN, shown="500, embedded base 60")] = None,
        lr: Annotated[float | None, _option("Learning rate.", _LEARN, shown="0.001, embedded base 0.01")] = None,
        lr_1d: Annotated[
            float | None,
            _option("Of 1-D weights.", _LEARN, "--lr-1d", shown="1e-06, embedded base 0.003"),
        ] = None,
        targets: Annotated[
            str | None, _option("Subsets or patterns, such as unet-ca.", _LEARN, "--target", shown="unet")
        ] = None,
        text_encoder: Annotated[
            bool | None,
            _option("Train it too: nearer to the picture, deafer to edits.", _LEARN, shown="no-text-encoder"),
        ] = None,
        resolution: Annotated[int | None, _option("Pixels of a side.", _LEARN, shown="the base's")] = None,
        mixed_precision: Annotated[str | None, _option("no, fp16 or bf16.", _LEARN, shown="no")] = None,
        gradient_checkpointing: Annotated[
            bool | None,
            _option("Less memory, more time.", _LEARN, "--gradient-checkpointing/--no-gradient-checkpointing"),
        ] = None,
        inversion: Annotated[
            bool | None,
            _option(
                "Begin with the noise that the picture comes from, or with any: --noise-mix 1.",
                _DRAW,
                "--inversion/--no-inversion",
                shown="inversion",
            ),
        ] = None,
        noise_mix: Annotated[
            list[float] | None,
            _option("Fresh noise in it: from 0, none, to 1, nothing else.", _DRAW, shown="0"),
        ] = None,
        eta: Annotated[
            list[float] | None, _option("Noise in each step: from 0, DDIM, to 1, DDPM.", _DRAW, shown="0")
        ] = None,
        keep: Annotated[
            list[float] | None,
            _option(
                "The unedited picture stays where an edit asks for less than this share of its largest change; 0 for "
                "edits of shapes or of the whole.",
                _DRAW,
                shown="0, embedded base .45",
            ),
        ] = None,
        scale: Annotated[list[float] | None, _option("Of the shift.", _DRAW, shown="1")] = None,
        guidance: Annotated[
            list[float] | None, _option("Guidance scale.", _DRAW, shown="3, embedded base 1.25")
        ] = None,
        anchor: Annotated[
            str | None,
            _option(
                "Prompt of the inversion: edit, as in the paper; or caption, and guidance leads away from that.",
                _DRAW,
                shown="edit, embedded base caption",
            ),
        ] = None,
        seed: Annotated[list[int] | None, _option("Of fresh noise, and the training.", _DRAW, shown="0")] = None,
        steps: Annotated[int | None, _option("DDIM steps.", _DRAW, shown="50, embedded base 25")] = None,
        batch: Annotated[int, _option("Pictures at once.", _DRAW, shown=True)] = 8,
        device: Annotated[str, typer.Option(help="Such as cpu or cuda.", show_default="a GPU if there is one")] = "",
        out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Output folder.")] = Path("edits"),
        force: Annotated[bool, typer.Option("--force", help="Replace an earlier edit's folder.")] = False,
        json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ) -> None:
        """Edits one picture (CoSINE): learns it with its caption, then draws it with another.

        Leaves the pictures, a contact sheet, and what was learnt; says how well inversion leads back to the picture,
        and when the base cannot show such a picture.
        """
        from spectra.errors import InputError

        training = {
            "steps": train_steps,
            "lr": lr,
            "lr_1d": lr_1d,
            "targets": targets,
            "text_encoder": text_encoder,
            "resolution": resolution,
            "mixed_precision": mixed_precision,
            "gradient_checkpointing": gradient_checkpointing,
        }
        training = {name: value for name, value in training.items() if value is not None}
        if shift is not None and training.keys() - {"resolution"}:
            raise InputError(f"--shift trains nothing: leave out the setting of {', '.join(training)}")
        if inversion is not None and noise_mix:
            raise InputError("--noise-mix says how far the inversion is used: leave out --inversion and --no-inversion")
        drawing = {
            "noise_mixes": (1.0,) if inversion is False else noise_mix,
            "etas": eta,
            "keeps": keep,
            "scales": scale,
            "guidances": guidance,
            "anchor": anchor,
            "seeds": seed,
            "steps": steps,
        }
        quiet_libraries()
        from spectra.editing.order import make_order
        from spectra.editing.run import edit as run

        order = make_order(
            image=image,
            caption=caption,
            edits=tuple(edits),
            base=base,
            shift=shift,
            training=training | ({"seed": seed[0]} if seed else {}),
            batch=batch,
            **{name: value for name, value in drawing.items() if value is not None},
        )
        report = run(order, out, force=force, device=device, progress=output.progress())
        for warning in report["base_fitness"]["warnings"]:
            output.say(f"warning: {warning}")
        for each in report["pictures"]:
            if each["kept"] >= _MOSTLY and not keep:
                output.say(
                    f"hint: the unedited picture stays in {each['kept']:.0%} of {each['prompt']!r}; "
                    "--keep 0 draws all of an edit, shapes too"
                )
        output.result(report, json=json, human=lambda console: _show(report, console))


def _show(report: dict[str, Any], console: Console) -> None:
    """The report for a person."""
    from rich.markup import escape

    training, fitness = report["training"], report["base_fitness"]
    lines = ["[bold]Learnt[/bold]"]
    if training:
        lines.append(
            f"  {escape(training['prompt'])}, loss {training['loss_before']:.4f} -> {training['loss_after']:.4f} in "
            f"{training['steps']} steps, {training['train_seconds']:.0f} s"
        )
    lines += [
        f"  {escape(report['shift'])}",
        "[bold]The base[/bold]",
        f"  its VAE keeps {fitness['vae_psnr']:.1f} dB of the picture; "
        f"untrained, it explains {fitness['explained']:.0%}",
        "[bold]Inversion[/bold], and back",
    ]
    many = len({each["scale"] for each in report["inversions"]}) > 1
    for each in report["inversions"]:
        scale = f", scale {each['scale']:g}" if many else ""
        lines.append(f"  {each['psnr']:.1f} dB, error {each['error']:.2%}: {escape(each['prompt'])}{scale}")
    lines += [
        "[bold]Pictures[/bold]",
        f"  {len(report['pictures'])} in {escape(report['folder'])}; all on {escape(report['sheet'])}",
    ]
    for line in lines:
        console.print(line, soft_wrap=True)
