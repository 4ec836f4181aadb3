"""LoRA, LoHa and LoKr files are read as those mean them who write them: PEFT and diffusers are the judges."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import small_models
import tiny_base
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from spectra.convert.lora.reading import read_lora
from spectra.convert.module_names import aliases, kohya_names, original_unet_path
from spectra.errors import FormatError
from spectra.families import targets
from spectra.naming.target_subsets import path_of
from spectra.spectrum.spectrum import matrix

TARGETS = ["to_q", "to_k", "conv1"]

METHODS = {
    "lora": peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=TARGETS, alpha_pattern={"conv1": 2}, rank_pattern={"to_k": 2}
    ),
    "rslora": peft.LoraConfig(r=4, lora_alpha=5, target_modules=TARGETS, use_rslora=True),
    "loha tucker": peft.LoHaConfig(r=3, alpha=5, target_modules=TARGETS, use_effective_conv2d=True),
    "lokr both": peft.LoKrConfig(r=1, alpha=3, target_modules=TARGETS, decompose_both=True, decompose_factor=4),
    "lokr tucker": peft.LoKrConfig(r=2, alpha=5, target_modules=TARGETS, use_effective_conv2d=True),
    "lokr full": peft.LoKrConfig(r=999, alpha=100, target_modules=TARGETS),
}


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_base.build()


def weights(pipe: Any) -> dict[str, Tensor]:
    return {target.name: target.weight.detach().clone() for target in targets(pipe, "unet,text-encoder")}


def randomised(model: nn.Module, words: tuple[str, ...] = ("lora_", "hada_", "lokr_")) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if any(word in name for word in words):
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("method", METHODS)
def test_peft_files_give_what_peft_merges(pipe: Any, method: str, tmp_path: Path) -> None:
    before = weights(pipe)
    wrapped = randomised(peft.get_peft_model(copy.deepcopy(pipe.unet), METHODS[method]))
    wrapped.save_pretrained(tmp_path)
    merged = dict(wrapped.merge_and_unload().named_parameters())
    found = read_lora(tmp_path, before)
    assert len(found) > 10
    for name, change in found.items():
        weight = before[name]
        assert change.shape == matrix(weight).shape
        expected = matrix(merged[name.removeprefix("unet.") + ".weight"].detach() - weight)
        torch.testing.assert_close(change, expected, rtol=1e-4, atol=2e-6)
    changed = {
        name
        for name, weight in before.items()
        if name.startswith("unet.") and not torch.equal(merged[name[5:] + ".weight"], weight)
    }
    assert changed == set(found)


def test_diffusers_files_give_what_diffusers_fuses(pipe: Any, tmp_path: Path) -> None:
    before = weights(pipe)
    trained = copy.deepcopy(pipe)
    trained.unet.add_adapter(METHODS["lora"])
    trained.text_encoder.add_adapter(peft.LoraConfig(r=2, lora_alpha=7, target_modules=["q_proj", "fc1"]))
    randomised(trained.unet), randomised(trained.text_encoder)
    kinds: dict[str, Any] = {}
    for part in ("unet", "text_encoder"):
        model = getattr(trained, part)
        kinds[f"{part}_lora_layers"] = peft.get_peft_model_state_dict(model)
        kinds[f"{part}_lora_adapter_metadata"] = model.peft_config["default"].to_dict()
    trained.save_lora_weights(tmp_path, **kinds)
    pipe = copy.deepcopy(pipe)
    pipe.load_lora_weights(tmp_path)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    found = read_lora(tmp_path, before)
    after = weights(pipe)
    assert {name.split(".")[0] for name in found} == {"unet", "text_encoder"}
    assert {name for name in after if not torch.equal(after[name], before[name])} == set(found)
    for name, change in found.items():
        torch.testing.assert_close(change, matrix(after[name] - before[name]), rtol=1e-4, atol=2e-6)


def kohya_file(path: Path, base: dict[str, Tensor], alpha: float, names: list[str], rank: int = 3) -> None:
    """As kohya's scripts write it: flattened names, up, down and alpha."""
    generator, tensors = torch.Generator().manual_seed(2), {}
    called = kohya_names(base)
    for name in names:
        rows, rest = base[name].shape[0], base[name].shape[1:]
        ones = [1] * (len(rest) - 1)
        tensors[f"{called[name]}.lora_down.weight"] = torch.randn(rank, *rest, generator=generator)
        tensors[f"{called[name]}.lora_up.weight"] = torch.randn(rows, rank, *ones, generator=generator)
        tensors[f"{called[name]}.alpha"] = torch.tensor(alpha)
    save_file(tensors, path)


