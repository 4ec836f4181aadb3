"""`spectra train`: pictures in, a shift out."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.cli import output
from spectra.cli.options import check_device, command, device_option, force_option, json_option
from spectra.cli.tables import plain, plural, readable
from spectra.errors import InputError, Mistakes
from spectra.settings import declared_settings, setting
from spectra.training.config import TrainConfig, make_config, read_config

if TYPE_CHECKING:
    from spectra.training.run.concepts import ConceptSpec
    from spectra.training.run.report import Summary


_SETTINGS = declared_settings(TrainConfig)
_FILES = ("base", "components_from", "images", "prompt", "class_prompt", "class_images", "init_shift")
"""Settings of what is read from the disk."""
del _SETTINGS["subject"]  # --subject sets `subjects`, or `subject` where it is given once


@dataclass(frozen=True)
class _Options:
    concepts: Path | None = setting(
        None,
        "Train several concepts together: settings, then a table [[concept]] for each with its name, images (or "
        "subject), prompt, class_prompt, seed and output.",
        panel="Pictures",
        brief="Several trainings in one pass, a folder each.",
        metavar="FILE.toml",
    )
    device: str = device_option("train on", panel="Cost")
    resume: bool = setting(
        False,
        "Continue from the state saved in the output folder.",
        panel="Watching and resuming",
        brief="Continue from the state in the output folder.",
        elsewhere="resume_from_checkpoint",
    )
    config: Path | None = setting(
        None,
        "Read settings from a TOML file.",
        panel="Watching and resuming",
        brief="Read settings from a TOML file.",
        metavar="FILE.toml",
        elsewhere="config_file",
    )
    out: Path | None = setting(
        None,
        "Output folder.",
        option="--out -o",
        brief="Output folder; out/NAME by itself.",
        metavar="DIR",
        elsewhere="output_dir output",
    )
    force: bool = force_option("an earlier training's folder", brief="Replace an earlier training's folder.")
    json: bool = json_option(" with the summary")


@command(
    _Options,
    "spectra train     (the embedded base learns the embedded fox)",
    'spectra train --base ./sd15 --images ./dog --prompt "a photo of a sks dog" '
    '--class-prompt "a photo of a dog" -o out/dog',
    "spectra train --subject fox --subject wolf -o out/both     (two into one shift)",
    "spectra train --concepts pets.toml -o out     (several in one pass over the base, a folder for each)",
    library=_SETTINGS,
)
def train(options: _Options, given: dict[str, Any]) -> None:
    """Trains a spectral shift on pictures of a subject, or of several together; by itself, on the embedded fox."""
    subjects = given.get("subjects", ())
    if len(subjects) == 1 and "=" not in subjects[0]:
        (given["subject"],) = given.pop("subjects")
    from spectra.training.run.train import train_together

    concepts = _concepts(options, given)
    check_device(options.device)
    try:
        summaries = train_together(
            concepts, resume=options.resume, force=options.force, device=options.device, progress=output.progress()
        )
    except KeyboardInterrupt as stopped:
        _interrupted(stopped, [each.out for each in concepts], options)
        raise
    found = [summary.as_dict() for summary in summaries]
    if options.concepts is not None:
        found = [{"concepts": [{"name": each.name, **own} for each, own in zip(concepts, found, strict=True)]}]
    output.result(found[0], json=options.json, human=lambda: _show([each.name for each in concepts], summaries))


def _concepts(options: _Options, given: dict[str, Any]) -> list[ConceptSpec]:
    """What is to be learnt: one concept by the options, or those of a file."""
    from spectra.training.run.concepts import UNSHARED_SETTINGS, ConceptSpec, read_concepts

    if options.concepts is None:
        return [ConceptSpec("", _settings(options, given), options.out)]
    for name in ("config", *UNSHARED_SETTINGS):
        if given.get(name) or (name == "config" and options.config is not None):
            raise InputError(f"--{name} is for one concept; {options.concepts} says it for each: leave --{name} out")
    return read_concepts(options.concepts, options.out, **given)


def _settings(options: _Options, given: dict[str, Any]) -> TrainConfig:
    """What was given, on top of the file's settings, or on top of those of the training that is resumed."""
    if options.config is not None:
        return read_config(options.config, **given)
    if options.resume:
        from spectra.training.run.outputs import Outputs
        from spectra.training.run.state import read_state

        if options.out is None:
            raise InputError("--resume needs -o DIR, the output folder of the training to continue")
        saved = read_state(Outputs(options.out).find_state()).config
        return make_config({**saved.as_dict(), **given}, source="command line")
    mistakes = Mistakes()
    with mistakes.noted():
        return make_config(given, source="command line")
    # Pictures and base are looked at all the same, so that everything wrong is told at once.
    with mistakes.noted():
        from spectra.training.run.concepts import ConceptSpec
        from spectra.training.run.inputs import validate_inputs

        files = {name: value for name, value in given.items() if name in _FILES}
        validate_inputs(ConceptSpec("", make_config(files), options.out), force=options.force)
    mistakes.tell()
    raise AssertionError("a mistake was noted")


