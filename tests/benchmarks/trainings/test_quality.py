"""`spectra bench quality` on a tiny base with a stub for a judge: what each method trains, and how rows are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from spectra.bases.embedded import subjects
from spectra.bases.pipeline import load_pipeline
from spectra.benchmarks import reports, results, run
from spectra.benchmarks.case import Bench
from spectra.benchmarks.trainings import judge, pareto, quality, quality_axes, quality_table, tuners
from spectra.benchmarks.trainings.finetune import finetune
from spectra.errors import InputError
from spectra.training import config
from spectra.training.presets import PRESETS

CASE = replace(quality.CASE, stamp=lambda bench: "")
SHORT = {"steps": 1, "pictures": 4, "drawing_steps": 1}


def pixels(images: Sequence[Image.Image]) -> judge.Array:
    values = np.stack([np.asarray(image.convert("RGB").resize((8, 8)), np.float32).ravel() - 128 for image in images])
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True), np.float32)


@pytest.fixture
def base(embedded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"prior_count": 1, "prior_steps": 1}.items():
        monkeypatch.setitem(config.EMBEDDED, name, value)
    short = tuple(replace(known, prompt="a [v] f", class_prompt="a f") for known in subjects.SUBJECTS)
    monkeypatch.setattr(subjects, "SUBJECTS", short)  # the tiny tokenizer spells words out
    monkeypatch.setattr(quality_axes, "UNRELATED", ("star", "rose"))
    monkeypatch.setattr(quality_axes, "PROMPTS", ("a star", "a rose"))
    monkeypatch.setattr(judge, "network", lambda: None)
    monkeypatch.setattr(judge, "embed", pixels)
    monkeypatch.setattr(judge, "class_cosines", lambda images: np.zeros((len(images), len(judge.concepts()))))
    monkeypatch.setattr(judge, "class_scores", lambda images, concept: {"top1": 1.0})


@pytest.mark.parametrize("method", [name for name in tuners.METHODS if name not in PRESETS])
def test_a_method_begins_as_the_base_and_moves_only_itself(base: None, method: str) -> None:
    frozen = load_pipeline()
    before = {name: value.clone() for name, value in frozen.unet.state_dict().items()}
    tuned = tuners.tuner(method, frozen)
    inputs = {"sample": torch.ones(1, 4, 8, 8), "timestep": torch.tensor(5)}
    inputs["encoder_hidden_states"] = torch.ones(1, 7, frozen.unet.config.cross_attention_dim)

    def answers() -> torch.Tensor:
        with torch.no_grad():
            answer: torch.Tensor = tuned.pipe.unet(**inputs).sample
        return answer

    with torch.no_grad():
        expected = frozen.unet(**inputs).sample
    torch.testing.assert_close(answers(), expected)
    assert any(name.startswith("unet.") for name in tuned.parameters)
    assert any(name.startswith("text_encoder.") for name in tuned.parameters)
    with torch.no_grad():
        for parameter in tuned.parameters.values():
            parameter.add_(0.05)
    moved = answers()
    assert not torch.allclose(moved, expected)
    with tuned.frozen():
        torch.testing.assert_close(answers(), expected)
    assert tuned.store() > 0
    rounded = answers()
    tuned.finish()
    torch.testing.assert_close(answers(), rounded, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in frozen.unet.state_dict().items())


@pytest.mark.parametrize("method", ["full", "ia3"])
def test_decay_draws_to_the_base(base: None, method: str) -> None:
    tuned = tuners.tuner(method, load_pipeline())
    start = {name: parameter.detach().clone() for name, parameter in tuned.parameters.items()}
    parameters = list(tuned.parameters.values())
    optimizer = torch.optim.AdamW(parameters, lr=0.1, weight_decay=10.0)  # all of the way in one step
    tuned.decay_to_origin(optimizer)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in tuned.parameters.items():
        torch.testing.assert_close(parameter.detach(), start[name])


def test_a_training_does_not_depend_on_what_was_drawn_before(base: None) -> None:
    frozen = load_pipeline()
    settings = replace(config.defaults(""), subject="fox-noto-v1", steps=1)
    losses = []
    for _ in range(2):
        losses.append(finetune("lora-4", frozen, settings).loss_after)
        torch.rand(7)
    assert losses[0] == losses[1]


def test_a_preset_fits_the_embedded_base() -> None:
    frozen = load_pipeline()
    settings = replace(config.defaults("", "tiny"), subject="fox-noto-v1", steps=1, prior_count=1, prior_steps=1)
    made = finetune("tiny", frozen, settings)
    assert made.loss_after != made.loss_before
    assert made.bytes < 32_000


@pytest.mark.parametrize("preset", ["balanced", "likeness", "style"])
def test_presets_have_their_bytes(preset: str) -> None:
    tuned = tuners.tuner(preset, load_pipeline())
    with torch.no_grad():
        for parameter in tuned.parameters.values():
            parameter.normal_()
    assert 80_000 < tuned.store() < 100_000


def test_the_balanced_preset_is_held_against_its_rivals() -> None:
    rows = [
        {"stage": "result", "method": method, "subject": "fox", "seed": 0, "rate": 1, "steps": 1, "held": True}
        | dict.fromkeys(quality_table.AXES, value) | dict.fromkeys(("bytes", "cpu", "memory"), 1)
        for method, value in (("balanced", 0.5), ("lora-4", 0.4), ("full", 0.6))
    ]  # fmt: skip
    assert quality._summarise(None, rows) == {"similarity_behind": 0.1, "drift_of_lora": 1.25}  # type: ignore[arg-type]


@pytest.mark.slow
def test_every_row_is_measured(base: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "RATES", {"shift": (0.01, 0.1), "lora-4": (0.01,), "full": (0.01,)})
    monkeypatch.setattr(quality, "SEARCHED", ("owl-emojione",))
    monkeypatch.setattr(quality, "SUBJECTS", ("fox-noto-v1",))
    monkeypatch.setattr(quality, "SEEDS", 2)
    monkeypatch.setattr(quality, "PRESETS", ())  # they name layers that the tiny base has not
    monkeypatch.setattr(quality, "SEVERAL", ("shift", "lora-4", "full"))
    monkeypatch.setattr(quality, "_memory", lambda method, base: 1)  # the tiny base has no size of its own
    record = run.run(CASE, out=tmp_path / "out", settings=SHORT).record
    assert record["failures"] == []
    stages = [row["stage"] for row in record["rows"]]
    assert {stage: stages.count(stage) for stage in stages} == {"search": 13, "result": 6, "time": 1}
    longer = [row for row in record["rows"] if row["item"].endswith(" 2") and row["stage"] == "search"]
    assert [(row["steps"], row["held"]) for row in longer] == [(2, False), (2, True), (2, True)] * 3
    assert all(raised["rate"] == 3 * held["rate"] for held, raised in zip(longer[1::3], longer[2::3], strict=True))
    shown = quality_table.table(record["rows"])
    assert [row["method"] for row in shown] == ["shift", "lora-4", "full"]
    assert all(row["trainings"] == 2 and row["memory"] > 0 for row in shown)
    assert all(row["moved"]["mean"] > 0 for row in shown)
    assert record["summary"].keys() == {"in_time"}
    assert pareto.draw(shown).axes
    drift = shown[0]["drift"]
    assert f"{drift['mean']:.2f} ({drift['low']:.2f} to {drift['high']:.2f})" in reports.markdown(CASE, record)


def test_memory_is_of_one_step_beyond_the_base() -> None:
    base = load_pipeline()
    used = {method: quality._memory(method, base) for method in ("shift-ca-kv", "lora-4", "full")}
    weights = sum(parameter.nbytes for parameter in base.unet.parameters())
    assert used["full"] > 3 * weights  # gradients and two moments, before anything is saved for the backward pass
    assert used["shift-ca-kv"] < used["full"]
    assert used["lora-4"] < used["full"]


def row(method: str, made: quality.Settings, score: float, subject: str) -> dict[str, Any]:
    return {"stage": "search", "method": method, **asdict(made), "score": score, "subject": subject}


def test_the_best_is_the_best_over_all_searched_subjects() -> None:
    bench = Bench({"steps": 10})
    found = {
        quality.Settings(1e-3, 10, False): (0.1, 0.2),
        quality.Settings(1e-2, 10, False): (0.9, -0.5),
        quality.Settings(1e-1, 10, False): (0.0, 0.1),
        quality.Settings(1e-2, 30, False): (0.3, 0.3),
        quality.Settings(1e-2, 30, True): (0.1, 0.4),
        quality.Settings(3e-2, 30, True): (0.2, 0.2),
    }
    with pytest.raises(InputError, match="search of ia3 has not ended"):
        quality.best(bench, "ia3")
    for made, scores in found.items():
        for subject, score in zip(quality.SEARCHED, scores, strict=True):
            bench.rows[f"{made} {subject}"] = row("ia3", made, score, subject)
    half = quality.Settings(0.5, 30, False)
    bench.rows["half"] = row("ia3", half, 9.0, quality.SEARCHED[0])  # of one subject only: not judged
    assert quality.best(bench, "ia3", longer=False) == quality.Settings(1e-2, 10, False)
    assert quality.best(bench, "ia3") == quality.Settings(1e-2, 30, False)


def test_the_front_holds_what_nothing_beats() -> None:
    points = [(0.5, 0.2), (0.6, 0.2), (0.6, 0.3), (0.1, 0.1), (0.2, 0.4)]  # more, and less, is better
    assert pareto.front(points, (True, False)) == [3, 1]


def test_discs_of_likeness_against_drift_grow_with_bytes_and_names_stand_apart() -> None:
    methods = [
        {"method": name, "similarity": alike, "drift": drift, "bytes": size}
        for name, alike, drift, size in (("a", 0.6, 0.1, 1e4), ("b", 0.6, 0.2, 1e6), ("c", 0.3, 0.05, 4e4))
    ]
    (axes,) = pareto.draw_likeness_and_drift(methods).axes
    sizes = {tuple(disc.get_offsets()[0]): disc.get_sizes()[0] for disc in axes.collections}  # type: ignore[attr-defined]
    assert sizes[0.2, 0.6] > sizes[0.05, 0.3] > sizes[0.1, 0.6]
    (line,) = axes.lines
    assert line.get_xydata().tolist() == [[0.05, 0.3], [0.1, 0.6]]  # type: ignore[union-attr]
    assert {text.get_text(): text.xyann[1] for text in axes.texts}.keys() == {"a, 10 kB", "b, 1,000 kB", "c, 40 kB"}  # type: ignore[attr-defined]


def test_rows_of_all_records_are_the_latest_of_each(tmp_path: Path) -> None:
    kept = results.Results("quality", tmp_path)
    assert kept.recorded_rows("item") == []
    for first, second in ((1, 2), (3, 4)):
        kept.record({"rows": [{"item": "a", "drift": first}, {"item": f"b{first}", "drift": second}]})
    assert [(row["item"], row["drift"]) for row in kept.recorded_rows("item")] == [("a", 3), ("b1", 2), ("b3", 4)]
