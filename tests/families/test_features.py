"""What a family has beside drawing and training: several concepts and subjects, words, or a line that says no."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
import tiny_families
import torch
from PIL import Image
from trainings import quick_outputs, read_training  # noqa: F401 - a fixture

import spectra
from spectra.editing.session import EditSession
from spectra.errors import BaseError, InputError, MismatchError
from spectra.families import targets
from spectra.families.family import Family
from spectra.families.known import FAMILIES, family_of
from spectra.families.special_word import special_word
from spectra.generation.drawing import Request, draw
from spectra.generation.settings import Sampling
from spectra.naming.blocks import sees_one_sequence
from spectra.training.config import defaults, make_config
from spectra.training.run import trainer
from spectra.training.run.concepts import ConceptSpec
from spectra.training.run.train import train, train_together

TRANSFORMERS = ("sd3", "flux-dev", "flux2-dev", "flux2-klein", "chroma", "qwen-image", "z-image")


@pytest.fixture
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Those of a short training on the base that a test is of."""
    tiny_families.build(request.node.callspec.params["name"]).save_pretrained(tmp_path / "base")
    for name in ("a", "b"):
        pixels = np.random.default_rng(ord(name)).integers(0, 255, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return {
        "base": str(tmp_path / "base"),
        "resolution": 32,
        "steps": 3,
        "prior_weight": 0.0,
        "validation_count": 0,
        "targets": "attention",
        "lr_outer": 0.05,
    }


@pytest.mark.parametrize("name", [name for name in TRANSFORMERS if name != "z-image"])
def test_concepts_trained_together_become_what_each_becomes_alone(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    own = [make_config({**settings, "images": str(tmp_path / f"{each}.png"), "prompt": f"a {each}"}) for each in "ab"]
    specs = [ConceptSpec(each, config, tmp_path / each) for each, config in zip("ab", own, strict=True)]
    train_together(specs, device="cpu")
    for each, config in zip("ab", own, strict=True):
        train(config, tmp_path / "alone" / each, device="cpu")
        (joint, _), (alone, _) = read_training(tmp_path / each), read_training(tmp_path / "alone" / each)
        assert set(joint.outer) == set(alone.outer)
        for weight, terms in alone.outer.items():
            np.testing.assert_allclose(joint.outer[weight].a, terms.a, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_two_subjects_go_into_one_shift_without_unmix(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    subjects = [f"{tmp_path / 'a.png'}=a [v] d", f"{tmp_path / 'b.png'}=a [w] c"]
    joint = {**settings, "subjects": subjects, "collage": 1.0}
    with pytest.raises(BaseError, match="unmix: .* train with unmix weight 0 "):
        train(make_config(joint), tmp_path / "both", device="cpu")
    train(make_config({**joint, "unmix_weight": 0.0}), tmp_path / "both", device="cpu")
    shift, losses = read_training(tmp_path / "both")
    assert len(losses) == 3
    assert shift.outer


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_every_encoder_learns_the_word(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    own = {"images": str(tmp_path / "a.png"), "prompt": "a vz sun", "class_prompt": "a sun", "word": True}
    train(make_config({**settings, **own, "lr_word": 0.02}), tmp_path / "sun", device="cpu")
    shift, _ = read_training(tmp_path / "sun")
    encoders = family_of(tiny_families.build(name)).text_encoders
    assert {table.split(".")[0] for table in shift.words} == set(encoders)
    assert all(np.abs(word.vectors).max() > 0.01 for word in shift.words.values())


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_samples_of_a_batch_take_shifts_of_their_own(name: str) -> None:
    pipe = tiny_families.build(name)
    family = family_of(pipe)
    every = {each.name for each in targets(pipe, "transformer-2d")}
    apart = sorted(each for each in every if not sees_one_sequence(each))
    with torch.no_grad():
        condition = family.encode(pipe, ["a sun", "a sks sun by z"])
        shape = family.encode_pictures(pipe, torch.zeros(1, 3, 32, 32))[0].shape[1:]
    noisy, times = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)), torch.tensor([300, 800])

    def answer() -> torch.Tensor:
        with torch.no_grad():
            return family.predict(pipe, noisy, times, condition)

    before = answer()
    parts = {"a": ",".join(apart), "b": ",".join(apart), "whole": "transformer"}
    shifts = {each: small_models.random_shift(pipe, names, seed) for seed, (each, names) in enumerate(parts.items())}
    for each, shift in shifts.items():
        spectra.load(pipe, shift, name=each)
    alone = []
    for each in "ab":
        spectra.activate(pipe, each)
        alone.append(answer())
    with spectra.per_sample(pipe, ["a", "b"]):
        together = answer()
    torch.testing.assert_close(together, torch.stack([alone[0][0], alone[1][1]]), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(alone[0], alone[1], rtol=1e-2, atol=1e-2)
    assert not torch.allclose(alone[0], before, rtol=1e-2, atol=1e-2)
    if name == "z-image":
        assert every - {*apart} == {f"transformer.{each}" for each in ("all_x_embedder.2-1", "cap_embedder.1")}
        with pytest.raises(MismatchError, match="once for all samples"), spectra.per_sample(pipe, ["a", "whole"]):
            pass


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_editing_is_refused_in_a_line(name: str) -> None:
    with pytest.raises(BaseError, match="edit: a picture is inverted along DDIM's steps") as caught:
        EditSession(tiny_families.build(name), Image.new("RGB", (32, 32)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["qwen-image", "flux2-dev"])
def test_a_text_encoder_is_what_prompts_run_through(name: str) -> None:
    pipe = tiny_families.build(name)
    found = {each.name for each in targets(pipe, "text-encoder")}
    left = {each.name for each in targets(pipe, "text_encoder.*")} - found
    assert {each.split(".")[2] for each in found if each.startswith("text_encoder.model.")} == {"language_model"}
    assert any("vis" in each for each in left)
    assert all("vis" in each or "projector" in each or each == "text_encoder.lm_head" for each in left)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_text_encoders_train_by_default_or_are_refused_in_a_line(family: Family) -> None:
    config = defaults("x/y")
    encoders = ",".join(family.encoder_targets)
    asked = replace(config, text_encoder=True)
    assert config.targets_of(family) == ",".join(filter(None, ["denoiser", encoders]))
    assert replace(config, text_encoder=False).targets_of(family) == "denoiser"
    assert replace(asked, targets="text-encoder").targets_of(family) == "text-encoder"
    if encoders:
        assert asked.targets_of(family) == config.targets_of(family)
        return
    with pytest.raises(BaseError, match=f"text encoder: it stays as it is.*the base is {family.name}") as caught:
        asked.targets_of(family)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["sd3"])
def test_several_concepts_are_refused_where_samples_cannot_be_kept_apart(
    name: str, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mixing(pipe: Any) -> Any:
        return replace(family_of(pipe), refuses={"concepts": "its layers see all samples as one; train one at a time"})

    monkeypatch.setattr(trainer, "family_of", mixing)
    own = [make_config({**settings, "images": str(tmp_path / f"{each}.png"), "prompt": f"a {each}"}) for each in "ab"]
    specs = [ConceptSpec(each, config, tmp_path / each) for each, config in zip("ab", own, strict=True)]
    with pytest.raises(BaseError, match="concepts: its layers see all samples as one"):
        train_together(specs, device="cpu")


def test_what_a_pipeline_cannot_draw_is_refused() -> None:
    request = Request("a sun", 0, "z")
    with pytest.raises(InputError, match=r"no effect on FLUX\.1"):
        draw(tiny_families.build("flux-dev"), [request], Sampling(1, width=32, height=32))
    with pytest.raises(InputError, match="acts through guidance"):
        draw(tiny_families.build("sd3"), [request], Sampling(1, guidance=1.0))
    with pytest.raises(InputError, match="eta: the steps of StableDiffusion3Pipeline take no fresh noise"):
        draw(tiny_families.build("sd3"), [Request("a sun", 0)], Sampling(1, eta=0.5))
    with pytest.raises(InputError, match="this base draws multiples of 8 pixels, got 36"):
        draw(tiny_families.build("sd3"), [Request("a sun", 0)], Sampling(1, width=36))


def test_one_side_alone_gets_the_other_from_the_base() -> None:
    (picture,) = draw(tiny_families.build("sd3"), [Request("a sun", 0)], Sampling(1, width=16))
    assert picture.size == (16, 32)


def test_words_are_found_by_the_tokens_that_a_prompt_is_read_as() -> None:
    pipe = tiny_families.build("sd3")
    found = special_word(pipe, {"a vz sun": "vz"}, ["a sun"])
    tokens = {table.split(".")[0]: ids for table, ids in found.ids.items()}
    assert pipe.tokenizer_3.convert_ids_to_tokens(list(tokens["text_encoder_3"])) == ["v", "z"]
    assert pipe.tokenizer.convert_ids_to_tokens(list(tokens["text_encoder"])) == ["v", "z</w>"]
