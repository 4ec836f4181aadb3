"""Where a training's files go: the output folder, which appears whole, and the folder of an unfinished training."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from spectra.errors import OutputError
from spectra.io.atomic_writes import atomic_folder, check_output

LOG = "log.jsonl"
"""Every training writes it; a folder that lacks it is not one of ours, and is never replaced."""

SHEET = "before-after.png"
LOSS_CURVE = "loss.png"
STATE = "state.safetensors"
PROGRESS = "progress"


@dataclass(frozen=True)
class Outputs:
    """The paths of one training with output folder `folder`.

    States and validation pictures are written on the way into `<folder>.progress`, where an interrupted training
    leaves them. A finished training takes them into `<folder>/progress`.
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
            OutputError: it exists without `force`, is not a training's, cannot be written, or an unfinished training
                is in the way.
        """
        check_output(self.folder, force=force, mark=LOG)
        check_output(self.unfinished, force=True)
        if self.unfinished.exists() and not resume and not force:
            raise OutputError(
                f"{self.unfinished} holds an unfinished training; continue it with --resume, or start anew with --force"
            )

    def find_state(self) -> Path:
        """The newest state: of an unfinished training, or of a finished one that shall go on."""
        unfinished = self.unfinished / STATE
        return unfinished if unfinished.is_file() else self.folder / PROGRESS / STATE

    def clear_unfinished(self) -> None:
        """Forget an unfinished training."""
        shutil.rmtree(self.unfinished, ignore_errors=True)

    @contextmanager
    def finished(self, *, force: bool) -> Iterator[Path]:
        """A temporary folder that becomes the output folder, with what was written on the way inside it."""
        with atomic_folder(self.folder, force=force) as temporary:
            yield temporary
            if self.unfinished.is_dir():
                shutil.copytree(self.unfinished, temporary / PROGRESS)
        self.clear_unfinished()
