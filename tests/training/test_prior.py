from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learnt import as_they_are
from PIL import Image

from spectra.bases.pipeline import load_pipeline
from spectra.errors import BaseError, InputError, PictureWarning
from spectra.training.config import make_config
from spectra.training.data import class_pictures as prior
from spectra.training.data.class_pictures import (
    PriorKey,
    in_rounds,
    pipeline_fingerprint,
    prior_pictures,
    prior_prompts,
    vocabulary,
)
from spectra.training.data.latents import PictureSource
from spectra.training.loss.objectives import build_objectives
from spectra.training.run.concepts import ConceptSpec
from spectra.training.run.inputs import validate_inputs

KEY = PriorKey(base="0123", prompt="a disc", seed=5, count=3, size=32, steps=1, guidance=1.0)


@pytest.fixture(scope="module")
def pipe(tiny_base: Path) -> Any:
    return load_pipeline(str(tiny_base))


@pytest.fixture
def drawings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the orders that were drawn; the pictures are kept in `tmp_path`."""
    monkeypatch.setattr(prior, "prior_root", lambda: tmp_path)
    calls: list[int] = []
    original = prior.draw

    def counted(pipe: Any, requests: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(len(requests))
        return original(pipe, requests, *args, **kwargs)

    monkeypatch.setattr(prior, "draw", counted)
    return calls


def test_class_pictures_are_drawn_once(pipe: Any, drawings: list[int]) -> None:
    first = prior_pictures(pipe, KEY)
    again = prior_pictures(pipe, KEY)
    assert drawings == [3]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({picture.tobytes() for picture in first}) == 3


def test_a_damaged_folder_is_drawn_again(pipe: Any, tmp_path: Path, drawings: list[int]) -> None:
    first = prior_pictures(pipe, KEY)
    (tmp_path / KEY.digest / "0001.png").write_bytes(b"damaged")
    again = prior_pictures(pipe, KEY)
    (tmp_path / KEY.digest / "0002.png").unlink()
    prior_pictures(pipe, KEY)
    assert drawings == [3, 3, 3]
    assert np.array_equal(first[1], again[1])


def test_everything_that_decides_the_pictures_is_in_the_address() -> None:
    changes: dict[str, Any] = {
        "base": "4567", "prompt": "b", "seed": 6, "count": 4, "size": 64, "steps": 2, "guidance": 2.0,
    }  # fmt: skip
    digests = {KEY.digest, *(replace(KEY, **{name: value}).digest for name, value in changes.items())}
    assert len(digests) == 1 + len(changes)


def test_an_unwritable_cache_serves_the_training_with_a_warning(
    pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(prior, "prior_root", lambda: tmp_path / "file" / "prior")
    with pytest.warns(UserWarning, match="class pictures are not kept"):
        assert len(prior_pictures(pipe, KEY)) == 3


def test_black_class_pictures_are_neither_kept_nor_trained_on(tiny_base: Path, drawings: list[int]) -> None:
    pipe = load_pipeline(str(tiny_base))
    with torch.no_grad():
        pipe.unet.conv_out.weight.fill_(float("nan"))
    told = "class pictures of 'a disc' came out black; draw them in another --precision"
    with pytest.warns(PictureWarning, match="3 of 3 pictures are black"), pytest.raises(BaseError, match=told):
        prior_pictures(pipe, KEY)
    assert not (prior.prior_root() / KEY.digest).exists()


def test_the_fingerprint_sees_every_weight_and_the_scheduler(tiny_base: Path) -> None:
    import torch

    pipe = load_pipeline(str(tiny_base))
    before = pipeline_fingerprint(pipe)
    assert before == pipeline_fingerprint(load_pipeline(str(tiny_base)))
    with torch.no_grad():
        pipe.vae.decoder.conv_out.bias[0] += 1e-3
    changed = pipeline_fingerprint(pipe)
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, prediction_type="v_prediction")
    assert len({before, changed, pipeline_fingerprint(pipe)}) == 3


@pytest.mark.parametrize(
    ("count", "share", "empty"), [(24, 0.25, 6), (5, 0.0, 0), (3, 1.0, 3), (3, 0.1, 0), (10, 0.1, 1)]
)
def test_captions_are_left_out_of_a_share_of_the_pictures(count: int, share: float, empty: int) -> None:
    prompts = prior_prompts("a disc", count, share)
    assert (len(prompts), prompts.count("")) == (count, empty)


def test_a_share_of_the_class_pictures_stands_under_other_words() -> None:
    known = ["cup", "sun", "tree"]
    prompts = prior_prompts("a drawing of a disc", 40, 0.25, random_words=0.5, vocabulary=known, seed=3)
    others = [prompt for prompt in prompts if prompt not in ("", "a drawing of a disc")]
    assert (prompts.count(""), prompts.count("a drawing of a disc"), len(others)) == (10, 10, 20)
    assert set(others) == {f"a drawing of a {word}" for word in known}
    assert prompts == prior_prompts("a drawing of a disc", 40, 0.25, random_words=0.5, vocabulary=known, seed=3)
    assert prompts != prior_prompts("a drawing of a disc", 40, 0.25, random_words=0.5, vocabulary=known, seed=4)
    assert prior_prompts("disc", 2, 0.0, random_words=1.0, vocabulary=["cup"]) == ["cup", "cup"]


def test_the_vocabulary_holds_whole_words() -> None:
    class Tokens:
        def get_vocab(self) -> dict[str, int]:
            return dict.fromkeys(
                ["sun</w>", "su", "n</w>", "tree</w>", "<|endoftext|>", "!!!</w>", "été</w>", "an</w>"], 0
            )

    assert vocabulary(Tokens()) == ["sun", "tree"]
    with pytest.raises(BaseError, match="keep prompts: Pieces has no words to draw from"):
        vocabulary(type("Pieces", (), {"get_vocab": lambda self: {"▁sun": 0}})())


def test_a_picture_comes_under_every_prompt_of_its_rounds(pipe: Any) -> None:
    pictures = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
    source = PictureSource(pipe, as_they_are(pictures), in_rounds(["a", "b", "c", "d", "e", "f"], 3))
    remaining: list[int] = []
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([source.pick(remaining, generator) for _ in range(6)])
    assert sorted(source.prompts(drawn)) == ["a", "b", "c", "d", "e", "f"]
    noise = torch.zeros(6, *source.latent_shape)
    latents = source.latents(torch.arange(6), noise)
    torch.testing.assert_close(latents[3:], latents[[1, 2, 0]])  # the second round, one picture further


def test_own_class_pictures_stand_under_their_own_captions(tiny_base: Path, photos: Path, tmp_path: Path) -> None:
    """In place of the class prompt: those without a caption, and those to stand under no prompt, stay as they are."""
    classes = tmp_path / "classes"
    shutil.copytree(photos, classes)
    (classes / "disc1.txt").write_text("a disc on sand")
    given = {
        "base": str(tiny_base), "images": str(photos), "prompt": "a vz disc", "class_prompt": "a disc",
        "class_images": str(classes), "prior_target": "base", "prior_unconditional": 0.25, "preset": "svdiff",
    }  # fmt: skip

    def prompts(**more: Any) -> dict[str, int]:
        checked = validate_inputs(ConceptSpec("", make_config({**given, **more}), tmp_path / "x"))
        taken = checked.config, checked.subjects, checked.class_pictures
        (_, held) = build_objectives(load_pipeline(str(tiny_base)), *taken, 32, "0123")
        every = held.every_prompt()
        return {prompt: every.count(prompt) for prompt in every}

    assert prompts(prior_unconditional=0.0) == {"a disc": 2, "a disc on sand": 1}
    assert prompts(prior_unconditional=0.5) == {"a disc": 2, "": 1}
    with pytest.warns(PictureWarning, match=r"passed over disc1\.txt"):
        assert prompts(prior_unconditional=0.0, captions=False) == {"a disc": 3}
    (classes / "disc1.txt").write_text("a VZ disc on sand")
    with pytest.raises(InputError, match=r"disc1\.png: its caption has the special word 'vz'.*--no-captions"):
        prompts()
