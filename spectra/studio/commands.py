"""What the page's forms come to: command lines of `spectra`, checked by the library before they wait in the queue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from spectra.editing.edit import KIND as EDITED
from spectra.editing.settings import make_edit_settings
from spectra.errors import InputError
from spectra.io.atomic_writes import check_output
from spectra.studio.settings import StudioSettings
from spectra.training.config import TrainConfig, make_config
from spectra.training.run.concepts import ConceptSpec
from spectra.training.run.inputs import validate_inputs
from spectra.training.run.outputs import Outputs

STATES, MOST_STEPS = 20, 100
"""States that a training saves on its way, of which the page reads the losses; and steps between two at most."""


@dataclass(frozen=True)
class TrainForm:
    """What the form of a training says.

    Attributes:
        name: of the training, and of the folder that it writes.
        trays: one for each subject, the left one first.
        prompts: of each.
        class_prompt: of one subject; empty for the prompt without its special word.
        preset, steps, prior_weight, seed: as `spectra train` has them; no steps, and no weight, are the preset's.
        sheets: how often pictures are drawn on the way.
    """

    name: str = ""
    trays: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    class_prompt: str = ""
    preset: str = "balanced"
    steps: int = 0
    prior_weight: float | None = None
    seed: int = 0
    sheets: int = 4

    @classmethod
    def of(cls, values: dict[str, Any]) -> TrainForm:
        """A form from what `vars` of one gives, after JSON."""
        known = {each.name for each in fields(cls)}
        given: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if name in known
        }
        return cls(**given)

    def options(self, settings: StudioSettings, folders: Sequence[Path]) -> dict[str, Any]:
        """The settings of the training, by their names in the library.

        Args:
            settings: of the studio, with the base.
            folders: of the pictures of each subject.
        """
        given: dict[str, Any] = {
            "base": settings.base,
            "components_from": settings.components_from,
            "prediction_type": settings.prediction_type,
            "preset": self.preset,
            "seed": self.seed,
        }
        if len(folders) > 1:
            given["subjects"] = [f"{folder}={prompt}" for folder, prompt in zip(folders, self.prompts, strict=True)]
        else:
            given |= {"images": str(folders[0]), "prompt": self.prompts[0], "class_prompt": self.class_prompt}
        if self.steps:
            given["steps"] = self.steps
        if self.prior_weight is not None:
            given["prior_weight"] = self.prior_weight
        return {name: value for name, value in given.items() if value not in ("", "auto")}


def train_config(form: TrainForm, settings: StudioSettings, folders: Sequence[Path]) -> TrainConfig:
    """The settings of a training, checked as the command line checks them.

    Raises:
        InputError: a value out of range, or settings that exclude each other.
    """
    return make_config(form.options(settings, folders), source="page")


def train_command(form: TrainForm, settings: StudioSettings, folders: Sequence[Path], out: Path) -> list[str]:
    """The arguments of `spectra` that train what the form says.

    Raises:
        SpectraError: everything that is wrong with it, pictures and output folder included.
    """
    if not folders or not all(folder.is_dir() for folder in folders):
        raise InputError("no pictures: drop some first")
    config = train_config(form, settings, folders)
    validate_inputs(ConceptSpec("", config, out))
    every = max(1, min(MOST_STEPS, config.steps // STATES))
    arguments = ["train", *settings.base_options]
    for name, value in form.options(settings, folders).items():
        if name == "subjects":
            arguments += [text for each in value for text in ("--subject", each)]
        elif name not in ("base", "components_from", "prediction_type"):
            arguments += [f"--{name.replace('_', '-')}", f"{value:g}" if isinstance(value, float) else str(value)]
    arguments += ["--save-every", str(every)]
    if form.sheets:
        arguments += ["--validation-every", str(max(1, config.steps // form.sheets))]
    return [*arguments, "-o", str(out)]


def resumed(arguments: Sequence[str], out: Path) -> list[str]:
    """The arguments that go on with a stopped job: from its state, where it saved one, or from the start."""
    if arguments[0] == "train" and Outputs(out).find_state().is_file():
        return ["train", "--resume", "-o", str(out)]
    return [*arguments, *(() if "--force" in arguments else ("--force",))]


@dataclass(frozen=True)
class EditForm:
    """What the form of an edit says; of what is swept, numbers separated by commas.

    Attributes:
        name: of the edit, and of the folder that it writes.
        tray: with the picture.
        caption, edit: what it shows, and what it should show.
        noise_mixes, guidances, keeps, scales: values to draw every combination of; empty for the usual one.
        train_steps: 0 for as many as usual.
    """

    name: str = ""
    tray: str = ""
    caption: str = ""
    edit: str = ""
    noise_mixes: str = ""
    guidances: str = ""
    keeps: str = ""
    scales: str = ""
    train_steps: int = 0
    seed: int = 0

    def sweeps(self) -> dict[str, tuple[float, ...]]:
        """The values of what is swept, by setting.

        Raises:
            InputError: no numbers.
        """
        return {
            name: numbers(name.replace("_", " "), getattr(self, name))
            for name in ("noise_mixes", "guidances", "keeps", "scales")
            if getattr(self, name).strip()
        }


def edit_command(form: EditForm, settings: StudioSettings, picture: Path, out: Path) -> list[str]:
    """The arguments of `spectra` that edit what the form says.

    Raises:
        SpectraError: what is wrong with it.
    """
    swept: dict[str, Any] = form.sweeps()
    training = {"steps": form.train_steps} if form.train_steps else {}
    given = {"image": picture, "caption": form.caption, "edits": (form.edit,), "base": settings.base, **swept}
    made = make_edit_settings(**given, seeds=(form.seed,), training=training | {"seed": form.seed})
    _ = made.config
    check_output(out, folder_of=EDITED)
    options = {"noise_mixes": "--noise-mix", "guidances": "--guidance", "keeps": "--keep", "scales": "--scale"}
    arguments = ["edit", str(picture), *settings.base_options, "--caption", form.caption, "--edit", form.edit]
    arguments += [text for name, values in swept.items() for value in values for text in (options[name], f"{value:g}")]
    if form.train_steps:
        arguments += ["--train-steps", str(form.train_steps)]
    return [*arguments, "--seed", str(form.seed), "-o", str(out)]


def numbers(what: str, text: str) -> tuple[float, ...]:
    """Numbers separated by commas.

    Raises:
        InputError: something else, or too many.
    """
    try:
        found = tuple(float(each) for each in text.split(",") if each.strip())
    except ValueError as error:
        raise InputError(f"{what}: expected numbers separated by commas, got {text!r}") from error
    if not found or len(found) > 12:
        raise InputError(f"{what}: expected one to twelve numbers separated by commas, got {text!r}")
    return found
