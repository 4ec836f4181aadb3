"""The judge: classes by nearest mean, identity by cosine, and a clear error without its packages."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from spectra.bases.embedded.subjects import SUBJECTS, instance_pictures
from spectra.benchmarks.trainings import judge
from spectra.errors import SpectraError

pytest.importorskip("efficientnet_lite_pytorch")


def test_the_same_drawing_is_more_alike_than_another_class() -> None:
    dog, car = (next(s for s in SUBJECTS if s.concept == concept) for concept in ("dog", "car"))
    dogs, cars = instance_pictures(dog, count=4, size=128), instance_pictures(car, count=4, size=128)
    assert judge.identity(dogs[:2], dogs[2:]) > judge.identity(dogs[:2], cars) + 0.3


def test_held_out_drawings_are_recognised_by_other_icon_sets_means() -> None:
    pictures = [instance_pictures(s, count=1)[0] for s in SUBJECTS]
    cosines = judge.class_cosines(pictures)
    assert cosines.shape == (24, len(judge.concepts()))
    own = [judge.concepts().index(s.concept) for s in SUBJECTS]
    ranks = (cosines > cosines[np.arange(24), own][:, None]).sum(1)
    assert (ranks < 1).mean() > 0.5
    assert (ranks < 5).mean() > 0.8


def test_class_scores_count_the_pictures_of_the_class() -> None:
    dog, owl = (next(s for s in SUBJECTS if s.concept == concept) for concept in ("dog", "owl"))
    pictures = instance_pictures(dog, count=1) + instance_pictures(owl, count=1)
    scores = judge.class_scores(pictures, "dog")
    assert scores["top1"] == judge.nearest_concepts(pictures).count("dog") / 2 == 0.5
    assert scores["cosine"] == pytest.approx(judge.class_cosines(pictures)[:, judge.concepts().index("dog")].mean())
    with pytest.raises(ValueError, match="no class mean for 'griffin'"):
        judge.class_scores(pictures, "griffin")
    with pytest.raises(ValueError, match="at least one picture"):
        judge.class_scores([], "helicopter")


def test_transparency_is_judged_on_white() -> None:
    from spectra.bases.embedded.subjects import cutout

    drawing = cutout(SUBJECTS[0])
    assert judge.identity([drawing], [instance_pictures(SUBJECTS[0], count=1, size=192)[0]]) > 0.8


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    judge.network.cache_clear()
    with pytest.raises(SpectraError, match="pip install efficientnet-lite-pytorch"):
        judge.network()
