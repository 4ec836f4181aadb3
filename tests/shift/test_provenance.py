"""Shifts made from others: what they fit, where they come from, and what does not go together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spectra.errors import MismatchError
from spectra.shift.metadata import ShiftMetadata
from spectra.shift.shift import SpectralShift, derive


def shift(*names: str, digits: str = "0123abcd", **described: Any) -> SpectralShift:
    described = {"base": "tiny", "ndims": dict.fromkeys(names, 2)} | described
    metadata = ShiftMetadata(fingerprints=dict.fromkeys(names, digits), **described)
    return SpectralShift({name: np.ones(3) for name in names}, metadata)


def test_it_fits_what_its_parents_fit_and_keeps_what_they_agree_on() -> None:
    a = shift("unet.a", "unet.b", subset="unet", licence="MIT", content_hash="a" * 32, settings={"steps": 3})
    b = shift("unet.b", "unet.c", subset="unet-ca", licence="MIT", content_hash="b" * 32)
    made = derive([a, b], {"unet.a": np.zeros(3), "unet.c": np.zeros(3)}, {"method": "add"})
    assert list(made) == ["unet.a", "unet.c"]
    assert made.metadata.ndims == {"unet.a": 2, "unet.c": 2}
    assert (made.metadata.base, made.metadata.subset, made.metadata.licence) == ("tiny", "", "MIT")
    assert made.metadata.parents == ("a" * 32, "b" * 32)
    assert not made.metadata.settings


def test_a_parent_without_a_file_hands_on_its_own_parents() -> None:
    a = shift("unet.a", content_hash="a" * 32)
    between = derive([a], {"unet.a": np.zeros(3)}, "half")
    assert derive([between, a], {"unet.a": np.zeros(3)}, "again").metadata.parents == ("a" * 32,)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"digits": "ffffffff"}, "unet.a is another weight"),
        ({"base_dtype": "float16"}, "tiny in float32, tiny in float16"),
    ],
)
def test_different_bases_are_refused(other: dict[str, Any], said: str) -> None:
    with pytest.raises(MismatchError, match=said):
        derive([shift("unet.a"), shift("unet.a", **other)], {"unet.a": np.zeros(3)}, None)
