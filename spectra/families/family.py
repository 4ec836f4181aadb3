"""What a model family is: a few facts and small functions, one file for each family in this room.

Latents `[b, c, h, w]` are in the model's own scale everywhere, and times in its scheduler's unit, from 0 (the picture)
to `num_train_timesteps` (noise). Whatever a model wants else (packed latents, position ids, another clock, lists, an
answer of the other sign) happens inside its family's `predict`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from spectra.bases.tokenizers import text_tokenizer
from spectra.errors import BaseError, InputError
from spectra.families.noise_schedule import DiffusionSchedule, Schedule


@dataclass(frozen=True)
class Condition:
    """What the model is conditioned on, a row for each sample.

    Attributes:
        embeds: `[b, tokens, dim]`.
        added: by name, what some families have beside it, `[b, ...]`.
        mask: `[b, tokens]` of booleans where prompts have as many tokens as they need; padding is at the end. None
            where all tokens count.
    """

    embeds: Tensor
    added: Mapping[str, Tensor] = field(default_factory=dict)
    mask: Tensor | None = None

    def rows(self, index: Tensor) -> Condition:
        """The given rows, one per sample: `index [n]` of integers. Padding that none of them needs is cut off."""
        embeds, mask = self.embeds[index], self.mask
        if mask is not None:
            mask = mask[index]
            tokens = int(mask.sum(1).max())
            embeds, mask = embeds[:, :tokens], mask[:, :tokens]
        return Condition(embeds, {name: value[index] for name, value in self.added.items()}, mask)

    def to(self, dtype: torch.dtype) -> Condition:
        """The same in the dtype in which the model computes."""
        added = {name: value.to(dtype) if value.is_floating_point() else value for name, value in self.added.items()}
        return Condition(self.embeds.to(dtype), added, self.mask)

    @staticmethod
    def joined(parts: Sequence[Condition]) -> Condition:
        """Several along the batch; the shorter ones are padded."""
        lengths = [part.embeds.shape[1] for part in parts]
        padded = [F.pad(part.embeds, (0, 0, 0, max(lengths) - n)) for part, n in zip(parts, lengths, strict=True)]
        added = {name: torch.cat([part.added[name] for part in parts]) for name in parts[0].added}
        if len(set(lengths)) == 1 and all(part.mask is None for part in parts):
            return Condition(torch.cat(padded), added)
        whole = (part.embeds.new_ones(part.embeds.shape[:2], dtype=torch.bool) for part in parts)
        masks = [every if part.mask is None else part.mask for part, every in zip(parts, whole, strict=True)]
        masks = [F.pad(mask, (0, max(lengths) - mask.shape[1])) for mask in masks]
        return Condition(torch.cat(padded), added, torch.cat(masks))

    @staticmethod
    def of_lists(embeds: Sequence[Tensor]) -> Condition:
        """Prompts of unequal length, `[tokens, dim]` each, padded to the longest."""
        padded = torch.nn.utils.rnn.pad_sequence(list(embeds), batch_first=True)
        lengths = torch.tensor([len(each) for each in embeds], device=padded.device)
        return Condition(padded, mask=torch.arange(padded.shape[1], device=padded.device) < lengths[:, None])

    def lists(self) -> list[Tensor]:
        """The prompts without their padding, `[tokens, dim]` each."""
        if self.mask is None:
            return list(self.embeds)
        return [embeds[mask] for embeds, mask in zip(self.embeds, self.mask, strict=True)]


def gaussian(vae: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation `[b, c, h, w]` of what a VAE makes of pixels `[b, 3, H, W]` in [-1, 1]."""
    posterior = vae.encode(pixels).latent_dist
    return posterior.mean, posterior.std


def decode(vae: Any, latents: Tensor) -> Tensor:
    """Pixels `[b, 3, H, W]` of a VAE's latents `[b, c, h, w]`."""
    pixels: Tensor = vae.decode(latents, return_dict=False)[0]
    return pixels


def scaling_and_shift(vae: Any) -> tuple[float, float]:
    """Offset and factor by a VAE's `shift_factor`, 0 where it has none, and `scaling_factor`."""
    return getattr(vae.config, "shift_factor", None) or 0.0, vae.config.scaling_factor


