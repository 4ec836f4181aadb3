"""LoRA, LoHa and LoKr files are read as those mean them who write them: PEFT and diffusers are the judges."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import small_models
import tiny_base
import tiny_families
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spectra.convert.lora.reading import read_lora
from spectra.convert.module_names import aliases, kohya_places
from spectra.errors import FormatError
from spectra.families import targets
from spectra.naming.original_names import original_places, original_unet_path
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


def shapes_of(weights: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in weights.items()}


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
    found = read_lora(tmp_path, shapes_of(before))
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
    found = read_lora(tmp_path, shapes_of(before))
    after = weights(pipe)
    assert {name.split(".")[0] for name in found} == {"unet", "text_encoder"}
    assert {name for name in after if not torch.equal(after[name], before[name])} == set(found)
    for name, change in found.items():
        torch.testing.assert_close(change, matrix(after[name] - before[name]), rtol=1e-4, atol=2e-6)


def kohya_file(path: Path, base: dict[str, Tensor], alpha: float, names: list[str], rank: int = 3) -> None:
    """As kohya's scripts write it: flattened names, up, down and alpha."""
    generator, tensors = torch.Generator().manual_seed(2), {}
    called = kohya_places(shapes_of(base))
    for name in names:
        rows, rest = base[name].shape[0], base[name].shape[1:]
        ones = [1] * (len(rest) - 1)
        tensors[f"{called[name].module}.lora_down.weight"] = torch.randn(rank, *rest, generator=generator)
        tensors[f"{called[name].module}.lora_up.weight"] = torch.randn(rows, rank, *ones, generator=generator)
        tensors[f"{called[name].module}.alpha"] = torch.tensor(alpha)
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
    found = read_lora(tmp_path / "style.safetensors", shapes_of(before))
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
    change = read_lora(path, {"unet.x": (1, 1)})["unet.x"]
    torch.testing.assert_close(change, whole.flatten(1) * 2 / r, rtol=1e-5, atol=1e-5)
    save_file(
        {"unet.x.lokr_w1": w1, "unet.x.lokr_w2": (w2_a @ w2_b).reshape(b, d, k, k), "unet.x.alpha": torch.tensor(9.0)},
        path,
    )
    torch.testing.assert_close(read_lora(path, {"unet.x": (1, 1)})["unet.x"], whole.flatten(1), rtol=1e-5, atol=1e-5)


def test_a_middle_of_a_convolution(tmp_path: Path) -> None:
    up, mid, down = torch.randn(5, 2, 1, 1), torch.randn(2, 2, 3, 3), torch.randn(2, 4, 1, 1)
    path = tmp_path / "l.safetensors"
    save_file(
        {"lora_unet_x.lora_up.weight": up, "lora_unet_x.lora_mid.weight": mid, "lora_unet_x.lora_down.weight": down},
        path,
    )
    x = torch.randn(1, 4, 6, 6)
    layers = nn.functional.conv2d(nn.functional.conv2d(nn.functional.conv2d(x, down), mid), up)
    change = read_lora(path, {"unet.x": (1, 1)})["unet.x"].reshape(5, 4, 3, 3)
    torch.testing.assert_close(nn.functional.conv2d(x, change), layers, rtol=1e-4, atol=1e-4)


