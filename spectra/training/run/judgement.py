"""What a training came to, in words: is the subject there, did its class stay, are prompts still followed.

Losses are of the same pictures and noise before and after, on any base. On the embedded base pictures are judged too,
by colours and by the latents of its own VAE. How far pictures have come from the base's to the subject's own is told as
a share of that way, so that no scale is needed: 0 for pictures as the base draws them, 1 for those as much alike as the
subject's are among each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from spectra.bases.embedded import is_embedded
from spectra.families.execution_device import execution_device
from spectra.families.known import family_of
from spectra.progress import SILENT, Progress
from spectra.training.config import TrainConfig, defaults
from spectra.training.data.pictures import to_tensor
from spectra.training.data.subjects import learnt_pictures
from spectra.training.run.inputs import ValidatedInputs
from spectra.training.run.validation import SHOWN, PicturesByPrompt, Validation

THERE, HARDLY = 0.5, 0.25
"""Share of the way at which the subject is there, and below which it hardly is."""

LEAKS = 0.35
"""Share of the way at which pictures of the class alone show the subject."""

LEARNT = 0.03
"""Part of the loss on the subject's pictures that has to be gone, where pictures are not judged."""

CHANGED = 0.05
"""Part by which the loss on class pictures may grow."""

FOLLOWED = 0.75
"""Share of prompts about backgrounds that are followed."""

WEIGHT_DECAY = 0.1
"""What is proposed where there is none."""


@dataclass(frozen=True)
class Verdict:
    """An answer to one question about what was learnt.

    Attributes:
        question: "subject", "class" or "prompt".
        good: whether it is as it should be; None where that was not measured.
        told: the answer, with its figures.
        change: which settings to change, by their options; empty where none.
    """

    question: str
    good: bool | None
    told: str
    change: str = ""


class Losses(NamedTuple):
    """Each concept's losses before and after a training: of its own pictures, and of class pictures if it has any."""

    before: Sequence[float]
    after: Sequence[float]
    class_before: Sequence[float] | None
    class_after: Sequence[float] | None

    def of(self, number: int) -> tuple[tuple[float, float], tuple[float, float] | None]:
        """Those of one concept, before and after."""
        of_class = None
        if self.class_before and self.class_after:
            of_class = self.class_before[number], self.class_after[number]
        return (self.before[number], self.after[number]), of_class


def judge(
    pipe: Any,
    inputs: ValidatedInputs,
    resolution: int,
    validation: Validation,
    drawn: tuple[PicturesByPrompt, PicturesByPrompt],
    losses: tuple[float, float],
    of_class: tuple[float, float] | None,
    progress: Progress = SILENT,
) -> tuple[Verdict, ...]:
    """What is to be said of a concept.

    Args:
        pipe: draws with its shift now.
        inputs: of the concept; pictures of several subjects are not judged.
        resolution: pixels of the pictures' side.
        drawn: validation pictures before and after.
        losses, of_class: of the subject's pictures, and of the class pictures if there are any, before and after.
    """
    ways: dict[str, float | None] = {}
    followed = None
    config = inputs.config
    if len(inputs.subjects) == 1 and validation.seeds and is_embedded(pipe):
        fitted = learnt_pictures(config, inputs.subjects, resolution, family_of(pipe).resolution_step(pipe))[0]
        own = [each.pixels() for each in [one for one in fitted if not one.mirrored][:SHOWN]]
        before, after = drawn
        for prompt in {config.prompt, config.class_prompt} & before.keys():
            ways[prompt] = share_of_way(pipe, own, before[prompt], after[prompt])
        followed = validation.backgrounds_followed(pipe, config.prompt, progress)
    return (
        judge_subject(*losses, ways.get(config.prompt), config),
        judge_class(of_class, ways.get(config.class_prompt), config),
        judge_prompt(followed, config),
    )


def judge_subject(before: float, after: float, way: float | None, config: TrainConfig) -> Verdict:
    """Whether the subject is there.

    Args:
        before, after: loss on its pictures.
        way: of the instance prompt's pictures, see above; None where they are not judged.
    """
    change = after / before - 1 if before else 0.0
    told = f"loss on its pictures {before:.4f} -> {after:.4f} ({change:+.0%}, same noise)"
    if way is not None:
        told = f"its pictures have come {way:.0%} of the way to the subject's; {told}"
    if change > 0:
        return Verdict("subject", False, f"not there: {told}", f"lower rates: {_rates(config, 0.3)}")
    good = way >= THERE if way is not None else change <= -LEARNT
    if good:
        return Verdict("subject", True, f"there: {told}")
    word = "hardly there" if way is None or way < HARDLY else "there in part"
    slow = change > -LEARNT  # nearly as the base: what moves, moves too slowly
    faster = f", or higher rates: {_rates(config, 3)}" if slow else ""
    return Verdict("subject", False, f"{word}: {told}", f"--steps {2 * config.steps}{faster}")


