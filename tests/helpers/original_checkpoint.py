"""A pipeline's weights under the names, and in the shapes, that the original repositories give them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

UNET_TOP = {
    "time_embedding.linear_": "time_embed.", "conv_in.": "input_blocks.0.0.", "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.", "add_embedding.linear_": "label_emb.0.",
}  # fmt: skip
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


State = dict[str, Tensor]


def write(folder: Path, state: State, configuration: Path, **metadata: str) -> Path:
    """A checkpoint, with the configuration of a pipeline's folder in the folder of its name."""
    path = folder / "model.safetensors"
    save_file({key: value.contiguous() for key, value in state.items()}, path, metadata or None)
    shutil.copytree(configuration, folder / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    return path


def original_checkpoint(pipe: Any) -> State:
    """A Stable Diffusion pipeline, as in the files of version 1."""
    weights = original_unet(pipe.unet)
    for key, value in pipe.vae.state_dict().items():
        name = _vae(key, len(pipe.vae.config.up_block_types))
        # Attention was a 1x1 convolution there.
        flat = "attn_1" in name and value.ndim == 2
        weights[f"first_stage_model.{name}"] = value[:, :, None, None] if flat else value
    return _contiguous(weights | clip(pipe.text_encoder, "cond_stage_model.transformer."))


def original_unet(unet: Any) -> State:
    """A UNet, Stable Diffusion's or SDXL's."""
    return _contiguous({f"{DENOISER}{unet_name(key, unet)}": value for key, value in unet.state_dict().items()})


def clip(text_encoder: Any, prefix: str) -> State:
    """A CLIP text encoder with transformers' own keys under a prefix."""
    state = {f"text_model.{_flat(key)}": value for key, value in text_encoder.state_dict().items()}
    return {prefix + key.replace("text_model.text_projection", "text_projection"): v for key, v in state.items()}


def open_clip(text_encoder: Any, prefix: str) -> State:
    """A CLIP text encoder as OpenCLIP stores it: q, k and v in one, the projection transposed."""
    state = {_flat(key): value for key, value in text_encoder.state_dict().items()}
    made = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "logit_scale": torch.tensor(4.6),
    }
    if "text_projection.weight" in state:
        made["text_projection"] = state["text_projection.weight"].T
    for key, value in state.items():
        match = re.match(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", key)
        if not match:
            continue
        layer, path, kind = match.groups()
        block = f"transformer.resblocks.{layer}."
        if path == "self_attn.q_proj":
            parts = [state[key.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            made[f"{block}attn.in_proj_{kind}"] = torch.cat(parts)
        elif path in OPEN_CLIP:
            made[f"{block}{OPEN_CLIP[path]}.{kind}"] = value
    return _contiguous({prefix + key: value for key, value in made.items()})


def original_sd3(transformer: Any) -> State:
    """SD3's transformer: q, k and v in one, the last modulations with their halves swapped."""
    last = transformer.config.num_layers - 1
    return _original(transformer.state_dict(), SD3, (f"joint_blocks.{last}.context_block.adaLN", "final_layer.adaLN"))


def original_flux(transformer: Any) -> State:
    """Flux's transformer, without the prefix, as its makers published it."""
    state = _original(transformer.state_dict(), FLUX, ("final_layer.adaLN",))
    return {key.removeprefix(DENOISER): value for key, value in state.items()}


def original_chroma(transformer: Any) -> State:
    """Chroma's transformer: Flux's blocks without modulations, which one layer for all of them makes."""
    state = _original(transformer.state_dict(), FLUX | CHROMA, ())
    made = {key.removeprefix(DENOISER): value for key, value in state.items()}
    return {re.sub(r"(norms\.\d+)\.weight", r"\1.scale", key): value for key, value in made.items()}


def original_flux2(transformer: Any) -> State:
    """Flux.2's transformer: like Flux's, with one modulation for all blocks."""
    return _original(transformer.state_dict(), FLUX2, ("final_layer.adaLN",))


def original_z_image(transformer: Any) -> State:
    """Z-Image's transformer: q, k and v in one."""
    return _original(transformer.state_dict(), Z_IMAGE, ())


def _original(state: State, table: dict[str, str], swapped: tuple[str, ...]) -> State:
    made: dict[str, list[Tensor]] = {}
    for ours, theirs in table.items():
        for key in state:
            match = re.fullmatch(ours + r"(\.weight|\.bias|)", key)
            if not match:
                continue
            name = match.expand(theirs) + match.groups()[-1]
            made.setdefault(re.sub(r"(query|key)_norm\.weight", r"\1_norm.scale", name), []).append(state[key])
    joined = {key: torch.cat(parts) if len(parts) > 1 else parts[0] for key, parts in made.items()}
    for key, value in joined.items():
        if key.startswith(swapped):
            scale, shift = value.chunk(2)
            joined[key] = torch.cat([shift, scale])
    return _contiguous({DENOISER + key: value for key, value in joined.items()})


def _contiguous(state: State) -> State:
    return {key: value.contiguous() for key, value in state.items()}


def _flat(key: str) -> str:
    return key.removeprefix("text_model.")


DENOISER = "model.diffusion_model."
OPEN_CLIP = {
    "self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}  # fmt: skip

_JOINT = r"transformer_blocks\.(\d+)\."
SD3 = {
    r"pos_embed\.pos_embed": "pos_embed",
    r"pos_embed\.proj": "x_embedder.proj",
    r"time_text_embed\.timestep_embedder\.linear_1": "t_embedder.mlp.0",
    r"time_text_embed\.timestep_embedder\.linear_2": "t_embedder.mlp.2",
    r"time_text_embed\.text_embedder\.linear_1": "y_embedder.mlp.0",
    r"time_text_embed\.text_embedder\.linear_2": "y_embedder.mlp.2",
    r"context_embedder": "context_embedder",
    **{rf"{_JOINT}attn\.to_{part}": r"joint_blocks.\1.x_block.attn.qkv" for part in "qkv"},
    **{rf"{_JOINT}attn\.add_{part}_proj": r"joint_blocks.\1.context_block.attn.qkv" for part in "qkv"},
    **{rf"{_JOINT}attn2\.to_{part}": r"joint_blocks.\1.x_block.attn2.qkv" for part in "qkv"},
    rf"{_JOINT}attn2\.norm_([qk])": r"joint_blocks.\1.x_block.attn2.ln_\2",
    rf"{_JOINT}attn2\.to_out\.0": r"joint_blocks.\1.x_block.attn2.proj",
    rf"{_JOINT}attn\.norm_([qk])": r"joint_blocks.\1.x_block.attn.ln_\2",
    rf"{_JOINT}attn\.norm_added_([qk])": r"joint_blocks.\1.context_block.attn.ln_\2",
    rf"{_JOINT}attn\.to_out\.0": r"joint_blocks.\1.x_block.attn.proj",
    rf"{_JOINT}attn\.to_add_out": r"joint_blocks.\1.context_block.attn.proj",
    rf"{_JOINT}norm1\.linear": r"joint_blocks.\1.x_block.adaLN_modulation.1",
    rf"{_JOINT}norm1_context\.linear": r"joint_blocks.\1.context_block.adaLN_modulation.1",
    rf"{_JOINT}ff\.net\.0\.proj": r"joint_blocks.\1.x_block.mlp.fc1",
    rf"{_JOINT}ff\.net\.2": r"joint_blocks.\1.x_block.mlp.fc2",
    rf"{_JOINT}ff_context\.net\.0\.proj": r"joint_blocks.\1.context_block.mlp.fc1",
    rf"{_JOINT}ff_context\.net\.2": r"joint_blocks.\1.context_block.mlp.fc2",
    r"proj_out": "final_layer.linear",
    r"norm_out\.linear": "final_layer.adaLN_modulation.1",
}
_SINGLE = r"single_transformer_blocks\.(\d+)\."
FLUX = {
    r"time_text_embed\.timestep_embedder\.linear_1": "time_in.in_layer",
    r"time_text_embed\.timestep_embedder\.linear_2": "time_in.out_layer",
    r"time_text_embed\.text_embedder\.linear_1": "vector_in.in_layer",
    r"time_text_embed\.text_embedder\.linear_2": "vector_in.out_layer",
    r"time_text_embed\.guidance_embedder\.linear_1": "guidance_in.in_layer",
    r"time_text_embed\.guidance_embedder\.linear_2": "guidance_in.out_layer",
    r"context_embedder": "txt_in",
    r"x_embedder": "img_in",
    rf"{_JOINT}norm1\.linear": r"double_blocks.\1.img_mod.lin",
    rf"{_JOINT}norm1_context\.linear": r"double_blocks.\1.txt_mod.lin",
    **{rf"{_JOINT}attn\.to_{part}": r"double_blocks.\1.img_attn.qkv" for part in "qkv"},
    **{rf"{_JOINT}attn\.add_{part}_proj": r"double_blocks.\1.txt_attn.qkv" for part in "qkv"},
    rf"{_JOINT}attn\.norm_q": r"double_blocks.\1.img_attn.norm.query_norm",
    rf"{_JOINT}attn\.norm_k": r"double_blocks.\1.img_attn.norm.key_norm",
    rf"{_JOINT}attn\.norm_added_q": r"double_blocks.\1.txt_attn.norm.query_norm",
    rf"{_JOINT}attn\.norm_added_k": r"double_blocks.\1.txt_attn.norm.key_norm",
    rf"{_JOINT}attn\.to_out\.0": r"double_blocks.\1.img_attn.proj",
    rf"{_JOINT}attn\.to_add_out": r"double_blocks.\1.txt_attn.proj",
    rf"{_JOINT}ff\.net\.0\.proj": r"double_blocks.\1.img_mlp.0",
    rf"{_JOINT}ff\.net\.2": r"double_blocks.\1.img_mlp.2",
    rf"{_JOINT}ff_context\.net\.0\.proj": r"double_blocks.\1.txt_mlp.0",
    rf"{_JOINT}ff_context\.net\.2": r"double_blocks.\1.txt_mlp.2",
    rf"{_SINGLE}norm\.linear": r"single_blocks.\1.modulation.lin",
    **{rf"{_SINGLE}attn\.to_{part}": r"single_blocks.\1.linear1" for part in "qkv"},
    rf"{_SINGLE}proj_mlp": r"single_blocks.\1.linear1",
    rf"{_SINGLE}attn\.norm_q": r"single_blocks.\1.norm.query_norm",
    rf"{_SINGLE}attn\.norm_k": r"single_blocks.\1.norm.key_norm",
    rf"{_SINGLE}proj_out": r"single_blocks.\1.linear2",
    r"proj_out": "final_layer.linear",
    r"norm_out\.linear": "final_layer.adaLN_modulation.1",
}
CHROMA = {
    r"distilled_guidance_layer\.(in_proj|out_proj|norms\.\d+)": r"distilled_guidance_layer.\1",
    r"distilled_guidance_layer\.layers\.(\d+)\.linear_1": r"distilled_guidance_layer.layers.\1.in_layer",
    r"distilled_guidance_layer\.layers\.(\d+)\.linear_2": r"distilled_guidance_layer.layers.\1.out_layer",
}
FLUX2 = {
    r"time_guidance_embed\.timestep_embedder\.linear_1": "time_in.in_layer",
    r"time_guidance_embed\.timestep_embedder\.linear_2": "time_in.out_layer",
    r"time_guidance_embed\.guidance_embedder\.linear_1": "guidance_in.in_layer",
    r"time_guidance_embed\.guidance_embedder\.linear_2": "guidance_in.out_layer",
    r"(double_stream_modulation_img|double_stream_modulation_txt|single_stream_modulation)\.linear": r"\1.lin",
    **{ours: theirs for ours, theirs in FLUX.items() if "attn" in ours and ours.startswith(_JOINT)},
    r"context_embedder": "txt_in",
    r"x_embedder": "img_in",
    rf"{_JOINT}ff\.linear_in": r"double_blocks.\1.img_mlp.0",
    rf"{_JOINT}ff\.linear_out": r"double_blocks.\1.img_mlp.2",
    rf"{_JOINT}ff_context\.linear_in": r"double_blocks.\1.txt_mlp.0",
    rf"{_JOINT}ff_context\.linear_out": r"double_blocks.\1.txt_mlp.2",
    rf"{_SINGLE}attn\.to_qkv_mlp_proj": r"single_blocks.\1.linear1",
    rf"{_SINGLE}attn\.to_out": r"single_blocks.\1.linear2",
    rf"{_SINGLE}attn\.norm_q": r"single_blocks.\1.norm.query_norm",
    rf"{_SINGLE}attn\.norm_k": r"single_blocks.\1.norm.key_norm",
    r"proj_out": "final_layer.linear",
    r"norm_out\.linear": "final_layer.adaLN_modulation.1",
}
Z_IMAGE = {
    **{rf"(.+)\.attention\.to_{part}": r"\1.attention.qkv" for part in "qkv"},
    r"(.+)\.attention\.to_out\.0": r"\1.attention.out",
    r"(.+)\.attention\.norm_([qk])": r"\1.attention.\2_norm",
    r"all_final_layer\.2-1\.(.+?)": r"final_layer.\1",
    r"all_x_embedder\.2-1": "x_embedder",
    r"((?:layers|noise_refiner|context_refiner)\.\d+\.(?!attention\.).+?|t_embedder.+?|cap_embedder.+?)": r"\1",
    r"(x_pad_token|cap_pad_token)": r"\1",
}


def unet_name(key: str, unet: Any) -> str:
    """What the original repository calls a tensor of a UNet."""
    per_block = unet.config.layers_per_block + 1
    for ours, theirs in UNET_TOP.items():
        if key.startswith(ours):
            rest = key.removeprefix(ours)
            if ours.endswith("linear_"):
                number, kind = rest.split(".")
                return f"{theirs}{2 * (int(number) - 1)}.{kind}"
            return theirs + rest
    if mid := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", key):
        part, number, rest = mid.groups()
        place = 2 * int(number) + (part == "attentions")
        return f"middle_block.{place}.{_resnet(rest) if part == 'resnets' else rest}"
    block = re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.+)", key)
    assert block, key
    way, level, part, number, rest = block.groups()
    stem = "input_blocks" if way == "down" else "output_blocks"
    first = int(level) * per_block + (way == "down")
    if part == "downsamplers":
        return f"{stem}.{first + per_block - 1}.0.{rest.replace('conv', 'op')}"
    if part == "upsamplers":
        slot = 2 if "CrossAttn" in unet.config.up_block_types[int(level)] else 1
        return f"{stem}.{first + per_block - 1}.{slot}.{rest}"
    if part == "attentions":
        return f"{stem}.{first + int(number)}.1.{rest}"
    return f"{stem}.{first + int(number)}.0.{_resnet(rest)}"


def _resnet(rest: str) -> str:
    part, _, kind = rest.rpartition(".")
    return f"{RESNET[part]}.{kind}"


def _vae(key: str, levels: int) -> str:
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    if "mid_block.attentions.0" in key:
        key = key.replace("mid_block.attentions.0", "mid.attn_1")
        for ours, theirs in ATTENTION.items():
            key = key.replace(f".{ours}.", f".{theirs}.")
    key = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", key)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", key)