def test_differences_biases_and_norms(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    diff, norm = torch.randn(4, 3, 3, 3), torch.randn(7)
    tensors = {"a.diff": diff, "a.diff_b": torch.randn(4), "b.w_norm": norm, "c.diff_b": torch.randn(3)}
    save_file({f"lora_unet_{key}": tensor for key, tensor in tensors.items()}, path)
    found = read_lora(path, dict.fromkeys(["unet.a", "unet.b", "unet.c"], (4, 3)))
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
        ({"unet.x.oft_blocks": (2, 3, 3)}, "of no method that is known.*take the merged model instead"),
        ({"base_model.model.x.weight": (3, 3)}, "x.weight is of no method"),  # PEFT's modules_to_save
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
        read_lora(tmp_path / "l.safetensors", {"unet.x": (1, 1)})


def test_dora_of_peft_is_refused(pipe: Any, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=2, target_modules=["to_q"], use_dora=True)
    peft.get_peft_model(copy.deepcopy(pipe.unet), config).save_pretrained(tmp_path)
    with pytest.raises(FormatError, match="DoRA"):
        read_lora(tmp_path, shapes_of(weights(pipe)))


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    save_file({"unet.x.diff": torch.tensor([[float("nan")]])}, tmp_path / "l.safetensors")
    found = read_lora(tmp_path / "l.safetensors", {"unet.x": (1, 1)})
    with pytest.raises(FormatError, match="not finite"):
        _ = found["unet.x"]


def test_damaged_files_and_empty_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "l.safetensors").write_bytes(b"no")
    for path in (tmp_path / "l.safetensors", tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(FormatError):
            read_lora(path, {"unet.x": (1, 1)})


def test_a_name_that_two_weights_could_have_is_none() -> None:
    known = aliases(["unet.conv_in", "transformer.conv_in", "unet.conv_out"])
    assert known["unet.conv_in"] == "unet.conv_in"
    assert "conv_in" not in known
    assert known["conv_out"] == "unet.conv_out"


def unet_file(path: Path, shapes: dict[str, tuple[int, ...]], called: dict[str, str], *, kind: str) -> None:
    """A random change of each weight under a name, as pairs or as a difference."""
    generator, tensors = torch.Generator().manual_seed(3), {}
    for name, module in called.items():
        rows, *rest = shapes[name]
        if kind == "diff" or not rest:
            tensors[f"{module}.diff"] = torch.randn(shapes[name], generator=generator)
            continue
        tensors[f"{module}.lora_up.weight"] = torch.randn(rows, 2, *(1 for _ in rest[1:]), generator=generator)
        tensors[f"{module}.lora_down.weight"] = torch.randn(2, *rest, generator=generator)
    save_file(tensors, path)


@pytest.mark.parametrize("kind", ["lora", "diff"])
def test_what_comfyui_extracts_is_read(pipe: Any, kind: str, tmp_path: Path) -> None:
    """It names everything as single files do: `diffusion_model.input_blocks...`, `text_encoders.clip_l...`."""
    shapes = shapes_of(weights(pipe))
    called = {
        name: f"diffusion_model.{original_unet_path(path_of(name), shapes)}"
        if name.startswith("unet.")
        else f"text_encoders.clip_l.transformer.text_model.{path_of(name)}"
        for name in shapes
    }
    unet_file(tmp_path / "extracted.safetensors", shapes, called, kind=kind)
    found = read_lora(tmp_path / "extracted.safetensors", shapes)
    assert set(found) == set(shapes)
    stored = load_file(tmp_path / "extracted.safetensors")
    for name in shapes:
        if f"{called[name]}.diff" in stored:
            assert torch.equal(found[name], stored[f"{called[name]}.diff"].reshape(found[name].shape))


def test_what_lycoris_wraps_is_read(pipe: Any, tmp_path: Path) -> None:
    shapes = {name: shape for name, shape in shapes_of(weights(pipe)).items() if name.startswith("unet.")}
    called = {name: "lycoris_" + path_of(name).replace(".", "_") for name in shapes}
    unet_file(tmp_path / "wrapped.safetensors", shapes, called, kind="lora")
    assert set(read_lora(tmp_path / "wrapped.safetensors", shapes)) == set(shapes)


@pytest.mark.parametrize("prefix", ["lora_unet_", "diffusion_model."])
@pytest.mark.parametrize("kind", ["sd3", "flux", "chroma", "z-image"])
def test_modules_that_originals_fuse_are_cut(kind: str, prefix: str, tmp_path: Path) -> None:
    """One pair for q, k and v, and in Flux the MLP: each weight gets its rows, in the order that it has them."""
    transformer = small_models.build(kind)[0] if kind in ("sd3", "flux") else tiny_families.build(kind).transformer
    shapes = shapes_of({each.name: each.weight for each in targets(transformer, "transformer") if each.weight.ndim > 1})
    every = shapes_of({each.name: each.weight for each in targets(transformer, "transformer")})
    places = original_places(every)
    sizes: dict[str, int] = {}
    for name in shapes:
        sizes[places[name].module] = max(sizes.get(places[name].module, 0), places[name].stop)
    generator, tensors, whole = torch.Generator().manual_seed(0), {}, {}
    for name in shapes:
        module = places[name].module
        if module in whole:
            continue
        up = torch.randn(sizes[module], 3, *(1 for _ in shapes[name][2:]), generator=generator)
        down = torch.randn(3, *shapes[name][1:], generator=generator)
        called = prefix + (module.replace(".", "_") if prefix.endswith("_") else module)
        tensors |= {f"{called}.lora_up.weight": up, f"{called}.lora_down.weight": down}
        tensors[f"{called}.alpha"] = torch.tensor(1.5)
        whole[module] = 0.5 * up.flatten(1) @ down.flatten(1)
    save_file(tensors, tmp_path / "fused.safetensors")
    found = read_lora(tmp_path / "fused.safetensors", every)
    assert set(found) == set(shapes)
    for name, change in found.items():
        place = places[name]
        rows = whole[place.module][place.start : place.stop]
        rows = torch.cat([*rows.chunk(2)][::-1]) if place.swapped else rows
        torch.testing.assert_close(change, rows)
        up, down = found.pairs(name, torch.zeros(shapes[name]))
        torch.testing.assert_close((up @ down).float(), rows, rtol=1e-4, atol=1e-5)
    assert any(not place.alone for place in places.values())


@pytest.mark.parametrize("start", ["pissa", "olora"])
@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_that_took_its_start_out_of_the_base(pipe: Any, start: str, rslora: bool, tmp_path: Path) -> None:
    """What it changes is what PEFT merges, less what it had taken away; its own product is many times larger."""
    before = weights(pipe)
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["to_q", "to_k"], init_lora_weights=start, use_rslora=rslora
    )
    wrapped = peft.get_peft_model(copy.deepcopy(pipe.unet), config)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    wrapped.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(copy.deepcopy(pipe.unet), str(tmp_path))
    merged = dict(again.merge_and_unload().named_parameters())
    found = read_lora(tmp_path, shapes_of(before))
    assert len(found) > 4
    for name in found:
        weight = before[name]
        expected = merged[name.removeprefix("unet.") + ".weight"].detach() - weight
        change = found.change(name, weight)
        assert float((change - expected).norm()) < 1e-4 * float(expected.norm())
        with pytest.raises(FormatError, match="depends on the base's weight"):
            _ = found[name]