def judge_class(losses: tuple[float, float] | None, leak: float | None, config: TrainConfig) -> Verdict:
    """Whether the class stayed what it was.

    Args:
        losses: on class pictures, under the prompts that they were trained by, before and after; None without any.
            Their pictures may be judged all the same.
        leak: share of the way that the class prompt's pictures have come to the subject.
    """
    held = "--class-prompt and --prior-weight 1 hold it"
    if losses is None and leak is None:
        return Verdict("class", None, "not measured: no class pictures", held)
    told, change = [], 0.0
    if leak is not None:
        told.append(f"pictures without the special word have come {max(leak, 0):.0%} of the way to the subject")
    if losses is not None:
        before, after = losses
        change = after / before - 1 if before else 0.0
        told.append(f"loss on class pictures {before:.4f} -> {after:.4f} ({change:+.0%}, same noise)")
    if change <= CHANGED and (leak is None or leak < LEAKS):
        return Verdict("class", True, f"stayed: {'; '.join(told)}")
    advice = held
    if losses is not None:
        more = f"--prior-weight {2 * max(config.prior_weight, 0.5):g}"
        advice = f"{more}, lower rates ({_rates(config, 0.3)}), or fewer --steps than {config.steps}"
    return Verdict("class", False, f"changed: {'; '.join(told)}", advice)


def judge_prompt(followed: float | None, config: TrainConfig) -> Verdict:
    """Whether prompts are followed beside the subject: the share of asked backgrounds that came, None if not drawn."""
    if followed is None:
        return Verdict("prompt", None, "see the pictures side by side; --validation-prompt draws others")
    told = f"{followed:.0%} of the backgrounds that were asked for came"
    if followed >= FOLLOWED:
        return Verdict("prompt", True, f"followed: {told}")
    advice = [f"--weight-decay {3 * config.weight_decay or WEIGHT_DECAY:g}", f"fewer --steps than {config.steps}"]
    if config.preset != "prompt":
        advice.insert(0, "--preset prompt")
    if config.prior_weight == 0:
        advice.insert(0, "--prior-weight 1, without which no prompt is held")
    return Verdict("prompt", False, f"not followed: {told}", f"{', '.join(advice[:-1])}, or {advice[-1]}")


def _rates(config: TrainConfig, factor: float) -> str:
    """The rates that move something, by a factor, and at least as far as to those by default."""
    moved = ["lr"] if config.directions != "0" else []
    moved += ["lr_outer"] if config.outer != "0" else []
    usual, further = defaults(config.base, config.preset), max if factor > 1 else min
    rates = {name: further(factor * getattr(config, name), getattr(usual, name)) for name in moved}
    return " ".join(f"--{name.replace('_', '-')} {rate:g}" for name, rate in rates.items())


def share_of_way(
    pipe: Any, own: Sequence[Image.Image], before: Sequence[Image.Image], after: Sequence[Image.Image]
) -> float | None:
    """How far pictures have come from what the base drew to the subject's own; None where the two are too alike."""
    size = own[0].size
    sets = [_features(pipe, [each.resize(size) for each in pictures]) for pictures in (own, before, after)]
    goal = _alike(sets[0], sets[0], itself=True)
    start, end = (_alike(sets[0], each) for each in sets[1:])
    return (end - start) / (goal - start) if goal - start > 0.02 else None


def _features(pipe: Any, pictures: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
    """Latents `[n, d]` of unit length, and the square roots of colours' shares `[n, 64]`."""
    pixels = to_tensor(pictures)
    vae = pipe.vae
    with torch.no_grad():
        latents, _ = family_of(pipe).encode_pictures(pipe, pixels.to(execution_device(vae), vae.dtype))
    cells = ((pixels + 1) * 1.999).long().clamp(0, 3)
    place = 16 * cells[:, 0] + 4 * cells[:, 1] + cells[:, 2]
    shares = torch.stack([torch.bincount(each.flatten(), minlength=64) for each in place]).float()
    return F.normalize(latents.flatten(1).float().cpu(), dim=1), (shares / shares.sum(1, keepdim=True)).sqrt()


def _alike(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], *, itself: bool = False) -> float:
    """Mean cosine of every two pictures, of latents and colours alike; of a set with `itself`, without each's own."""
    cosines = torch.stack([a @ b.T for a, b in zip(one, other, strict=True)]).mean(0)
    if itself and len(cosines) > 1:
        cosines = cosines[~torch.eye(len(cosines), dtype=torch.bool)]
    return float(cosines.mean())
