"""The text-to-image pipeline that one for another task contains: image-to-image, inpainting, editing."""

from __future__ import annotations

import inspect
import re
from typing import Any

from spectra.errors import BaseError

_TASK = re.compile(r"(Img2Img|EditPlus|EditInpaint|Edit|Inpaint)(?=Pipeline$)")
"""How diffusers calls a pipeline that does another task with the parts of a text-to-image one."""


def text_to_image(pipe: Any, name: str) -> Any:
    """The pipeline itself, or the one for text to image that is made of its parts, as they are.

    Args:
        name: of the base, for messages.

    Raises:
        BaseError: the model takes a picture beside the latents, as inpainting and editing models do.
    """
    _check_channels(pipe, name)
    plain = plain_kind(type(pipe).__name__)
    if plain is None or plain is type(pipe):
        return pipe
    parts = {**pipe.config, **pipe.components}
    return plain(**{part: parts[part] for part in inspect.signature(plain.__init__).parameters if part in parts})


def plain_kind(name: str) -> Any:
    """The class of diffusers for text to image that belongs to a pipeline class's name; None if there is none."""
    import diffusers

    return getattr(diffusers, _TASK.sub("", name), None)


def _check_channels(pipe: Any, name: str) -> None:
    model, vae = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None), getattr(pipe, "vae", None)
    takes = getattr(getattr(model, "config", None), "in_channels", None)
    config = getattr(vae, "config", {})
    has = config.get("latent_channels") or config.get("z_dim")
    if not (takes and has):
        return
    most = has if getattr(pipe, "unet", None) is not None else 4 * has  # transformers take patches of 2 x 2 as one
    if takes > most:
        raise BaseError(
            f"{name}: its model takes {takes} channels where latents have {most}: an inpainting or editing model, "
            "which draws nothing from text alone; give the text-to-image base that it was made from"
        )
