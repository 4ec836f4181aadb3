"""TensorBoard and Weights & Biases as they are installed: what a training tells them stands in their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spectra.training.config import make_config
from spectra.training.run.train import train

WATCHED = {"steps": 2, "validation_count": 1, "validation_every": 2}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those packages' own
def test_tensorboard_has_losses_settings_and_pictures(settings: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    given = {**settings, **WATCHED, "report_to": ["tensorboard"], "logging_dir": str(tmp_path / "logs")}
    train(make_config(given), tmp_path / "x")
    tags: dict[str, list[str]] = {"scalars": [], "images": []}
    steps = set()
    for folder in {file.parent for file in (tmp_path / "logs").rglob("events.out.tfevents.*")}:
        events = EventAccumulator(str(folder))
        events.Reload()
        for kind in tags:
            tags[kind] += events.Tags()[kind]
        steps |= {each.step for tag in events.Tags()["scalars"] if tag == "loss" for each in events.Scalars(tag)}
    assert {"loss", "denoising", "prior", "lr"} <= set(tags["scalars"])
    assert (steps, tags["images"]) == ({1, 2}, ["validation"])
    assert "steps: 2" in next((tmp_path / "logs").rglob("hparams.yml")).read_text()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases_has_losses_settings_and_pictures(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(make_config({**settings, **WATCHED, "report_to": ["wandb"]}), tmp_path / "x")
    (run,) = tmp_path.glob("wandb/offline-run-*")
    (log,) = run.glob("*.wandb")
    told = log.read_bytes()
    for name in (b"denoising", b"prior", b"validation_count", b"a v disc"):
        assert name in told, name
    assert list(run.rglob("validation*.png"))
