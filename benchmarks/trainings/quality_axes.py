"""What the quality bench asks of a fine-tuned pipeline, from pictures that the base draws from the same seeds.

similarity   the instance prompt's pictures to the subject's own (mean cosine of `judge.py`'s features)
class        share of the class prompt's pictures whose nearest class mean is the right one, less the base's share
leak         the class prompt's pictures to the subject's own, less what the base's have
drift        of unrelated prompts: 1 - cosine of each picture with the base's own from that seed
unrelated    share of those pictures whose nearest class mean is the right one, less the base's share
background   share of "... on a blue background" (four colours) with most of the border nearest to that colour
second       share of "... on the left and a banana on the right" (four things) whose right half shows the thing:
             its class mean is among the five nearest of that half on a white square
follows      mean of the last two
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spectra.bases.embedded.subjects import has_border
from spectra.benchmarks.case import Bench
from spectra.benchmarks.trainings.editing import EDITS
from spectra.benchmarks.trainings.trained import draw
from spectra.benchmarks.trainings.unmix import on_white_square

if TYPE_CHECKING:
    from PIL.Image import Image

    from spectra.bases.embedded.subjects import EmbeddedSubject

SECOND = ("banana", "star", "cactus", "rocket")
UNRELATED = ("horse", "pig", "rabbit", "panda", "penguin", "turtle", "dolphin", "crab", "butterfly", "ladybug", "rose",
             "sunflower", "cactus", "watermelon", "banana", "strawberry", "carrot", "hamburger", "doughnut", "castle",
             "bicycle", "rocket", "pumpkin", "guitar")  # fmt: skip
"""Concepts that no held-out subject shows, and that take "a"."""
PROMPTS = tuple(f"a drawing of a {concept}" for concept in UNRELATED)


@dataclass(frozen=True)
class Probes:
    """Pictures of one pipeline, by what its prompts ask for."""

    instance: list[Image]
    class_: list[Image]
    unrelated: list[Image]
    background: list[Image]
    second: list[Image]


def draw_all(bench: Bench, pipe: Any, subject: EmbeddedSubject, *, bare: bool = False, short: bool = False) -> Probes:
    """What the pipeline draws now.

    Args:
        bare: name the class where the subject would be named: what the base draws.
        short: leave out the class, backgrounds and second things, which the search does not need.
    """
    named = subject.class_prompt if bare else subject.prompt
    thing = named.removeprefix("a drawing of ")
    count = bench.integer("pictures")
    further, each = (0, 0) if short else (count, max(1, count // len(EDITS)))
    return Probes(
        instance=draw(bench, pipe, [named], count),
        class_=draw(bench, pipe, [subject.class_prompt], further),
        unrelated=draw(bench, pipe, PROMPTS, 1),
        background=draw(bench, pipe, [f"{named} on a {colour} background" for colour in EDITS], each),
        second=draw(bench, pipe, [f"{thing} on the left and a {other} on the right" for other in SECOND], each),
    )


def score_pictures(drawn: Probes, base: Probes, subject: EmbeddedSubject, own: Sequence[Image]) -> dict[str, float]:
    """The figures of one pipeline's pictures against the base's and the subject's own."""
    from spectra.benchmarks.trainings import judge

    found = {
        "similarity": judge.identity(drawn.instance, own),
        "drift": judge.drift(drawn.unrelated, base.unrelated),
        "unrelated": right_share(drawn.unrelated, UNRELATED) - right_share(base.unrelated, UNRELATED),
    }
    if drawn.class_:
        found["class"] = sum(
            sign * judge.class_scores(pictures, subject.concept)["top1"]
            for sign, pictures in ((1, drawn.class_), (-1, base.class_))
        )
        found["leak"] = judge.identity(drawn.class_, own) - judge.identity(base.class_, own)
        found |= prompt_following(drawn)
    return {name: round(float(value), 4) for name, value in found.items()}


def prompt_following(drawn: Probes) -> dict[str, float]:
    """How far the prompts about background and second thing are followed."""
    each = len(drawn.background) // len(EDITS)
    borders = [has_border(p, EDITS[n // each]) for n, p in enumerate(drawn.background)]
    things = [concept for concept in SECOND for _ in range(each)]
    halves = [on_white_square(p.crop((p.width // 2, 0, p.width, p.height))) for p in drawn.second]
    background, second = statistics.fmean(borders), right_share(halves, things, among=5)
    return {"background": background, "second": second, "follows": (background + second) / 2}


def right_share(pictures: Sequence[Image], concepts: Sequence[str], among: int = 1) -> float:
    """Share of the pictures whose concept is among the nearest class means."""
    from spectra.benchmarks.trainings import judge

    columns = [judge.concepts().index(concept) for concept in concepts]
    ranks = judge.class_cosines(pictures).argsort(1)[:, ::-1][:, :among]
    return statistics.fmean(column in rank for column, rank in zip(columns, ranks.tolist(), strict=True))