def test_kohya_files_give_what_diffusers_fuses(pipe: Any, tmp_path: Path) -> None:
    before = weights(pipe)
    names = [n for n in before if n.endswith(("to_q", "to_out.0", "proj_in", "conv1", "_proj", "fc1"))]
    kohya_file(tmp_path / "style.safetensors", before, 1.5, names)
    pipe = copy.deepcopy(pipe)
    pipe.load_lora_weights(tmp_path / "style.safetensors")
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    after = weights(pipe)
    found = read_lora(tmp_path / "style.safetensors", before)
    assert set(found) == set(names) == {name for name in after if not torch.equal(after[name], before[name])}
    for name, change in found.items():
        torch.testing.assert_close(change, matrix(after[name] - before[name]), rtol=1e-4, atol=1e-5)


@settings(max_examples=25)
@given(
    a=st.integers(1, 4),
    b=st.integers(1, 5),
    c=st.integers(1, 4),
    d=st.integers(1, 5),
    k=st.sampled_from([1, 3]),
    r=st.integers(1, 3),
)
def test_a_convolution_of_lokr_is_the_same_whole_or_in_factors(
    a: int, b: int, c: int, d: int, k: int, r: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("lokr") / "l.safetensors"
    w1, w2_a, w2_b = torch.randn(a, c), torch.randn(b, r), torch.randn(r, d * k * k)
    whole = torch.kron(w1[..., None, None], (w2_a @ w2_b).reshape(b, d, k, k))
    save_file(
        {"unet.x.lokr_w1": w1, "unet.x.lokr_w2_a": w2_a, "unet.x.lokr_w2_b": w2_b, "unet.x.alpha": torch.tensor(2.0)},
        path,
    )
    change = read_lora(path, ["unet.x"])["unet.x"]
    torch.testing.assert_close(change, whole.flatten(1) * 2 / r, rtol=1e-5, atol=1e-5)
    save_file(
        {"unet.x.lokr_w1": w1, "unet.x.lokr_w2": (w2_a @ w2_b).reshape(b, d, k, k), "unet.x.alpha": torch.tensor(9.0)},
        path,
    )
    torch.testing.assert_close(read_lora(path, ["unet.x"])["unet.x"], whole.flatten(1), rtol=1e-5, atol=1e-5)


def test_a_middle_of_a_convolution(tmp_path: Path) -> None:
    up, mid, down = torch.randn(5, 2, 1, 1), torch.randn(2, 2, 3, 3), torch.randn(2, 4, 1, 1)
    path = tmp_path / "l.safetensors"
    save_file(
        {"lora_unet_x.lora_up.weight": up, "lora_unet_x.lora_mid.weight": mid, "lora_unet_x.lora_down.weight": down},
        path,
    )
    x = torch.randn(1, 4, 6, 6)
    layers = nn.functional.conv2d(nn.functional.conv2d(nn.functional.conv2d(x, down), mid), up)
    change = read_lora(path, ["unet.x"])["unet.x"].reshape(5, 4, 3, 3)
    torch.testing.assert_close(nn.functional.conv2d(x, change), layers, rtol=1e-4, atol=1e-4)


def test_differences_biases_and_norms(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    diff, norm = torch.randn(4, 3, 3, 3), torch.randn(7)
    tensors = {"a.diff": diff, "a.diff_b": torch.randn(4), "b.w_norm": norm, "c.diff_b": torch.randn(3)}
    save_file({f"lora_unet_{key}": tensor for key, tensor in tensors.items()}, path)
    found = read_lora(path, ["unet.a", "unet.b", "unet.c"])
    assert set(found) == {"unet.a", "unet.b"}
    assert found.biases == ("unet.a", "unet.c")
    assert torch.equal(found["unet.a"], diff.flatten(1))
    assert torch.equal(found["unet.b"], norm)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({"unet.x.lora_down.weight": (2, 3)}, "unet.x has only down"),
        (
            {"unet.x.lora_A.weight": (2, 3), "unet.x.lora_B.weight": (3, 2), "unet.x.lora_magnitude_vector": (3,)},
            "DoRA",
        ),
        ({"lora_unet_x.dora_scale": (1, 3)}, "DoRA"),
        ({"unet.y.lora_A.weight": (2, 3)}, "1 modules that the base does not have, such as unet.y"),
        ({"unet.x.oft_blocks": (2, 3, 3)}, "of no method that is known"),
        (
            {"unet.x.lora_down.weight": (4, 3), "unet.x.lora_up.weight": (3, 7)},
            r"unet.x: up \[3, 7\] and down \[4, 3\] have no common rank; .*damaged",
        ),
        (
            {
                "unet.x.lora_A.weight": (2, 3, 1, 1),
                "unet.x.lora_B.weight": (3, 2),
                "unet.x.lora_mid.weight": (2, 3, 3, 3),
            },
            "up .* and mid .* and down .* have no common rank",
        ),
        (
            {f"unet.x.hada_w{i}_{side}": (2, 4) for i in (1, 2) for side in "ab"},
            r"hada_w1_a \[2, 4\] and hada_w1_b \[2, 4\] have no common rank",
        ),
        (
            {"unet.x.lokr_w1": (2, 2), "unet.x.lokr_w2_a": (3, 2), "unet.x.lokr_w2_b": (3, 2)},
            "lokr_w2_a .* and lokr_w2_b",
        ),
        ({}, "no LoRA"),
    ],
)
def test_what_cannot_be_read_is_refused(tensors: dict[str, tuple[int, ...]], says: str, tmp_path: Path) -> None:
    save_file({key: torch.zeros(shape) for key, shape in tensors.items()}, tmp_path / "l.safetensors")
    with pytest.raises(FormatError, match=says):
        read_lora(tmp_path / "l.safetensors", ["unet.x"])


