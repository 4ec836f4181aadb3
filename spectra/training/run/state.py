"""A training's state in one safetensors file: saved on the way, and continued exactly.

It holds the parameters, those that the training gives where they are others, what the optimizer keeps, the states of
torch's generators, the rest of each round of pictures, the step and the history. Nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectra.errors import BaseError, InputError, ShiftFileError
from spectra.io.dtypes import dtype_name
from spectra.io.safetensors_header import HeaderError, read_header
from spectra.io.tensor_files import load_tensors, save_tensors
from spectra.settings import declared_settings
from spectra.shift.metadata import STATE_FORMAT
from spectra.shift.shift_file import KEPT_SHIFT, ContentHash, check_content
from spectra.training.config import TrainConfig, make_config
from spectra.training.run.contents import Contents, apart_from_paths, found_again
from spectra.training.run.loop import Loop
from spectra.training.run.lr_schedule import scheduler

FORMAT = {"format": STATE_FORMAT, "version": "5"}

CHANGEABLE_ON_RESUME = frozenset(name for name, each in declared_settings(TrainConfig).items() if each.resumable)
"""Settings that may change on resuming: none of them moves a parameter."""


@dataclass(frozen=True)
class SavedState:
    """A state as it was read, with hashes of what it was given by paths and the fingerprint of its base."""

    path: Path
    tensors: dict[str, Tensor]
    config: TrainConfig
    contents: Contents
    base: str
    progress: dict[str, Any]


@dataclass(frozen=True)
class Origin:
    """What a training was given: its settings, hashes of what lies at their paths, and its base's fingerprint."""

    config: TrainConfig
    contents: Contents
    base: str


def save_state(loop: Loop, number: int, path: Path, origin: Origin, shift: bytes) -> None:
    """Write the state of one concept between two steps: the very state that it would have if it were trained alone.

    `shift` is the file of the shift that the training would give if it ended here.
    """
    concept = loop.concepts[number]
    tensors = {f"shift/{key}": loop.row(key, value, number).detach().cpu() for key, value in loop.parameters.items()}
    if loop.result.differs:
        with loop.result.in_place():
            for key, value in loop.parameters.items():
                tensors[f"result/{key}"] = loop.row(key, value, number).detach().cpu().clone()
    numbers: dict[str, dict[str, float]] = {}  # what the optimizer keeps of a parameter that is no tensor
    for place, (key, kept) in enumerate(zip(loop.optimized, optimizer_states(loop), strict=True)):
        for name, value in kept.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{place}/{name}"] = loop.row(key, value, number).cpu().clone()
            else:
                numbers.setdefault(str(place), {})[name] = value
    tensors[KEPT_SHIFT] = torch.frombuffer(bytearray(shift), dtype=torch.uint8)
    tensors["random/torch"] = torch.get_rng_state()
    tensors["random/draws"] = concept.generator.get_state()
    for device in range(torch.cuda.device_count()):
        tensors[f"random/cuda/{device}"] = torch.cuda.get_rng_state(device)
    scaler = loop.accelerator.scaler
    progress = {
        "step": loop.step,
        "history": concept.history,
        "remaining": {objective.name: objective.remaining for objective in concept.objectives},
        "scaler": scaler.state_dict() if scaler is not None else None,
        "optimizer": numbers,
        "both_sides": [number for number, layer in enumerate(loop.layers()) if layer.both_sides],
        "groups": [_numbers(group) for group in loop.optimizer.param_groups],
    }
    header = {"config": json.dumps(origin.config.as_dict()), "progress": json.dumps(progress)}
    header |= {**FORMAT, "contents": json.dumps(vars(origin.contents)), "folder": str(Path.cwd()), "base": origin.base}
    save_tensors(path, tensors, {**header, "content_hash": _content_hash(header, tensors)})


