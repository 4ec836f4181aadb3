"""Trainings that end before their end: killed, diverged, or told that another writes to their folder."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from trainings import interrupted_after, read_training

from spectra.errors import ClippingWarning, DivergedError, InputError, OutputError
from spectra.generation.generate import generate
from spectra.generation.settings import GenerateSettings, Sampling
from spectra.io.locks import locked
from spectra.shift.shift_file import read_kept_shift, read_shift
from spectra.training.config import TrainConfig, make_config
from spectra.training.run.last_good import SKIPPED_IN_A_ROW, LastGood
from spectra.training.run.loop import Loop
from spectra.training.run.outputs import LOCK, Outputs
from spectra.training.run.state import read_state
from spectra.training.run.train import train
from spectra.training.run.trainer import Training


def bytes_of(folder: Path) -> bytes:
    return (folder / f"{folder.name}.safetensors").read_bytes()


@pytest.fixture
def config(settings: dict[str, Any]) -> TrainConfig:
    return make_config({**settings, "steps": 3, "save_every": 1, "prior_weight": 0.0, "file_dtype": "float32"})


def died_after_the_last_step(config: TrainConfig, out: Path) -> None:
    with mock.patch.object(Training, "_judge", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        train(config, out)


def test_one_that_died_after_its_last_step_is_finished(config: TrainConfig, tmp_path: Path) -> None:
    train(config, tmp_path / "whole" / "disc")
    died_after_the_last_step(config, tmp_path / "part" / "disc")
    summary = train(config, tmp_path / "part" / "disc", resume=True)
    assert (summary.steps, summary.resumed_at) == (3, 3)
    assert bytes_of(tmp_path / "part" / "disc") == bytes_of(tmp_path / "whole" / "disc")
    assert not Outputs(tmp_path / "part" / "disc").unfinished.exists()
    with pytest.raises(InputError, match="3 steps are done and 3 asked for"):
        train(config, tmp_path / "part" / "disc", resume=True, force=True)


def test_the_shift_comes_out_of_any_state(
    config: TrainConfig, settings: dict[str, Any], tmp_path: Path, spectra_cli: Any
) -> None:
    two = make_config({**settings, "steps": 2, "prior_weight": 0.0, "ema_decay": 0.5})
    train(two, tmp_path / "whole" / "disc")
    whole, _ = read_training(tmp_path / "whole" / "disc")
    out = tmp_path / "disc"
    with interrupted_after(2):
        train(make_config({**two.as_dict(), "steps": 3, "save_every": 1}), out)
    state = Outputs(out).unfinished / "state.safetensors"
    ran = spectra_cli("convert", state, "-o", tmp_path / "got.safetensors", "--json")
    assert ran.code == 0, ran.err
    got = read_shift(tmp_path / "got.safetensors")
    assert json.loads(ran.out)["read"]["format"] == "a training's state"
    assert all(np.array_equal(got[name], whole[name]) for name in whole)
    assert got.metadata.fingerprints == whole.metadata.fingerprints
    damaged = state.with_name("damaged.safetensors")
    damaged.write_bytes(state.read_bytes()[:-100])
    assert spectra_cli("convert", damaged, "-o", tmp_path / "no.safetensors").code == 1
    two_at_once = spectra_cli("convert", state, state, "-o", tmp_path / "no.safetensors")
    assert "one shift at a time" in two_at_once.err


@pytest.mark.parametrize("what", ["loss", "parameter"])
def test_one_that_diverges_keeps_its_last_good_shift_and_state(
    config: TrainConfig, tmp_path: Path, what: str, spectra_cli: Any
) -> None:
    """The loss is not a number at the third step, or the update of the second spoils a parameter."""
    good = make_config({**config.as_dict(), "steps": 1})
    train(good, tmp_path / "good" / "disc")
    out = tmp_path / "disc"
    real_losses, real_finite, calls = Loop._losses, LastGood.finite, []

    def losses(self: Loop, batch: Any) -> torch.Tensor:
        found = real_losses(self, batch)
        return found * float("nan") if self.step == 2 else found

    def finite(self: LastGood) -> bool:
        calls.append(1)
        if len(calls) == 2:
            with torch.no_grad():
                next(iter(self._parameters.values()))[0] = float("inf")
        return real_finite(self)

    patched = (
        mock.patch.object(Loop, "_losses", losses) if what == "loss" else mock.patch.object(LastGood, "finite", finite)
    )
    says = "the loss is nan at step 3" if what == "loss" else "the parameters are not finite at step 2"
    with (
        patched,
        pytest.raises(DivergedError, match=f"{says}; train with a lower --lr than 0.01; the shift after 1 ") as told,
    ):
        train(config, out)
    kept = Outputs(out).unfinished / "last-good.safetensors"
    assert str(kept) in str(told.value)
    expected, _ = read_training(tmp_path / "good" / "disc")
    found = read_shift(kept)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    state = read_state(kept.with_name("state.safetensors"))
    assert state.progress["step"] == (2 if what == "loss" else 1)
    assert all(tensor.isfinite().all() for tensor in state.tensors.values() if tensor.is_floating_point())
    assert read_kept_shift(state.path).floats == found.floats
    train(config, out, resume=True)


def test_without_saved_states_the_last_good_shift_stays(settings: dict[str, Any], tmp_path: Path) -> None:
    config, out = make_config({**settings, "steps": 4, "prior_weight": 0.0}), tmp_path / "disc"
    real = Loop._losses

    def losses(self: Loop, batch: Any) -> torch.Tensor:
        return real(self, batch) * (float("inf") if self.step > 1 else 1)

    with mock.patch.object(Loop, "_losses", losses), pytest.raises(DivergedError, match="the loss is inf at step 3"):
        train(config, out)
    with pytest.raises(OutputError, match="holds an unfinished training; start anew with --force"):
        train(config, out)
    train(config, out, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["disc"]


def test_a_scaler_that_skips_every_step_is_an_overflow() -> None:
    good = LastGood({"a": torch.nn.Parameter(torch.ones(2))})
    assert not any(good.overflows(step % SKIPPED_IN_A_ROW > 0) for step in range(5 * SKIPPED_IN_A_ROW + 1))
    assert [good.overflows(True) for _ in range(SKIPPED_IN_A_ROW)].index(True) == SKIPPED_IN_A_ROW - 1


def test_a_second_training_is_told_before_it_costs_anything(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "disc"

    def loaded(*_: Any, **__: Any) -> None:
        pytest.fail("the base must not be loaded")

    outputs = Outputs(out)
    with outputs.reserved():
        monkeypatch.setattr("spectra.training.run.trainer.load_pipeline", loaded)
        for more in ({}, {"force": True}):
            with pytest.raises(OutputError, match="another training writes to .*disc; wait for it"):
                train(config, out, **more)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_training_holds_no_lock(config: TrainConfig, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from spectra.training.run.outputs import Outputs\n"
        "with Outputs(Path(sys.argv[1])).reserved(): os.kill(os.getpid(), signal.SIGKILL)"
    )
    out = tmp_path / "disc"
    assert subprocess.run([sys.executable, "-c", code, out], timeout=120).returncode == -signal.SIGKILL
    assert (Outputs(out).unfinished / LOCK).exists()
    train(make_config({**config.as_dict(), "steps": 1, "save_every": 0}), out)
    assert [path.name for path in tmp_path.iterdir()] == ["disc"]


def test_only_what_a_training_wrote_is_removed(config: TrainConfig, tmp_path: Path) -> None:
    out = tmp_path / "disc"
    died_after_the_last_step(config, out)
    mine = Outputs(out).unfinished / "notes.txt"
    mine.write_text("years")
    with locked(tmp_path / "other"):
        train(make_config({**config.as_dict(), "steps": 1}), out, force=True)
    assert [path.name for path in Outputs(out).unfinished.iterdir()] == ["notes.txt"]
    assert not (out / "progress" / "notes.txt").exists()


def test_a_shift_that_cuts_off_most_of_the_spectrum_is_told(settings: dict[str, Any], tmp_path: Path) -> None:
    absurd = make_config({**settings, "lr": 100.0, "steps": 2, "prior_weight": 0.0})
    with pytest.warns(ClippingWarning, match="disc: cuts off more than a third"):
        train(absurd, tmp_path / "disc")
    shift, sampling = str(tmp_path / "disc" / "disc.safetensors"), Sampling(1, 1.0, 32, 32)
    given = GenerateSettings(base=settings["base"], shifts=(shift,), prompts=("a v disc",), sampling=sampling)
    with pytest.warns(ClippingWarning, match="disc at scale 1: cuts off more than a third"):
        generate(given, tmp_path / "pictures")


def test_the_same_files_come_of_every_deterministic_run(settings: dict[str, Any], tmp_path: Path) -> None:
    config = make_config({**settings, "deterministic": True, "steps": 2, "save_every": 2, "validation_count": 1})
    found = []
    for name in ("one", "two"):
        train(config, tmp_path / name / "disc")
        files = (path for path in (tmp_path / name).rglob("*") if path.is_file())
        found.append({path.relative_to(tmp_path / name): path.read_bytes() for path in files})
    assert found[0] == found[1]
    assert len(found[0]) >= 7
    assert not torch.are_deterministic_algorithms_enabled()
