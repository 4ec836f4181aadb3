"""The embedded subjects, by name or by what they show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spectra.errors import InputError

if TYPE_CHECKING:
    from spectra.bases.embedded.subjects import Subject

DEFAULT = "fox"
"""Learnt by a bare `spectra train`."""


def find_subject(name: str) -> Subject:
    """The embedded subject called `name`, or the one that shows it ("fox" for "fox-noto-v1").

    Raises:
        InputError: there is none, or more than one.
    """
    from spectra.bases.embedded.subjects import SUBJECTS

    for found in ([s for s in SUBJECTS if s.name == name], [s for s in SUBJECTS if s.concept == name]):
        if len(found) == 1:
            return found[0]
    raise InputError(f"unknown subject {name!r}; the embedded ones are {', '.join(s.name for s in SUBJECTS)}")