def test_dora_of_peft_is_refused(pipe: Any, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=2, target_modules=["to_q"], use_dora=True)
    peft.get_peft_model(copy.deepcopy(pipe.unet), config).save_pretrained(tmp_path)
    with pytest.raises(FormatError, match="DoRA"):
        read_lora(tmp_path, weights(pipe))


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    save_file({"unet.x.diff": torch.tensor([[float("nan")]])}, tmp_path / "l.safetensors")
    found = read_lora(tmp_path / "l.safetensors", ["unet.x"])
    with pytest.raises(FormatError, match="not finite"):
        _ = found["unet.x"]


def test_damaged_files_and_empty_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "l.safetensors").write_bytes(b"no")
    for path in (tmp_path / "l.safetensors", tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(FormatError):
            read_lora(path, ["unet.x"])


def test_a_name_that_two_weights_could_have_is_none() -> None:
    known = aliases(["unet.conv_in", "transformer.conv_in", "unet.conv_out"])
    assert known["unet.conv_in"] == "unet.conv_in"
    assert "conv_in" not in known
    assert known["conv_out"] == "unet.conv_out"


@pytest.mark.parametrize("kind", ["unet", "sdxl"])
def test_original_names_are_those_that_diffusers_converts(kind: str) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    model, _ = small_models.build(kind)
    names = [target.name for target in targets(model, "unet")]
    numbers = {name: torch.tensor([float(number)]) for number, name in enumerate(names)}
    prefix = "model.diffusion_model."
    originals = {
        f"{prefix}{original_unet_path(path_of(name), names)}.{part}": number
        for name, number in numbers.items()
        for part in ("weight", "bias")
    }
    converted = convert_ldm_unet_checkpoint(originals, dict(model.config))
    assert {f"unet.{key[:-7]}": number for key, number in converted.items() if key.endswith(".weight")} == numbers
