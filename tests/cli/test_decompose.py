"""`spectra decompose`: from a base's files alone, to the entries that the loaded model finds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_models
import torch
from safetensors.torch import save_file

from spectra.bases.weight_files import base_weights
from spectra.errors import BaseError
from spectra.spectrum.cache.spectrum_cache import SpectrumCache, default_cache
from spectra.spectrum.fingerprint import fingerprint


@pytest.fixture(autouse=True)
def _fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECTRA_CACHE", str(tmp_path / "cache"))


def tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


UNET = {
    "conv_in.weight": tensor(8, 4, 3, 3),
    "conv_in.bias": tensor(8),
    "mid.to_q.weight": tensor(8, 12, seed=1),
    "mid.norm.weight": tensor(8),
    "mid.table": tensor(4, 4),
    "mid.ids.weight": torch.ones(3, 3, dtype=torch.int64),
}
TEXT = {"text_model.embeddings.token_embedding.weight": tensor(30, 6), "text_model.fc1.weight": tensor(9, 6, seed=2)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A diffusers folder as far as decomposing goes."""
    root = tmp_path / "base"
    for component, name, tensors in (
        ("unet", "diffusion_pytorch_model", UNET),
        ("text_encoder", "model", TEXT),
        ("vae", "diffusion_pytorch_model", {"decoder.conv.weight": tensor(4, 4, 3, 3)}),
    ):
        (root / component).mkdir(parents=True)
        save_file(tensors, root / component / f"{name}.safetensors")
    (root / "model_index.json").write_text("{}")
    return root


def test_a_folder_fills_the_cache_for_the_loaded_model(folder: Path, spectra_cli: Callable[..., Any]) -> None:
    ran = spectra_cli("decompose", folder, "--json")
    assert (ran.code, ran.err) == (0, "")
    found = json.loads(ran.out)
    rows = {row["component"]: row for row in found["components"]}
    assert {name: (row["weights"], row["hits"], row["misses"]) for name, row in rows.items()} == {
        "unet": (2, 0, 2),
        "text_encoder": (2, 0, 2),
    }
    assert found["total"]["weight_floats"] == 8 * 36 + 8 * 12 + 30 * 6 + 9 * 6
    cache = default_cache()
    for weight in (UNET["conv_in.weight"], UNET["mid.to_q.weight"], *TEXT.values()):
        assert cache.sigma(fingerprint(torch.nn.Parameter(weight))) is not None

    again = json.loads(spectra_cli("decompose", folder, "--json").out)["total"]
    assert (again["hits"], again["misses"]) == (4, 0)
    assert {key: again[key] for key in ("bytes", "weight_floats", "spectrum_floats", "ratio")} == {
        key: found["total"][key] for key in ("bytes", "weight_floats", "spectrum_floats", "ratio")
    }


def test_a_saved_model_and_the_live_one_are_the_same_to_the_cache(
    tmp_path: Path, spectra_cli: Callable[..., Any]
) -> None:
    torch.manual_seed(0)
    unet = small_models.unet()[0].half()
    unet.save_pretrained(tmp_path / "base" / "unet")
    (tmp_path / "base" / "model_index.json").write_text("{}")
    assert spectra_cli("decompose", tmp_path / "base", "--dtype", "float16").code == 0
    cache = SpectrumCache()
    cache.spectra({name: weight for name, weight in unet.named_parameters() if weight.ndim > 1})
    assert cache.usage.misses == 0
    assert cache.usage.hits > 40
    found = json.loads(spectra_cli("decompose", tmp_path / "base", "--dtype", "file", "--json").out)
    assert found["total"]["misses"] == 0


def test_the_default_is_the_precision_bases_are_loaded_in(tmp_path: Path, spectra_cli: Callable[..., Any]) -> None:
    save_file({"a.weight": UNET["mid.to_q.weight"].half()}, tmp_path / "part.safetensors")
    assert spectra_cli("decompose", tmp_path / "part.safetensors").code == 0
    assert default_cache().sigma(fingerprint(UNET["mid.to_q.weight"].half().float())) is not None
    assert default_cache().sigma(fingerprint(UNET["mid.to_q.weight"].half())) is None


def test_a_table_for_people(folder: Path, spectra_cli: Callable[..., Any]) -> None:
    ran = spectra_cli("decompose", folder)
    assert ran.code == 0
    assert "unet" in ran.out
    assert "total" in ran.out
    assert max(map(len, ran.out.splitlines()[:-2])) <= 80


