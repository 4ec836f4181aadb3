"""`spectra train`: pictures in, a shift out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spectra.cli import output
from spectra.cli.quiet import quiet_libraries
from spectra.cli.sizes import readable
from spectra.training.config import EMBEDDED, TrainConfig

if TYPE_CHECKING:
    from rich.console import Console

    from spectra.training.run.concepts import ConceptSpec
    from spectra.training.run.report import Summary

_EXAMPLE = (
    "Example:  spectra train     (the embedded base learns the embedded fox)     |     "
    'spectra train --base ./sd15 --images ./dog --prompt "a photo of a sks dog" '
    '--class-prompt "a photo of a dog" -o out/dog     |     '
    "spectra train --subject fox --subject wolf -o out/both     (two into one shift)     |     "
    "spectra train --concepts pets.toml -o out     (several in one pass over the base, a folder for each)"
)
_DATA, _LOSS, _COST, _LOOK = "Pictures", "What is trained", "Cost", "Watching and resuming"
_JOINT = "Several subjects in one shift"


def _option(help: str, panel: str, *names: str, of: str = "", **more: Any) -> Any:
    """An option whose default is that of the setting `of`, shown for a full-sized base and for the embedded one."""
    usual, embedded = getattr(TrainConfig, of, None), EMBEDDED.get(of)
    if usual is True:
        help += " \\[default: on]"
    elif usual:  # nothing, zero and off are not worth a word
        help += f" \\[default: {usual}{f', embedded base {embedded}' if embedded is not None else ''}]"
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, **more)


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command(epilog=_EXAMPLE)
    def train(
        base: Annotated[str | None, _option("Diffusers folder, .safetensors checkpoint or hub id.", _DATA)] = None,
        subject: Annotated[
            list[str] | None,
            _option(
                "Embedded subject (see spectra subjects). Two to four times: all into one shift, each by name or as "
                'DIR="a photo of a \\[V1] dog", with a word of its own in brackets.',
                _DATA,
                metavar="NAME|DIR=PROMPT",
            ),
        ] = None,
        images: Annotated[str | None, _option("Folder of instance pictures.", _DATA, metavar="DIR")] = None,
        prompt: Annotated[str | None, _option("Instance prompt, with a rare token.", _DATA)] = None,
        class_prompt: Annotated[str | None, _option("The same without the token.", _DATA)] = None,
        class_images: Annotated[
            str | None, _option("Class pictures, instead of the base's own.", _DATA, metavar="DIR")
        ] = None,
        resolution: Annotated[int | None, _option("Pixels of a picture's side.", _DATA)] = None,
        collage: Annotated[
            float | None, _option("Probability that a sample shows two of them, a half each.", _JOINT, of="collage")
        ] = None,
        collage_fit: Annotated[
            str | None, _option("crop a picture to fill its half, or shrink it.", _JOINT, of="collage_fit")
        ] = None,
        collage_prompts: Annotated[
            list[str] | None,
            _option(
                "Of collages: {left}, {right}, {before} stand for the subjects; repeatable.", _JOINT, "--collage-prompt"
            ),
        ] = None,
        unmix_weight: Annotated[
            float | None,
            _option("Keeps a special word's attention off the other's half; 0 is off.", _JOINT, of="unmix_weight"),
        ] = None,
        unmix_layers: Annotated[
            str | None, _option("Cross-attention layers it acts on, patterns.", _JOINT, of="unmix_layers")
        ] = None,
        unmix_schedule: Annotated[
            str | None, _option("constant, falling or rising.", _JOINT, of="unmix_schedule")
        ] = None,
        init_shift: Annotated[
            str | None, _option("Shift to start from, instead of zero.", _LOSS, metavar="FILE")
        ] = None,
        targets: Annotated[
            str | None, _option("Subsets or patterns, such as unet-ca,text-encoder.", _LOSS, "--target", of="targets")
        ] = None,
        text_encoder: Annotated[
            bool | None, _option("Train the text encoder too.", _LOSS, "--text-encoder/--no-text-encoder")
        ] = None,
        directions: Annotated[
            int | None, _option("Of each weight, only so many of the largest singular values may move.", _LOSS)
        ] = None,
        steps: Annotated[int | None, _option("Optimizer steps.", _LOSS, of="steps")] = None,
        lr: Annotated[float | None, _option("Learning rate.", _LOSS, of="lr")] = None,
        lr_1d: Annotated[float | None, _option("Learning rate of 1-D weights.", _LOSS, "--lr-1d", of="lr_1d")] = None,
        lr_schedule: Annotated[
            str | None, _option("constant, or cosine: rates fall to zero.", _LOSS, "--lr-schedule", of="lr_schedule")
        ] = None,
        prior_weight: Annotated[
            float | None, _option("Of prior preservation; 0 leaves it out.", _LOSS, of="prior_weight")
        ] = None,
        prior_target: Annotated[
            str | None,
            _option("noise, or base: hold it to what the frozen base answers.", _LOSS, of="prior_target"),
        ] = None,
        prior_unconditional: Annotated[
            float | None, _option("Share of class pictures without a caption.", _LOSS, of="prior_unconditional")
        ] = None,
        prior_words: Annotated[
            float | None, _option("Share of class pictures under another word.", _LOSS, of="prior_words")
        ] = None,
        prior_count: Annotated[int | None, _option("Class pictures to draw.", _LOSS, of="prior_count")] = None,
        prior_steps: Annotated[int | None, _option("Steps of each.", _LOSS, of="prior_steps")] = None,
        prior_guidance: Annotated[float | None, _option("Their guidance scale.", _LOSS, of="prior_guidance")] = None,
        min_snr_gamma: Annotated[float | None, _option("Min-SNR clip; 0 is off.", _LOSS, of="min_snr_gamma")] = None,
        weight_decay: Annotated[float | None, _option("Of AdamW.", _LOSS, of="weight_decay")] = None,
        max_grad_norm: Annotated[
            float | None, _option("Gradient clipping; 0 is off.", _LOSS, of="max_grad_norm")
        ] = None,
        seed: Annotated[int | None, _option("Of everything random.", _LOSS)] = None,
        batch: Annotated[int | None, _option("Instance pictures at once.", _COST, of="batch")] = None,
        accumulation: Annotated[int | None, _option("Batches per step.", _COST, of="accumulation")] = None,
        gradient_checkpointing: Annotated[
            bool | None,
            _option("Less memory, more time.", _COST, "--gradient-checkpointing/--no-gradient-checkpointing"),
        ] = None,
        low_memory: Annotated[
            bool | None,
            _option("U and V in place of each weight: less memory.", _COST, "--low-memory/--no-low-memory"),
        ] = None,
        tune: Annotated[
            bool | None,
            _option("Measure first how each layer computes fastest; remembered.", _COST, "--tune/--no-tune"),
        ] = None,
        mixed_precision: Annotated[str | None, _option("no, fp16 or bf16.", _COST, of="mixed_precision")] = None,
        cache_latents: Annotated[
            bool | None,
            _option("Encode pictures once.", _COST, "--cache-latents/--no-cache-latents", of="cache_latents"),
        ] = None,
        cache_prompts: Annotated[
            bool | None,
            _option("Encode prompts once.", _COST, "--cache-prompts/--no-cache-prompts", of="cache_prompts"),
        ] = None,
        file_dtype: Annotated[
            str | None, _option("Precision of the shift file: float32 or float16.", _COST, of="file_dtype")
        ] = None,
        device: Annotated[str, _option("cpu keeps it off a GPU.", _COST)] = "",
        validation_prompts: Annotated[
            list[str] | None, _option("Drawn before and after; repeatable.", _LOOK, "--validation-prompt")
        ] = None,
        validation_every: Annotated[int | None, _option("Also every so many steps.", _LOOK)] = None,
        validation_count: Annotated[int | None, _option("Pictures per prompt.", _LOOK, of="validation_count")] = None,
        validation_steps: Annotated[int | None, _option("Their steps.", _LOOK, of="validation_steps")] = None,
        validation_guidance: Annotated[
            float | None, _option("Their guidance scale.", _LOOK, of="validation_guidance")
        ] = None,
        tensorboard: Annotated[str | None, _option("Folder of its log.", _LOOK, metavar="DIR")] = None,
        save_every: Annotated[int | None, _option("Save the state every so many steps.", _LOOK)] = None,
        resume: Annotated[bool, _option("Continue the saved state of this output.", _LOOK, "--resume")] = False,
        config: Annotated[Path | None, _option("Settings from a TOML file.", _LOOK, metavar="FILE.toml")] = None,
        concepts: Annotated[
            Path | None,
            _option(
                "Several concepts together: settings, then a table \\[\\[concept]] for each with its name, images (or "
                "subject), prompt, class_prompt, seed and output.",
                _DATA,
                metavar="FILE.toml",
            ),
        ] = None,
        out: Annotated[
            Path | None, typer.Option("--out", "-o", metavar="DIR", help="Output folder.", show_default=False)
        ] = None,
        force: Annotated[bool, typer.Option("--force", help="Replace an earlier training's folder.")] = False,
        json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
    ) -> None:
        """Trains a spectral shift on pictures of a subject, or of several together; by itself, on the embedded fox."""
        given = {name: value for name, value in locals().items() if value is not None}
        for name in ("config", "concepts", "out", "force", "json", "device", "resume"):
            given.pop(name, None)
        if subject is not None and (len(subject) > 1 or "=" in subject[0]):
            given["subjects"] = given.pop("subject")
        elif subject is not None:
            (given["subject"],) = subject
        quiet_libraries()
        from spectra.training.run.train import train_together

        wanted = _wanted(config, concepts, out, given, resume=resume)
        again = f"--concepts {concepts}" + (f" -o {out}" if out else "") if concepts else f"-o {out}"
        try:
            summaries = train_together(wanted, resume=resume, force=force, device=device, progress=output.progress())
        except KeyboardInterrupt:
            _interrupted([each.out for each in wanted], again)
            raise
        if concepts is None:
            (summary,) = summaries
            output.result(summary.as_dict(), json=json, human=lambda console: _show(summary, console))
        else:
            result = {"concepts": [{"name": w.name, **s.as_dict()} for w, s in zip(wanted, summaries, strict=True)]}
            output.result(result, json=json, human=lambda console: _show_together(wanted, summaries, console))


def _settings(config: Path | None, out: Path | None, given: dict[str, Any], *, resume: bool) -> Any:
    """What was given, on top of the file's settings, or on top of those of the training that is resumed."""
    from spectra.errors import InputError
    from spectra.training.config import make_config, read_config

    if config is not None:
        return read_config(config, **given)
    if resume:
        from spectra.training.run.outputs import Outputs
        from spectra.training.run.state import read_state

        if out is None:
            raise InputError("--resume needs -o DIR, the output folder of the training to continue")
        saved = read_state(Outputs(out).find_state()).config
        return make_config({**saved.as_dict(), **given}, source="command line")
    return make_config(given, source="command line")


