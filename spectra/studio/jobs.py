"""The queue of trainings and edits: a folder for each, which outlives the page, and is all that the page knows of it.

    .studio/queue/0001-fox/job.json    what is to be done: a command line of `spectra`
                           log.txt     what the command said
                           started     it was begun
                           stop        somebody asked for it to stop
                           ended       its exit code

`runner.py` does one job after another in a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from spectra.errors import InputError
from spectra.io.atomic_writes import atomic_write
from spectra.io.locks import take_lock
from spectra.studio.workspace import plain_name

State = Literal["waiting", "running", "stopping", "done", "stopped", "failed"]
OVER: tuple[State, ...] = ("done", "stopped", "failed")
"""States of a job of which nothing runs any more."""

DESCRIPTION, LOG, STARTED, STOP, ENDED = "job.json", "log.txt", "started", "stop", "ended"
RUNNING = "runner.lock"
"""File in the queue that a runner holds locked."""

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended, and of a job that was taken back before it began."""

_TAIL = 16_384
_COUNT = re.compile(r"^(.*?) (\d+)/(\d+)\b(.*)$")


@dataclass(frozen=True)
class Job:
    """One training or edit, as its folder says.

    Attributes:
        folder: of the job.
        name: of the job and of what it writes.
        kind: of its view.
        arguments: of `spectra`.
        out: the folder that it writes.
        form: what was chosen on the page, to show it again.
    """

    folder: Path
    name: str
    kind: Literal["train", "edit"]
    arguments: tuple[str, ...]
    out: Path
    form: dict[str, Any]

    @property
    def key(self) -> str:
        """What links call it by."""
        return self.folder.name

    @property
    def command(self) -> str:
        """The command line that does the same, to be copied into a shell."""
        return shlex.join(["spectra", *self.arguments])

    @property
    def state(self) -> State:
        """Where the job stands. One whose runner was killed counts as stopped."""
        if (code := self._code) is not None:
            if not code:
                return "done"
            return "stopped" if code == INTERRUPTED or (self.folder / STOP).exists() else "failed"
        asked = (self.folder / STOP).exists()
        if not (self.folder / STARTED).exists():
            return "stopped" if asked else "waiting"
        if not is_running(self.folder.parent):
            return "stopped"
        return "stopping" if asked else "running"

    @property
    def _code(self) -> int | None:
        try:
            return int((self.folder / ENDED).read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None

    def log(self) -> list[str]:
        """The last lines that the command said."""
        try:
            with (self.folder / LOG).open("rb") as opened:
                opened.seek(max(0, opened.seek(0, 2) - _TAIL))
                return opened.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return []

    @property
    def error(self) -> str:
        """The command's own line on why it failed; empty if it did not."""
        if self.state != "failed":
            return ""
        lines = [line for line in self.log() if line.strip()]
        told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return (told or lines or ["it ended without a word"])[-1]

    def progress(self) -> tuple[str, int, int] | None:
        """What the command is at, how much is done and how much there is; None before it has said so."""
        for line in reversed(self.log()):
            if (match := _COUNT.match(line)) is not None and int(match[3]):
                return match[1] + match[4], int(match[2]), int(match[3])
        return None


class Queue:
    """The jobs of a workspace.

    Args:
        folder: of the queue; made with the first job.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def jobs(self) -> list[Job]:
        """All jobs, the oldest first; what is no job's folder is passed over."""
        found = sorted(self.folder.glob(f"*/{DESCRIPTION}")) if self.folder.is_dir() else []
        return [job for path in found if (job := _read(path.parent)) is not None]

    def job(self, key: str) -> Job:
        """The job that links call so.

        Raises:
            InputError: there is none.
        """
        found = next((job for job in self.jobs() if job.key == key), None)
        if found is None:
            raise InputError(f"no job {key!r} is in the queue")
        return found

    def add(self, name: str, kind: str, arguments: list[str], out: Path, form: dict[str, Any]) -> Job:
        """Put a command line at the end of the queue, and see that somebody works on it.

        Raises:
            InputError: the name is no plain one, or a job that is not over has it.
        """
        plain_name(name)
        if any(job.out == out and job.state not in OVER for job in self.jobs()):
            raise InputError(f"{name} is in the queue already; choose another name")
        self.folder.mkdir(parents=True, exist_ok=True)
        number = max((int(job.key.split("-")[0]) for job in self.jobs()), default=0)
        while True:
            number += 1
            folder = self.folder / f"{number:04d}-{name}"
            with contextlib.suppress(FileExistsError):  # of a page on the same folder
                folder.mkdir()
                break
        _describe(folder, {"name": name, "kind": kind, "arguments": arguments, "out": str(out), "form": form})
        self.tend()
        return self.job(folder.name)

    def stop(self, job: Job) -> None:
        """Ask a job to stop, as Ctrl-C does: a training finishes its step and keeps its state."""
        (job.folder / STOP).touch()

    def again(self, job: Job, arguments: list[str]) -> None:
        """Put a job that is over at its place in the queue again, with other arguments."""
        form = {**job.form}
        _describe(
            job.folder,
            {"name": job.name, "kind": job.kind, "arguments": arguments, "out": str(job.out), "form": form},
        )
        for name in (STOP, STARTED, ENDED):
            (job.folder / name).unlink(missing_ok=True)
        self.tend()

    def forget(self, job: Job) -> None:
        """Take a job that is over out of the queue; what it wrote stays."""
        if job.state in OVER:
            for name in (LOG, STARTED, STOP, ENDED, DESCRIPTION):
                (job.folder / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                job.folder.rmdir()

    def tend(self) -> None:
        """See that somebody works on the jobs that wait: start a runner, which ends when there are none."""
        if any(job.state == "waiting" for job in self.jobs()) and not is_running(self.folder):
            with (self.folder / "runner.txt").open("ab") as said:
                runner = subprocess.Popen(
                    [sys.executable, "-m", "spectra.studio.runner", str(self.folder)],
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    start_new_session=True,  # it lives on when the page's server ends, also by Ctrl-C
                )
            threading.Thread(target=runner.wait, daemon=True).start()  # so that it leaves no zombie


def is_running(queue: Path) -> bool:
    """Whether a runner works on a queue."""
    path = queue / RUNNING
    if not path.exists():
        return False
    lock = take_lock(path)
    if lock is None:
        return True
    lock.release()
    return False


def _describe(folder: Path, description: dict[str, Any]) -> None:
    with atomic_write(folder / DESCRIPTION, force=True) as temporary:
        temporary.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def _read(folder: Path) -> Job | None:
    try:
        found = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        arguments = tuple(str(each) for each in found["arguments"])
        return Job(folder, found["name"], found["kind"], arguments, Path(found["out"]), dict(found["form"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
