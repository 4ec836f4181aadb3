"""Where a training's files go: the output folder, which appears whole, and the folder of an unfinished training."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from spectra.errors import OutputError
from spectra.io.atomic_writes import atomic_folder, check_output, copy_folder, explained
from spectra.io.locks import locked
from spectra.shift.trajectory import CHECKPOINTS, PROGRESS, checkpoint_name
from spectra.training.run.trackers import LOGS

KIND = "spectra train"
LOG = "log.jsonl"
SHEET = "before-after.png"
LOSS_CURVE = "loss.png"
STATE = "state.safetensors"
EARLIER_STATE = "earlier-state.safetensors"
"""What a state was, while those of all concepts of a training are replaced."""

SAMPLES = "samples.png"
LAST_GOOD = "last-good.safetensors"
LOCK = "lock"

ON_THE_WAY = (STATE, EARLIER_STATE, LAST_GOOD, SAMPLES, f"{CHECKPOINTS}/{checkpoint_name('*')}", f"{LOGS}/**/*")
"""Names of what a training writes into its folder of an unfinished one; nothing else in there is ever removed."""


@dataclass(frozen=True)
class Outputs:
    """The paths of one training with output folder `folder`.

    States, shifts and validation pictures are written on the way into `<folder>.progress`, where an interrupted
    training leaves them. A finished training takes them into `<folder>/progress`.
    """

    folder: Path

    @property
    def name(self) -> str:
        """Name of the folder, by which its shift and its configuration are called."""
        return self.folder.absolute().name

    @property
    def unfinished(self) -> Path:
        """Folder of the states and validation pictures of a training that runs, or was interrupted."""
        return self.folder.with_name(f"{self.name}.{PROGRESS}")

    def check(self, *, force: bool, resume: bool) -> None:
        """Check that the folder can be written, before anything slow; creates nothing.

        Raises:
            OutputError: it exists without `force`, is not a training's or holds other files too, cannot be written,
                another training is writing to it, or an unfinished one is in the way.
        """
        check_output(self.folder, force=force, folder_of=KIND)
        check_output(self.unfinished, force=True)
        if (self.unfinished / LOCK).exists():
            with self._locked():
                pass
        if any(self._on_the_way()) and not resume and not force:
            go_on = "continue it with --resume, or " if (self.unfinished / STATE).exists() else ""
            raise OutputError(f"{self.unfinished} holds an unfinished training; {go_on}start anew with --force")

    @contextlib.contextmanager
    def reserved(self) -> Iterator[None]:
        """The folders are this training's own for as long as the block runs, or its process lives.

        Raises:
            OutputError: another training is writing to them, or they cannot be written.
        """
        missing = [folder for folder in self.unfinished.parents if not folder.exists()]
        with explained(self.unfinished):
            self.unfinished.mkdir(parents=True, exist_ok=True)
        try:
            with self._locked():
                yield
        finally:
            for folder in (self.unfinished, *missing):
                with contextlib.suppress(OSError):  # not empty: it holds something to go on with
                    folder.rmdir()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with contextlib.ExitStack() as held:
            with explained(self.unfinished):
                lock = held.enter_context(locked(self.unfinished / LOCK))
            if lock is None:
                raise OutputError(f"another training writes to {self.folder}; wait for it, or choose another output")
            yield

    def find_state(self) -> Path:
        """The newest state: of an unfinished training, or of a finished one that shall go on."""
        unfinished = self.unfinished / STATE
        return unfinished if unfinished.is_file() else self.folder / PROGRESS / STATE

    def clear_unfinished(self) -> None:
        """Forget an unfinished training."""
        for path in self._on_the_way():
            path.unlink(missing_ok=True)
        for folder in (*(Path(place) for place, _, _ in os.walk(self.unfinished, topdown=False)), self.unfinished):
            with contextlib.suppress(OSError):  # there is a lock in it, or something that is not ours
                folder.rmdir()

    @contextlib.contextmanager
    def finished(self, *, force: bool, earlier: Path | None = None) -> Iterator[Path]:
        """A temporary folder that becomes the output folder, with what was written on the way inside it.

        Args:
            force: replace an earlier one.
            earlier: where the state lay that this training went on from: what lies beside it is kept as well.
        """
        with atomic_folder(self.folder, KIND, force=force) as temporary:
            yield temporary
            for place in dict.fromkeys((earlier or self.unfinished, self.unfinished)):
                if own := {path for path in self._on_the_way(place) if path.name != EARLIER_STATE}:
                    copy_folder(place, temporary / PROGRESS, wanted=own.__contains__)
        self.clear_unfinished()

    def _on_the_way(self, place: Path | None = None) -> list[Path]:
        """The files of an unfinished training, or those in another place that are such."""
        found = (path for pattern in ON_THE_WAY for path in (place or self.unfinished).glob(pattern))
        return [path for path in found if not path.is_dir()]