@pytest.mark.parametrize("start", ["pissa_niter_4", "corda", "loftq", "lora_ga"])
def test_starts_that_cannot_be_told_again_are_refused(start: str, tmp_path: Path) -> None:
    save_file(
        {"base_model.model.x.lora_A.weight": torch.ones(1, 3), "base_model.model.x.lora_B.weight": torch.ones(3, 1)},
        tmp_path / "adapter_model.safetensors",
    )
    about = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "init_lora_weights": start}
    (tmp_path / "adapter_config.json").write_text(json.dumps(about))
    with pytest.raises(FormatError, match=f"init_lora_weights='{start}'.*merge it into its base"):
        read_lora(tmp_path, {"unet.x": (3, 3)})


@pytest.mark.parametrize("bias", ["lora_only", "all"])
def test_biases_that_peft_trained_are_told(pipe: Any, bias: str, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=2, target_modules=["conv1"], bias=bias)
    wrapped = randomised(peft.get_peft_model(copy.deepcopy(pipe.unet), config))
    wrapped.save_pretrained(tmp_path)
    found = read_lora(tmp_path, shapes_of(weights(pipe)))
    assert {name.rpartition(".")[2] for name in found} == {"conv1"}
    assert set(found) <= set(found.biases)
    assert (set(found) == set(found.biases)) == (bias == "lora_only")
