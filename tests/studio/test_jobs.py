"""The queue is its folder: jobs run one after another in processes that outlive whoever asked for them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from spectra.errors import InputError
from spectra.studio import runner, watching
from spectra.studio.commands import resumed
from spectra.studio.jobs import ENDED, LOG, RUNNING, STARTED, STOP, Job, Queue, is_running
from spectra.training.run.outputs import LOG as LOSSES


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path / "queue")


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody works on the queue by itself."""
    monkeypatch.setattr(Queue, "tend", lambda self: None)


def add(queue: Queue, name: str, *arguments: str) -> Job:
    return queue.add(name, "train", list(arguments), queue.folder.parent / name, {})


def wait(until: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not until():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_runner_of_its_own_does_the_jobs_in_turn_and_ends(queue: Queue, tmp_path: Path) -> None:
    first, second = add(queue, "good", "inspect", str(tmp_path)), add(queue, "bad", "inspect", str(tmp_path / "gone"))
    wait(lambda: not is_running(queue.folder) and second.state in ("done", "failed"))
    assert [job.state for job in Queue(queue.folder).jobs()] == ["done", "failed"]
    assert second.error == f"{tmp_path / 'gone'}: no such file; check the path"
    assert first.error == ""
    assert (first.folder / STARTED).stat().st_mtime <= (second.folder / STARTED).stat().st_mtime


@pytest.mark.usefixtures("quiet")
def test_a_job_that_waits_is_taken_back_and_put_again(queue: Queue) -> None:
    job = add(queue, "fox", "train")
    with pytest.raises(InputError, match="in the queue already"):
        add(queue, "fox", "train")
    queue.stop(job)
    assert job.state == "stopped"
    with mock.patch.object(runner, "_do") as done:
        runner.run(queue)
    done.assert_not_called()
    queue.again(job, ["train", "--force"])
    (again,) = queue.jobs()
    assert (again.state, again.arguments) == ("waiting", ("train", "--force"))
    queue.forget(again)
    assert len(queue.jobs()) == 1
    queue.stop(again)
    queue.forget(again)
    assert queue.jobs() == [] and not again.folder.exists()


@pytest.mark.usefixtures("quiet")
def test_states_are_read_from_the_folder(queue: Queue) -> None:
    job = add(queue, "fox", "train")
    assert job.state == "waiting"
    (job.folder / STARTED).touch()
    assert job.state == "stopped"  # nobody holds the runner's lock
    (queue.folder / RUNNING).touch()
    assert not is_running(queue.folder)  # left by one that was killed
    for code, stop, state in (
        ("0", False, "done"),
        ("1", False, "failed"),
        ("130", False, "stopped"),
        ("1", True, "stopped"),
    ):
        (job.folder / ENDED).write_text(code)
        if stop:
            (job.folder / STOP).touch()
        assert job.state == state
    (queue.folder / "0002-torn").mkdir()
    (queue.folder / "0002-torn" / "job.json").write_text('{"name": "to')
    assert [each.name for each in queue.jobs()] == ["fox"]


@pytest.mark.usefixtures("quiet")
def test_progress_and_losses_are_what_the_command_says(queue: Queue) -> None:
    job = add(queue, "fox", "train")
    assert (job.progress(), watching.losses(job), watching.shift(job)) == (None, [], None)
    (job.folder / LOG).write_text("drawing before 8/8\ntraining 20/200, loss 0.0312, 9 s left\nwarning: 3 of 4\n")
    assert job.progress() == ("training, loss 0.0312, 9 s left", 20, 200)
    assert watching.losses(job) == [(20, 0.0312)]  # told before a state is saved
    (job.folder / ENDED).write_text("0")
    job.out.mkdir()
    (job.out / LOSSES).write_text("".join(json.dumps({"step": n, "loss": 1 / n}) + "\n" for n in (1, 2)))
    points = watching.losses(job)
    assert points == [(1, 1.0), (2, 0.5)]
    assert watching.averaged(points, 2) == [(1, 1.0), (2, 0.75)]
    assert watching.curve(points, 2, 1.0, 100, 10) == "M50.0 0.0L100.0 5.0"


def test_what_goes_on_from_a_state_and_what_begins_again(tmp_path: Path) -> None:
    out = tmp_path / "fox"
    assert resumed(["train", "--steps", "5"], out) == ["train", "--steps", "5", "--force"]
    (tmp_path / "fox.progress").mkdir()
    (tmp_path / "fox.progress" / "state.safetensors").touch()
    assert resumed(["train", "--steps", "5"], out) == ["train", "--resume", "-o", str(out)]
    assert resumed(["edit", "a.png", "--force"], out) == ["edit", "a.png", "--force"]