def test_leading_directions(folder: Path, spectra_cli: Callable[..., Any]) -> None:
    wide = tensor(200, 240, seed=5) * torch.linspace(1, 0.1, 200)[:, None]
    save_file({**UNET, "mid.to_k.weight": wide}, folder / "unet" / "diffusion_pytorch_model.safetensors")
    found = json.loads(spectra_cli("decompose", folder, "--directions", "2", "--json").out)
    assert found["directions"] == 2
    total = found["total"]
    assert (total["hits"], total["misses"], total["full"]) == (0, 5, 4)
    assert total["spectrum_floats"] == 2 * sum(rows + columns + 1 for rows, columns in SHAPES_OF_TWO)
    cache = default_cache()
    vectors = cache.leading_vectors(fingerprint(wide), 2)
    assert vectors is not None
    exact = torch.linalg.svdvals(wide.double())[:2].numpy()
    assert abs(vectors.sigma - exact).max() < 1e-6 * exact[0]
    assert cache.sigma(fingerprint(wide)) is None
    again = json.loads(spectra_cli("decompose", folder, "--directions", "1", "--json").out)["total"]
    assert (again["hits"], again["misses"], again["full"]) == (5, 0, 0)
    shown = spectra_cli("decompose", folder, "--directions", "3").out
    assert "in full" in shown
    assert max(map(len, shown.splitlines()[:-3])) <= 80
    listed = json.loads(spectra_cli("cache", "ls", "--json").out)["entries"]
    assert {entry["directions"] for entry in listed} == {3}


SHAPES_OF_TWO = ((8, 36), (8, 12), (30, 6), (9, 6), (200, 240))


def test_one_component(folder: Path, spectra_cli: Callable[..., Any]) -> None:
    found = json.loads(spectra_cli("decompose", folder, "--component", "text_encoder", "--json").out)
    assert [row["component"] for row in found["components"]] == ["text_encoder"]


def test_a_single_file_by_its_prefixes(tmp_path: Path) -> None:
    tensors = {
        "model.diffusion_model.input_blocks.0.0.weight": tensor(8, 4, 3, 3),
        "cond_stage_model.transformer.text_model.fc1.weight": tensor(6, 9),
        "first_stage_model.decoder.conv.weight": tensor(4, 4, 3, 3),
    }
    save_file(tensors, tmp_path / "v1.safetensors")
    parts = base_weights(str(tmp_path / "v1.safetensors")).by_component()
    assert {name: list(part) for name, part in parts.items()} == {
        "unet": ["unet.conv_in"],
        "text_encoder": ["text_encoder.fc1"],
    }
    assert torch.equal(parts["unet"]["unet.conv_in"], tensor(8, 4, 3, 3))


def test_shards_and_variants(folder: Path) -> None:
    unet = folder / "unet"
    (unet / "diffusion_pytorch_model.safetensors").unlink()
    for part, name in enumerate(("conv_in", "mid.to_q"), 1):
        save_file({f"{name}.weight": UNET[f"{name}.weight"]}, unet / f"model-0000{part}-of-00002.safetensors")
    save_file({"conv_in.weight": UNET["conv_in.weight"].half()}, unet / "model.fp16.safetensors")
    assert list(base_weights(str(folder), ["unet"])) == ["unet.conv_in", "unet.mid.to_q"]
    half = base_weights(str(folder), ["unet"], variant="fp16")
    assert half["unet.conv_in"].dtype == torch.float16
    with pytest.raises(BaseError, match=r"no .*ema.*there are: model, model\.fp16"):
        base_weights(str(folder), ["unet"], variant="ema")


def test_damaged_file_is_one_line(folder: Path, spectra_cli: Callable[..., Any]) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-64])
    ran = spectra_cli("decompose", folder, "--json")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.count("\n") == 1
    assert "damaged" in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--component", "transformer"], "no component 'transformer'; it has: unet, text_encoder"),
        (["--device", "nowhere"], "--device nowhere"),
        (["--variant", "fp16"], "--variant"),
    ],
)
def test_what_is_wrong_is_one_line(
    folder: Path, spectra_cli: Callable[..., Any], arguments: list[str], said: str
) -> None:
    ran = spectra_cli("decompose", folder, *arguments)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.count("\n") == 1
    assert said in ran.err


def test_no_directions_are_wrong_usage(folder: Path, spectra_cli: Callable[..., Any]) -> None:
    assert spectra_cli("decompose", folder, "--directions", "0").code == 2


def test_no_safetensors_and_nothing_to_decompose(folder: Path, tmp_path: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(BaseError, match="convert the base first"):
        base_weights(str(folder))
    save_file({"scale": tensor(3)}, tmp_path / "odd.safetensors")
    with pytest.raises(BaseError, match="no weight"):
        base_weights(str(tmp_path / "odd.safetensors"))


def test_a_cache_that_is_too_small_is_said(
    folder: Path, spectra_cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECTRA_CACHE_LIMIT", "1kB")
    ran = spectra_cli("decompose", folder)
    assert ran.code == 0
    assert "SPECTRA_CACHE_LIMIT" in ran.err


def test_a_damaged_entry_is_said_on_stderr(folder: Path, spectra_cli: Callable[..., Any]) -> None:
    spectra_cli("decompose", folder)
    default_cache().entries()[0].path.write_bytes(b"nothing")
    ran = spectra_cli("decompose", folder, "--json")
    assert ran.code == 0
    assert ran.err.startswith("warning: damaged entry")
    assert json.loads(ran.out)["total"]["damaged"] == 1
