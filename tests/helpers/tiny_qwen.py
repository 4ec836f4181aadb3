"""Qwen's language models in a few channels, and their tokenizer, as the text encoders of several families."""

from __future__ import annotations

from typing import Any

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen3's chat template, for messages of users alone."""

_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_FIRST = ["system", "user", "assistant", "Describe"]
_LATER = [
    *("the", "image", "by", "detailing", "color", "shape", "size", "texture", "quantity", "text", "spatial"),
    *("relationships", "of", "objects", "and", "background", "sun"),
]


def tokenizer() -> Any:
    """A byte-level tokenizer of which the words in templates are one token each, as in Qwen's own, and so is a sun."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    words = [*_FIRST, *(f"\u0120{word}" for word in _LATER)]  # a blank before a word is the letter \u0120 to it
    merges = dict.fromkeys((word[:end], word[end]) for word in words for end in range(1, len(word)))
    tokens = dict.fromkeys([*_SPECIAL, *sorted(ByteLevel.alphabet()), *map("".join, merges)])
    made = Qwen2Tokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=list(merges),
        additional_special_tokens=list(_SPECIAL),
        model_max_length=1024,
    )
    made.chat_template = TEMPLATE
    return made


def _sizes(width: int, tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 1024,
        "bos_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.pad_token_id,
    }


def qwen3(width: int, tokenizer: Any) -> Any:
    """A Qwen3 language model without its head."""
    from transformers import Qwen3Config, Qwen3Model

    return Qwen3Model(Qwen3Config(**_sizes(width, tokenizer), head_dim=8)).eval()


def qwen25_vl(width: int, tokenizer: Any) -> Any:
    """A Qwen2.5 language model that can see; `width` is a multiple of 16."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    sections = [width // 8, width // 16, width // 16]  # of half a head's channels: of time, height and width
    text = {
        **_sizes(width, tokenizer),
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections},
    }
    vision = {
        "depth": 1,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_heads": 2,
        "out_hidden_size": width,
        "fullatt_block_indexes": [0],
    }
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision)).eval()
