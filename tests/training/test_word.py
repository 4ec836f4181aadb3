"""A vector for each token of the special word, learnt beside the shift."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_sdxl
import torch
from PIL import Image
from trainings import interrupted_after, read_training

import spectra
from spectra.bases.pipeline import load_pipeline
from spectra.errors import InputError, MismatchError
from spectra.shift.shift import SpectralShift
from spectra.shift.shift_file import write_shift
from spectra.training.config import make_config
from spectra.training.run.concepts import ConceptSpec
from spectra.training.run.train import train, train_together

CLIP = "text_encoder.embeddings.token_embedding"


@pytest.fixture
def settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Those of a training of a word, `vz`, whose tokens are `v` and `z</w>`."""
    return {**settings, "word": True, "lr_word": 0.02, "prompt": "a vz disc"}


def run(settings: dict[str, Any], out: Path, **more: Any) -> tuple[SpectralShift, list[dict[str, float]]]:
    """The shift and the losses of a training."""
    train(make_config(settings), out, **more)
    return read_training(out)


def tokens(base: Path, word: str) -> tuple[int, ...]:
    return tuple(load_pipeline(str(base)).tokenizer(word, add_special_tokens=False).input_ids)


def equal(a: SpectralShift, b: SpectralShift) -> bool:
    return a.words == b.words and list(a) == list(b) and all(np.array_equal(a[name], b[name]) for name in a)


def test_the_word_is_learnt_beside_the_shift(settings: dict[str, Any], tiny_base: Path, tmp_path: Path) -> None:
    shift, _ = run(settings, tmp_path / "disc")
    word = shift.words[CLIP]
    assert (list(shift.words), word.ids, word.text) == ([CLIP], tokens(tiny_base, "vz"), "vz")
    assert not shift[CLIP].any(), "no delta of the embedding is asked for"
    assert {name.split(".")[0] for name in shift if shift[name].any()} == {"unet"}
    # Adam's steps are of the learning rate's size: four of them at most, and weight decay.
    assert 0.02 < np.abs(word.vectors).max() <= 4 * 0.02
    assert np.abs(shift["unet.conv_in"]).max() <= 4 * 0.01
    slow, _ = run({**settings, "lr_word": 0.001}, tmp_path / "slow")
    assert 0.001 < np.abs(slow.words[CLIP].vectors).max() <= 4 * 0.001


def test_the_word_alone_can_be_trained(settings: dict[str, Any], tiny_base: Path, tmp_path: Path) -> None:
    """Textual inversion: the loss falls, and nothing changes for prompts without the word."""
    alone = {"targets": CLIP, "directions": "0", "steps": 12, "lr_word": 0.1, "prior_weight": 0.0, "batch": 4}
    summary = train(make_config({**settings, **alone}), tmp_path / "disc")
    assert summary.loss_after < summary.loss_before
    shift, _ = read_training(tmp_path / "disc")
    assert (list(shift), shift.floats) == ([CLIP], 2 * 24)
    pipe = load_pipeline(str(tiny_base))
    drawn = {prompt: pictures(pipe, prompt) for prompt in ("a vz disc", "a disc")}
    spectra.activate(pipe, spectra.load(pipe, shift, name="disc"))
    assert np.array_equal(pictures(pipe, "a disc"), drawn["a disc"])
    assert np.abs(pictures(pipe, "a vz disc") - drawn["a vz disc"]).max() > 1e-3


def pictures(pipe: Any, prompt: str) -> np.ndarray[Any, Any]:
    generator = torch.Generator("cpu").manual_seed(0)
    drawn: np.ndarray[Any, Any] = pipe(prompt, num_inference_steps=2, generator=generator, output_type="np").images
    return drawn


def test_an_interrupted_training_continues_exactly(settings: dict[str, Any], tmp_path: Path) -> None:
    settings = {**settings, "save_every": 2, "text_encoder": True}
    whole, losses = run(settings, tmp_path / "whole")
    with interrupted_after(3):
        train(make_config(settings), tmp_path / "part")
    part, others = run(settings, tmp_path / "part", resume=True)
    assert others == losses
    assert equal(part, whole)
    with pytest.raises(InputError, match="cannot resume: word was True"):
        train(make_config({**settings, "word": False, "steps": 6}), tmp_path / "part", resume=True, force=True)


def test_a_training_can_start_from_a_word(settings: dict[str, Any], tmp_path: Path) -> None:
    settings = {**settings, "lr_1d": 0.0}
    first, _ = run(settings, tmp_path / "first")
    write_shift(first, tmp_path / "first.safetensors")
    settings = {**settings, "init_shift": str(tmp_path / "first.safetensors"), "steps": 1}
    second, _ = run({**settings, "lr_word": 0.0, "lr": 0.0}, tmp_path / "second")
    assert equal(first, second)
    with pytest.raises(MismatchError, match=r"has vectors for the special word 'vz', and this training trains 'q'"):
        train(make_config({**settings, "prompt": "a q disc"}), tmp_path / "third")
    with pytest.raises(MismatchError, match=r"and this training trains none \(--word\)"):
        train(make_config({**settings, "word": False}), tmp_path / "third")


OWN: Sequence[dict[str, Any]] = (
    {"prompt": "a v disc", "class_prompt": "a disc"},
    {"prompt": "a wq v", "class_prompt": "a v", "seed": 5},  # the class is the first one's word
    {"prompt": "a qv disc", "class_prompt": "a disc", "seed": 2},  # two of the others' tokens
)


def together(settings: dict[str, Any], out: Path, **more: Any) -> None:
    """Train all of `OWN` in one go, into folders a, b, c of `out`."""
    wanted = [
        ConceptSpec(name, make_config({**settings, **own}), out / name) for name, own in zip("abc", OWN, strict=True)
    ]
    train_together(wanted, **more)


