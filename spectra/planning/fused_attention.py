"""Attention without values: PyTorch's fused one, as it runs on any device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@contextlib.contextmanager
def fused_attention() -> Iterator[None]:
    """On the meta device PyTorch would write attention out, with its probabilities: no real device does."""

    def fused(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **more: Any,
    ) -> Tensor:
        if more.get("enable_gqa") and key.shape[-3] != query.shape[-3]:
            repeated = query.shape[-3] // key.shape[-3]
            key, value = (each.repeat_interleave(repeated, -3) for each in (key, value))
        attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out: Tensor = attend(query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale)[0]
        return out

    plain = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = fused  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = plain
