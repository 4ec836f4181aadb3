"""What is said of a training: by losses on any base, by pictures on the embedded one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from spectra.bases.embedded.subjects import find_subject, instance_pictures, plain_picture
from spectra.bases.pipeline import load_pipeline
from spectra.training.config import make_config
from spectra.training.run.judgement import judge_class, judge_prompt, judge_subject, share_of_way
from spectra.training.run.train import train

CONFIG = make_config({"steps": 100, "keep_prompts": 0.5})


@pytest.mark.parametrize(
    ("before", "after", "way", "good", "said", "change"),
    [
        (0.2, 0.15, None, True, "there: loss on its pictures 0.2000 -> 0.1500 (-25%", ""),
        (0.2, 0.198, None, False, "hardly there", "--steps 200, or higher rates: --lr-outer 0.6"),
        (0.2, 0.199, 0.01, False, "hardly there", "--steps 200, or higher rates: --lr-outer 0.6"),
        (0.2, 0.3, None, False, "not there", "lower rates: --lr-outer 0.06"),
        (0.2, 0.15, 0.8, True, "there: its pictures have come 80% of the way", ""),
        (0.2, 0.15, 0.4, False, "there in part", "--steps 200"),
        (0.2, 0.15, 0.1, False, "hardly there", "--steps 200"),
        (0.2, 0.3, 0.8, False, "not there", "lower rates"),
    ],
)
def test_whether_the_subject_is_there(
    before: float, after: float, way: float | None, good: bool, said: str, change: str
) -> None:
    verdict = judge_subject(before, after, way, CONFIG)
    assert verdict.good is good
    assert said in verdict.told
    assert change in verdict.change
    assert bool(verdict.change) != good


def test_rates_are_advised_that_training_takes() -> None:
    for rate, after, advised in ((1e-4, 0.2, "0.2"), (0.2, 0.2, "0.6"), (5.0, 0.3, "0.2"), (0.2, 0.3, "0.06")):
        verdict = judge_subject(0.2, after, None, replace(CONFIG, lr_outer=rate))
        assert verdict.change.endswith(f"rates: --lr-outer {advised}"), rate


def test_whether_the_class_stayed() -> None:
    assert judge_class((0.2, 0.202), None, CONFIG).good
    assert judge_class((0.2, 0.202), 0.1, CONFIG).good
    changed = judge_class((0.2, 0.25), None, CONFIG)
    lower = "lower rates (--lr-outer 0.06)"
    assert (changed.good, changed.change) == (False, f"--prior-weight 4, {lower}, or fewer --steps than 100")
    assert judge_class((0.2, 0.2), 0.6, CONFIG).told.startswith(
        "changed: pictures without the special word have come 60%"
    )
    assert judge_class(None, None, CONFIG).good is None
    assert judge_class(None, 0.1, CONFIG).good
    seen = judge_class(None, 0.5, CONFIG)
    assert (seen.good, seen.change) == (False, "--class-prompt and --prior-weight 1 hold it")


def test_whether_prompts_are_followed() -> None:
    assert judge_prompt(1.0, CONFIG).good
    lost = judge_prompt(0.25, CONFIG)
    assert not lost.good
    assert lost.change == "--preset prompt, --weight-decay 0.3, or fewer --steps than 100"
    free = replace(CONFIG, preset="prompt", weight_decay=0.0, prior_weight=0.0)
    assert judge_prompt(0.5, free).change == (
        "--prior-weight 1, without which no prompt is held, --weight-decay 0.1, or fewer --steps than 100"
    )
    assert judge_prompt(None, CONFIG).good is None


def test_pictures_are_placed_between_the_base_s_and_the_subject_s() -> None:
    """Another drawing of a thing is no way towards it; its own pictures are all of it."""
    pipe = load_pipeline("")
    fox, others = find_subject("fox-noto-v1"), find_subject("key-twemoji")
    own, more = instance_pictures(fox), instance_pictures(fox, seed=1)
    base = instance_pictures(others)
    assert share_of_way(pipe, own, base, base) == pytest.approx(0, abs=1e-4)
    assert share_of_way(pipe, own, base, own) == pytest.approx(1, abs=0.35)
    way = share_of_way(pipe, own, base, more)
    assert way is not None
    assert way > 0.6
    away = share_of_way(pipe, own, base, [plain_picture(others, "blue")])
    assert away is not None
    assert away < 0.2
    assert share_of_way(pipe, own, own, more) is None


def test_a_training_is_judged(settings: dict[str, Any], tmp_path: Path, spectra_cli: Any) -> None:
    summary = train(make_config({**settings, "steps": 2}), tmp_path / "a")
    assert [verdict.question for verdict in summary.judged] == ["subject", "class", "prompt"]
    assert summary.as_dict()["judged"][0]["told"] == summary.judged[0].told
    assert f"{summary.loss_before:.4f} -> {summary.loss_after:.4f}" in summary.judged[0].told
    (tmp_path / "a.toml").write_text(make_config({**settings, "steps": 1, "prior_weight": 0.0}).to_toml())
    ran = spectra_cli("train", "--config", tmp_path / "a.toml", "-o", tmp_path / "b")
    assert ran.code == 0
    assert "    class not measured: no class pictures" in ran.out
    assert "    prompt see the pictures side by side" in ran.out
    with Image.open(tmp_path / "b" / "before-after.png") as sheet:
        assert sheet.width > 0
