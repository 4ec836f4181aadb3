"""The modules of diffusers' transformers, and what the original repositories call them, `{}` for a block's number.

Those of one name are fused there, in the order in which they stand here. Qwen-Image has diffusers' names.
"""

from __future__ import annotations

import re

_JOINT = "transformer_blocks.{}."
_SINGLE = "single_transformer_blocks.{}."
SD3 = {
    "pos_embed.proj": "x_embedder.proj",
    "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
    "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
    "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
    "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
    "context_embedder": "context_embedder",
    **{f"{_JOINT}attn.to_{part}": "joint_blocks.{}.x_block.attn.qkv" for part in "qkv"},
    **{f"{_JOINT}attn.add_{part}_proj": "joint_blocks.{}.context_block.attn.qkv" for part in "qkv"},
    **{f"{_JOINT}attn2.to_{part}": "joint_blocks.{}.x_block.attn2.qkv" for part in "qkv"},
    **{f"{_JOINT}attn.norm_{part}": f"joint_blocks.{{}}.x_block.attn.ln_{part}" for part in "qk"},
    **{f"{_JOINT}attn.norm_added_{part}": f"joint_blocks.{{}}.context_block.attn.ln_{part}" for part in "qk"},
    **{f"{_JOINT}attn2.norm_{part}": f"joint_blocks.{{}}.x_block.attn2.ln_{part}" for part in "qk"},
    f"{_JOINT}attn.to_out.0": "joint_blocks.{}.x_block.attn.proj",
    f"{_JOINT}attn.to_add_out": "joint_blocks.{}.context_block.attn.proj",
    f"{_JOINT}attn2.to_out.0": "joint_blocks.{}.x_block.attn2.proj",
    f"{_JOINT}norm1.linear": "joint_blocks.{}.x_block.adaLN_modulation.1",
    f"{_JOINT}norm1_context.linear": "joint_blocks.{}.context_block.adaLN_modulation.1",
    f"{_JOINT}ff.net.0.proj": "joint_blocks.{}.x_block.mlp.fc1",
    f"{_JOINT}ff.net.2": "joint_blocks.{}.x_block.mlp.fc2",
    f"{_JOINT}ff_context.net.0.proj": "joint_blocks.{}.context_block.mlp.fc1",
    f"{_JOINT}ff_context.net.2": "joint_blocks.{}.context_block.mlp.fc2",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}

_STREAMS = {  # what the two streams of Flux, Chroma and Flux.2 share
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    **{f"{_JOINT}attn.to_{part}": "double_blocks.{}.img_attn.qkv" for part in "qkv"},
    **{f"{_JOINT}attn.add_{part}_proj": "double_blocks.{}.txt_attn.qkv" for part in "qkv"},
    f"{_JOINT}attn.norm_q": "double_blocks.{}.img_attn.norm.query_norm",
    f"{_JOINT}attn.norm_k": "double_blocks.{}.img_attn.norm.key_norm",
    f"{_JOINT}attn.norm_added_q": "double_blocks.{}.txt_attn.norm.query_norm",
    f"{_JOINT}attn.norm_added_k": "double_blocks.{}.txt_attn.norm.key_norm",
    f"{_JOINT}attn.to_out.0": "double_blocks.{}.img_attn.proj",
    f"{_JOINT}attn.to_add_out": "double_blocks.{}.txt_attn.proj",
    f"{_SINGLE}attn.norm_q": "single_blocks.{}.norm.query_norm",
    f"{_SINGLE}attn.norm_k": "single_blocks.{}.norm.key_norm",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}

_BLOCKS = {  # what those of Flux and Chroma share
    **_STREAMS,
    f"{_JOINT}ff.net.0.proj": "double_blocks.{}.img_mlp.0",
    f"{_JOINT}ff.net.2": "double_blocks.{}.img_mlp.2",
    f"{_JOINT}ff_context.net.0.proj": "double_blocks.{}.txt_mlp.0",
    f"{_JOINT}ff_context.net.2": "double_blocks.{}.txt_mlp.2",
    **{f"{_SINGLE}attn.to_{part}": "single_blocks.{}.linear1" for part in "qkv"},
    f"{_SINGLE}proj_mlp": "single_blocks.{}.linear1",
    f"{_SINGLE}proj_out": "single_blocks.{}.linear2",
}

FLUX = {
    **_BLOCKS,
    **{
        f"time_text_embed.{ours}_embedder.linear_{number}": f"{theirs}_in.{side}_layer"
        for ours, theirs in (("timestep", "time"), ("text", "vector"), ("guidance", "guidance"))
        for number, side in ((1, "in"), (2, "out"))
    },
    f"{_JOINT}norm1.linear": "double_blocks.{}.img_mod.lin",
    f"{_JOINT}norm1_context.linear": "double_blocks.{}.txt_mod.lin",
    f"{_SINGLE}norm.linear": "single_blocks.{}.modulation.lin",
}

CHROMA = {
    **_BLOCKS,
    **{f"distilled_guidance_layer.{part}": f"distilled_guidance_layer.{part}" for part in ("in_proj", "out_proj")},
    "distilled_guidance_layer.norms.{}": "distilled_guidance_layer.norms.{}",
    "distilled_guidance_layer.layers.{}.linear_1": "distilled_guidance_layer.layers.{}.in_layer",
    "distilled_guidance_layer.layers.{}.linear_2": "distilled_guidance_layer.layers.{}.out_layer",
}

FLUX2 = {
    **_STREAMS,
    **{
        f"time_guidance_embed.{ours}_embedder.linear_{number}": f"{theirs}_in.{side}_layer"
        for ours, theirs in (("timestep", "time"), ("guidance", "guidance"))
        for number, side in ((1, "in"), (2, "out"))
    },
    **{
        f"{name}.linear": f"{name}.lin"
        for name in ("double_stream_modulation_img", "double_stream_modulation_txt", "single_stream_modulation")
    },
    f"{_JOINT}ff.linear_in": "double_blocks.{}.img_mlp.0",
    f"{_JOINT}ff.linear_out": "double_blocks.{}.img_mlp.2",
    f"{_JOINT}ff_context.linear_in": "double_blocks.{}.txt_mlp.0",
    f"{_JOINT}ff_context.linear_out": "double_blocks.{}.txt_mlp.2",
    f"{_SINGLE}attn.to_qkv_mlp_proj": "single_blocks.{}.linear1",
    f"{_SINGLE}attn.to_out": "single_blocks.{}.linear2",
}

Z_IMAGE = {
    **{
        f"{block}.{{}}.attention.{ours}": f"{block}.{{}}.attention.{theirs}"
        for block in ("layers", "noise_refiner", "context_refiner")
        for ours, theirs in (
            *((f"to_{part}", "qkv") for part in "qkv"),
            *((f"norm_{part}", f"{part}_norm") for part in "qk"),
            ("to_out.0", "out"),
        )
    },
    "all_x_embedder.2-1": "x_embedder",
    "all_final_layer.2-1.linear": "final_layer.linear",
    "all_final_layer.2-1.adaLN_modulation.1": "final_layer.adaLN_modulation.1",
}

SAME_IN_Z_IMAGE = re.compile(r"(layers|noise_refiner|context_refiner|t_embedder|cap_embedder)\.(?!.*attention\.)")
"""Modules of Z-Image that have one name everywhere."""
