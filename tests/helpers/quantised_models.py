"""Models of the real classes with quantised weights, as the packages make them, on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from spectra.layers.quantised_weights import dequantised, is_quantised, stored_parts

KINDS = ("nf4", "bnb8", "int8", "float8", "gguf")
"""bitsandbytes in 4 and 8 bit, torchao in int8 and float8, and GGUF's Q4_0."""


def build(seed: int = 0) -> nn.Module:
    """SD3's joint transformer with layers as wide as blocks of 32 and 64 weights ask for."""
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(seed)
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=64,
        caption_projection_dim=64,
        pooled_projection_dim=64,
        out_channels=4,
        pos_embed_max_size=8,
    ).eval()


def inputs(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """What the model is called with."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    return {
        "hidden_states": normal(2, 4, 8, 8),
        "encoder_hidden_states": normal(2, 7, 64),
        "pooled_projections": normal(2, 64),
        "timestep": torch.tensor([3.0, 500.0]),
    }


def quantise(model: nn.Module, kind: str, folder: Path) -> Any:
    """A quantised copy of a model of diffusers, which is saved in `folder` first."""
    path = folder / "plain"
    model.save_pretrained(path)  # type: ignore[operator]
    cls: Any = type(model)
    if kind in ("int8", "float8"):
        import torchao.quantization as ao
        from diffusers import TorchAoConfig

        config = ao.Int8WeightOnlyConfig() if kind == "int8" else ao.Float8WeightOnlyConfig()
        return cls.from_pretrained(path, quantization_config=TorchAoConfig(config), dtype=torch.float32).eval()
    if kind == "gguf":
        from diffusers import GGUFQuantizationConfig

        write_gguf(model, folder / "model.gguf")
        config = GGUFQuantizationConfig(compute_dtype=torch.float32)
        loaded = cls.from_single_file(
            str(folder / "model.gguf"), config=str(path), quantization_config=config, local_files_only=True
        )
        return loaded.eval()
    copy = cls.from_pretrained(path).eval()
    for module in list(copy.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, bitsandbytes_linear(child, bits=4 if kind == "nf4" else 8))
    return copy.to("cpu")


def bitsandbytes_linear(linear: nn.Linear, bits: int) -> nn.Module:
    """The layer as diffusers makes it of bitsandbytes' classes; diffusers itself does so on a GPU only."""
    import bitsandbytes as bnb

    size, weight = (linear.in_features, linear.out_features, linear.bias is not None), linear.weight.data.clone()
    if bits == 4:
        made: Any = bnb.nn.Linear4bit(*size, compute_dtype=torch.float32, quant_type="nf4")
        made.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", module=made)
    else:
        made = bnb.nn.Linear8bitLt(*size, has_fp16_weights=False)
        made.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    made.bias = linear.bias
    return made.to("cpu").requires_grad_(False)


def write_gguf(model: nn.Module, path: Path) -> None:
    """A GGUF file with the model's linear layers in Q4_0 and all else in float32."""
    import gguf

    q4 = gguf.GGMLQuantizationType.Q4_0
    linear = {f"{name}.weight" for name, module in model.named_modules() if type(module) is nn.Linear}
    writer = gguf.GGUFWriter(str(path), "sd3")
    for name, value in model.state_dict().items():
        array = value.float().numpy()
        if name in linear and array.shape[1] % 32 == 0:
            writer.add_tensor(name, gguf.quants.quantize(array, q4), raw_dtype=q4)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def dequantise(model: nn.Module, plain: nn.Module) -> nn.Module:
    """`plain` with what the quantised weights of `model` stand for."""
    with torch.no_grad():
        own = dict(plain.named_modules())
        for name, module in model.named_modules():
            weight = module._parameters.get("weight")
            if weight is not None and is_quantised(weight):
                own[name].weight.copy_(dequantised(module))  # type: ignore[operator, union-attr]
                if module._parameters.get("bias") is not None:
                    own[name].bias.copy_(module.bias)  # type: ignore[operator, union-attr, arg-type]
    return plain


def stored_bytes(model: nn.Module) -> dict[str, bytes]:
    """All bytes of a model's weights as they are stored, by name: packed values and scales."""
    found: dict[str, bytes] = {}
    for name, weight in model.named_parameters():
        state = getattr(weight, "quant_state", None)
        for number, part in enumerate([*stored_parts(weight), *([] if state is None else [state.absmax])]):
            found[f"{name}.{number}"] = part.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return found
