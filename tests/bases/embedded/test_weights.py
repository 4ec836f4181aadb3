"""The shipped pipeline: loads as a user loads it, small enough, complete, with spare tokens and a safe scheduler."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors import safe_open

import spectra.bases.embedded
from spectra.errors import BaseError


@pytest.fixture(scope="module")
def pipe() -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(spectra.bases.embedded.path())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_folder_is_small_half_precision_and_carries_its_notice() -> None:
    folder = spectra.bases.embedded.path()
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25_000_000
    weights = [path for path in files if path.suffix == ".safetensors"]
    assert len(weights) == 3
    for path in weights:
        with safe_open(path, framework="pt") as file:
            kinds = {file.get_slice(name).get_dtype() for name in file.keys()}
        assert kinds <= {"F16", "I64"}, path.name
    notice = (folder / "NOTICE").read_text()
    assert all(word in notice for word in ("Noto", "Twemoji", "EmojiOne", "Fluent", "Firefox", "emojibase", "CC-BY"))
    assert not re.search(r"/work|/tmp|/home", "".join(path.read_text() for path in files if path.suffix == ".json"))


def test_loads_in_one_precision(pipe: StableDiffusionPipeline) -> None:
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        assert {p.dtype for p in part.parameters()} == {torch.float32}
        assert all(torch.isfinite(p).all() for p in part.parameters())


@pytest.mark.parametrize("text", ["a drawing of a [V1] fox", "A drawing of a [v8] fox"])
def test_spare_tokens_are_one_token_whatever_their_case(pipe: StableDiffusionPipeline, text: str) -> None:
    ids = pipe.tokenizer(text).input_ids
    assert len(ids) == len(["<s>", "a", "drawing", "of", "a", "[V1]", "fox", "</s>"])
    assert pipe.tokenizer.model_max_length == 24
    fox, other = (pipe.tokenizer(f"{token} fox").input_ids for token in ("[V1]", "[V2]"))
    assert fox != other


def test_scheduler_predicts_v_and_does_not_clip(pipe: StableDiffusionPipeline) -> None:
    assert isinstance(pipe.scheduler, DDIMScheduler)
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    assert pipe.scheduler.config.clip_sample is False
    assert pipe.safety_checker is None


def test_draws_on_the_named_background(pipe: StableDiffusionPipeline) -> None:
    prompts = ["a drawing of a dog on a blue background", "a drawing of a dog"]
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    blue, white = pipe(
        prompts, num_inference_steps=8, guidance_scale=4.0, generator=generators, output_type="np"
    ).images
    for corner in (blue[:5, :5], blue[-5:, -5:]):
        red, _, blueness = corner.mean((0, 1))
        assert blueness > red + 0.2
    assert white[:5, :5].mean() > 0.85


def test_a_missing_base_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(spectra.bases.embedded, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(BaseError, match=r"python -m recipe"):
        spectra.bases.embedded.path()


def test_judged_concepts_are_those_of_the_data_list() -> None:
    root = Path(__file__).parents[3]
    rows = json.loads((root / "recipe" / "drawings.json").read_text())
    with safe_open(root / "benchmarks" / "trainings" / "class_means.safetensors", framework="np") as file:
        names = json.loads(file.metadata()["concepts"])
        assert file.get_tensor("means").shape == (len(names), 1280)
    assert names == list(dict.fromkeys(row["concept"] for row in rows))
