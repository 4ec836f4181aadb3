"""Shifts in pipelines that others work on: compiled, cast, shared, with LoRAs, fused projections, copied, saved."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_base
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.hooks import apply_group_offloading
from peft import LoraConfig
from small_models import build, random_shift
from torch import Tensor, nn

import spectra
from spectra.errors import MismatchError, WeightError
from spectra.shift.shift import SpectralShift

TARGETS = "unet-ca,text-encoder"


@pytest.fixture(scope="module")
def shift() -> SpectralShift:
    return random_shift(tiny_base.build(), TARGETS, 1)


@pytest.fixture
def pipe() -> Any:
    return tiny_base.build()


def weights(pipe: Any) -> dict[str, Tensor]:
    parts = {"unet": pipe.unet, "text_encoder": pipe.text_encoder}
    return {f"{part}.{key}": value.clone() for part, each in parts.items() for key, value in each.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def predicted(unet: Any) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x, text = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 5, 24, generator=generator)
    with torch.no_grad():
        out: Tensor = unet(x, torch.tensor([3]), text).sample
    return out


def add_lora(unet: Any) -> None:
    torch.manual_seed(1)
    unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False), "lora")


def test_a_compiled_wrapper_is_seen_through(pipe: Any, shift: SpectralShift) -> None:
    base = weights(pipe)
    spectra.load(pipe, shift, "dog")
    plain, pipe.unet = pipe.unet, torch.compile(pipe.unet, backend="eager")
    assert spectra.loaded(pipe) == {"dog": 1.0}
    spectra.unload(pipe)
    pipe.unet = plain
    assert same(weights(pipe), base)
    plain.mid_block = torch.compile(plain.mid_block, backend="eager")
    pipe.unet = torch.compile(plain, backend="eager")
    spectra.load(pipe, shift, "dog")
    spectra.unload(pipe)
    pipe.unet, plain.mid_block = plain, plain.mid_block._orig_mod
    assert same(weights(pipe), base)


@pytest.mark.parametrize("fused", [True, False])
def test_all_weights_keep_one_precision(pipe: Any, shift: SpectralShift, fused: bool) -> None:
    base = weights(pipe)
    if not fused:
        spectra.unfuse(pipe)
    spectra.load(pipe, shift, "dog")
    pipe.to(torch.float16)
    spectra.activate(pipe, {"dog": 0.5})
    spectra.load(pipe, 2 * shift, "more")
    assert {value.dtype for value in pipe.unet.parameters()} == {torch.float16}
    pipe = StableDiffusionPipeline.from_pipe(pipe)  # in float32
    assert spectra.loaded(pipe) == {"dog": 0.0, "more": 1.0}
    spectra.activate(pipe, "dog")
    assert {value.dtype for value in pipe.unet.parameters()} == {torch.float32}
    spectra.unload(pipe)
    for name, value in weights(pipe).items():  # of those in the shift the frozen values were kept
        rounded = base[name] if name.removesuffix(".weight") in shift else base[name].half().to(value)
        assert torch.equal(value, rounded)


def test_a_model_may_be_in_half_precision_for_a_while(pipe: Any, shift: SpectralShift) -> None:
    base = weights(pipe)
    spectra.load(pipe, shift, "dog")
    pipe.to(torch.float16)
    pipe.to(torch.bfloat16)
    pipe.to(torch.float32)
    spectra.unload(pipe)
    left = weights(pipe)
    assert all(torch.equal(left[f"{name}.weight"], base[f"{name}.weight"]) for name in shift)


def test_pipelines_that_share_a_unet_keep_their_text_encoders_apart(pipe: Any, shift: SpectralShift) -> None:
    other = tiny_base.build()
    other.unet = pipe.unet
    base, others = weights(pipe), weights(other)
    spectra.load(pipe, shift, "dog")
    assert spectra.loaded(other) == {"dog": 1.0}
    first = pipe.text_encoder.state_dict()
    served = {name: value.clone() for name, value in first.items()}
    spectra.load(other, shift, "cat")
    assert all(torch.equal(value, served[name]) for name, value in pipe.text_encoder.state_dict().items())
    assert not same(weights(other), others)
    assert spectra.get_list_adapters(pipe) == {"unet": ["dog", "cat"], "text_encoder": ["dog"]}
    spectra.unload(other)
    spectra.unload(pipe)
    assert same(weights(pipe), base) and same(weights(other), others)


def test_fused_projections_follow(pipe: Any, shift: SpectralShift) -> None:
    unet = pipe.unet
    base = predicted(unet)
    spectra.load(pipe, shift, "dog")
    strong = predicted(unet)
    unet.fuse_qkv_projections()
    torch.testing.assert_close(predicted(unet), strong)
    spectra.activate(pipe, {"dog": 0.5})
    half = predicted(unet)
    assert float((half - strong).norm()) > 1e-2
    unet.unfuse_qkv_projections()
    torch.testing.assert_close(predicted(unet), half)
    unet.fuse_qkv_projections()
    for refused in (
        lambda: spectra.unfuse(pipe),
        lambda: spectra.per_sample(pipe, ["dog"]).__enter__(),
        lambda: spectra.attach(tiny_base_fused(), "unet-ca"),
    ):
        with pytest.raises(MismatchError, match="unfuse_qkv_projections"):
            refused()
    torch.testing.assert_close(predicted(unet), half)
    spectra.unload(pipe)
    torch.testing.assert_close(predicted(unet), base)
    assert torch.equal(unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_kv.weight, torch.cat(
        [getattr(unet.mid_block.attentions[0].transformer_blocks[0].attn2, name).weight for name in ("to_k", "to_v")]
    ))  # fmt: skip


def tiny_base_fused() -> Any:
    pipe = tiny_base.build()
    pipe.unet.fuse_qkv_projections()
    return pipe


def test_projections_are_not_fused_under_a_shift_beside_them(pipe: Any) -> None:
    adapter = spectra.attach(pipe, "unet-ca", directions=2)
    with pytest.raises(MismatchError, match="cannot be fused while a shift computes beside"):
        pipe.unet.fuse_qkv_projections()
    adapter.detach()
    pipe.unet.fuse_qkv_projections()


def test_a_fused_lora_is_neither_lost_nor_taken_for_the_base(pipe: Any, shift: SpectralShift) -> None:
    base, fresh = weights(pipe), tiny_base.build()
    spectra.load(pipe, shift, "dog")
    add_lora(pipe.unet)
    pipe.unet.fuse_lora()
    served = predicted(pipe.unet)
    for refused in (lambda: spectra.activate(pipe, {}), lambda: spectra.unload(pipe), lambda: spectra.disable(pipe)):
        with pytest.raises(MismatchError, match=r"'lora' is fused into this model; call pipe.unfuse_lora\(\)"):
            refused()
    assert torch.equal(predicted(pipe.unet), served)
    pipe.unet.unfuse_lora()
    spectra.unload(pipe)
    plain = {name.replace(".base_layer", ""): value for name, value in weights(pipe).items()}
    assert all(torch.equal(plain[f"{name}.weight"], base[f"{name}.weight"]) for name in shift)
    add_lora(fresh.unet)
    fresh.unet.fuse_lora()
    with pytest.raises(MismatchError, match="before a shift is loaded"):
        spectra.load(fresh, shift, "dog")


def test_a_lora_that_was_fused_for_good_is_noticed(pipe: Any, shift: SpectralShift) -> None:
    spectra.load(pipe, shift, "dog")
    layer = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_q
    layer.weight.data += 0.1 * torch.randn(layer.weight.shape)
    with pytest.raises(MismatchError, match=r"mid_block.*to_q was changed by another program.*load the pipeline again"):
        spectra.unload(pipe)
    assert spectra.loaded(pipe) == {"dog": 1.0}


def test_a_lora_may_be_loaded_first(pipe: Any, shift: SpectralShift) -> None:
    other = tiny_base.build()
    base = weights(other)
    add_lora(pipe.unet)
    spectra.load(pipe, shift, "dog")
    spectra.load(other, shift, "dog")
    add_lora(other.unet)
    assert torch.equal(predicted(pipe.unet), predicted(other.unet))
    spectra.unload(pipe)
    adapter = spectra.attach(pipe, "unet-ca")
    assert {name for name in shift if name.startswith("unet.")} == adapter.deltas.keys()
    adapter.detach()
    plain = {name.replace(".base_layer", ""): value for name, value in weights(pipe).items() if "lora_" not in name}
    assert same(plain, base)


def test_what_is_saved_while_active_is_what_is_served(pipe: Any, shift: SpectralShift, tmp_path: Path) -> None:
    base = predicted(pipe.unet)
    spectra.load(pipe, shift, "dog")
    served = predicted(pipe.unet)
    pipe.unet.save_pretrained(tmp_path)
    assert torch.equal(predicted(UNet2DConditionModel.from_pretrained(tmp_path)), served)
    spectra.unload(pipe)
    spectra.unfuse(pipe)
    few = low_rank(pipe)
    spectra.load(pipe, few, "few")
    pipe.unet.save_pretrained(tmp_path)
    assert torch.equal(predicted(UNet2DConditionModel.from_pretrained(tmp_path)), base), "beside the weights: the base"


def low_rank(pipe: Any, seed: int = 1, targets: str = "unet-ca") -> SpectralShift:
    adapter = spectra.attach(pipe, targets, directions=3, outer=1)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    shift = adapter.shift(base="test")
    adapter.detach()
    return shift


@pytest.mark.parametrize("fused", [True, False])
def test_a_deep_copy_has_shifts_of_its_own(pipe: Any, fused: bool) -> None:
    base, shift = predicted(pipe.unet), low_rank(pipe)
    if not fused:
        spectra.unfuse(pipe)
    spectra.load(pipe, shift, "dog")
    served, twin = predicted(pipe.unet), copy.deepcopy(pipe)
    assert spectra.loaded(twin) == {"dog": 1.0}
    spectra.unload(pipe)
    assert torch.equal(predicted(twin.unet), served) and torch.equal(predicted(pipe.unet), base)
    spectra.activate(twin, {})
    assert torch.equal(predicted(twin.unet), base)
    spectra.unload(twin)
    adapter = spectra.attach(pipe, "unet-ca", directions=3)
    with pytest.raises(MismatchError, match="copy of a model in training"):
        spectra.load(copy.deepcopy(pipe), shift, "dog")
    adapter.detach()


def test_offloading_to_disk_is_refused(pipe: Any, shift: SpectralShift, tmp_path: Path) -> None:
    spectra.load(pipe, shift, "dog")
    served = predicted(pipe.unet)
    cpu = torch.device("cpu")
    apply_group_offloading(pipe.unet, cpu, cpu, offload_type="leaf_level", offload_to_disk_path=str(tmp_path))
    with pytest.raises(WeightError, match="offloaded"):
        spectra.unload(pipe)
    torch.testing.assert_close(predicted(pipe.unet), served)


@pytest.mark.parametrize("fused", [True, False])
def test_hotswap_takes_a_shifts_place(pipe: Any, fused: bool) -> None:
    base = predicted(pipe.unet)
    first, second, wider = low_rank(pipe, 1), low_rank(pipe, 2), low_rank(pipe, 3, "unet.*attn*")
    if not fused:
        spectra.unfuse(pipe)
    spectra.load(pipe, first, "user")
    spectra.activate(pipe, {"user": 0.5})
    for shift in (second, wider, first):
        assert spectra.load(pipe, shift, adapter_name="user", hotswap=True) == "user"
        assert spectra.loaded(pipe) == {"user": 0.5}
        swapped, other = predicted(pipe.unet), tiny_base.build()
        spectra.load(other, shift, "user")
        spectra.activate(other, {"user": 0.5})
        torch.testing.assert_close(swapped, predicted(other.unet), rtol=1e-4, atol=1e-5)
    with pytest.raises(MismatchError, match="no shift named 'dog' is loaded; loaded: user"):
        spectra.load(pipe, first, "dog", hotswap=True)
    spectra.unload(pipe)
    assert torch.equal(predicted(pipe.unet), base)


def test_a_failure_midway_leaves_everything_as_it_was(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from spectra.adapters.binding import Binding

    first, second = low_rank(pipe, 1), low_rank(pipe, 2, "unet.*attn*")
    spectra.load(pipe, first, "first")
    served, put = predicted(pipe.unet), Binding.put
    calls = iter(range(10_000))

    def failing(self: Binding, *args: Any, **kwargs: Any) -> None:
        if next(calls) == 20:
            raise MemoryError
        put(self, *args, **kwargs)

    monkeypatch.setattr(Binding, "put", failing)
    with pytest.raises(MemoryError):
        spectra.load(pipe, second, "second")
    assert spectra.loaded(pipe) == {"first": 1.0}
    assert torch.equal(predicted(pipe.unet), served)
    spectra.load(pipe, second, "second")
    spectra.unload(pipe)


def test_unfused_shifts_compute_beside_the_base(pipe: Any) -> None:
    base, state, shift = predicted(pipe.unet), weights(pipe), low_rank(pipe)
    spectra.load(pipe, shift, "dog")
    fused = predicted(pipe.unet)
    spectra.unfuse(pipe)
    assert same(weights(pipe), state), "the weights are the base's"
    torch.testing.assert_close(predicted(pipe.unet), fused, rtol=1e-4, atol=1e-5)
    spectra.disable(pipe)
    assert torch.equal(predicted(pipe.unet), base)
    spectra.enable(pipe)
    spectra.fuse(pipe)
    assert torch.equal(predicted(pipe.unet), fused) and not same(weights(pipe), state)
    with spectra.disabled(pipe), spectra.disabled(pipe):
        assert torch.equal(predicted(pipe.unet), base)
    spectra.unload(pipe)
    assert same(weights(pipe), state)


BLOCKS: dict[str, tuple[Any, Callable[[str], float]]] = {
    "components": (
        {"unet": 0.5, "text_encoder": 2.0},
        lambda name: 0.5 if name.startswith("unet.") else 2.0,
    ),
    "blocks of diffusers": (
        {"unet": {"down": 0.5, "mid": 0.0, "up": {"block_0": [0.25, 3.0]}}},
        lambda name: next(
            (
                scale
                for block, scale in (
                    ("unet.down_blocks", 0.5), ("unet.mid_block", 0.0), ("unet.up_blocks.0.attentions.0", 0.25),
                    ("unet.up_blocks.0.attentions.1", 3.0),
                )
                if name.startswith(block)
            ),
            1.0,
        ),
    ),
    "names of the model": (
        {"unet.up_blocks.0": 0.5, "unet": 2.0},
        lambda name: 0.5 if name.startswith("unet.up_blocks.0.") else 2.0 if name.startswith("unet.") else 1.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BLOCKS)
def test_weights_for_components_and_blocks(case: str, pipe: Any, shift: SpectralShift, tmp_path: Path) -> None:
    given, scale = BLOCKS[case]
    scaled = SpectralShift({name: scale(name) * delta for name, delta in shift.items()}, shift.metadata)
    spectra.load(pipe, scaled, "scaled")
    expected = weights(pipe)
    spectra.unload(pipe)
    spectra.load(pipe, shift, "dog")
    spectra.set_adapters(pipe, "dog", given)
    assert spectra.loaded(pipe) == {"dog": given}
    for name, value in weights(pipe).items():
        torch.testing.assert_close(value, expected[name])
    spectra.save(pipe, tmp_path / "dog.safetensors")
    spectra.unload(pipe)
    spectra.load(pipe, tmp_path / "dog.safetensors")
    for name, value in weights(pipe).items():
        torch.testing.assert_close(value, expected[name])


def test_the_names_of_diffusers(pipe: Any, shift: SpectralShift, tmp_path: Path) -> None:
    base = weights(pipe)
    unet_only = shift.restricted("unet-ca")
    spectra.load(pipe, shift, adapter_name="dog")
    spectra.load(pipe, unet_only, adapter_name="style")
    assert spectra.get_active_adapters(pipe) == ["style"], "as PEFT: the one that was loaded last"
    spectra.set_adapters(pipe, ["dog", "style"], [0.7, 0.4])
    assert spectra.get_active_adapters(pipe) == ["dog", "style"]
    assert spectra.get_list_adapters(pipe) == {"unet": ["dog", "style"], "text_encoder": ["dog"]}
    served = weights(pipe)
    both = spectra.save(pipe, tmp_path / "both.safetensors")
    torch.testing.assert_close(both["unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q"], (
        0.7 * shift + 0.4 * unet_only)["unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q"])  # fmt: skip
    with pytest.raises(MismatchError, match="a weight for each of 2 shifts, got 1"):
        spectra.set_adapters(pipe, ["dog", "style"], [1.0])
    for wrong in ({"unet": {"up": {"block_7": 1.0}}}, {"unet": "much"}, float("inf")):
        with pytest.raises(MismatchError, match=r"no weight in 'unet.up_blocks.7'|a number or a mapping|finite scale"):
            spectra.set_adapters(pipe, "dog", wrong)
    assert same(weights(pipe), served)
    spectra.delete_adapters(pipe, "dog")
    assert spectra.loaded(pipe) == {"style": 0.4}
    spectra.delete_adapters(pipe, ["style"])
    assert same(weights(pipe), base)
    with pytest.raises(MismatchError, match="no shift is active"):
        spectra.save(pipe, tmp_path / "none.safetensors")


def test_peft_too_leaves_the_last_loaded_active_alone(pipe: Any) -> None:
    config = LoraConfig(r=2, target_modules=["to_q"])
    pipe.unet.add_adapter(config, "first")
    pipe.unet.add_adapter(config, "second")
    assert pipe.unet.active_adapters() == ["second"]


def test_a_shift_of_a_batch_ends_before_others_change(pipe: Any) -> None:
    spectra.load(pipe, low_rank(pipe), "dog")
    served = predicted(pipe.unet)
    with spectra.per_sample(pipe, ["dog"]), pytest.raises(MismatchError, match="leave its block first"):
        spectra.activate(pipe, {})
    assert torch.equal(predicted(pipe.unet), served)


def test_a_second_load_hashes_nothing_and_a_written_weight_is_hashed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from spectra.compatibility import rounded_bases

    model, _ = build("unet")
    shift = random_shift(model, "unet-ca", 1)
    hashed: list[str] = []
    plain = rounded_bases.fingerprint

    def counted(weight: Tensor, *, name: str = "weight") -> str:
        hashed.append(name)
        return plain(weight, name=name)

    monkeypatch.setattr(rounded_bases, "fingerprint", counted)
    for _ in range(3):
        spectra.load(model, shift, "dog")
        spectra.unload(model)
    assert not hashed, "attaching has hashed them"
    written = model.mid_block.attentions[0].transformer_blocks[0].attn2.to_q
    with torch.no_grad():
        written.weight[0, 0] += 1
    with pytest.raises(MismatchError, match="1 of its 16 weights differ"):
        spectra.load(model, shift, "dog")
    assert set(hashed) == {"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q"}


def test_a_bare_model_belongs_to_one_component() -> None:
    model, _ = build("clip")
    spectra.load({"text_encoder_2": model}, random_shift({"text_encoder_2": model}, "text-encoder", 1), "dog")
    with pytest.raises(MismatchError, match="shifts as 'text_encoder_2', and is given as 'text_encoder'"):
        spectra.load(model, random_shift(build("clip")[0], "text-encoder", 1), "cat")
    spectra.unload(model)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x)
        return out


def test_a_data_parallel_wrapper_is_seen_through() -> None:
    model = nn.DataParallel(Plain())
    shift = random_shift({"unet": model}, "*", 1)
    assert list(shift) == ["unet.linear"]
    spectra.load({"unet": model}, shift, "dog")
    assert spectra.loaded({"unet": model.module}) == {"dog": 1.0}


def life(model: Any, shift: SpectralShift, times: int) -> float:
    """Load, activate and unload again and again; how much the process's memory has grown since a tenth of that."""
    memory = 0
    for number in range(times):
        spectra.load(model, shift, "dog", activate=False)
        spectra.activate(model, {"dog": 0.5})
        spectra.unload(model)
        if number == times // 10:
            memory = resident()
    return resident() / memory - 1


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1])


@pytest.mark.parametrize("times", [100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_loading_again_and_again_leaves_nothing_behind(times: int) -> None:
    model = Plain()
    base, shift = model.linear.weight.clone(), random_shift({"unet": model}, "*", 1)
    assert life({"unet": model}, shift, times) < 0.01
    assert torch.equal(model.linear.weight, base)
