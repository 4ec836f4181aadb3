"""Several subjects trained into one shift, on a tiny base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from trainings import flat, interrupted_after, read_training

from spectra.errors import InputError, SpectraError
from spectra.shift.shift import SpectralShift
from spectra.training.config import make_config, read_config
from spectra.training.data.subjects import fill_in_subjects, read_subjects
from spectra.training.run.train import train


@pytest.fixture
def joint(settings: dict[str, Any], photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of a training of two subjects, with prompts short enough for the tiny text encoder."""
    other = tmp_path_factory.mktemp("other") / "dots"
    other.mkdir()
    for number in range(2):
        Image.new("RGB", (40, 40), (200 * number, 60, 200)).save(other / f"{number}.png")
    single = ("images", "prompt", "class_prompt")
    return {
        **{name: value for name, value in settings.items() if name not in single},
        "subjects": [f"{photos}=a [v] d", f"{other}=a [w] c"],
        "collage_prompts": ["{left} {right}", "{right} {left}"],
        "unmix_weight": 100.0,
    }


def run(settings: dict[str, Any], out: Path, **more: Any) -> tuple[SpectralShift, list[dict[str, float]]]:
    """The shift and the losses of a training."""
    train(make_config(settings), out, **more)
    return read_training(out)


def test_two_subjects_become_one_shift(joint: dict[str, Any], tmp_path: Path) -> None:
    # Pictures are drawn in between, fewer at once than a step has samples.
    pictures = {"validation_every": 4, "validation_count": 1}
    more = {"steps": 10, "batch": 6, "collage": 0.9, "unmix_schedule": "rising", **pictures}
    shift, losses = run({**joint, **more}, tmp_path / "both")
    assert set(losses[0]) == {"step", "loss", "denoising", "unmix", "prior"}
    assert losses[0]["loss"] == pytest.approx(losses[0]["denoising"] + losses[0]["prior"]), "rises from zero"
    last = losses[-1]
    weight = 100 * 9 / 10
    assert last["loss"] == pytest.approx(last["denoising"] + last["prior"] + weight * last["unmix"])
    read = read_config(tmp_path / "both" / "both.toml")
    assert read.subjects == tuple(joint["subjects"])
    assert shift.metadata.settings["subjects"] == joint["subjects"]
    with Image.open(tmp_path / "both" / "before-after.png") as sheet:
        assert min(sheet.size) > 160


def test_unmix_lowers_attention_to_the_other_half(joint: dict[str, Any], tmp_path: Path) -> None:
    """The same samples with the term and without: what it measures falls only where it is asked for."""
    joint = {**joint, "steps": 12, "lr": 0.03, "collage": 1.0, "text_encoder": True}
    with_term = run({**joint, "unmix_weight": 1000.0}, tmp_path / "a")[1]
    without = run({**joint, "unmix_weight": 1e-9}, tmp_path / "b")[1]
    assert with_term[0]["unmix"] == pytest.approx(without[0]["unmix"])
    mean = [sum(record["unmix"] for record in each[-4:]) / 4 for each in (with_term, without)]
    assert mean[0] < 0.7 * mean[1]


def test_cost_settings_change_no_result(joint: dict[str, Any], tmp_path: Path) -> None:
    joint = {**joint, "steps": 2, "batch": 4, "text_encoder": True}
    plain, losses = run(joint, tmp_path / "plain")
    assert losses[0]["unmix"] > 0
    for number, more in enumerate(
        (
            {"batch": 2, "accumulation": 2},
            {"gradient_checkpointing": True},
            {"cache_latents": False, "cache_prompts": False},
        )
    ):
        other, others = run({**joint, **more}, tmp_path / str(number))
        for name in ("loss", "unmix", "prior"):
            np.testing.assert_allclose([r[name] for r in others], [r[name] for r in losses], rtol=1e-3)
        # Adam's first steps are sign-like: a gradient of zero and rounding moves its delta by a whole learning rate.
        assert np.mean(np.abs(flat(plain) - flat(other)) > 1e-3 * joint["lr"]) < 0.02, more


