"""What an edit can be asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spectra.editing.base_fitness import BaseFitness
from spectra.editing.settings import EditSettings, make_edit_settings
from spectra.errors import InputError

ASKED: dict[str, Any] = {"image": Path("a.png"), "caption": "a disc", "edits": ("a red disc",)}


def test_every_combination_once() -> None:
    settings = make_edit_settings(**ASKED, etas=[0.0, 0.5], noise_mixes=[0.0, 1.0], seeds=[1, 2], scales=[1.0, 0.5],
                       keeps=[0.0, 0.3])  # fmt: skip
    variants = settings.variants
    assert len(set(variants)) == len(variants) == 2 * 2 * (1 + 2 + 2 + 2)  # nothing random: one seed is enough
    words = {variant.differences(variants) for variant in variants}
    assert "scale 0.5, eta 0.5, noise mix 1, seed 2, keep 0.3" in words
    assert len(words) == len(variants)


def test_defaults_are_those_of_the_base() -> None:
    own, other = make_edit_settings(**ASKED), make_edit_settings(**ASKED, base="elsewhere")
    assert make_edit_settings(**ASKED, base="spectra-base") == own
    assert (own.anchor, own.guidances, other.anchor, other.guidances) == ("caption", (1.25,), "edit", (3.0,))
    assert own.keeps[0] > 0
    assert other.keeps == (0.0,)  # the paper's way
    for settings in (own, other):
        assert settings.config.prior_weight == 0
        assert (settings.config.images, settings.config.prompt, settings.config.class_prompt) == ("a.png", "a disc", "")
        assert not settings.config.text_encoder
    assert make_edit_settings(**ASKED, training={"steps": 3, "text_encoder": True}).config.steps == 3


def test_a_preset_of_a_subject_learns_one_picture() -> None:
    config = make_edit_settings(**ASKED, training={"preset": "balanced"}).config
    assert config.outer
    assert (config.prior_weight, config.prior_follow, config.word) == (0, 0, False)  # no class, no special word


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"edits": ()}, "nothing to draw"),
        ({"edits": ("a", " ")}, "edit: expected a prompt"),
        ({"caption": ""}, "caption: expected a prompt"),
        ({"noise_mixes": (1.5,)}, "noise mix: expected a share from 0 to 1, got 1.5"),
        ({"keeps": (0.2, 2.0)}, "keep: expected a share from 0 to 1, got 2"),
        ({"etas": (-0.1,)}, "eta: expected a share from 0 to 1"),
        ({"guidances": (0.5,)}, "guidance: expected a number of at least 1, got 0.5"),
        ({"scales": (float("nan"),)}, "scale: expected a finite number, got nan"),
        ({"steps": 0}, "steps: expected a number of at least 1"),
        ({"steps": 1001}, "steps: expected a number of at least 1, at most 1000, got 1001"),
        ({"anchor": "nothing"}, "anchor: expected one of edit, caption"),
    ],
)
def test_what_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        EditSettings(**(ASKED | wrong))


def test_a_base_out_of_its_depth_says_so() -> None:
    assert BaseFitness(vae_psnr=27.0, explained=0.6).warnings == []
    vae, picture = BaseFitness(vae_psnr=12.3, explained=-0.4).warnings
    assert "12.3 dB" in vae
    assert "-40%" in picture
