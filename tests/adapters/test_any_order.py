"""Any order of what may be done to a live pipeline: the base comes back bit for bit, or the step was refused whole."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import pytest
import tiny_base
import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_module
from copied_often import CopiedOften
from diffusers import StableDiffusionImg2ImgPipeline
from diffusers.hooks import apply_group_offloading
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from torch import Tensor, nn

import spectra
from spectra.errors import SpectraError
from spectra.shift.shift import SpectralShift

CPU = torch.device("cpu")


def bytes_of(model: nn.Module) -> dict[str, Tensor]:
    """A model's own weights by plain path, LoRA and fused copies left out."""
    found = {}
    for path, value in model.state_dict().items():
        if "lora_" not in path and "to_qkv" not in path and "to_kv" not in path:
            found[path.replace(".base_layer", "").replace("_orig_mod.", "")] = value.detach().clone()
    return found


def drawn(pipe: Any) -> Tensor:
    """One prediction of the UNet for an encoded prompt, in the pipeline's precision."""
    unet, text = pipe.unet, pipe.text_encoder
    dtype = next(iter(unet.parameters())).dtype
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        states = text(torch.tensor([[0, 5, 6, 1]]))[0]
        noisy = torch.randn(1, 4, 8, 8, generator=generator).to(dtype)
        out: Tensor = unet(noisy, torch.tensor([500]), states.to(dtype)).sample
    return out.float()


class TheirsError(Exception):
    """What another program does not do in this order, with a shift or without."""


@dataclass
class Bench:
    """A pipeline, a twin that no shift is ever loaded into, and shifts of its base."""

    pipe: Any
    twin: Any
    shift: SpectralShift
    lora: Path
    base: dict[str, dict[str, Tensor]]
    now: Tensor | None = None  # what the pipeline draws

    def both(self, step: Callable[[Any], Any]) -> None:
        """Do to both what is no matter of shifts, if the twin lets it be done."""
        try:
            step(self.twin)
        except Exception as error:
            raise TheirsError from error
        step(self.pipe)


def load(bench: Bench) -> None:
    if "fox" not in spectra.loaded(bench.pipe):
        spectra.load(bench.pipe, bench.shift, "fox", activate=False)


def activate(bench: Bench) -> None:
    if "fox" in spectra.loaded(bench.pipe):
        spectra.activate(bench.pipe, "fox")
    else:
        spectra.load(bench.pipe, bench.shift, "fox")


def cast(bench: Bench) -> None:
    bench.both(lambda pipe: pipe.to(torch.bfloat16))


def compile_in_place(bench: Bench) -> None:
    bench.both(lambda pipe: pipe.unet.compile(backend="eager"))


def compile_wrapped(bench: Bench) -> None:
    def wrap(pipe: Any) -> None:
        if pipe.unet is plain(pipe.unet):
            pipe.unet = torch.compile(pipe.unet, backend="eager")

    bench.both(wrap)


def in_memory(bench: Bench) -> None:
    """Neither PEFT nor fused projections read weights that are offloaded between calls."""
    if any(parameter.is_meta for parameter in plain(bench.twin.unet).parameters()):
        raise TheirsError


def load_lora(bench: Bench) -> None:
    in_memory(bench)

    def step(pipe: Any) -> None:
        if "lora" not in getattr(plain(pipe.unet), "peft_config", {}):
            plain(pipe.unet).load_lora_adapter(bench.lora, prefix=None, adapter_name="lora")

    bench.both(step)


def fuse_lora(bench: Bench) -> None:
    load_lora(bench)
    bench.both(lambda pipe: plain(pipe.unet).fuse_lora())


def fuse_qkv(bench: Bench) -> None:
    in_memory(bench)
    bench.both(lambda pipe: plain(pipe.unet).fuse_qkv_projections())


def group_offload(bench: Bench) -> None:
    bench.both(lambda pipe: apply_group_offloading(plain(pipe.unet), CPU, CPU, offload_type="leaf_level"))


def sequential_offload(bench: Bench) -> None:
    bench.both(lambda pipe: cpu_offload(plain(pipe.unet), execution_device=CPU))


def from_pipe(bench: Bench) -> None:
    copies = []
    bench.both(lambda pipe: copies.append(StableDiffusionImg2ImgPipeline.from_pipe(pipe)))
    bench.twin, bench.pipe = copies


def deep_copy(bench: Bench) -> None:
    copies = []
    bench.both(lambda pipe: copies.append(copy.deepcopy(pipe)))
    bench.twin, bench.pipe = copies