def test_bf16_trains(joint: dict[str, Any], tmp_path: Path) -> None:
    joint = {**joint, "steps": 2, "collage": 1.0}
    _, plain = run(joint, tmp_path / "a")
    for number, more in enumerate(({}, {"gradient_checkpointing": True, "accumulation": 2})):
        _, half = run({**joint, **more, "mixed_precision": "bf16"}, tmp_path / str(number))
        if not more:
            assert half[0]["unmix"] == pytest.approx(plain[0]["unmix"], rel=0.02)
            assert half[0]["unmix"] != plain[0]["unmix"]
        assert all(np.isfinite(list(record.values())).all() for record in half)


def test_it_continues_exactly(joint: dict[str, Any], tmp_path: Path) -> None:
    joint = {**joint, "steps": 5, "save_every": 2, "prior_target": "base", "prior_unconditional": 0.5}
    whole = run(joint, tmp_path / "whole")
    with interrupted_after(3):
        train(make_config(joint), tmp_path / "part")
    resumed = run(joint, tmp_path / "part", resume=True)
    assert resumed[1] == whole[1]
    assert np.array_equal(flat(resumed[0]), flat(whole[0]))
    with pytest.raises(InputError, match="cannot resume: collage was"):
        train(make_config({**joint, "collage": 0.5}), tmp_path / "part", resume=True, force=True)
    # The weights of a falling unmix loss depend on where it ends.
    falling = {**joint, "steps": 1, "save_every": 1, "unmix_schedule": "falling"}
    run(falling, tmp_path / "falling")
    with pytest.raises(InputError, match="steps was 1 when the state was saved and is 2 now"):
        train(make_config({**falling, "steps": 2}), tmp_path / "falling", resume=True, force=True)


