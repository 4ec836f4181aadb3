"""Does the jobs of a queue one after another, in a process of its own: `python -m spectra.studio.runner QUEUE`."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from spectra.io.atomic_writes import atomic_write
from spectra.io.locks import take_lock
from spectra.studio.jobs import ENDED, INTERRUPTED, LOG, RUNNING, STARTED, STOP, Job, Queue

_LOOK = 0.1
"""Seconds between two looks at a running job."""

_PATIENCE = 60.0
"""Seconds that a job has to stop by itself; then it is interrupted a second time, which does not wait for a step."""


def run(queue: Queue) -> None:
    """Do the jobs that wait, until there are none; nothing where another runner is at it."""
    lock = take_lock(queue.folder / RUNNING)
    if lock is None:
        return
    try:
        while waiting := [job for job in queue.jobs() if job.state == "waiting"]:
            _do(waiting[0])
    finally:
        lock.release()


def _do(job: Job) -> None:
    (job.folder / STARTED).touch()
    with (job.folder / LOG).open("ab") as said:
        command = subprocess.Popen(
            [sys.executable, "-m", "spectra.cli", *job.arguments],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        asked = float("-inf")
        while command.poll() is None:
            if (job.folder / STOP).exists() and time.monotonic() - asked > _PATIENCE:
                command.send_signal(signal.SIGINT)
                asked = time.monotonic()
            time.sleep(_LOOK)
    code = command.returncode
    with atomic_write(job.folder / ENDED, force=True) as temporary:
        temporary.write_text(str(INTERRUPTED if code == -signal.SIGINT else code), encoding="ascii")


if __name__ == "__main__":
    run(Queue(Path(sys.argv[1])))