def _wanted(
    config: Path | None, concepts: Path | None, out: Path | None, given: dict[str, Any], *, resume: bool
) -> list[ConceptSpec]:
    """What is to be learnt: one concept by the options, or those of a file."""
    from spectra.errors import InputError
    from spectra.training.run.concepts import UNSHARED_SETTINGS, ConceptSpec, read_concepts

    if concepts is None:
        return [ConceptSpec("", _settings(config, out, given, resume=resume), out)]
    for name in ("config", *UNSHARED_SETTINGS):
        if given.get(name) or (name == "config" and config is not None):
            raise InputError(f"--{name} is for one concept; {concepts} says it for each: leave --{name} out")
    return read_concepts(concepts, out, **given)


def _interrupted(folders: list[Path | None], again: str) -> None:
    """How to go on, if a state was saved."""
    from spectra.training.run.outputs import STATE, Outputs

    if all(folder is not None and (Outputs(folder).unfinished / STATE).is_file() for folder in folders):
        output.say(f"interrupted; continue with: spectra train --resume {again}")


def _show_together(wanted: list[ConceptSpec], summaries: list[Summary], console: Console) -> None:
    """The summaries for a person: a line or two for each concept, then what they cost together."""
    from rich.markup import escape

    first = summaries[0]
    lines = ["[bold]Learnt[/bold]"]
    for each, summary in zip(wanted, summaries, strict=True):
        learnt = f"{each.name}: {summary.subject}, as {summary.prompt!r}, loss {_change(summary)}"
        lines += [f"  {escape(learnt)}", f"    {escape(summary.shift)}: {readable(summary.bytes)}"]
    resumed = f", resumed at {first.resumed_at}" if first.resumed_at else ""
    lines += [
        "[bold]Cost, together[/bold]",
        f"  {first.steps} steps{resumed}, {first.train_seconds:.0f} s of {first.total_seconds:.0f} s in all",
        "[bold]Next[/bold]",
        *(f"  {escape(summary.next_commands()[0])}" for summary in summaries),
    ]
    for line in lines:
        console.print(line, soft_wrap=True)


