"""FLUX.2 pipelines of a few channels with random weights, in a second."""

from __future__ import annotations

from typing import Any

import tiny_qwen

CONVERSATION = "{% for message in messages %}<{{ message.role }}>{{ message.content[0].text }}{% endfor %}"
"""A chat template for messages in parts, as dev's processor takes them."""


def build_dev() -> Any:
    """A random dev: it is told a guidance, and Mistral's layers 10, 20 and 30 read the prompt."""
    from diffusers import Flux2Pipeline

    tokenizer = tiny_qwen.tokenizer()
    tokenizer.add_tokens(["[IMG]"], special_tokens=True)
    return Flux2Pipeline(tokenizer=processor(tokenizer), text_encoder=mistral(len(tokenizer)), **_parts(guidance=True))


def build_klein(*, distilled: bool = False) -> Any:
    """A random klein: it is told no guidance, and Qwen3's layers 9, 18 and 27 read the prompt."""
    from diffusers import Flux2KleinPipeline
    from transformers import Qwen3Config, Qwen3ForCausalLM

    tokenizer = tiny_qwen.tokenizer()
    encoder = Qwen3ForCausalLM(Qwen3Config(**_sizes(len(tokenizer), layers=28), tie_word_embeddings=True))
    return Flux2KleinPipeline(
        tokenizer=tokenizer, text_encoder=encoder.eval(), is_distilled=distilled, **_parts(guidance=False)
    )


def processor(tokenizer: Any) -> Any:
    """A processor of pictures and conversations; Pixtral's, which dev comes with, takes torchvision."""
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return LlavaProcessor(CLIPImageProcessorPil(), tokenizer, chat_template=CONVERSATION, image_token="[IMG]")


def mistral(vocabulary: int) -> Any:
    """A Mistral3 that can see, of so many tokens."""
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration, MistralConfig, PixtralVisionConfig

    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Mistral3Config(
        text_config=MistralConfig(**_sizes(vocabulary, layers=31)),
        vision_config=PixtralVisionConfig(**vision, patch_size=4, image_size=8),
    )
    return Mistral3ForConditionalGeneration(config).eval()


def _sizes(vocabulary: int, layers: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }


def _parts(*, guidance: bool) -> dict[str, Any]:
    """What dev and klein have alike."""
    from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel

    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=24,
        timestep_guidance_channels=8,
        axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=guidance,
    )
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    )
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return {"transformer": transformer.eval(), "vae": vae.eval(), "scheduler": scheduler}