def test_concepts_trained_together_have_the_words_that_each_has_alone(
    settings: dict[str, Any], tiny_base: Path, tmp_path: Path
) -> None:
    settings = {**settings, "prior_target": "base", "steps": 3, "lr_1d": 1e-3}
    together(settings, tmp_path)
    for name, own, word in zip("abc", OWN, ("v", "wq", "qv"), strict=True):
        alone, losses = run({**settings, **own}, tmp_path / "alone" / name)
        joint, steps = read_training(tmp_path / name)
        assert joint.words[CLIP].ids == alone.words[CLIP].ids == tokens(tiny_base, word)
        assert joint.words[CLIP].text == word
        assert np.abs(joint.words[CLIP].vectors - alone.words[CLIP].vectors).max() < 1e-4
        np.testing.assert_allclose([r["loss"] for r in steps], [r["loss"] for r in losses], rtol=1e-4)


def test_concepts_trained_together_continue_exactly_together_or_alone(settings: dict[str, Any], tmp_path: Path) -> None:
    settings = {**settings, "save_every": 2}
    together(settings, tmp_path / "whole")
    with interrupted_after(3):
        together(settings, tmp_path / "part")
    state = tmp_path / "part" / "b.progress" / "state.safetensors"
    (tmp_path / "alone" / "b.progress").mkdir(parents=True)
    (tmp_path / "alone" / "b.progress" / state.name).write_bytes(state.read_bytes())
    together(settings, tmp_path / "part", resume=True)
    for name in "abc":
        (part, losses), (whole, steps) = (read_training(tmp_path / kind / name) for kind in ("part", "whole"))
        assert losses == steps
        assert equal(part, whole)
    assert train(make_config({**settings, **OWN[1]}), tmp_path / "alone" / "b", resume=True).resumed_at == 2
    alone, whole = (read_training(tmp_path / kind / "b")[0] for kind in ("alone", "whole"))
    assert np.abs(alone.words[CLIP].vectors - whole.words[CLIP].vectors).max() < 1e-4


def test_two_subjects_in_one_shift_have_a_word_each(settings: dict[str, Any], tiny_base: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), "navy").save(tmp_path / "c.png")
    pipe = load_pipeline(str(tiny_base))
    pipe.tokenizer.add_tokens(["[v]", "[w]"])
    pipe.text_encoder.resize_token_embeddings(max(64, len(pipe.tokenizer)))
    pipe.save_pretrained(tmp_path / "base")
    subjects = [f"{settings['images']}=a [v] d", f"{tmp_path / 'c.png'}=a [w] c"]
    single = ("images", "prompt", "class_prompt")
    kept = {name: value for name, value in settings.items() if name not in single}
    templates = ["{left} {right}"]
    joint = {**kept, "base": str(tmp_path / "base"), "subjects": subjects, "collage_prompts": templates, "collage": 1.0}
    shift, _ = run(joint, tmp_path / "both")
    assert shift.words[CLIP].text == "[v], [w]"
    assert shift.words[CLIP].ids == tuple(pipe.tokenizer.convert_tokens_to_ids(["[v]", "[w]"]))
    assert (np.abs(shift.words[CLIP].vectors).max(1) > 0.01).all()


def test_every_text_encoder_learns_the_word(settings: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    tiny_sdxl.build().save_pretrained(tmp_path / "sdxl")
    settings = {**settings, "base": str(tmp_path / "sdxl"), "targets": "unet-ca", "prior_weight": 0.0}
    shift, _ = run(settings, tmp_path / "disc")
    assert list(shift.words) == [CLIP, "text_encoder_2.embeddings.token_embedding"]
    assert all(np.abs(word.vectors).max() > 0.02 and word.text == "vz" for word in shift.words.values())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"prompt": "a disc"}, "expected one special word, which the class prompt 'a disc' has not, got none"),
        ({"class_prompt": "", "prior_weight": 0.0}, "which the class prompt '' has not, got none"),
        ({"prompt": "a [V1] disc"}, r"special word '\[V1\]': the base's tokenizer does not know all of it"),
        ({"prompt": "a c disc"}, r"special word 'c': its token 'c</w>' is in the class prompt 'a disc'"),
        ({"low_memory": True}, "leave it out, or directions, outer terms and word"),
    ],
)
def test_what_cannot_be_learnt_is_refused(
    settings: dict[str, Any], tmp_path: Path, more: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        train(make_config({**settings, **more}), tmp_path / "disc")
    assert not list(tmp_path.iterdir())


def test_the_command_line_learns_and_draws_the_word(
    spectra_cli: Any, settings: dict[str, Any], tiny_base: Path, tmp_path: Path
) -> None:
    names = ("base", "images", "prompt", "class_prompt", "prior_count", "prior_steps", "lr_word", "validation_count")
    given = [part for name in names for part in (f"--{name.replace('_', '-')}", settings[name])]
    done = spectra_cli("train", *given, "--steps", 2, "--word", "-o", tmp_path / "disc", "--json")
    assert done.code == 0, done.err
    shift = json.loads(done.out)["shift"]
    drawing = ["generate", "--base", tiny_base, "--shift", shift, "--steps", 2, "--guidance", 1]
    done = spectra_cli(*drawing, "--prompt", "a vz disc", "--prompt", "a disc", "-o", tmp_path / "with")
    assert (done.code, "vz" in done.err) == (0, False)
    done = spectra_cli(*drawing, "--prompt", "a disc", "-o", tmp_path / "without")
    assert done.code == 0
    assert "the shift disc has learnt 'vz', and no prompt has it" in done.err
