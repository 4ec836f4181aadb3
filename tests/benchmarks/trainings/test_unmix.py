"""`spectra bench unmix` on a tiny base with a stub for a judge: what is trained, and what counts as shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spectra.benchmarks import run
from spectra.benchmarks.case import Bench
from spectra.benchmarks.trainings import judge, unmix
from spectra.training import config

CASE = replace(unmix.CASE, stamp=lambda bench: "")
SHORT = {"preset": "svdiff", "steps": 1, "pictures": 4, "drawing_steps": 1}


def colour(images: Sequence[Image.Image]) -> judge.Array:
    """A judge for whom red, green and blue are what matters."""
    means = np.stack(
        [np.asarray(image, np.float32)[:, image.width // 4 : -image.width // 4].mean((0, 1)) for image in images]
    )
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), np.float32)


@pytest.fixture
def judged(embedded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = {"prior_count": 1, "prior_steps": 1, "collage_prompts": ("{left} {right}",)}
    for name, value in short.items():
        monkeypatch.setitem(config.EMBEDDED, name, value)
    monkeypatch.setattr(unmix, "PAIRS", (("fox-noto-v1=a [v] f", "wolf-emojione=a [w] w"),))
    monkeypatch.setattr(judge, "network", lambda: None)
    monkeypatch.setattr(judge, "embed", colour)
    monkeypatch.setattr(judge, "identity", lambda images, references: len(images) / 10)


def test_every_method_is_trained_as_it_says(judged: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from spectra.training.run import train as training

    asked: list[tuple[int, float, bool]] = []
    train = training.train

    def noted(config: config.TrainConfig, out: Path) -> object:
        asked.append((config.steps, config.collage, config.unmix_weight > 0))
        return train(config, out)

    monkeypatch.setattr(training, "train", noted)
    out = tmp_path / "out"
    result = run.run(CASE, out=out, settings={**SHORT, "sheets": str(tmp_path / "sheets")}).record
    assert result["failures"] == []
    assert [row["method"] for row in result["rows"]] == ["base", "plain", "collage", "unmix"]
    assert asked == [(1, 0.0, False), (1, 0.6, False), (1, 0.6, True)]
    assert all(row["pictures"] == 4 and row["both"] + row["one"] <= 4 for row in result["rows"])
    assert all(row["alone"] == 0.1 for row in result["rows"])
    assert len(list((tmp_path / "sheets").glob("*.png"))) == 4


def test_a_half_shows_its_own_subject_alone() -> None:
    """Pictures of red and green halves, held against a red subject and a green one."""
    red, green, grey = (250, 5, 5), (5, 250, 5), (90, 90, 90)

    def picture(left: tuple[int, int, int], right: tuple[int, int, int]) -> Image.Image:
        whole = Image.new("RGB", (64, 64), left)
        whole.paste(right, (32, 0, 64, 64))
        return whole

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "embed", colour)
        references = [[Image.new("RGB", (32, 64), each)] for each in (red, green)]
        pictures = [
            picture(red, green),
            picture(red, green),
            picture(red, red),
            picture(green, red),
            picture(grey, green),
        ]
        sides = unmix._sides(pictures, references)
        assert sides.shape == (5, 2, 2)
        counted = unmix._counted([sides])
        # Grey is as near to one as to the other.
        assert (counted["both"], counted["one"], counted["swapped"]) == (2, 2, 1)
        changed = unmix._counted([unmix._sides(pictures, references[::-1])])
        assert (changed["both"], changed["one"], changed["swapped"]) == (1, 1, 2)


def test_the_summary_compares_with_plain_training() -> None:
    rows = [
        {"pair": pair, "method": method, "both": both, "alone": 0.5}
        for pair in "abc"
        for method, both in (("base", 0), ("plain", 2), ("collage", 4), ("unmix", 5))
    ]
    summary = unmix._summarise(Bench(CASE.settings), rows)
    assert (summary["pairs"], summary["both_plain"], summary["both_unmix"]) == (3, 6, 15)
    assert summary["times_plain"] == 2.5
    none = [{**row, "both": 0} for row in rows]
    assert unmix._summarise(Bench(CASE.settings), none)["times_plain"] == 0
