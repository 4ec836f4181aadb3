"""`spectra bench editing` on a tiny base with a stub for a judge: what is compared with what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spectra.bases.embedded.subjects import COLOURS, SUBJECTS, has_border, plain_picture, silhouette
from spectra.benchmarks import run
from spectra.benchmarks.case import Bench
from spectra.benchmarks.trainings import editing, judge
from spectra.editing import settings


def embed(images: Sequence[Image.Image]) -> Any:
    """Pixels in place of a network's features: unit vectors, centred."""
    pixels = np.stack([np.asarray(image.resize((16, 16)), np.float64).ravel() for image in images]) - 128
    return pixels / np.linalg.norm(pixels, axis=1, keepdims=True)


def test_a_row(embedded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "network", lambda: None)
    monkeypatch.setattr(judge, "embed", embed)
    monkeypatch.setitem(settings.DRAWING_EMBEDDED, "steps", 2)
    record = run.run(editing.CASE, out=tmp_path, only=["cat-emojione colour"], settings={"steps": 2}).record
    assert record["failures"] == []
    (row,) = record["rows"]
    assert row["caption"] == "a drawing of a cat on a orange background"
    assert row["train_steps"] == 2
    assert (row["hits"], len(row["each_kept"])) == (sum(row["each_hit"]), 4)
    assert row["kept"] == pytest.approx(np.mean(row["each_kept"]), abs=1e-3)
    assert row["lost_db"] == pytest.approx(row["vae_psnr"] - row["unedited_psnr"], abs=0.01)
    assert record["summary"]["colour_both"] in (0, 1)


def test_settings_that_are_nothing_leave_the_defaults() -> None:
    def drawing(**settings: Any) -> dict[str, Any]:
        return editing._drawing(Bench(settings={**editing.CASE.settings, **settings}))

    assert drawing() == {"seeds": (0,), "noise_mixes": (0.0,)}
    assert drawing(scale="0")["scales"] == (0.0,)  # nothing learnt is a scale too
    assert drawing(keep="0")["keeps"] == (0.0,)  # so is nothing kept
    paper = drawing(anchor="edit", guidance=3.0, scale="1")
    assert (paper["anchor"], paper["guidances"], paper["scales"]) == ("edit", (3.0,), (1.0,))


def test_the_border_tells_the_ground_and_the_cut_out_forgets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "embed", embed)
    fox = next(subject for subject in SUBJECTS if subject.concept == "fox")
    for colour in COLOURS:
        picture = plain_picture(fox, colour)
        assert [name for name in COLOURS if has_border(picture, name)] == [colour]
        (alike,) = editing._likeness(fox, [picture], plain_picture(fox))
        assert alike > 0.97
    assert (np.asarray(silhouette(fox))[[0, 0, -1, -1], [0, -1, 0, -1]] == 0).all()
