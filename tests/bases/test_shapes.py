"""A base's models from their configurations alone, and the published ones by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from spectra.bases.pipeline import load_pipeline
from spectra.bases.published import PUBLISHED
from spectra.bases.shapes import base_shapes, build, published_shapes
from spectra.errors import BaseError

WEIGHTS = {
    "sd15": 859_520_964,
    "sdxl": 2_567_463_684,
    "flux": 11_901_408_320,
    "flux2-dev": 32_223_281_152,
    "flux2-klein": 3_875_544_576,
    "chroma": 8_899_983_424,
    "qwen-image": 20_430_401_088,
    "z-image": 6_154_908_736,
}
"""Of the denoisers, as their publications or repositories count them."""


def shapes_of(model: Any) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.named_parameters()}


def test_a_folder_tells_every_model_without_its_weights(tiny_base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "configurations"
    shutil.copytree(tiny_base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    whole, bare = base_shapes(str(tiny_base)), base_shapes(str(folder))
    assert whole.parts == bare.parts
    assert (whole.dtypes["unet"], bare.dtypes) == ({"float32"}, {})
    pipe = load_pipeline(str(tiny_base))
    for name, part in bare.parts.items():
        model = build(part)
        assert all(value.is_meta and not value.requires_grad for value in model.parameters())
        assert shapes_of(model) == shapes_of(getattr(pipe, name))
    assert bare.pipeline == "StableDiffusionPipeline"


def test_of_a_hub_id_configurations_alone_are_fetched(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def snapshot(repository: str, allow_patterns: list[str]) -> str:
        asked[repository] = allow_patterns
        return str(tiny_base)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert set(base_shapes("someone/tiny").parts) == {"unet", "vae", "text_encoder"}
    assert asked == {"someone/tiny": ["model_index.json", "*/config.json"]}


def test_what_cannot_be_fetched_or_read_is_one_line(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise OSError("no network\nat all")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(BaseError, match=r"someone/tiny: could not be fetched from the hub \(no network\)"):
        base_shapes("someone/tiny")
    folder = tmp_path / "broken"
    shutil.copytree(tiny_base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(BaseError, match="cannot be read as JSON"):
        base_shapes(str(folder))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "X", "vae": ["mine", "Thing"]}))
    with pytest.raises(BaseError, match="expected a class of diffusers or transformers"):
        base_shapes(str(folder))
    (folder / "model_index.json").write_text("{}")
    with pytest.raises(BaseError, match="no part of the pipeline has a config"):
        base_shapes(str(folder))
    lone = tmp_path / "lone.safetensors"
    lone.write_bytes(b"")
    with pytest.raises(BaseError, match="or name a family: sd15"):
        base_shapes(str(lone))


def test_a_class_that_is_not_there_is_named(tiny_base: Path) -> None:
    part = base_shapes(str(tiny_base)).parts["unet"]
    with pytest.raises(BaseError, match="diffusers cannot build it"):
        build(type(part)(part.library, "NoSuchModel", part.config))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_as_many_weights_as_they_are_known_for(name: str) -> None:
    shapes = published_shapes(name)
    models = {component: build(part) for component, part in shapes.parts.items()}
    counts = {component: sum(p.numel() for p in model.parameters()) for component, model in models.items()}
    denoiser = next(iter(counts))
    assert counts[denoiser] == WEIGHTS.get(name, counts[denoiser])
    assert {"vae", "text_encoder"} < counts.keys()
    known = {component: part.weights for component, part in shapes.parts.items() if part.library == "transformers"}
    assert known == {component: counts[component] for component in known}
    if name == "sd3":
        assert 2.0e9 < counts[denoiser] < 2.1e9
        assert counts["text_encoder_3"] == 4_762_310_656
    if name == "flux2-dev":
        assert counts["text_encoder"] == 24_011_361_280
