"""What autograd keeps of a step: the count without values against what a real step keeps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from spectra.adapters.live_parameters import Form
from spectra.bases.part import Part
from spectra.bases.shapes import build
from spectra.planning.held_tensors import held_tensors
from spectra.planning.saved_tensors import Recorder, blocks_by, saved_bytes, storages
from spectra.planning.step_inputs import StepShape, step_inputs
from spectra.planning.step_memory import attach_shapes, step_memory

FLUX = Part(
    "diffusers",
    "FluxTransformer2DModel",
    {
        "patch_size": 1,
        "in_channels": 8,
        "num_layers": 4,
        "num_single_layers": 5,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 12,
        "pooled_projection_dim": 10,
        "axes_dims_rope": (2, 2, 4),
    },
)
SDXL = Part(
    "diffusers",
    "UNet2DConditionModel",
    {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "cross_attention_dim": 12,
        "attention_head_dim": (2, 4),
        "transformer_layers_per_block": (1, 4),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 6 * 4 + 10,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    },
)
Z_IMAGE = Part(
    "diffusers",
    "ZImageTransformer2DModel",
    {
        "in_channels": 4,
        "dim": 16,
        "n_layers": 4,
        "n_refiner_layers": 3,
        "n_heads": 2,
        "n_kv_heads": 2,
        "cap_feat_dim": 12,
        "axes_dims": [4, 2, 2],
        "axes_lens": [64, 32, 32],
    },
)
QWEN = Part(
    "diffusers",
    "QwenImageTransformer2DModel",
    {
        "in_channels": 8,
        "num_layers": 4,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 12,
        "axes_dims_rope": (2, 2, 4),
    },
)
CHROMA = Part(
    "diffusers",
    "ChromaTransformer2DModel",
    {
        "in_channels": 8,
        "num_layers": 4,
        "num_single_layers": 5,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 12,
        "axes_dims_rope": (2, 2, 4),
        "approximator_num_channels": 8,
        "approximator_hidden_dim": 16,
        "approximator_layers": 4,
    },
)
CLIP = Part(
    "transformers",
    "CLIPTextModel",
    {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 5, "num_attention_heads": 2},
)
MODELS = {"flux": FLUX, "sdxl": SDXL, "z-image": Z_IMAGE, "qwen-image": QWEN, "chroma": CHROMA}
FORMS = {"terms": Form(0, 1, vectors=False), "few": Form(3, 1), "all": Form()}
SHAPE = StepShape(8, 2, 7)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", MODELS)
def test_blocks_that_are_stood_for_keep_what_they_would(kind: str, form: str) -> None:
    name = "unet" if kind == "sdxl" else "transformer"
    counted = {}
    for every in (False, True):
        models = {name: build(MODELS[kind]), "text_encoder": build(CLIP)}
        adapter = attach_shapes(models, "denoiser,text-encoder", FORMS[form])
        counted[every] = vars(step_memory(models, adapter, SHAPE, 2, every_block=every))
        adapter.detach()
    few, every = counted[False].pop("computed"), counted[True].pop("computed")
    assert counted[False] == counted[True]
    assert few < every == counted[True]["blocks"]


@pytest.mark.parametrize(
    "targets", ["transformer.single_transformer_blocks.2", "transformer.transformer_blocks.1.attn.to_q"]
)
def test_a_block_with_other_trained_layers_is_no_other_block(targets: str) -> None:
    counted = []
    for every in (False, True):
        models = {"transformer": build(FLUX)}
        adapter = attach_shapes(models, targets, Form(2, 0))
        step = step_memory(models, adapter, SHAPE, 2, every_block=every)
        counted.append((step.activations, step.checkpointed, step.spectra))
        adapter.detach()
    assert counted[0] == counted[1]
    assert counted[0][1] < counted[0][0]


class _Made(TorchDispatchMode):
    """Every storage that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for each in output if isinstance(output, (tuple, list)) else [output]:
            if isinstance(each, Tensor):
                storage = each.untyped_storage()
                self.made[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return output

    def alive(self, others: set[int]) -> int:
        """Bytes of those that are still there, `others` apart."""
        return sum(size for key, (made, size) in self.made.items() if key not in others and not made.expired())


@contextlib.contextmanager
def _trained(kind: str) -> Iterator[tuple[nn.Module, dict[str, Any], set[int], int]]:
    """A model with values and low-rank layers on all weights, a step's inputs, what is there anyway, trained bytes."""
    import spectra

    torch.manual_seed(0)
    model = build(MODELS[kind], "cpu")
    adapter = spectra.attach({"unet" if kind == "sdxl" else "transformer": model}, "denoiser", 3, 1)
    parameters = adapter.train().by_key
    arguments = {**step_inputs(model, StepShape(16, 2, 7), device="cpu").arguments, "return_dict": False}
    model(**arguments)  # layers make their vectors in the first
    layers = held_tensors(adapter._layers())
    there = set(storages([*model.parameters(), *model.buffers(), *parameters.values(), *layers]))
    yield model, arguments, there, sum(each.nbytes for each in parameters.values())
    adapter.detach()


def _counted(kind: str) -> Any:
    model = build(MODELS[kind])
    name = "unet" if kind == "sdxl" else "transformer"
    adapter = attach_shapes({name: model}, "denoiser", Form(3, 1))
    arguments = step_inputs(model, StepShape(16, 2, 7)).arguments
    model(**arguments)  # layers make their vectors in the first
    known = [*model.parameters(), *model.buffers(), *adapter.by_key.values(), *held_tensors(adapter._layers())]
    return saved_bytes(model, arguments, known, lambda block: id(block))


@pytest.mark.parametrize("kind", MODELS)
def test_the_count_is_what_a_real_step_keeps(kind: str) -> None:
    with _trained(kind) as (model, arguments, own, _):
        saved: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):  # type: ignore[func-returns-value]
            model(**arguments)
        measured = sum(size for key, size in storages(saved).items() if key not in own)
    assert _counted(kind).all == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize("kind", MODELS)
def test_the_count_with_checkpointing_is_what_is_alive_between_forward_and_backward(kind: str) -> None:
    with _trained(kind) as (model, arguments, own, watched):
        model.enable_gradient_checkpointing()  # type: ignore[operator]
        with _Made() as made:
            output = model(**arguments)
            arguments.clear()  # what of a step's inputs is not kept for the backward does not count
            alive = made.alive(own)
    answer = sum(storages([output[0]] if isinstance(output[0], Tensor) else output[0]).values())
    alive -= answer + watched
    counted = _counted(kind)
    assert 0 < counted.largest < counted.checkpointed < counted.all
    assert counted.checkpointed - counted.largest == pytest.approx(alive, rel=0.05)


def test_a_model_is_left_as_it_was() -> None:
    for part in (FLUX, CLIP):
        model = build(part)
        forwards = {module: module.forward for module in model.modules()}
        with blocks_by(Recorder([], lambda block: None), model):
            pass
        assert all(module.forward == forward for module, forward in forwards.items())
        assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