def _content_hash(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    content = ContentHash(header)
    for key in sorted(tensors):
        data = tensors[key].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        content.add(key, dtype_name(tensors[key].dtype), tensors[key].numel(), data)
    return content.hexdigest()


def optimizer_states(loop: Loop) -> list[dict[str, Any]]:
    """What the optimizer keeps of each parameter, in the order of `loop.optimized`."""
    parameters = [each for group in loop.optimizer.param_groups for each in group["params"]]
    return [loop.optimizer.state.get(each, {}) for each in parameters]


def _numbers(group: dict[str, Any]) -> dict[str, float]:
    """The numbers among an optimizer's settings of a group: some of them change with the steps."""
    return {name: value for name, value in group.items() if isinstance(value, (int, float))}


def read_state(path: Path) -> SavedState:
    """Read a state, checked for its form only.

    Raises:
        InputError: no state there, or a file that is not one.
    """
    if not path.is_file():
        raise InputError(
            f"nothing to resume: {path} does not exist; a training saves it with "
            "--save-every N; to train on from a finished one, without its optimizer, give its folder as --init-shift"
        )
    try:
        header = read_header(path).metadata
        if {name: header.get(name) for name in FORMAT} != FORMAT:
            raise InputError(f"{path}: not a training state of version {FORMAT['version']}; start without --resume")
        _, tensors = load_tensors(path)
        check_content(header["content_hash"], _content_hash(header, tensors))
        values = found_again(json.loads(header["config"]), Path(header["folder"]))
        config, contents = make_config(values, source=str(path)), Contents(**json.loads(header["contents"]))
        return SavedState(path, tensors, config, contents, header["base"], json.loads(header["progress"]))
    except (OSError, HeaderError, BaseError, ShiftFileError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: a damaged training state ({error}); start without --resume") from error


def check_resumable(saved: SavedState, config: TrainConfig, contents: Contents, *, finished: bool) -> None:
    """Check that continuing `saved` under `config` gives what an uninterrupted training would have.

    `finished` says that the training wrote its folder: then there must be steps left. Otherwise its last one may have
    been done, and what comes after it is still to do.

    Raises:
        InputError: a setting or the pictures changed, or the steps are done already.
    """
    # A rate or a weight that falls or rises over the steps is another at every step if their number changes.
    scheduled = {scheduler(config), config.unmix_schedule if config.subjects else "constant"} != {"constant"}
    free = CHANGEABLE_ON_RESUME - {"steps"} if scheduled else CHANGEABLE_ON_RESUME
    same = replace(config, **{name: getattr(saved.config, name) for name in free})
    then, now = apart_from_paths(saved.config), apart_from_paths(same)
    if then != now:
        name = next(name for name in now if now[name] != then[name])
        if name == "steps":
            raise InputError(
                f"cannot resume: steps was {then[name]} when the state was saved and is {now[name]} now, and the "
                f"{scheduler(config)} rates depend on it; to train on from what was learnt, start with its folder as "
                "--init-shift"
            )
        raise InputError(
            f"cannot resume: {name} was {then[name]!r} when the state was saved and is {now[name]!r} now; "
            "leave it as it was, or start without --resume"
        )
    contents.check(saved.contents)
    if saved.progress["step"] >= config.steps and (finished or saved.progress["step"] > config.steps):
        raise InputError(
            f"cannot resume: {saved.progress['step']} steps are done and {config.steps} asked for; give more --steps"
        )


def restore_state(loop: Loop, states: Sequence[SavedState], *, base: str) -> None:
    """Put a loop, and torch's random generators, where the states of its concepts were saved.

    Raises:
        InputError: a state was saved with another base or other targets, or after other steps than the first.
    """
    first = states[0]
    for number, saved in enumerate(states):
        if base != saved.base:
            raise InputError(
                f"cannot resume: the base is not the one the training began with ({base}, was {saved.base})"
            )
        found = {name: value.shape for name, value in saved.tensors.items() if name.startswith("shift/")}
        if found != {f"shift/{key}": loop.row(key, value, number).shape for key, value in loop.parameters.items()}:
            raise InputError("cannot resume: the state holds a shift of other targets, or of another form")
        if saved.progress["step"] != first.progress["step"]:
            raise InputError(
                f"cannot resume together: {first.path} is at step {first.progress['step']}, "
                f"{saved.path} at step {saved.progress['step']}"
            )

    def joined(name: str, key: str) -> Tensor:
        return loop.joined(key, [saved.tensors[name] for saved in states])

    with torch.no_grad():
        for key, value in loop.parameters.items():
            value.copy_(joined(f"shift/{key}", key))
        for key, average in loop.result.average.items():
            average.copy_(joined(f"result/{key}", key))
    kept: dict[int, dict[str, Any]] = {int(n): dict(own) for n, own in first.progress["optimizer"].items()}
    for name in first.tensors:
        if name.startswith("optimizer/"):
            _, place, what = name.split("/", 2)
            kept.setdefault(int(place), {})[what] = joined(name, loop.optimized[int(place)])
    loop.optimizer.load_state_dict({**loop.optimizer.state_dict(), "state": kept})
    for group, numbers in zip(loop.optimizer.param_groups, first.progress["groups"], strict=True):
        group.update(numbers)
    for number in first.progress["both_sides"]:
        loop.layers()[number].keep_both_sides()
    loop.step = first.progress["step"]
    for concept, saved in zip(loop.concepts, states, strict=True):
        concept.history[:] = saved.progress["history"]
        for objective in concept.objectives:
            objective.remaining = list(saved.progress["remaining"][objective.name])
        concept.generator.set_state(saved.tensors["random/draws"])
    if (scaler := loop.accelerator.scaler) is not None and first.progress["scaler"] is not None:
        scaler.load_state_dict(first.progress["scaler"])
    torch.set_rng_state(first.tensors["random/torch"])
    for device in range(torch.cuda.device_count()):
        if f"random/cuda/{device}" in first.tensors:
            torch.cuda.set_rng_state(first.tensors[f"random/cuda/{device}"], device)
