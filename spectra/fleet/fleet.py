"""Trains concepts as Ray's tasks: what has ended stays, what is lost is tried again, what fails keeps no other back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spectra.bases.pipeline import keep_bases
from spectra.errors import InputError, Mistakes, OutputError, SpectraError
from spectra.fleet.cluster import connect, gpu_each
from spectra.training.config import read_config
from spectra.training.run.concepts import ConceptSpec
from spectra.training.run.inputs import validate_inputs
from spectra.training.run.outputs import STATE, Outputs
from spectra.training.run.report import Summary
from spectra.training.run.train import train

ATTEMPTS = 3
"""How often a concept is tried whose worker dies or whose training ends in an error that nobody foresaw."""

_SHORT = 80
"""Characters of a setting's two values that a message shows."""

_LOOK = 1.0
"""Seconds between two looks at what has ended."""


@dataclass(frozen=True)
class Ended:
    """One concept that has ended.

    Attributes:
        summary: of its training; None if it failed, or had ended before.
        error: why it failed, in one line.
    """

    name: str
    folder: str
    summary: Summary | None = None
    error: str = ""


@dataclass
class FleetReport:
    """What became of a fleet.

    Attributes:
        ended: in the order in which they did; those that had ended before come first.
        seconds: by the clock.
    """

    ended: list[Ended] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def failed(self) -> list[Ended]:
        """Those that have no shift."""
        return [each for each in self.ended if each.error]

    @property
    def trained(self) -> list[Summary]:
        """The summaries of those that were trained now."""
        return [each.summary for each in self.ended if each.summary is not None]

    @property
    def training_seconds(self) -> float:
        """Summed over all workers."""
        return sum(summary.total_seconds for summary in self.trained)


def run_fleet(
    concepts: Sequence[ConceptSpec],
    *,
    address: str = "",
    workers: int = 0,
    device: str = "",
    told: Callable[[Ended], None] = lambda ended: None,
) -> FleetReport:
    """Train every concept that has not ended yet, into its own folder, which all workers must reach.

    Args:
        address: of a Ray cluster; a Ray of this machine alone is started by default.
        workers: trainings at once on a Ray of this machine; as many as it has cores or GPUs by default.
        device: "cpu" keeps trainings off GPUs.
        told: is told of each concept as it ends.

    Raises:
        SpectraError: something given is wrong, with all that is; or there is no such cluster. Nothing has begun then.
    """
    began, report = time.perf_counter(), FleetReport()
    mistakes, left = Mistakes(), []
    for each in concepts:
        with mistakes.noted():
            if is_finished(each):
                report.ended.append(Ended(each.name, str(each.out)))
            else:
                _check(each)
                left.append(each)
    mistakes.tell()
    for ended in report.ended:
        told(ended)
    if left:
        for ended in _on_ray(left, address, workers, device):
            report.ended.append(ended)
            told(ended)
    report.seconds = time.perf_counter() - began
    return report


def is_finished(concept: ConceptSpec) -> bool:
    """Whether a concept's folder is there, whole, with the settings that are asked for.

    Raises:
        OutputError: it has others.
    """
    outputs = Outputs(_folder(concept))
    settings = outputs.folder / f"{outputs.name}.toml"
    if not settings.is_file() or not (outputs.folder / f"{outputs.name}.safetensors").is_file():
        return False
    was, now = read_config(settings).as_dict(), concept.config.as_dict()
    # A finished training's prompts are filled in from its subject's.
    other = sorted(name for name, value in now.items() if value != was[name] and value not in (None, "", ()))
    if other:
        values = f" ({was[other[0]]!r}, not {now[other[0]]!r})"
        raise OutputError(
            f"{outputs.folder} has ended with another {other[0]}{values if len(values) < _SHORT else ''}; "
            "remove it, or give the concept another output"
        )
    return True


def _folder(concept: ConceptSpec) -> Path:
    if concept.out is None:
        raise InputError(f"{concept.name}: a fleet's concept needs an output folder")
    return concept.out


def _goes_on(concept: ConceptSpec) -> bool:
    return (Outputs(_folder(concept)).unfinished / STATE).is_file()


def _check(concept: ConceptSpec) -> None:
    resume = _goes_on(concept)
    validate_inputs(concept, resume=resume, force=not resume)


def _train(concept: ConceptSpec, device: str) -> Summary | SpectraError:
    """What a worker does: train, or go on with what a lost one saved."""
    keep_bases()
    resume = _goes_on(concept)
    try:
        return train(concept.config, concept.out, resume=resume, force=not resume, device=device)
    except SpectraError as error:  # would be the same again
        return error


def _on_ray(concepts: Sequence[ConceptSpec], address: str, workers: int, device: str) -> Iterator[Ended]:
    """Each concept as it ends."""
    ray = connect(address, workers)
    try:
        gpus = gpu_each(ray, device)
        task: Any = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1, retry_exceptions=True, **gpus)(_train)
        names = {task.remote(each, device): each for each in concepts}
        while names:
            ready, _ = ray.wait(list(names), num_returns=1, timeout=_LOOK)
            for future in ready:
                yield _ended(names.pop(future), future)
    finally:
        ray.shutdown()


def _ended(concept: ConceptSpec, future: Any) -> Ended:
    import ray

    folder = str(concept.out)
    try:
        found = ray.get(future)
    except Exception as error:  # whatever a worker died of
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
        return Ended(concept.name, folder, error=f"failed {ATTEMPTS} times; at last: {reason}")
    if isinstance(found, SpectraError):
        return Ended(concept.name, folder, error=str(found))
    return Ended(concept.name, folder, found)