def _change(summary: Summary) -> str:
    """The loss before and after."""
    change = 1 - summary.loss_after / summary.loss_before if summary.loss_before else 0.0
    return f"{summary.loss_before:.4f} -> {summary.loss_after:.4f} ({-change:+.0%}, same noise)"


def _show(summary: Summary, console: Console) -> None:
    """The summary for a person: what was learnt, what it cost, what to try next."""
    from rich.markup import escape

    of_base = f", {summary.bytes / summary.base_bytes:.2%} of the base's {readable(summary.base_bytes)}"
    minutes = f"{summary.train_seconds:.0f} s of {summary.total_seconds:.0f} s in all"
    steps = f"{summary.steps} steps" + (f", resumed at {summary.resumed_at}" if summary.resumed_at else "")
    learnt = f"{summary.subject}, as {summary.prompt!r}"
    lines = [
        "[bold]Learnt[/bold]",
        f"  {escape(learnt)}",
        f"  loss on its pictures {_change(summary)}",
        f"  pictures before and after: {escape(summary.sheet)}",
        "[bold]Cost[/bold]",
        f"  {steps}, {minutes}",
        f"  {escape(summary.shift)}: {readable(summary.bytes)}{of_base if summary.base_bytes else ''}"
        f" ({summary.tensors} tensors, {summary.floats} floats)",
        "[bold]Next[/bold]",
        *(f"  {escape(command)}" for command in summary.next_commands()),
    ]
    for line in lines:
        console.print(line, soft_wrap=True)
