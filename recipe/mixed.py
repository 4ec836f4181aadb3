"""Mixed precision for CPUs: a bf16 copy computes, fp32 weights are stepped and averaged.

Measured on one core with AMX, the UNet at batch 32: fp32 1.14 s a step; fp32 without the fused attention, whose
backward pass is slow for small heads, .95 s; the copy used here .42 s. `torch.autocast` casts at every operation and
its bf16 group norm is slow in channels_last, so that it gains nothing by itself.
"""

from __future__ import annotations

import copy
import types

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import nn
from torch.nn import functional as F


def _norm_in_fp32(self: nn.GroupNorm, x: torch.Tensor) -> torch.Tensor:
    out = F.group_norm(x.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps)
    return out.to(x.dtype)


def fast_copy(model: nn.Module) -> nn.Module:
    """A bf16, channels_last copy with plain attention and fp32 group norms."""
    fast = copy.deepcopy(model).to(torch.bfloat16).to(memory_format=torch.channels_last)
    fast.set_attn_processor(AttnProcessor())
    for module in fast.modules():
        if isinstance(module, nn.GroupNorm):
            module.forward = types.MethodType(_norm_in_fp32, module)
    return fast.train()


def fast_input(x: torch.Tensor) -> torch.Tensor:
    x = x.to(torch.bfloat16)
    return x.to(memory_format=torch.channels_last) if x.ndim == 4 else x


class MixedTrainer:
    """Owns the fp32 weights, their average, AdamW's state, and the bf16 copy that computes gradients."""

    def __init__(self, model: nn.Module, weight_decay: float = 1e-2, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        self.model = model
        self.fast = fast_copy(model)
        self.average = [p.detach().clone() for p in model.parameters()]
        plain = [p for p in model.parameters() if p.ndim < 2]
        decayed = [p for p in model.parameters() if p.ndim >= 2]
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=betas, foreach=True)

    @torch.no_grad()
    def step(self, lr: float, decay: float, clip: float = 1.0) -> float:
        """Applies the copy's gradients; returns their norm before clipping. `decay` is the average's."""
        weights, copies = list(self.model.parameters()), list(self.fast.parameters())
        for weight, duplicate in zip(weights, copies, strict=True):
            weight.grad = duplicate.grad.float() if duplicate.grad is not None else None
            duplicate.grad = None
        norm = torch.nn.utils.clip_grad_norm_(weights, clip, foreach=True)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        torch._foreach_lerp_(self.average, weights, 1 - decay)
        torch._foreach_copy_(copies, weights)
        return float(norm)

    @torch.no_grad()
    def averaged(self) -> nn.Module:
        """A new fp32 model with the averaged weights."""
        model = copy.deepcopy(self.model).eval()
        torch._foreach_copy_(list(model.parameters()), self.average)
        return model

    def state(self) -> dict:
        return {
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }

    @torch.no_grad()
    def load(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        torch._foreach_copy_(self.average, state["average"])
        torch._foreach_copy_(list(self.fast.parameters()), list(self.model.parameters()))
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])
