from __future__ import annotations

import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from spectra.errors import InputError
from spectra.training.config import EMBEDDED, TrainConfig, chosen_settings, defaults, make_config, read_config
from spectra.training.presets import DEFAULT_PRESET, PRESETS


def test_toml_round_trip_keeps_every_setting(tmp_path: Path) -> None:
    config = TrainConfig(
        base="some/base",
        images='a "quoted" \\ folder',
        prompt="a [V1] füchsin \x7f\t",
        lr=3e-7,
        lr_1d=1.0,
        validation_prompts=("one", 'two "three"'),
        text_encoder=True,
        steps=7,
    )
    path = tmp_path / "c.toml"
    path.write_text(config.to_toml(), encoding="utf-8")
    assert read_config(path) == config
    undecided = {"gradient_checkpointing", "prior_guidance", "validation_guidance"}
    assert set(tomllib.loads(config.to_toml())) == {field.name for field in fields(TrainConfig)} - undecided


def test_only_what_differs_from_the_defaults_of_the_base_is_reported() -> None:
    assert defaults("").changed() == {}
    assert defaults("x/y").changed() == {"base": "x/y"}
    assert make_config({"batch": EMBEDDED["batch"], "lr": 0.5}).changed() == {"lr": 0.5}
    assert make_config({"base": "x/y", "batch": EMBEDDED["batch"]}).changed() == {
        "base": "x/y",
        "batch": EMBEDDED["batch"],
    }


def test_a_preset_is_a_set_of_defaults() -> None:
    for base in ("", "x/y"):
        for preset in PRESETS:
            chosen = make_config({"base": base, "preset": preset})
            assert chosen == defaults(base, preset)
            assert chosen.changed() == ({"base": base} if base else {}) | (
                {"preset": preset} if preset != DEFAULT_PRESET else {}
            )
    diagonal = make_config({"preset": "svdiff"})
    assert (diagonal.directions, diagonal.outer, diagonal.word) == ("all", "0", False)
    assert make_config({"outer": "3"}).changed() == {"outer": "3"}
    with pytest.raises(
        InputError, match="preset: expected one of balanced, likeness, prompt, style, tiny, svdiff, got 'small'"
    ):
        make_config({"preset": "small"})


def test_settings_that_were_written_down_say_what_was_chosen() -> None:
    for base in ("", "x/y"):
        config = make_config({"base": base, "preset": "tiny", "steps": 7, "prompt": "a [V1] sun"})
        assert chosen_settings(config.as_dict()) == {"preset": "tiny", "steps": 7, "prompt": "a [V1] sun"}
    for strange in ({"steps": 200, "of": "another tool"}, {"preset": ["tiny"]}):
        assert chosen_settings(strange) == strange


def test_given_settings_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("steps = 3\nlr = 1\n")
    config = read_config(path, steps=9)
    assert (config.steps, config.lr) == (9, 1.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stepps = 3", "unknown setting 'stepps'"),
        ("steps = 'many'", "expected int, got 'many'"),
        ("steps = true", "expected int, got True"),
        ("steps = 0", "at least 1"),
        ("validation_steps = 1001", "at least 1, at most 1000"),
        ("prior_steps = 1001", "at least 1, at most 1000"),
        ("lr = nan", "at least 0"),
        ("lr = -1.0", "at least 0"),
        ("validation_prompts = 'one'", "expected a list of strings"),
        ("mixed_precision = 'half'", "expected one of no, fp16, bf16"),
        ("file_dtype = 'int8'", "expected one of float32, float16"),
        ("prior_target = 'loss'", "expected one of noise, base"),
        ("prior_target = 'base'\nprior_unconditional = 1.5", "a share from 0 to 1"),
        ("base = 'x'\nprior_unconditional = 0.5", 'needs prior target "base"'),
        ("base = 'x'\nkeep_prompts = 0.5", 'keep prompts needs prior target "base"'),
        ("prior_words = 0.8", "prior_words is called keep_prompts now"),
        ("keep_prompts = 0.8", "a sum of at most 1, got 1.082"),
        ("steps = ", "not a TOML file"),
        ("images = 'x'", "needs --prompt"),
        ("images = 'x'\nprompt = 'y'\nsubject = 'fox'", "not both"),
    ],
)
def test_bad_settings_are_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        read_config(path)


def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "marked.toml").write_bytes(b"\xef\xbb\xbfsteps = 7\r\n")
    assert read_config(tmp_path / "marked.toml").steps == 7


def test_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_config(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, "denoiser"),
        ({"text_encoder": True}, "denoiser,text-encoder"),
        ({"text_encoder": None}, "denoiser,text-encoder"),
        ({"text_encoder": True, "targets": "text-encoder, unet-ca"}, "text-encoder,unet-ca"),
    ],
)
def test_text_encoder_joins_the_targets(changed: dict[str, Any], expected: str) -> None:
    assert replace(TrainConfig(), **changed).all_targets == expected