def unload(bench: Bench) -> None:
    spectra.unload(bench.pipe)


STEPS = {
    step.__name__: step
    for step in (
        load, activate, cast, compile_in_place, compile_wrapped, fuse_lora, load_lora, fuse_qkv, group_offload,
        sequential_offload, from_pipe, deep_copy, unload,
    )
}  # fmt: skip


def plain(model: Any) -> Any:
    return getattr(model, "_orig_mod", model)


@dataclass
class Made:
    """A pipeline, its weights, a shift of its base, and the folder of a LoRA."""

    pipe: CopiedOften
    base: dict[str, dict[str, Tensor]]
    shift: SpectralShift
    lora: Path

    def __repr__(self) -> str:
        return "made"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A pipeline, a shift of all kinds of its weights, and a LoRA of its attention in a folder."""
    pipe = tiny_base.build()
    pipe.set_progress_bar_config(disable=True)
    adapter = spectra.attach(pipe, "unet.*attn*,unet.*norm*,unet.conv_in,text_encoder.*mlp*", directions=3, outer=1)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    shift = adapter.shift(base="test")
    adapter.detach()
    donor, folder = copy.deepcopy(pipe.unet), tmp_path_factory.mktemp("lora")
    torch.manual_seed(1)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    donor.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False), "lora")
    donor.save_lora_adapter(folder, "lora")
    base = {name: bytes_of(part) for name, part in (("unet", pipe.unet), ("text_encoder", pipe.text_encoder))}
    return Made(CopiedOften(pipe), base, shift, folder)


def start(made: Made) -> Bench:
    return Bench(made.pipe.copy(), made.pipe.copy(), made.shift, made.lora, made.base)


def take(bench: Bench, name: str) -> bool:
    """One step: done, or refused, and then everything is as it was. False if another program does not do it."""
    before = drawn(bench.pipe) if bench.now is None else bench.now
    loaded = spectra.loaded(bench.pipe)
    try:
        STEPS[name](bench)
    except SpectraError:
        assert spectra.loaded(bench.pipe) == loaded, name
        assert torch.equal(drawn(bench.pipe), before), f"{name} was refused, and changed something"
    except TheirsError:
        return False
    bench.now = drawn(bench.pipe)
    served = spectra.loaded(bench.pipe).get("fox") == 1
    differ = float((bench.now - drawn(bench.twin)).norm())
    assert differ > 0.1 if served else differ < 1e-2, f"{name}: differs by {differ} with {spectra.loaded(bench.pipe)}"
    return True


def end(bench: Bench) -> None:
    """Unload, at the latest once what stood in the way was taken out; then nothing of the shift is left."""
    try:
        spectra.unload(bench.pipe)
    except SpectraError:
        for pipe in (bench.pipe, bench.twin):
            remove_hook_from_module(plain(pipe.unet), recurse=True)
            plain(pipe.unet).unfuse_lora()
        spectra.unload(bench.pipe)
    assert spectra.loaded(bench.pipe) == {}
    for pipe in (bench.pipe, bench.twin):
        remove_hook_from_module(plain(pipe.unet), recurse=True)
    for part in ("unet", "text_encoder"):
        left = bytes_of(plain(getattr(bench.twin, part)))
        for path, value in bytes_of(plain(getattr(bench.pipe, part))).items():
            own = bench.base[part][path].to(value.dtype)
            assert torch.equal(value, left[path]) or torch.equal(value, own), f"{part}.{path}"


def run(bench: Bench, names: tuple[str, ...]) -> None:
    diffusers.logging.set_verbosity_error()
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.simplefilter("ignore")
        all(take(bench, name) for name in names)
        end(bench)


@settings(max_examples=40)
@given(names=st.lists(st.sampled_from(sorted(STEPS)), min_size=2, max_size=3).map(tuple), fused=st.booleans())
def test_pairs_and_triples(made: Made, names: tuple[str, ...], fused: bool) -> None:
    bench = start(made)
    if not fused:
        spectra.unfuse(bench.pipe)
    run(bench, names)


@pytest.mark.slow
@pytest.mark.parametrize("first", STEPS)
def test_every_triple_after(made: Made, first: str) -> None:
    for number, (second, third) in enumerate(itertools.product(STEPS, STEPS)):
        bench = start(made)
        if number % 2:
            spectra.unfuse(bench.pipe)
        run(bench, (first, second, third))
