"""Class pictures for prior preservation, drawn by the frozen base, and their prompts.

The pictures depend on nothing but the base, the prompt and how they are drawn. They are kept in a folder named by the
hash of just that, and trainings that share it share them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from spectra.bases.tokenizers import text_tokenizer
from spectra.errors import BaseError, OutputError, PictureError
from spectra.generation.drawing import Request, draw, is_black
from spectra.generation.picture_files import save_png
from spectra.generation.settings import Sampling
from spectra.io.atomic_writes import atomic_folder
from spectra.layers.quantised_weights import stored_parts
from spectra.progress import SILENT, Progress
from spectra.spectrum.cache.environment import prior_root
from spectra.training.data.latents import Entry
from spectra.training.data.reading import read_picture
from spectra.training.processes.group import ALONE, Processes

PICTURES_AT_ONCE = 8
"""Pictures that a training draws at once, where memory is not thought of."""


@dataclass(frozen=True)
class PriorKey:
    """Everything that decides what the class pictures show."""

    base: str
    prompt: str
    seed: int
    count: int
    size: int
    steps: int
    guidance: float

    @property
    def digest(self) -> str:
        """Name of the folder that keeps these pictures, 32 hex digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]


def pipeline_fingerprint(pipe: Any) -> str:
    """Hash of all weights and the scheduler's settings, 16 hex digits: equal ones draw the same pictures."""
    digest = hashlib.sha256()
    for name, component in sorted(pipe.components.items()):
        if isinstance(component, torch.nn.Module):
            for key, weight in component.state_dict().items():
                digest.update(f"{name}.{key} {weight.dtype} {tuple(weight.shape)}\n".encode())
                for part in stored_parts(weight):
                    flat = part.cpu().contiguous().reshape(-1)
                    digest.update(flat.view(torch.uint8).numpy().data)
    settings = {k: v for k, v in pipe.scheduler.config.items() if isinstance(v, (str, int, float, bool, type(None)))}
    digest.update(json.dumps([type(pipe.scheduler).__name__, settings], sort_keys=True).encode())
    return digest.hexdigest()[:16]


def prior_pictures(
    pipe: Any,
    key: PriorKey,
    *,
    processes: Processes = ALONE,
    at_once: int = PICTURES_AT_ONCE,
    progress: Progress = SILENT,
) -> list[Image.Image]:
    """The class pictures for a key: read if they are kept, drawn by `pipe`, the frozen base, and kept if not.

    Each process draws its share of the batches, the first keeps them all. A damaged folder is drawn again. Where the
    cache cannot be written the pictures serve this training only, with a warning.

    Args:
        at_once: pictures of a batch.

    Raises:
        BaseError: they came out black.
        ProcessError: another process has ended.
    """
    folder = prior_root() / key.digest
    if kept := processes.from_first(lambda: _kept(folder, key)):
        return kept
    requests = [Request(key.prompt, key.seed + number) for number in range(key.count)]
    sampling = Sampling(key.steps, key.guidance, key.size, key.size, at_once)
    pictures = _draw_by_shares(pipe, requests, sampling, processes, progress)
    if any(is_black(picture) for picture in pictures):
        raise BaseError(
            f"class pictures of {key.prompt!r} came out black; draw them in another --precision, or give --class-images"
        )
    if processes.first:
        try:
            with atomic_folder(folder, "class pictures", force=True) as temporary:
                for number, (picture, request) in enumerate(zip(pictures, requests, strict=True)):
                    save_png(picture, temporary / f"{number:04d}.png", {**asdict(key), **asdict(request)})
        except OutputError as error:
            warnings.warn(f"class pictures are not kept: {error}", stacklevel=2)
    return pictures


def _kept(folder: Path, key: PriorKey) -> list[Image.Image]:
    """The pictures of a key that are kept; none if some are missing or damaged."""
    with contextlib.suppress(PictureError):
        kept = [read_picture(path) for path in sorted(folder.glob("*.png"))]
        if len(kept) == key.count and all(picture.size == (key.size, key.size) for picture in kept):
            return kept
    return []


def _draw_by_shares(
    pipe: Any, requests: Sequence[Request], sampling: Sampling, processes: Processes, progress: Progress
) -> list[Image.Image]:
    """The pictures of all requests, of which each process draws whole batches: the same as by one process."""
    batches = [requests[first : first + sampling.batch] for first in range(0, len(requests), sampling.batch)]
    mine = list(processes.share(batches))
    spare = -(-len(batches) // processes.count) - len(mine) if processes.lockstep else 0
    wanted = [request for batch in mine for request in batch]
    drawn = draw(pipe, wanted, sampling, progress=progress, label="drawing class pictures") if wanted else []
    if spare:  # where the others draw one more, this process must call the model as often
        draw(pipe, batches[0], sampling)
    found = [iter(own) for own in processes.gather(drawn)]
    return [next(found[place % processes.count]) for place, batch in enumerate(batches) for _ in batch]


def prior_prompts(
    prompt: str,
    count: int,
    unconditional: float,
    *,
    random_words: float = 0.0,
    vocabulary: Sequence[str] = (),
    follow: float = 0.0,
    follow_prompts: Sequence[str] = (),
    seed: int = 0,
) -> list[str]:
    """The prompts of `count` class pictures, each kind evenly spread among the others.

    Args:
        prompt: the class prompt.
        unconditional: share of prompts that are empty.
        random_words: share in which a random word of `vocabulary` stands for the class, the prompt's last word.
        follow: share under `follow_prompts`, one after the other.
    """
    before = prompt.rpartition(" ")[0]
    drawn = random.Random(seed).choices(vocabulary, k=count) if random_words else []

    def falls(share: float, number: int) -> bool:
        return int((number + 1) * share) > int(number * share)

    found, others, rest, followed = [], 0, 0, 0
    for number in range(count):
        if falls(unconditional, number):
            found.append("")
            continue
        other = random_words > 0 and falls(random_words / (1 - unconditional), others)
        others += 1
        if other:
            found.append(f"{before} {drawn[number]}".strip())
            continue
        if follow_prompts and falls(follow / (1 - unconditional - random_words), rest):
            found.append(follow_prompts[followed % len(follow_prompts)])
            followed += 1
        else:
            found.append(prompt)
        rest += 1
    return found


def in_rounds(prompts: Sequence[str], pictures: int) -> list[Entry]:
    """The prompts with as many pictures, again and again: each time through them, prompts move on by one picture."""
    return [Entry((place + place // pictures) % pictures, prompt) for place, prompt in enumerate(prompts)]


def vocabulary(tokenizer: Any) -> list[str]:
    """The words that are one token of a byte-pair tokenizer such as CLIP's, of three letters at least, sorted.

    Raises:
        BaseError: a tokenizer that marks no ends of words.
    """
    tokenizer = text_tokenizer(tokenizer)
    tokens = (token.removesuffix("</w>") for token in tokenizer.get_vocab() if token.endswith("</w>"))
    found = sorted(token for token in tokens if token.isalpha() and token.isascii() and len(token) > 2)
    if not found:
        raise BaseError(f"keep prompts: {type(tokenizer).__name__} has no words to draw from; leave them out")
    return found
