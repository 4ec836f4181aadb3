"""What kohya's scripts, LyCORIS, ComfyUI and A1111 add to each weight of a pipeline, by their rules and real modules.

They are written from what those programs do with the modules of a model, whose classes and names they ask; the library
itself goes by names alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import original_checkpoint as original
import torch
from torch import Tensor, nn

from spectra.naming.target_subsets import weight_name

Tensors = Mapping[str, Tensor]
Deltas = dict[str, Tensor]

IN_UNET = ("Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D")
IN_TEXT = ("CLIPAttention", "CLIPMLP")
ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


def kohya(tensors: Tensors, pipe: Any) -> Deltas:
    """The scripts make a network of the modules in some classes, and give it the file's tensors of their names."""
    found = {}
    for component, model in parts(pipe):
        classes = IN_UNET if component == "unet" else IN_TEXT
        inside = {
            f"{name}.{child}".strip(".")
            for name, module in model.named_modules()
            if type(module).__name__ in classes
            for child, _ in module.named_modules()
        }
        for path, module in model.named_modules():
            trained = path in inside and isinstance(module, nn.Linear | nn.Conv2d)
            delta = lora(tensors, trained_name(component, path, pipe), alpha_of_zero=1.0) if trained else None
            if delta is not None:
                found[weight_name(component, path)] = delta
    return found


def lycoris(tensors: Tensors, pipe: Any) -> Deltas:
    """An adapter for each module that the file names, of any place; it stops at what it has no adapter for."""
    found = {}
    for component, model in parts(pipe):
        for path, module in model.named_modules():
            name = trained_name(component, path, pipe)
            own = {key.partition(".")[2] for key in tensors if key.partition(".")[0] == name}
            if not own:
                continue
            if isinstance(module, nn.Linear | nn.Conv2d):
                delta = lora(tensors, name, 1.0) if "lora_up.weight" in own else tensors[f"{name}.diff"]
            else:
                assert isinstance(module, nn.LayerNorm | nn.GroupNorm), f"{name} cannot be loaded"
                delta = tensors[f"{name}.w_norm"]
            assert delta is not None
            found[weight_name(component, path)] = delta
    return found


def comfyui(tensors: Tensors, pipe: Any) -> Deltas:
    """Each weight of its own model has some names; the file's tensors of any of them are added."""
    found: Deltas = {}
    for weight, names in comfyui_names(pipe):
        for name in names:
            delta = lora(tensors, name, 0.0)
            for key in ("lora_A.weight", "w_norm", "diff"):
                if f"{name}.{key}" in tensors:
                    delta = tensors[f"{name}.{key}"]
                    if key == "lora_A.weight":
                        delta = product(tensors[f"{name}.lora_B.weight"], delta)
            if delta is not None:
                found[weight] = delta
    return found


def comfyui_names(pipe: Any) -> Iterator[tuple[str, list[str]]]:
    """Each weight that ComfyUI has, and what it may be called."""
    for component, model in parts(pipe):
        for path, _ in weights(model):
            if component == "unet":
                own = unet_original(path, model)
                flat = path.replace(".", "_")
                old = path.replace(".to_", ".processor.to_")
                old = old[:-2] if old.endswith(".to_out.0") else old
                names = [f"lora_unet_{own}".replace(".", "_"), f"diffusion_model.{own}"]
                yield f"unet.{path}", [*names, f"lora_unet_{flat}", f"lycoris_{flat}", old, f"unet.{old}"]
                continue
            number = "2" if component == "text_encoder_2" else "1"
            stored, path = inside(path), path.removeprefix("text_model.")
            names = [f"text_encoders.{'clip_l' if number == '1' else 'clip_g'}.transformer.{stored}"]
            if re.search(r"\.(self_attn|mlp)\.", path):
                names += [f"lora_te{number}_{stored}".replace(".", "_"), f"{component}.{stored}"]
                names += [f"lora_te_{stored}".replace(".", "_")] if number == "1" else []
            if path == "text_projection":
                names += [f"lora_te{number}_text_projection"]
            yield weight_name(component, path), names