@dataclass(frozen=True)
class LatentSpace:
    """How pictures become the model's latents and back: `(the VAE's latents - offset) * factor`.

    Attributes:
        posterior: `(vae, pixels [b, 3, H, W]) -> (mean, std) [b, c, h, w]`; a VAE without a spread gives zeros.
        decoded: `(vae, latents [b, c, h, w]) -> pixels [b, 3, H, W]`.
        scale: `(vae) -> (offset, factor)`, numbers or `[c, 1, 1]`.
        patch: the VAE's places in a side of one of these latents; more than 1 where `posterior` packs them.
    """

    posterior: Callable[[Any, Tensor], tuple[Tensor, Tensor]] = gaussian
    decoded: Callable[[Any, Tensor], Tensor] = decode
    scale: Callable[[Any], tuple[Any, Any]] = scaling_and_shift
    patch: int = 1


def classifier_free(pipe: Any, guidance: float, negatives: Sequence[str], none: float = 1.0) -> dict[str, Any]:
    """A pipeline's arguments for guidance away from the negative prompts; up to `none` there is none.

    Raises:
        InputError: a negative prompt without guidance.
    """
    if not any(negatives):
        return {"guidance_scale": guidance}
    if guidance <= none:
        raise InputError(f"a negative prompt acts through guidance: expected more than {none:g}, got {guidance:g}")
    return {"guidance_scale": guidance, "negative_prompt": list(negatives)}


def without_negatives(guidance: float, negatives: Sequence[str], model: str) -> dict[str, Any]:
    """The arguments of a pipeline whose model is told its guidance, or has none, and so takes no negative prompt.

    Args:
        model: which that is, and why, for the message.

    Raises:
        InputError: a negative prompt.
    """
    if any(negatives):
        raise InputError(f"a negative prompt has no effect on {model}: leave it out")
    return {"guidance_scale": guidance}


def pipeline_guidance(pipe: Any, argument: str = "guidance_scale") -> float:
    """The guidance that a pipeline draws with where it is told none."""
    return float(inspect.signature(pipe.__call__).parameters[argument].default)


def sample_size(pipe: Any, model: Any) -> int:
    """Places in a side of the VAE's latents of a picture of the base's own size."""
    return int(getattr(pipe, "default_sample_size", 0) or model.config.sample_size)


def plain_reading(pipe: Any, encoder: str, prompt: str) -> tuple[str, int]:
    """What a text encoder gets of a prompt: just that, and as many tokens as its tokenizer takes by itself."""
    tokenizer = pipe.components[encoder.replace("text_encoder", "tokenizer")]
    return prompt, int(text_tokenizer(tokenizer).model_max_length)


