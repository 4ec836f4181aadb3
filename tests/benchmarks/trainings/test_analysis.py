"""`spectra bench analysis` on a tiny base with a stub for a judge: what is trained, drawn with, and told."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spectra.benchmarks import reports, run
from spectra.benchmarks.case import Bench
from spectra.benchmarks.trainings import analysis, analysis_reach, judge
from spectra.benchmarks.trainings.analysis_pictures import keep
from spectra.shift.shift_file import read_shift
from spectra.training import config
from spectra.training.run import train as training

Pictures = Sequence[Image.Image]
NAMES = ("fox-noto-v1", "wolf-emojione")
ITEMS = ("scale 0", "scale 1", "sigma 1", "delta 0", "pair fox-wolf", "correlation", "trained 1", "subset mid-block",
         "reach gradient", "reach full")  # fmt: skip


def checksum(images: Pictures, references: Pictures) -> float:
    """A judge who tells any two sets of pictures apart."""
    return zlib.crc32(b"".join(image.tobytes() for image in images)) / 2**32


@pytest.fixture
def judged(embedded: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[config.TrainConfig]]:
    """The trainings that were asked for: those of a call together."""
    short = {"prior_count": 1, "prior_steps": 1, "lr": 0.05}
    for name, value in short.items():
        monkeypatch.setitem(config.EMBEDDED, name, value)
    monkeypatch.setattr(judge, "identity", checksum)
    monkeypatch.setattr(judge, "class_scores", lambda images, concept: {"top1": checksum(images, [])})
    monkeypatch.setattr(analysis, "SUBJECTS", NAMES)
    monkeypatch.setattr(analysis, "PROBED", NAMES[:1])
    monkeypatch.setattr(analysis, "NEAR", (NAMES,))
    monkeypatch.setattr(analysis, "MERGED", (NAMES,))
    monkeypatch.setattr(analysis_reach, "STEPS", 1)
    monkeypatch.setattr(analysis_reach, "BATCH", 2)
    asked: list[list[config.TrainConfig]] = []
    train = training.train_together

    def noted(wanted: Any) -> Any:
        asked.append([each.config for each in wanted])
        return train(wanted)

    monkeypatch.setattr(training, "train_together", noted)
    return asked


def test_every_row_is_drawn_with_the_shift_it_names(judged: list[list[config.TrainConfig]], tmp_path: Path) -> None:
    case = replace(analysis.CASE, items=lambda bench: list(ITEMS))
    given = {
        "steps": 2,
        "short_steps": 1,
        "pictures": 1,
        "drawing_steps": 1,
        "shifts": tmp_path / "shifts",
        "sheets": tmp_path / "sheets",
    }
    settings = {name: str(value) for name, value in given.items()}
    record = run.run(case, out=tmp_path, settings=settings).record
    assert record["failures"] == []
    # Those of a row together, and none twice.
    assert [[(c.subject, c.seed) for c in together] for together in judged] == [
        [(NAMES[0], 0)],
        [(NAMES[1], 0)],
        [(NAMES[0], 0), (NAMES[1], 0), (NAMES[0], 1)],
        [(NAMES[0], 0)],
        [(NAMES[0], 0)],
    ]
    assert [together[0].steps for together in judged] == [2, 2, 1, 1, 1]
    limited, subset = judged[3][0], judged[4][0]
    assert (limited.directions, limited.text_encoder, subset.all_targets) == ("1", True, "mid-block")

    rows = {row["item"]: row for row in record["rows"]}
    base, whole = rows["scale 0"]["similarity"], rows["scale 1"]["similarity"]
    assert base != whole
    pair = rows["pair fox-wolf"]["subjects"][NAMES[0]]
    assert (pair["base"], pair["alone"]) == (base, whole)
    assert len({pair["base"], pair["alone"], pair["sum"], pair["half"]}) == 4
    assert rows["subset mid-block"]["similarity"] not in (base, whole)
    assert rows["subset mid-block"]["floats"] < read_shift(next((tmp_path / "shifts").glob("wolf*"))).floats
    correlation = rows["correlation"]
    assert correlation["labels"] == ["fox", "wolf", "fox, seed 1"]
    assert np.allclose(np.diag(correlation["cosines"]), 1)
    assert correlation["near"] == correlation["cosines"][0][1]
    assert correlation["same"] == correlation["cosines"][0][2]
    for kind in ("gradient", "full"):
        assert 0 < rows[f"reach {kind}"]["spectral"] < rows[f"reach {kind}"]["rank_4"] <= 1
    assert record["summary"]["cosine_near_other_seed"] == correlation["cosines"][1][2]

    # Nothing is trained again, and the report has its picture.
    assert run.run(case, out=tmp_path, only=ITEMS[-4:-2], settings=settings).failures == []
    assert len(judged) == 5
    written = reports.write(case, record, tmp_path / "report.md")
    assert [path.name for path in written] == ["report.md", "report.svg"]
    assert "(report.svg)" in written[0].read_text()
    assert {path.name for path in (tmp_path / "sheets").glob("*.png")} == {"scale.png", "rank.png"}


def test_a_sheet_shows_every_value_in_order(tmp_path: Path) -> None:
    for value, grey in ((2, 200), (10, 100), (1, 40)):
        keep(tmp_path, f"sigma {value}", "fox-noto-v1", Image.new("RGB", (16, 16), (grey,) * 3))
    keep(tmp_path, "subset unet", "fox-noto-v1", Image.new("RGB", (16, 16)))
    with Image.open(tmp_path / "rank.png") as sheet:
        row = np.asarray(sheet.convert("L"))[80]
    shown = [grey for grey in row[np.flatnonzero(np.diff(row.astype(int))) + 1] if grey < 250]
    assert shown == [40, 200, 100]
    assert not (tmp_path / "scale.png").exists()


def test_the_summary_says_how_many_directions_are_enough() -> None:
    figures = {"scale 0": 0.2, "scale 1": 0.7, "sigma 1": 0.3, "sigma 4": 0.64, "sigma 16": 0.66, "delta 1": 0.66}
    rows: list[dict[str, Any]] = [
        {"item": item, "panel": item.split()[0], "similarity": figure} for item, figure in figures.items()
    ]
    rows += [{"item": "pair a-b", "panel": "pair", "base": 0.2, "alone": 0.6, "sum": 0.5, "half": 0.4}]
    summary = analysis._summarise(Bench(analysis.CASE.settings), rows)
    assert (summary["sigma_for_90_percent"], summary["delta_for_90_percent"]) == (16, 1)
    assert (summary["pair_sum"], summary["pair_half"]) == (0.5, 0.4)
