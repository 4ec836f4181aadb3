"""Prompts that a subject must still follow: class pictures held to the base's answer to the class in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trainings import read_training

from spectra.errors import InputError
from spectra.training.config import defaults, make_config
from spectra.training.data.class_pictures import prior_prompts
from spectra.training.data.prompts import follow_prompt
from spectra.training.run.train import train

GROUNDS = ("{prompt} on red", "{prompt} on blue")


def test_a_share_of_the_class_pictures_stands_under_them_one_after_the_other() -> None:
    kept = {"follow": 0.125, "follow_prompts": ["x", "y"]}
    prompts = prior_prompts("a disc", 40, 0.25, random_words=0.5, vocabulary=["cup"], **kept)
    counts = {prompt: prompts.count(prompt) for prompt in dict.fromkeys(prompts)}
    assert counts == {"a disc": 5, "": 10, "a cup": 20, "x": 3, "y": 2}
    without = prior_prompts("a disc", 40, 0.25, random_words=0.5, vocabulary=["cup"], follow=0.125)
    assert without == [prompt if prompt not in "xy" or not prompt else "a disc" for prompt in prompts]


def test_the_base_is_asked_for_the_class(settings: dict[str, Any], tmp_path: Path) -> None:
    held = {**settings, "prompt": "a vz disc", "prior_target": "base", "prior_weight": 1.0, "steps": 1}

    def first_prior(name: str, **more: Any) -> float:
        train(make_config({**held, **more}), tmp_path / name)
        return read_training(tmp_path / name)[1][0]["prior"]

    assert first_prior("own") < 1e-10, "nothing has changed: the base's own answers"
    assert first_prior("kept", follow_prompts=list(GROUNDS), prior_follow=1.0) > 1e-6


def test_templates_are_filled_or_refused() -> None:
    assert follow_prompt("{prompt} on a beach", "a [V1] dog") == "a [V1] dog on a beach"
    for template in ("on a beach", "{prompt} {place}", "{prompt", "{} {prompt}"):
        with pytest.raises(InputError, match="expected the place {prompt} and no other"):
            follow_prompt(template, "a dog")
        with pytest.raises(InputError, match="follow prompt"):
            make_config({"follow_prompts": [template]})


def test_they_need_the_base_as_target_and_room_beside_other_prompts() -> None:
    kept = {"base": "x", "follow_prompts": list(GROUNDS)}
    with pytest.raises(InputError, match='prior follow needs prior target "base"'):
        make_config({**kept, "prior_target": "noise"})
    with pytest.raises(InputError, match=r"a sum of at most 1, got 1\.05"):
        make_config({**kept, "prior_target": "base", "keep_prompts": 0.5, "prior_unconditional": 0.5})
    assert make_config({**kept, "prior_target": "base", "keep_prompts": 0.95}).prior_follow == 0.05
    assert defaults("x").follow_prompts == ()