def _interrupted(stopped: KeyboardInterrupt, folders: list[Path | None], options: _Options) -> None:
    """How to go on, and what there is so far, if that was saved."""
    from spectra.training.run.interruption import Interrupted
    from spectra.training.run.outputs import STATE, Outputs

    found = (
        list(stopped.folders) if isinstance(stopped, Interrupted) else [each for each in folders if each is not None]
    )
    if not found or not all((Outputs(folder).unfinished / STATE).is_file() for folder in found):
        return
    again = ["--concepts", str(options.concepts)] if options.concepts is not None else []
    out = options.out if again else found[0]
    again += ["-o", str(out)] if out is not None else []
    if isinstance(stopped, Interrupted):
        output.say(f"stopped after {stopped.step} of {stopped.steps} steps; the state is saved")
        for folder in found:
            shift = shlex.quote(f"{folder}@{stopped.step}")
            output.say(f"the shift so far: spectra generate --shift {shift} --prompt ...")
    output.say(f"continue with: spectra train --resume {shlex.join(again)}")


def _show(names: Sequence[str], summaries: Sequence[Summary]) -> Iterator[output.Part]:
    """What was learnt, what it cost, what to try next."""
    yield plain("Learnt", "bold")
    for name, each in zip(names, summaries, strict=True):
        of_base = f", {each.bytes / each.base_bytes:.2%} of the base's {readable(each.base_bytes)}"
        yield f"  {name and name + ': '}{each.subject}, as {each.prompt!r}"
        yield f"    {_pictures(each.pictures)}"
        for verdict in each.judged:
            yield f"    {verdict.question} {verdict.told}"
            if verdict.change:
                yield f"      to change that: {verdict.change}"
        yield f"    pictures before and after: {each.sheet}"
        yield (
            f"    {each.shift}: {readable(each.bytes)}{of_base if each.base_bytes else ''}"
            f" ({each.tensors} tensors, {each.floats} floats)"
        )
    yield plain("Cost", "bold")
    first = summaries[0]
    resumed = f", resumed at {first.resumed_at}" if first.resumed_at else ""
    yield f"  {first.steps} steps{resumed}, {first.train_seconds:.0f} s of {first.total_seconds:.0f} s in all"
    if first.processes > 1:
        yield f"  {first.processes} processes, which sum {readable(first.reduced_bytes)} of gradients a step"
    yield plain("Next", "bold")
    for each in summaries:
        for again in each.next_commands() if len(summaries) == 1 else each.next_commands()[:1]:
            yield f"  {again}"


def _pictures(counts: dict[str, Any]) -> str:
    """What was used of the instance pictures, on one line."""
    of_own = [f"{counts[name]} with {name} of their own" for name in ("captions", "masks") if counts[name]]
    sizes = ", ".join(f"{count} of {size}" for size, count in counts["sizes"].items())
    line = f"{plural(counts['used'], 'picture')}{''.join(f', {each}' for each in of_own)}; {sizes}"
    if counts["round"] != counts["used"]:
        line += f"; {counts['round']} samples a round"
    return line + (f"; passed over: {len(counts['passed_over'])}" if counts["passed_over"] else "")