@dataclass(frozen=True)
class Family:
    """How the models of a family are trained and called.

    Attributes:
        name: for messages.
        pipelines: class names of the diffusers pipelines that draw pictures from prompts alone. Pipelines that edit or
            inpaint have others.
        model: the component that answers, `unet` or `transformer`.
        text_encoders: components that `encode` runs through.
        encode: `(pipe, prompts) -> Condition` with a row per prompt; differentiable.
        reading: `(pipe, encoder, prompt) -> (text, tokens)`: the text that a text encoder gets for a prompt, with the
            prompt in it, and how many of its tokens are read at most, marks of beginning and end among them.
        predict: `(pipe, noisy [b, c, h, w], timesteps [b], condition) -> [b, c, h, w]`: the model's answer as its
            scheduler takes it.
        schedule: `(scheduler, tokens, min_snr_gamma) -> Schedule`: how noise is added to pictures of as many tokens,
            what the model should answer, how times are drawn and weighted. `DiffusionSchedule.of` or `FlowSchedule.of`.
        latents: see there.
        token: places of the latents in a side of one of the model's tokens, see `schedule`.
        grid: `(pipe) -> int`: in training, sides of the latents are multiples of it; of `token` by default.
        channels_per_latent: channels that the model takes for each channel of the VAE.
        size: `(pipe, model) -> int`: places in a side of the VAE's latents of a picture of the base's own size.
        cross_attention: what the paths of `model`'s layers end in that attend to the prompt's tokens alone, a token
            being at the same place for all encoders; empty where there are none.
        encoder_targets: what the setting `text_encoder` adds to the targets; nothing where an encoder is a language
            model, which is better encoded with once and put away.
        optional_encoders: those that a base may lack.
        guided: `(pipe, guidance, negative prompts) -> dict`: the pipeline's arguments for guidance.
        default_guidance: `(pipe) -> float`: what its pictures are drawn with where the user gives none: the pipeline's
            own default, or none where the model is distilled.
        guidance: at which the pipeline draws with just what `predict` answers.
        refuses: by feature, what a user is told who asks for it: `edit`; `unmix`, maps of attention; `text encoder`,
            where there are no `encoder_targets`; `concepts`, several trained together, for which samples must stay
            apart in every layer.
    """

    name: str
    pipelines: tuple[str, ...]
    model: str
    text_encoders: tuple[str, ...]
    encode: Callable[[Any, list[str]], Condition]
    predict: Callable[[Any, Tensor, Tensor, Condition], Tensor]
    schedule: Callable[[Any, int, float], Schedule] = DiffusionSchedule.of
    reading: Callable[[Any, str, str], tuple[str, int]] = plain_reading
    latents: LatentSpace = LatentSpace()
    token: int = 1
    grid: Callable[[Any], int] | None = None
    channels_per_latent: int = 1
    size: Callable[[Any, Any], int] = sample_size
    cross_attention: str = ""
    encoder_targets: tuple[str, ...] = ()
    optional_encoders: tuple[str, ...] = ()
    guided: Callable[[Any, float, Sequence[str]], dict[str, Any]] = classifier_free
    default_guidance: Callable[[Any], float] = pipeline_guidance
    guidance: float = 1.0
    refuses: Mapping[str, str] = field(default_factory=dict)

    def check(self, pipe: Any) -> None:
        """Refuse a pipeline that lacks a part, or that takes more than noisy latents.

        Raises:
            BaseError: naming what is wrong.
        """
        for part in (self.model, "vae", *self.text_encoders):
            if pipe.components.get(part) is None and part not in self.optional_encoders:
                raise BaseError(f"the base has no {part}: training on {self.name} needs it; give a whole pipeline")
        takes, config = getattr(pipe, self.model).config.in_channels, pipe.vae.config
        has = (getattr(config, "latent_channels", None) or config.z_dim) * self.channels_per_latent
        if takes != has:
            raise BaseError(
                f"the base's {self.model} takes {takes} channels where the VAE has {has} (an inpainting or editing "
                "base?); training expects a text-to-image base"
            )
        self.schedule(pipe.scheduler, 1, 0.0)

    def require(self, feature: str) -> None:
        """Refuse a feature that this family has not.

        Raises:
            BaseError: with what to do instead.
        """
        if feature in self.refuses:
            raise BaseError(f"{feature}: {self.refuses[feature]} (the base is {self.name})")

    def encode_pictures(self, pipe: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latents of pixels `[b, 3, H, W]` in [-1, 1], in the model's scale."""
        mean, std = self.latents.posterior(pipe.vae, pixels)
        offset, factor = self.latents.scale(pipe.vae)
        return (mean - offset) * factor, std * factor

    def decode_latents(self, pipe: Any, latents: Tensor) -> list[Image.Image]:
        """RGB pictures of latents `[b, c, h, w]` in the model's scale."""
        offset, factor = self.latents.scale(pipe.vae)
        with torch.no_grad():
            pixels = self.latents.decoded(pipe.vae, latents / factor + offset)
        return [picture.convert("RGB") for picture in pipe.image_processor.postprocess(pixels)]

    def tokens(self, shape: Sequence[int]) -> int:
        """The model's tokens for latents of `shape (c, h, w)`."""
        return int(shape[1] * shape[2]) // self.token**2

    def native_resolution(self, pipe: Any) -> int:
        """Pixels of the side of a picture that the base was made for."""
        return self.size(pipe, getattr(pipe, self.model)) * int(pipe.vae_scale_factor)

    def token_pixels(self, pipe: Any) -> int:
        """Pixels in a side of one of the model's tokens."""
        return int(pipe.vae_scale_factor) * self.latents.patch * self.token

    def resolution_step(self, pipe: Any) -> int:
        """Pixels of which the side of a training picture is a multiple."""
        tokens = self.grid(pipe) // self.token if self.grid else 1
        return tokens * self.token_pixels(pipe)
