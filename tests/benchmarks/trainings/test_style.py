"""`spectra bench style`: what a look is, and what the figures say of one that was learnt wholly, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spectra.bases.embedded.subjects import SUBJECTS, plain_picture
from spectra.benchmarks.trainings import style
from spectra.benchmarks.trainings.finetune import Finetuned
from spectra.training.config import defaults
from spectra.training.data.folders import read_folder

KNOWN = SUBJECTS[:4]


@pytest.mark.parametrize("look", style.LOOKS)
def test_figures_tell_a_look_from_none(look: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    monkeypatch.setattr(style, "UNRELATED", tuple(known.concept for known in KNOWN))
    own = [plain_picture(known) for known in KNOWN]
    drawn = [style.LOOKS[look](picture) for picture in own]
    learnt = style.score_look(look, own, drawn, own)
    assert learnt == {"style": 1, "styled": 1, "known": 0, "leak": 0, "drift": pytest.approx(0, abs=1e-3)}
    leaking = style.score_look(look, own, own, drawn)
    assert (leaking["style"], leaking["leak"]) == (0, 1)
    assert leaking["styled"] <= 0.25  # a fox has ember's colours by itself
    assert leaking["drift"] > 0.05


def test_looks_leave_white_grounds() -> None:
    for look in style.LOOKS.values():
        picture = np.asarray(look(plain_picture(KNOWN[0])))
        assert picture.shape == (64, 64, 3)
        assert picture[0, 0].tolist() == [255, 255, 255]


def test_each_picture_has_its_caption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def trained(method: str, base: Any, config: Any) -> Finetuned:
        asked.append(config)
        return Finetuned(None, 0, 0.0, 0.0, 0.0, 0.0)

    monkeypatch.setattr("spectra.benchmarks.trainings.finetune.finetune", trained)
    style.train_look("ink", ["owl-emojione", "key-twemoji"], defaults("", "style"), "style", None, 3, tmp_path)
    assert [each.caption for each in read_folder(tmp_path).pictures] == ["a key", "an owl"]
    (config,) = asked
    assert (config.prompt, config.seed, config.preset) == ("a [V1] drawing of {caption}", 3, "style")
    assert set(style.asked_prompts()) == {p.replace("a drawing", "a [V1] drawing") for p in style.PROMPTS}
