"""A shift goes to a hub and comes back: with a card, by its id, and from the cache without a connection."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import random_shifts
import tiny_base
from huggingface_hub import ModelCard, constants
from local_hub import TOKEN, LocalHub
from PIL import Image
from small_models import random_shift

import spectra
from spectra.errors import InputError, OutputError, ShiftFileError


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalHub]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with LocalHub() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield served


def written(folder: Path, **described: Any) -> Path:
    file = folder / "fox.safetensors"
    spectra.write_shift(random_shifts.make(0, **described), file, force=True)
    return file


def test_there_and_back(hub: LocalHub, tmp_path: Path, spectra_cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, base="owner/base", licence="cc-by-4.0", settings={"steps": 200})
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    ran = spectra_cli(
        "push", file, "me/fox", "--prompt", "a [V] fox", "--picture", tmp_path / "red.png", "--token", TOKEN, "--json"
    )
    assert ran.code == 0, ran.err
    assert json.loads(ran.out) == {"repo": "me/fox", "url": f"{hub.url}/me/fox"}
    files = hub.commits["me/fox"][-1]
    assert sorted(files) == ["README.md", "fox.safetensors", "pictures/0.png"]
    assert files["fox.safetensors"] == file.read_bytes()
    card = ModelCard(files["README.md"].decode())
    told = card.data.to_dict()
    assert told["base_model"] == "owner/base" and told["base_model_relation"] == "adapter"
    assert told["license"] == "cc-by-4.0" and told["instance_prompt"] == "a [V] fox"
    assert {"spectra", "text-to-image", "diffusers"} <= set(told["tags"]) and told["pipeline_tag"] == "text-to-image"
    assert told["widget"] == [{"text": "a [V] fox", "output": {"url": "pictures/0.png"}}]
    shift = spectra.read_shift(file)
    for line in (
        'spectra.load(pipe, "me/fox")',
        "![a [V] fox](pictures/0.png)",
        "| steps | 200 |",
        f"| floats | {shift.floats:,} |",
        "| licence | cc-by-4.0 |",
    ):
        assert line in card.content, line
    monkeypatch.chdir(tmp_path)
    ran = spectra_cli("pull", "me/fox", "-o", "back.safetensors", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out) == {"repo": "me/fox", "file": "back.safetensors"}
    assert (tmp_path / "back.safetensors").read_bytes() == file.read_bytes()
    ran = spectra_cli("pull", "me/fox", "-o", "back.safetensors")
    assert ran.code == 1 and "--force" in ran.err and len(ran.err.splitlines()) == 1


def test_load_by_id(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny_base.build()
    shift = random_shift(pipe, "unet-ca-kv", 1)
    other = 2 * shift
    for each in (shift, other):
        spectra.write_shift(each, tmp_path / "dog.safetensors", force=True)
        spectra.push(tmp_path / "dog.safetensors", "me/dog", token=TOKEN)
    assert spectra.load(pipe, "me/dog", revision="v1") == "dog"
    assert spectra.active_shift(pipe) == shift
    spectra.load(pipe, "me/dog", adapter_name="dog", hotswap=True)
    assert spectra.active_shift(pipe) == other
    spectra.unload(pipe)
    hub.__exit__()  # no connection any more
    spectra.load(pipe, "me/dog", weight_name="dog.safetensors")
    assert spectra.active_shift(pipe) == other
    spectra.unload(pipe)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    spectra.load(pipe, "me/dog")
    assert spectra.active_shift(pipe) == other
    spectra.unload(pipe)
    with pytest.raises(ShiftFileError, match=r"me/cat: cannot be fetched from the hub, and is not here"):
        spectra.load(pipe, "me/cat")
    assert spectra.loaded(pipe) == {}


def test_what_cannot_be_fetched_is_told_in_one_line(hub: LocalHub, tmp_path: Path) -> None:
    spectra.push(written(tmp_path), "me/fox", token=TOKEN, private=True)
    with pytest.raises(ShiftFileError, match=r"me/fox: the hub has no such repository, or it is private.*token"):
        spectra.pull("me/fox", tmp_path / "x.safetensors")
    assert spectra.pull("me/fox", tmp_path / "x.safetensors", token=TOKEN).is_file()
    with pytest.raises(ShiftFileError, match="me/fox@v9: the repository has no such revision"):
        spectra.pull("me/fox", tmp_path / "y.safetensors", token=TOKEN, revision="v9")
    hub.commits["me/fox"].append({"a.safetensors": b"", "b.safetensors": b"", "unet/model.safetensors": b""})
    with pytest.raises(ShiftFileError, match=r"me/fox: expected one .* found 2 \(a.safetensors, b.safetensors\)"):
        spectra.pull("me/fox", tmp_path / "y.safetensors", token=TOKEN)
    with pytest.raises(ShiftFileError, match="a.safetensors"):
        spectra.pull("me/fox", tmp_path / "y.safetensors", token=TOKEN, weight_name="a.safetensors")
    assert not (tmp_path / "y.safetensors").exists()
    with pytest.raises(ShiftFileError, match="expected a repository"):
        spectra.pull("fox.safetensors")


def test_what_cannot_be_published_is_told_in_one_line(hub: LocalHub, tmp_path: Path) -> None:
    file = written(tmp_path)
    with pytest.raises(OutputError, match=r"me/fox: the hub did not take it .*hf auth login"):
        spectra.push(file, "me/fox", token="hf_wrong")
    with pytest.raises(InputError, match="expected a repository"):
        spectra.push(file, "fox", token=TOKEN)
    with pytest.raises(InputError, match="expected a picture file"):
        spectra.push(file, "me/fox", token=TOKEN, pictures=[file])
    assert not hub.commits


def test_a_folder_has_one_shift(tmp_path: Path) -> None:
    pipe = tiny_base.build()
    shift = random_shift(pipe, "unet-ca-kv", 1)
    with pytest.raises(ShiftFileError, match="found none"):
        spectra.load(pipe, tmp_path)
    spectra.write_shift(shift, tmp_path / "dog.safetensors")
    (tmp_path / "other.safetensors").write_bytes(b"no shift")
    assert spectra.load(pipe, tmp_path) == "dog"
    spectra.write_shift(shift, tmp_path / "cat.safetensors")
    with pytest.raises(ShiftFileError, match=r"found 2 \(cat.safetensors, dog.safetensors\); name it: weight_name"):
        spectra.load(pipe, tmp_path)
    assert spectra.load(pipe, tmp_path, weight_name="cat.safetensors") == "cat"
    with pytest.raises(TypeError, match="unexpected keyword argument 'subfolder'"):
        spectra.load(pipe, tmp_path, subfolder="x")
