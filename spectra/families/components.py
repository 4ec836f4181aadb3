"""The parts of a pipeline that can carry a shift, by the names diffusers gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from spectra.errors import BaseError
from spectra.naming.patterns import DENOISERS, TEXT_ENCODERS


def components(pipe: Any) -> dict[str, nn.Module]:
    """The shiftable components of a pipeline, a mapping of components or a bare model, denoiser first.

    Raises:
        BaseError: there is none.
    """
    if isinstance(pipe, nn.Module):
        return {_component_name(pipe): pipe}
    parts: Mapping[str, Any] = pipe if isinstance(pipe, Mapping) else getattr(pipe, "components", {})
    found = {name: parts[name] for name in (*DENOISERS, *TEXT_ENCODERS) if isinstance(parts.get(name), nn.Module)}
    if not found:
        raise BaseError(
            f"{type(pipe).__name__} has no component that can carry a shift; expected a diffusers pipeline or model "
            f"with one of {', '.join((*DENOISERS, *TEXT_ENCODERS))}"
        )
    return found


def _component_name(model: nn.Module) -> str:
    """The component that a bare model stands for, from its class: `unet`, `transformer` or `text_encoder`."""
    name = type(model).__name__
    if "UNet" in name:
        return "unet"
    # Text models are called CLIPTextModel, T5EncoderModel, ...; denoisers FluxTransformer2DModel, ...
    return "transformer" if "Transformer" in name else "text_encoder"
