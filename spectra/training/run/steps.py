"""The steps of a training from the first to the last, and what is told, written and drawn between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from spectra.errors import DivergedError, ProcessError
from spectra.progress import Progress, working
from spectra.training.config import TrainConfig
from spectra.training.processes.group import Processes
from spectra.training.run.files import Files
from spectra.training.run.inputs import ValidatedInputs
from spectra.training.run.interruption import InterruptBetweenSteps, Interrupted
from spectra.training.run.loop import Loop
from spectra.training.run.memory import peak_memory
from spectra.training.run.report import WINDOW
from spectra.training.run.trackers import Trackers

LAUNCHERS_ECHO = 5.0
"""Seconds within which a launcher hands on to its processes the Ctrl-C that the terminal has told them already."""


def _due(every: int, step: int) -> bool:
    """Whether something that is done every so many steps is due after a step; 0 is never."""
    return every > 0 and step % every == 0


@dataclass
class Steps:
    """What takes the steps of a training.

    Attributes:
        loop, config: of it.
        inputs, trackers: of each concept.
        files: what is written on the way.
        validate: draws and shows validation pictures.
        processes: that take the steps together; the first alone tells and writes.
    """

    loop: Loop
    config: TrainConfig
    inputs: Sequence[ValidatedInputs]
    trackers: Sequence[Trackers]
    files: Files
    validate: Callable[[], None]
    processes: Processes
    progress: Progress

    def take(self) -> None:
        """Train to the end, saving states and shifts and drawing validation pictures on the way.

        Raises:
            Interrupted: Ctrl-C; states and shifts are saved.
            DivergedError: the loss or a parameter is not finite; the last good shift is kept.
            ProcessError: another process has ended; states and shifts are saved.
        """
        config, loop = self.config, self.loop
        echo = LAUNCHERS_ECHO if self.processes.count > 1 else 0.0
        with working(self.progress, "training", config.steps), InterruptBetweenSteps(self._stop, echo):
            self.progress.advance(loop.step)
            while loop.step < config.steps:
                self._advance()
                self.progress.advance(1, self._note())
                if self.processes.first:
                    self._log()
                if config.validation_count and _due(config.validation_every, loop.step) and self.processes.draws:
                    self.validate()
                if self.processes.first:
                    self._write()
                if self.processes.stop and loop.step < config.steps:
                    if self.processes.first:
                        self._save()
                    raise Interrupted(loop.step, config.steps, [each.outputs.folder for each in self.inputs])

    def _stop(self) -> None:
        """Stop after this step, and say so."""
        self.processes.stop = True
        self.progress.advance(0, "stopping after this step; Ctrl-C again for at once")

    def _advance(self) -> None:
        try:
            self.loop.advance()
        except DivergedError as error:
            kept = self.files.keep_last_good() if self.processes.first else ""
            raise DivergedError(f"{error}{kept}") from error
        except ProcessError as error:
            if not self.loop.step or self.processes.watch is None or not self.processes.watch.speaks():
                raise
            self._save()
            raise ProcessError(
                f"{error}; the state after {self.loop.step} steps is saved: continue with --resume"
            ) from error

    def _save(self) -> None:
        self.files.save_states()
        self.files.keep_shifts()

    def _log(self) -> None:
        for concept, trackers in zip(self.loop.concepts, self.trackers, strict=True):
            trackers.log({**concept.history[-1], "lr": self.loop.rate})

    def _write(self) -> None:
        """Write what is due after this step; states last, so that a kill loses nothing that comes before them."""
        config, step = self.config, self.loop.step
        if _due(config.checkpoint_every, step):
            self.files.keep_shifts()
        if _due(config.save_every, step) or (config.save_every and step == config.steps):
            self.files.save_states()

    def _note(self) -> str:
        """Where the training stands, in a few words: a mean of the last losses, since each depends on its noise."""
        recent = [record["loss"] for each in self.loop.concepts for record in each.history[-WINDOW:]]
        memory = peak_memory(self.loop.accelerator.device)
        parts = [f"loss {sum(recent) / len(recent):.4f}", f"lr {self.loop.rate:.2g}"]
        return ", ".join([*parts, f"{memory / 1e9:.1f} GB"] if memory else parts)
