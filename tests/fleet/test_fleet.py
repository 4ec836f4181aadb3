"""A fleet: each concept as alone, what has ended stays, and lost workers are replaced."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from trainings import flat, interrupted_after, read_training

from spectra.bases import pipeline
from spectra.errors import InputError, OutputError
from spectra.fleet import fleet
from spectra.fleet.fleet import Ended, is_finished, run_fleet
from spectra.training.run.concepts import ConceptSpec, read_concepts
from spectra.training.run.train import train

NAMES = ("one", "two", "three")


@pytest.fixture
def file(tiny_base: Path, tmp_path: Path) -> Path:
    """Of three concepts, whose pictures differ in colour."""
    lines = [f'base = "{tiny_base}"', 'preset = "svdiff"', "steps = 3", "prior_weight = 0", "validation_count = 0"]
    for number, name in enumerate(NAMES):
        Image.new("RGB", (32, 32), (90 * number, 60, 200)).save(tmp_path / f"{name}.png")
        lines += ["[[concept]]", f'name = "{name}"', f'images = "{name}.png"']
        lines += [f'prompt = "a v {name}"', f'class_prompt = "a {name}"', f"seed = {number}"]
    path = tmp_path / "concepts.toml"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Concepts are trained in this process, one after the other, in the place of Ray's workers."""

    def in_turn(concepts: Sequence[ConceptSpec], address: str, workers: int, device: str) -> Iterator[Ended]:
        for each in concepts:
            found = fleet._train(each, "cpu")
            failed = isinstance(found, Exception)
            yield Ended(each.name, str(each.out), **({"error": str(found)} if failed else {"summary": found}))  # type: ignore[arg-type]

    monkeypatch.setattr(fleet, "_on_ray", in_turn)
    monkeypatch.setattr(pipeline, "_KEPT", None)


@pytest.mark.usefixtures("here")
def test_one_base_in_memory_trains_each_as_alone(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in read_concepts(file, tmp_path / "alone"):
        train(each.config, each.out, device="cpu")
    loads: list[object] = []
    from diffusers import DiffusionPipeline

    load = DiffusionPipeline.from_pretrained
    monkeypatch.setattr(DiffusionPipeline, "from_pretrained", lambda *a, **k: loads.append(a) or load(*a, **k))
    report = run_fleet(read_concepts(file, tmp_path / "fleet"))
    assert [each.name for each in report.ended] == list(NAMES) and not report.failed
    assert len(loads) == 1
    for name in NAMES:
        (alone, losses), (ours, same) = (read_training(tmp_path / each / name) for each in ("alone", "fleet"))
        assert np.array_equal(flat(alone), flat(ours)) and losses == same


@pytest.mark.usefixtures("here")
def test_called_again_it_goes_on(file: Path, tmp_path: Path, spectra_cli: Callable[..., Any]) -> None:
    file.write_text("save_every = 1\n" + file.read_text())
    one, two, _ = read_concepts(file, tmp_path / "out")
    train(one.config, one.out, device="cpu")
    with interrupted_after(2):
        train(two.config, two.out, device="cpu")
    assert is_finished(one) and not is_finished(two)
    ran = spectra_cli("fleet", file, "-o", tmp_path / "out")
    assert ran.code == 0, ran.err
    assert "one: had ended before" in ran.out and "2 trained, 1 had ended before, 0 failed" in ran.out
    again = spectra_cli("fleet", file, "-o", tmp_path / "out", "--json")
    *events, summary = [json.loads(line) for line in again.out.splitlines()]
    assert [each["event"] for each in events] == ["had ended"] * 3
    assert (summary["had_ended"], summary["trained"]) == (3, 0)
    train(two.config, tmp_path / "whole" / "two", device="cpu")
    assert np.array_equal(*(flat(read_training(tmp_path / each / "two")[0]) for each in ("out", "whole")))


def test_what_has_ended_with_other_settings_is_not_taken(file: Path, tmp_path: Path) -> None:
    one = read_concepts(file, tmp_path / "out")[0]
    train(one.config, one.out, device="cpu")
    file.write_text(file.read_text().replace("steps = 3", "steps = 4"))
    with pytest.raises(OutputError, match=r"another steps \(3, not 4\)"):
        run_fleet(read_concepts(file, tmp_path / "out"))


@pytest.mark.usefixtures("here")
def test_all_mistakes_are_told_before_anything_begins(file: Path, tmp_path: Path) -> None:
    for name in NAMES[1:]:
        (tmp_path / f"{name}.png").unlink()
    with pytest.raises(InputError, match="2 mistakes"):
        run_fleet(read_concepts(file, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("here")
def test_one_that_fails_keeps_no_other_back(
    file: Path, tmp_path: Path, spectra_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fleet._train

    def failing(concept: ConceptSpec, device: str) -> Any:
        return InputError("no luck") if concept.name == "two" else whole(concept, device)

    monkeypatch.setattr(fleet, "_train", failing)
    ran = spectra_cli("fleet", file, "-o", tmp_path / "out")
    assert ran.code == 1
    assert "two: no luck" in ran.err and "2 trained, 0 had ended before, 1 failed" in ran.out
    assert "call it again to retry" in ran.err


@pytest.mark.slow
def test_on_ray_a_worker_that_is_killed_is_replaced(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    file.write_text(file.read_text().replace("steps = 3", "steps = 40"))
    killed: list[int] = []

    def kill_one() -> None:
        deadline = time.monotonic() + 120
        while not killed and time.monotonic() < deadline:
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    name = (process / "cmdline").read_bytes()
                except OSError:
                    continue
                if name.startswith(b"ray::_train"):
                    os.kill(int(process.name), signal.SIGKILL)
                    killed.append(int(process.name))
                    return
            time.sleep(0.2)

    threading.Thread(target=kill_one, daemon=True).start()
    report = run_fleet(read_concepts(file, tmp_path / "fleet"), workers=2, device="cpu")
    assert killed and not report.failed and len(report.trained) == 3
    for each in read_concepts(file, tmp_path / "alone"):
        train(each.config, each.out, device="cpu")
        ours, alone = (read_training(tmp_path / folder / each.name)[0] for folder in ("fleet", "alone"))
        assert np.allclose(flat(ours), flat(alone), atol=1e-5)