def a1111(tensors: Tensors, pipe: Any) -> Deltas:
    """Each module of the original model is looked for by names that it makes of kohya's.

    Of OpenCLIP's attention, one module with four matrices, nothing is added unless all four are there.
    """
    two_encoders = hasattr(pipe, "text_encoder_2")
    found: Deltas = {}
    for component, model in parts(pipe):
        for path, module in weights(model):
            if not isinstance(module, nn.Linear | nn.Conv2d | nn.LayerNorm | nn.GroupNorm):
                continue
            stored, path = inside(path).replace(".", "_"), path.removeprefix("text_model.")
            if component == "unet":
                names = [f"lora_unet_{unet_original(path, model)}".replace(".", "_")]
                if not path.startswith(("conv_norm_out", "add_embedding")):
                    names.append("lora_unet_" + path.replace(".", "_"))
            elif component == "text_encoder_2":
                names = [f"lora_te2_{stored}"] if re.search(r"\.(self_attn|mlp)\.", path) else []
                names += [re.sub(r"layer_norm(\d)$", r"ln_\1", f"lora_te2_{stored}")] if "layers" in path else []
                names += ["1_model_ln_final"] if path == "final_layer_norm" else []
                names = [name for name in names if not re.search(r"layer_norm\d$", name)]
            else:
                names = [f"lora_te1_{stored}"]
                names += [f"lora_te_{stored}"] if ".layers." in path and not two_encoders else []
            for name in names:
                delta = lora(tensors, name, 0.0)
                if f"{name}.diff" in tensors:
                    delta = tensors[f"{name}.diff"]
                if f"{name}.w_norm" in tensors:
                    assert f"{name}.b_norm" in tensors, f"{name}: it stops at a norm without the other"
                    delta = tensors[f"{name}.w_norm"]
                if delta is not None:
                    found[weight_name(component, path)] = delta
    for name in [*found]:
        attention, _, last = name.rpartition(".")
        opened = name.startswith("text_encoder_2.") and last in ATTENTION
        if opened and not all(f"{attention}.{each}" in found for each in ATTENTION):
            del found[name]
    return found


TOOLS: dict[str, Callable[[Tensors, Any], Deltas]] = {
    "kohya": kohya,
    "lycoris": lycoris,
    "comfyui": comfyui,
    "a1111": a1111,
}


def parts(pipe: Any) -> Iterator[tuple[str, Any]]:
    for component in ("unet", "text_encoder", "text_encoder_2"):
        if getattr(pipe, component, None) is not None:
            yield component, getattr(pipe, component)


def weights(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    return ((path, module) for path, module in model.named_modules() if getattr(module, "weight", None) is not None)


def trained_name(component: str, path: str, pipe: Any) -> str:
    """The name under which kohya's scripts have a module: their UNet of SDXL is the original one."""
    two_encoders = hasattr(pipe, "text_encoder_2")
    if component == "unet":
        return "lora_unet_" + (unet_original(path, pipe.unet) if two_encoders else path).replace(".", "_")
    prefix = {"text_encoder": "lora_te1" if two_encoders else "lora_te", "text_encoder_2": "lora_te2"}[component]
    return f"{prefix}_{inside(path)}".replace(".", "_")


def inside(path: str) -> str:
    """A CLIP module's path in transformers 4, where the model lies one level deeper."""
    return path if path.startswith("text_projection") else f"text_model.{path.removeprefix('text_model.')}"


def unet_original(path: str, unet: Any) -> str:
    """A UNet module's path in the original repository; its own where it has no weight."""
    if not isinstance(getattr(unet.get_submodule(path), "weight", None), Tensor):
        return path
    return original.unet_name(f"{path}.weight", unet).removesuffix(".weight")


def lora(tensors: Tensors, name: str, alpha_of_zero: float) -> Tensor | None:
    if f"{name}.lora_up.weight" not in tensors:
        return None
    down = tensors[f"{name}.lora_down.weight"]
    alpha = float(tensors.get(f"{name}.alpha", torch.tensor(float(len(down)))))
    scale = alpha / len(down) if alpha else alpha_of_zero
    return scale * product(tensors[f"{name}.lora_up.weight"], down)


def product(up: Tensor, down: Tensor) -> Tensor:
    return (up.double().flatten(1) @ down.double().flatten(1)).reshape(len(up), *down.shape[1:])