def test_attention_processors_are_given_back(
    joint: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spectra.training.run.trainer import Training

    kinds: list[set[str]] = []
    close = Training.close

    def looked_at(self: Training) -> None:
        kinds.append({type(p).__name__ for p in self.pipe.unet.attn_processors.values()})
        close(self)
        kinds.append({type(p).__name__ for p in self.pipe.unet.attn_processors.values()})

    monkeypatch.setattr(Training, "close", looked_at)
    run({**joint, "steps": 1}, tmp_path / "a")
    assert kinds == [{"AttnProcessor2_0", "_Reader"}, {"AttnProcessor2_0"}]
    kinds.clear()
    run({**joint, "steps": 1, "unmix_weight": 0.0}, tmp_path / "b")
    assert kinds[0] == {"AttnProcessor2_0"}, "and not taken where no term asks"


def test_embedded_subjects_need_only_names(
    spectra_cli: Any, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("spectra.bases.pipeline.embedded_path", lambda: tiny_base)
    few = ("--steps", 1, "--prior-count", 1, "--prior-steps", 1, "--validation-steps", 1, "--validation-count", 1)
    short = ("--preset", "svdiff", "--collage-prompt", "{left} {right}", "--unmix-weight", 0, "--collage", 0)
    ran = spectra_cli("train", "--subject", "fox=a [v] f", "--subject", "wolf=a [w] w", *short, *few, "--json")
    assert ran.code == 0, ran.err
    summary = json.loads(ran.out)
    assert summary["subject"] == "fox and wolf"
    assert summary["prompt"] == "a [v] f a [w] w"
    assert summary["folder"].endswith("fox-and-wolf")
    subjects = read_config(tmp_path / "out/fox-and-wolf/fox-and-wolf.toml").subjects
    assert subjects == ("fox-noto-v1=a [v] f", "wolf-emojione=a [w] w")
    Image.new("RGB", (40, 40), "red").save("red.png")
    one_picture, _ = read_subjects(fill_in_subjects(make_config({"subjects": ["red.png=a [v] disc", "owl"]})))
    assert (one_picture.name, len(one_picture.pictures)) == ("red", 1)
    named = fill_in_subjects(make_config({"subjects": ["owl", "dog"]})).subjects
    assert named == ("owl-emojione=a drawing of a [V1] owl", "dog-emojione=a drawing of a [V2] dog")


def test_a_training_can_start_from_a_shift(
    joint: dict[str, Any], settings: dict[str, Any], other_base: Path, tmp_path: Path
) -> None:
    """Such as the sum of two that were trained apart."""
    apart, _ = run({**settings, "steps": 2}, tmp_path / "apart")
    file = str(tmp_path / "apart" / "apart.safetensors")
    few = {**joint, "steps": 1, "init_shift": file}
    kept, _ = run({**few, "lr": 0.0, "lr_1d": 1e-30}, tmp_path / "kept")
    assert flat(apart).any() and np.array_equal(flat(kept), flat(apart))
    assert kept.metadata.parents == (apart.metadata.content_hash,)
    moved, _ = run(few, tmp_path / "moved")
    assert 0 < np.abs(flat(moved) - flat(apart)).max() <= 1.1 * few["lr"]
    for more, says in (
        (
            {"base": str(other_base)},
            "'init_shift' was trained on another base: .* such as unet.*",
        ),
        ({"targets": "unet-ca"}, "expected the .* weights of 'unet-ca'"),
        ({"init_shift": "none.safetensors"}, "none.safetensors"),
    ):
        with pytest.raises(SpectraError, match=says):
            train(make_config({**few, **more}), tmp_path / "bad")
    assert not (tmp_path / "bad").exists()


BAD = {
    "one": (["DIR=a [v] d"], "subjects: expected two to 4, got 1; for one, use --images"),
    "five": (["DIR=a [v] d"] * 5, "subjects: expected two to 4, got 5"),
    "no prompt": (["DIR=a [v] d", "DIR"], "needs a prompt, as in"),
    "no special word": (["DIR=a [v] d", "DIR=a w c"], "expected one word in brackets"),
    "the same word": (["DIR=a [v] d", "DIR=a [v] c"], "is the special word of two of them"),
    "no folder": (["DIR=a [v] d", "none=a [w] c"], "expected a folder of pictures, or one picture, found nothing"),
    "images too": (["DIR=a [v] d", "DIR=a [w] c", "--images", "DIR"], "images is for one subject, and here are 2"),
    "a share": (["DIR=a [v] d", "DIR=a [w] c", "--collage", "1.5"], "collage: expected a share from 0 to 1"),
    "a template": (["DIR=a [v] d", "DIR=a [w] c", "--collage-prompt", "{left}"], "expected places {left} and {right}"),
    "a fit": (["DIR=a [v] d", "DIR=a [w] c", "--collage-fit", "cut"], "collage fit: expected one of crop, shrink"),
    "layers": (["DIR=a [v] d", "DIR=a [w] c", "--unmix-layers", "x.*"], "no cross-attention layer matches 'x.*'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(spectra_cli: Any, tiny_base: Path, photos: Path, tmp_path: Path, case: str) -> None:
    given, says = BAD[case]
    words: list[str] = []
    for value in given:
        option = [] if value.startswith("--") or (words and words[-1].startswith("--")) else ["--subject"]
        words += [*option, value.replace("DIR", str(photos))]
    ran = spectra_cli("train", "--base", tiny_base, *words, "--steps", 1, "-o", tmp_path / "out")
    assert ran.code == 1
    assert says in ran.err
    assert len(ran.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_name_lists_the_embedded_ones(spectra_cli: Any, tmp_path: Path) -> None:
    ran = spectra_cli("train", "--subject", "fox", "--subject", "foxx", "-o", tmp_path / "out")
    assert ran.code == 1
    assert "unknown subject 'foxx'; the embedded ones are" in ran.err
