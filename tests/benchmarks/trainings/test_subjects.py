"""`spectra bench subjects` on a tiny base with a stub for a judge: who is compared with whom, and when."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_base as tiny
from PIL import Image

import spectra
from spectra.bases import pipeline
from spectra.bases.embedded import subjects as known
from spectra.bases.embedded.subjects import SUBJECTS, instance_pictures
from spectra.benchmarks import run
from spectra.benchmarks.case import Bench, Case
from spectra.benchmarks.trainings import judge, subjects
from spectra.training import config

Pictures = Sequence[Image.Image]
NAMES = [subject.name for subject in SUBJECTS[:2]]
SHORT = {"preset": "svdiff", "steps": 3, "pictures": 2, "drawing_steps": 2}


class Judged:
    """A judge that remembers what it was shown and measures differences in pixels."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Pictures, Pictures]] = []
        self.drifts: list[tuple[Pictures, Pictures]] = []
        self.classes: list[tuple[Pictures, str]] = []

    def identity(self, images: Pictures, references: Pictures) -> float:
        self.pairs.append((images, references))
        return 0.1 * len(self.pairs)

    def drift(self, images: Pictures, others: Pictures) -> float:
        self.drifts.append((images, others))
        return 0.125

    def class_scores(self, images: Pictures, concept: str) -> dict[str, float]:
        self.classes.append((images, concept))
        return {"top1": 0.5, "top5": 1.0, "cosine": 0.3}


@pytest.fixture
def judged(embedded: Path, monkeypatch: pytest.MonkeyPatch) -> Judged:
    stub = Judged()
    short = {"prior_count": 2, "prior_steps": 2, "validation_steps": 1, "lr": 0.05}
    for name, value in short.items():
        monkeypatch.setitem(config.EMBEDDED, name, value)
    monkeypatch.setattr(known, "SUBJECTS", SUBJECTS[:2])
    monkeypatch.setattr(judge, "network", lambda: None)
    monkeypatch.setattr(judge, "identity", stub.identity)
    monkeypatch.setattr(judge, "class_scores", stub.class_scores)
    monkeypatch.setattr(judge, "drift", stub.drift)
    return stub


@pytest.fixture
def untrained(judged: Judged, monkeypatch: pytest.MonkeyPatch) -> Judged:
    """The same with a random shift in place of each training."""

    def train(bench: Bench, name: str, folder: Path) -> Any:
        adapter = spectra.attach(pipeline.load_pipeline(), "mid-block")
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        adapter.set({key: rng.random(delta.shape, np.float32) for key, delta in adapter.deltas.items()})
        path = folder.with_suffix(".safetensors")
        size = spectra.write_shift(adapter.shift(), path)
        return SimpleNamespace(
            shift=path,
            steps=0,
            bytes=size,
            train_seconds=0.0,
            total_seconds=0.0,
            loss_before=1.0,
            loss_after=0.5,
        )

    monkeypatch.setattr(subjects, "_train", train)
    return judged


def same(one: Pictures, other: Pictures) -> bool:
    return all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(one, other, strict=True))


def test_a_row_compares_the_shift_with_the_base_from_the_same_seeds(judged: Judged, tmp_path: Path) -> None:
    record = run.run(subjects.CASE, out=tmp_path, only=NAMES[:1], settings=SHORT).record
    assert record["failures"] == []
    (row,) = record["rows"]
    assert row["subject"] == NAMES[0]
    assert row["steps"] == 3
    assert 1000 < row["bytes"] < 100_000
    assert row["seconds"] > 0
    assert row["loss_before"] != row["loss_after"]

    own = instance_pictures(SUBJECTS[0], count=5, seed=0)
    assert all(same(references, own) for _, references in judged.pairs)
    (base, concept), (after, concept_after) = judged.classes
    assert concept == concept_after == SUBJECTS[0].concept
    shown = [images for images, _ in judged.pairs]
    assert same(shown[0], base)
    assert any(same(images, after) for images in shown)
    # The shift is active when the class is drawn again: from the same seeds come other pictures.
    assert not same(base, after)
    assert (row["similarity_base"], row["similarity"], row["rise"]) == (0.1, 0.2, 0.1)
    assert (row["class_before"], row["class_after"], row["drift"]) == (0.5, 0.5, 0.125)
    ((moved, still),) = judged.drifts
    assert len(moved) == len(still) and not same(moved, still)


def test_the_base_is_itself_again_for_the_next_subject(untrained: Judged, tmp_path: Path) -> None:
    for names in (NAMES, NAMES[1:]):
        assert run.run(subjects.CASE, out=tmp_path, only=names, settings=SHORT).failures == []
    _, first_after, second, second_after, alone, alone_after = (images for images, _ in untrained.classes)
    assert same(second, alone)
    assert same(second_after, alone_after)
    assert not same(second_after, second)
    assert not same(second_after, first_after)


def test_a_failing_subject_costs_no_other(untrained: Judged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, calls = subjects.draw, 0

    def failing(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:  # the first subject's pictures with its shift
            raise RuntimeError("no luck")
        return draw(*arguments)

    monkeypatch.setattr(subjects, "draw", failing)
    record = run.run(subjects.CASE, out=tmp_path, only=NAMES, settings=SHORT).record
    (failure,) = record["failures"]
    assert failure["item"] == NAMES[0]
    assert failure["error"].startswith("RuntimeError: no luck")
    assert [row["subject"] for row in record["rows"]] == NAMES[1:]


def test_rows_are_kept_under_the_base_they_were_measured_on(
    untrained: Judged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case: Case = subjects.CASE
    run.run(case, out=tmp_path, only=NAMES[:1], settings=SHORT)
    resumed = run.run(case, out=tmp_path, only=NAMES[:1], settings=SHORT, resume=True)
    assert resumed.record["resumed"] == 1
    tiny.build(seed=1).save_pretrained(tmp_path / "other")
    monkeypatch.setattr(pipeline, "embedded_path", lambda: tmp_path / "other")
    assert run.run(case, out=tmp_path, only=NAMES[:1], settings=SHORT, resume=True).record["resumed"] == 0


def test_summary() -> None:
    rows: list[dict[str, Any]] = [
        {"rise": 0.3, "class_before": 0.5, "class_after": 0.5, "bytes": 10, "seconds": 1.0, "leak": 0.1},
        {"rise": 0.2, "class_before": 0.5, "class_after": 0.25, "bytes": 30, "seconds": 3.0, "leak": 0.3},
        {"rise": 0.1, "class_before": 0.2, "class_after": 0.8, "bytes": 20, "seconds": 2.0, "leak": 0.2},
    ]
    for row in rows:
        row |= {"drift": 0.2, "similarity_base": 0.3, "similarity": 0.3 + row["rise"]}
    summary = subjects._summarise(None, rows)  # type: ignore[arg-type]
    assert summary["rose_by_0.2"] == 2
    assert summary["class_kept"] == 2
    assert summary["class_drop"] == pytest.approx(0.4 - 0.5167, abs=1e-4)
    assert summary["largest_bytes"] == 30
    assert summary["mean_similarity"] == pytest.approx(0.5)
