"""`spectra convert` as a user calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import plain_base
import pytest
import torch
from safetensors.torch import load_file, save_file

import spectra
from spectra.bases.pipeline import load_pipeline
from spectra.bases.weight_files import base_weights
from spectra.shift.shift import SpectralShift
from spectra.shift.word_vectors import WordVectors

Cli = Callable[..., Any]


@pytest.fixture
def base(tmp_path: Path) -> str:
    return plain_base.write(tmp_path, plain_base.tensors())


@pytest.fixture
def shift(tmp_path: Path) -> Path:
    path = tmp_path / "fox.safetensors"
    spectra.write_shift(plain_base.random_shift(plain_base.tensors()), path)
    return path


@pytest.mark.parametrize("to", ["lora", "peft", "kohya", "difference", "svdiff-pytorch"])
def test_each_format_is_written_and_told(to: str, base: str, shift: Path, tmp_path: Path, spectra_cli: Cli) -> None:
    size = ["--rank", 4] if to in ("lora", "peft", "kohya") else []
    arguments = ["convert", shift, "--base", base, "--to", to, *size, "-o", tmp_path / "out"]
    done = spectra_cli(*arguments)
    assert done.code == 0, done.err
    assert "read" in done.out
    assert "written" in done.out
    assert max(map(len, done.out.splitlines()[:-1])) <= 80
    assert done.out.splitlines()[-1].startswith("next: ")
    assert ("left out" in done.out) == (to != "difference")
    assert ("for them --to kohya" in done.err) == (to == "lora")
    assert (tmp_path / "out").exists()
    again = spectra_cli(*arguments)
    assert again.code == 1
    assert "--force" in again.err
    found = spectra_cli(
        "convert", shift, "--base", base, "--to", to, *size, "-o", tmp_path / "out", "--force", "--json"
    )
    assert found.code == 0
    said = json.loads(found.out)
    assert said["written"]["format"] == to
    assert said["written"]["bytes"] > 0
    if to == "lora":
        assert set(said["written"]["ranks"].values()) == {4}
        assert 0 < said["written"]["error"] < 1


@pytest.mark.parametrize("to", ["lora", "kohya"])
def test_a_shift_of_few_directions_and_terms_is_a_lora(to: str, base: str, tmp_path: Path, spectra_cli: Cli) -> None:
    path, out = tmp_path / "x.safetensors", tmp_path / "lora.safetensors"
    spectra.write_shift(plain_base.mixed_shift(plain_base.tensors(), 3, 2), path)
    arguments = ["convert", path, "--base", base, "--to", to, "-o", out]
    done = spectra_cli(*arguments, "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert set(said["written"]["ranks"].values()) == {5}
    assert said["written"]["error"] == 0
    assert said["written"]["rounding"] < 1e-7
    assert said["read"]["outer"] == 2 * 6
    shown = spectra_cli(*arguments, "--force")
    assert "12 outer terms" in shown.out
    assert "rank 5 to 5" in shown.out
    assert max(map(len, shown.out.splitlines()[:-1])) <= 80
    back = spectra_cli("extract", base, out, "-o", tmp_path / "back.safetensors")
    assert back.code == 0, back.err
    assert "30 outer terms" in back.out
    assert json.loads(spectra_cli("extract", base, out, "-o", tmp_path / "b.safetensors", "--json").out)["error"] == 0


def test_there_and_back(base: str, shift: Path, tmp_path: Path, spectra_cli: Cli) -> None:
    assert spectra_cli("convert", shift, "--base", base, "--to", "svdiff-pytorch", "-o", tmp_path / "s").code == 0
    done = spectra_cli("convert", tmp_path / "s", "--base", base, "-o", tmp_path / "back.safetensors", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["read"]["format"] == "svdiff-pytorch"
    before, after = spectra.read_shift(shift), spectra.read_shift(tmp_path / "back.safetensors")
    assert after.metadata.fingerprints == before.metadata.fingerprints
    assert after["unet.ff"] == pytest.approx(before["unet.ff"], abs=1e-4)
    assert after.metadata.recipe["from"] == "svdiff-pytorch"  # type: ignore[index,call-overload]
    chained = spectra_cli("convert", tmp_path / "s", "--base", base, "--to", "lora", "--error", 0, "-o", tmp_path / "l")
    assert chained.code == 0, chained.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "say what to write"),
        (["--to", "lora", "--rank", 2, "--error", 0.1], "a LoRA takes"),
        (["--to", "difference", "--rank", 2], "only a LoRA"),
        (["--to", "svdiff-pytorch", "--dtype", "float16"], "not stored in float16"),
    ],
)
def test_wrong_usage(arguments: list[object], says: str, shift: Path, tmp_path: Path, spectra_cli: Cli) -> None:
    done = spectra_cli("convert", shift, "-o", tmp_path / "out", *arguments)
    assert done.code == 2
    assert says in done.err
    assert not (tmp_path / "out").exists()


def test_known_failures(base: str, shift: Path, tmp_path: Path, spectra_cli: Cli) -> None:
    out = ["-o", tmp_path / "out"]
    foreign, lora, odd = (tmp_path / f"{name}.safetensors" for name in ("foreign", "lora", "odd"))
    save_file({"to_q.delta": torch.zeros(12)}, foreign)
    save_file({"unet.to_q.lora_A.weight": torch.zeros(1, 12)}, lora)
    save_file({"weight": torch.zeros(1)}, odd)
    for arguments, says in (
        ([foreign, *out], "give --base"),
        ([lora, *out], "spectra extract"),
        ([odd, *out], "neither a shift"),
        ([tmp_path / "none.safetensors", *out], "no such file"),
        ([shift, "--to", "lora", "--base", base, *out], "give a rank or an error"),  # of all directions
        ([shift, "--to", "difference", *out], "does not fit this model"),  # the embedded base
        ([shift, "--to", "difference", "--base", tmp_path / "none", *out], "no base there"),
    ):
        done = spectra_cli("convert", *arguments)
        assert done.code == 1, arguments
        assert says in done.err
        assert done.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    done = spectra_cli("convert", foreign, foreign, "--base", base, *out)
    assert "in another of the files" in done.err


def test_a_special_word_s_embedding_is_written_and_read(tmp_path: Path, spectra_cli: Cli) -> None:
    from safetensors.torch import load_file

    rows = torch.randn(1, 128, generator=torch.Generator().manual_seed(0))
    save_file({"<toy>": rows}, tmp_path / "toy.safetensors")
    shift, again = tmp_path / "shift.safetensors", tmp_path / "v1.safetensors"
    read = ["convert", tmp_path / "toy.safetensors", "--base", "spectra-base"]
    assert "--word" in spectra_cli(*read, "-o", shift).err
    done = spectra_cli(*read, "--word", "[V1]", "-o", shift, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["read"]["format"] == "embedding"
    assert spectra.read_shift(shift).words["text_encoder.embeddings.token_embedding"].text == "[V1]"
    done = spectra_cli("convert", shift, "--to", "embedding", "-o", again)
    assert done.code == 0, done.err
    assert "[V1], of 1 vector" in done.out
    assert torch.allclose(load_file(again)["<v1>"], rows, rtol=0, atol=1e-6)
    wrong = spectra_cli("convert", shift, "--word", "x", "--to", "embedding", "-o", again, "--force")
    assert (wrong.code, "only an embedding is read for a word" in wrong.err) == (2, True)


@pytest.mark.parametrize("to", ["lora", "kohya"])
def test_a_lora_has_its_words_beside_it(to: str, tiny_base: Path, tmp_path: Path, spectra_cli: Cli) -> None:
    table = "text_encoder.embeddings.token_embedding"
    weights = dict(base_weights(str(tiny_base)).items())
    some = {name: each for name, each in weights.items() if name == table or name.endswith(("to_q", "q_proj"))}
    mixed = plain_base.mixed_shift(some, 2, 1)
    ids = load_pipeline(str(tiny_base)).tokenizer("zq", add_special_tokens=False).input_ids
    vectors = {table: WordVectors(tuple(ids), np.ones((len(ids), some[table].shape[1]), np.float32), "zq")}
    shift, out = tmp_path / "x.safetensors", tmp_path / "dog.safetensors"
    spectra.write_shift(SpectralShift(dict(mixed), mixed.metadata, outer=mixed.outer, words=vectors), shift)
    arguments = ["convert", shift, "--base", tiny_base, "--to", to, "-o", out]
    done = spectra_cli(*arguments, "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)["written"]
    assert said["words"] == str(tmp_path / "dog-words")
    assert said["vectors"] == {"zq": len(ids)}
    rows = load_file(tmp_path / "dog-words" / "zq.safetensors")["<zq>"]
    assert torch.allclose(rows.double(), plain_base.shifted(some, spectra.read_shift(shift))[table][ids], atol=1e-5)
    assert "lora_te" in " ".join(load_file(out)) or to == "lora"
    again = spectra_cli(*arguments)
    assert (again.code, again.err.count("\n")) == (1, 1)
    out.unlink()
    again = spectra_cli(*arguments)
    assert (again.code, "dog-words" in again.err, out.exists()) == (1, True, False)
    shown = spectra_cli(*arguments, "--force")
    assert shown.code == 0, shown.err
    assert "an embedding file for each special word" in " ".join(shown.out.split())


def test_without_a_tokenizer_the_lora_is_written_alone(tmp_path: Path, spectra_cli: Cli) -> None:
    weights = plain_base.tensors({"unet.to_q": (12, 12), "unet.token_embedding": (20, 8)})
    base, out = plain_base.write(tmp_path, weights), tmp_path / "dog.safetensors"
    shift = plain_base.mixed_shift(weights, 0, 1, ["unet.token_embedding"])
    spectra.write_shift(shift, tmp_path / "x.safetensors")
    done = spectra_cli("convert", tmp_path / "x.safetensors", "--base", base, "--to", "lora", "-o", out, "--json")
    assert done.code == 0
    assert "the vectors of special words are not written" in done.err
    assert "no tokenizer" in done.err
    assert json.loads(done.out)["written"]["words"] is None
    assert out.is_file()
    assert not (tmp_path / "dog-words").exists()
