"""A tiny pipeline of each family that is known: a new family joins the tests by its line in `TINY`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tiny_base
import tiny_chroma
import tiny_flux
import tiny_flux2
import tiny_qwen_image
import tiny_sd3
import tiny_sdxl
import tiny_z_image


@dataclass(frozen=True)
class Tiny:
    """One tiny pipeline.

    Attributes:
        build: makes it, with random weights.
        saved: whether diffusers can save it and load it again.
    """

    build: Callable[[], Any]
    saved: bool = True


def velocity() -> Any:
    """Stable Diffusion 2.x that predicts velocity, on a schedule that ends in noise alone."""
    from diffusers import DDIMScheduler

    pipe = tiny_base.build(prediction="v_prediction")
    scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config, rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    pipe.register_modules(scheduler=scheduler)
    return pipe


TINY: dict[str, Tiny] = {
    "sd": Tiny(tiny_base.build),
    "sd-velocity": Tiny(velocity),
    "sdxl": Tiny(tiny_sdxl.build),
    "sd3": Tiny(tiny_sd3.build),
    "sd3-without-t5": Tiny(lambda: tiny_sd3.build(t5=False, use_dynamic_shifting=True), saved=False),
    "flux-dev": Tiny(tiny_flux.build),
    "flux-schnell": Tiny(lambda: tiny_flux.build(guidance=False)),
    "flux2-dev": Tiny(tiny_flux2.build_dev),
    "flux2-klein": Tiny(tiny_flux2.build_klein),
    "chroma": Tiny(tiny_chroma.build),
    "qwen-image": Tiny(tiny_qwen_image.build),
    "z-image": Tiny(tiny_z_image.build),
}


def build(name: str) -> Any:
    """The pipeline of this name, without bars; the same each time."""
    import torch

    torch.manual_seed(0)
    pipe = TINY[name].build()
    pipe.set_progress_bar_config(disable=True)
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval().requires_grad_(False)
    return pipe
