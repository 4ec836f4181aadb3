"""One training in several processes: what one process would have trained, and how all end together."""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from PIL import Image
from several_processes import Communication, difference, float64_training, in_processes

from spectra.cli.app import main
from spectra.errors import PictureError
from spectra.spectrum.cache.spectrum_cache import SpectrumCache
from spectra.training.config import TrainConfig, make_config
from spectra.training.processes.group import Processes
from spectra.training.processes.together import together
from spectra.training.run.interruption import Interrupted
from spectra.training.run.loop import Loop
from spectra.training.run.report import Summary
from spectra.training.run.train import train

SAME = 1e-9
"""Relative difference of parameters that were trained in float64 by one process and by several."""


@pytest.fixture(scope="module", autouse=True)
def in_float64() -> Iterator[None]:
    with (
        float64_training(),
        mock.patch("spectra.training.run.gradient_probe.SAMPLES", 6),
        mock.patch("spectra.training.run.loop.MEASURE_SAMPLES", 8),
        mock.patch("spectra.plots.style.write", lambda draw, path: path.touch()),
    ):
        yield


@pytest.fixture(scope="module")
def config(in_float64: None, tiny_base: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Everything that could depend on who has which samples: odd batches, masks, class pictures, chosen directions."""
    masks = tmp_path_factory.mktemp("masks")
    for photo in photos.iterdir():
        mask = Image.new("L", (40, 48))
        mask.paste(255, (0, 0, 25, 48))
        mask.save(masks / photo.name)
    prior = {"prior_count": 9, "prior_steps": 1, "prior_guidance": 1.0, "class_prompt": "a disc"}
    moved = {"directions": "3:gradient", "outer": "6kB", "word": True, "lr": 1e-3, "lr_1d": 1e-3}
    learnt = {"base": str(tiny_base), "images": str(photos), "prompt": "a v disc", "mask": str(masks), **prior, **moved}
    stepped = {"steps": 3, "batch": 3, "accumulation": 2, "save_every": 1, "validation_count": 0, "ema_decay": 0.5}
    return make_config({"preset": "svdiff", **learnt, **stepped, "stratified_timesteps": True})


@pytest.fixture(scope="module")
def one(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    """The folder of a training by one process, in which its cache lies as well, and its summary."""
    folder = tmp_path_factory.mktemp("one")
    with mock.patch.dict(os.environ, SPECTRA_CACHE=str(folder / "cache")):
        return folder, train(config, folder / "disc")


@pytest.fixture(autouse=True)
def _filled_cache(one: tuple[Path, Summary], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECTRA_CACHE", str(one[0] / "cache"))


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_processes_train_what_one_does(
    config: TrainConfig, one: tuple[Path, Summary], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same parameters, spectra and class pictures; of gradients no more than theirs goes through the connection."""
    monkeypatch.setenv("SPECTRA_CACHE", str(tmp_path / "cache"))
    computed: list[str] = []
    real, move = SpectrumCache._leading, Loop._move

    def noted(self: SpectrumCache, weight: Any, directions: int, name: str, device: Any) -> Any:
        misses = self.usage.misses
        found = real(self, weight, directions, name, device)
        computed.extend([name] * (self.usage.misses - misses))
        return found

    def call(number: int) -> None:
        moves = []

        def counted(self: Loop) -> Any:
            with Communication() as traffic:
                records = move(self)
            moves.append((traffic.calls, sum(each.nbytes for each in self.parameters.values()), records[0]))
            return records

        with (
            mock.patch.object(Loop, "_move", counted),
            mock.patch.object(SpectrumCache, "_leading", noted),
            mock.patch("spectra.spectrum.cache.workers.MAX_WORKERS", 1),
        ):
            summary = train(config, tmp_path / "disc", device="cpu")
        told = {"summary": summary.as_dict(), "computed": computed, "moves": moves}
        (tmp_path / f"{number}.json").write_text(json.dumps(told))

    ended = in_processes(2, call, tmp_path / "said")
    assert [(each.code, each.out, each.err) for each in ended] == [(0, "", "")] * 2
    first, second = (json.loads((tmp_path / f"{number}.json").read_text()) for number in range(2))
    assert difference(tmp_path / "disc", one[0] / "disc") < SAME
    assert files(tmp_path / "cache") == files(one[0] / "cache")
    assert first["computed"] and second["computed"] and not set(first["computed"]) & set(second["computed"])
    assert {**first["summary"], "total_seconds": 0} == {**second["summary"], "total_seconds": 0}
    assert first["summary"]["loss_after"] == pytest.approx(one[1].loss_after, rel=1e-9)
    (at_first, *_), *_ = first["moves"]
    assert at_first.pop(0) == ["allreduce_", 16]  # once all make sure that they have gradients of the same length
    for calls, trained, losses in first["moves"]:
        assert calls == [["allreduce_", trained], ["allreduce_", 8 * len(losses)]]
        assert trained == first["summary"]["reduced_bytes"]
    assert first["summary"]["processes"] == 2
    assert {path.name for path in tmp_path.iterdir()} == {"disc", "cache", "said", "0.json", "1.json"}


def test_one_that_is_stopped_goes_on_in_another_number_of_processes(
    config: TrainConfig, one: tuple[Path, Summary], tmp_path: Path
) -> None:
    """Two processes stop after a step, three take another, of which the second dies in the third, and one ends it."""
    out = tmp_path / "disc"

    def stopped(number: int) -> None:
        advance = Loop.advance

        def stopping(self: Loop) -> float:
            self.processes.stop = number == 1
            return advance(self)

        with mock.patch.object(Loop, "advance", stopping), pytest.raises(Interrupted, match="after 1 of 3 steps"):
            train(config, out, device="cpu")

    def killed(number: int) -> int:
        reduce = Processes.reduce

        def dying(self: Processes, parameters: Any) -> None:
            if number == 1 and moving.step == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            reduce(self, parameters)

        def noted(self: Loop) -> Any:
            moving.step = self.step
            return move(self)

        moving, move = argparse.Namespace(step=0), Loop._move
        with mock.patch.object(Processes, "reduce", dying), mock.patch.object(Loop, "_move", noted):
            return main(["train", "--resume", "-o", str(out), "--device", "cpu"])

    assert [each.code for each in in_processes(2, stopped, tmp_path / "stopped")] == [0, 0]
    ended = in_processes(3, killed, tmp_path / "killed")
    assert [each.code for each in ended] == [1, -signal.SIGKILL, 1]
    assert "".join(each.out + each.err for each in ended) == (
        "error: another process of this training has ended; the state after 2 steps is saved: continue with --resume\n"
    )
    assert train(config, out, resume=True).resumed_at == 2
    assert difference(out, one[0] / "disc") < SAME


def test_what_one_process_finds_wrong_ends_all_and_is_told_once(config: TrainConfig, tmp_path: Path) -> None:
    def failing(number: int) -> int:
        def advance(self: Loop) -> float:
            if number == 1:
                raise PictureError("dog.png: it cannot be read any more")
            return self.processes.total([1.0])[0]

        with mock.patch.object(Loop, "advance", advance):
            given = [f"--{name}={getattr(config, name)}" for name in ("base", "images", "prompt")]
            more = ["--batch", "2", "--validation-count", "0", "--prior-weight", "0"]
            return main(["train", *given, *more, "-o", str(tmp_path / "disc")])

    ended = in_processes(2, failing, tmp_path / "said")
    assert [each.code for each in ended] == [1, 1]
    assert "".join(each.out + each.err for each in ended) == "error: dog.png: it cannot be read any more\n"
    assert not (tmp_path / "disc").exists()
    few = in_processes(2, lambda number: main(["train", "--batch", "1", "-o", str(tmp_path / "b")]), tmp_path / "few")
    assert "".join(each.out + each.err for each in few) == (
        "error: a step of 1 samples cannot be shared by 2 processes; give more --batch or --accumulation, or start "
        "fewer\n"
    )


def test_one_that_is_silent_ends_all_though_they_wait_for_it(tmp_path: Path) -> None:
    """As where a process hangs, or a backend does not notice that it is gone."""

    def call(number: int) -> None:
        with (
            mock.patch.multiple("spectra.training.processes.watch", BEAT=0.1, SILENCE=1.0, GRACE=0.5, PATIENCE=0.2),
            together("cpu") as processes,
        ):
            processes.wait()
            if number == 1 and processes.watch is not None:
                processes.watch.close()
                time.sleep(5)
                os._exit(0)
            processes.wait()

    ended = in_processes(2, call, tmp_path)
    assert [each.code for each in ended] == [1, 0]
    assert ended[0].err == (
        "error: another process of this training has ended; continue with --resume if a state was saved "
        "(--save-every)\n"
    )
    assert ended[1].err == ""
