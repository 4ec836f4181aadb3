"""The errors a caller can expect, as one tree.

    SpectraError
    ├── InputError            something given by the user is wrong or missing
    │   ├── MistakesError     several such things at once
    │   ├── PictureError      no pictures, or one that cannot be read
    │   ├── TargetError       an unknown subset name, or a pattern that matches nothing
    │   ├── BaseError         the base model is missing or is not what was expected
    │   └── FormatError       a file of another tool that cannot be read, or cannot hold what it should
    ├── WeightError           a weight that has no spectrum, or is not there (quantised, offloaded, not finite)
    ├── ShiftFileError        a file that is not a shift, is damaged, or is of a later format
    ├── MismatchError         a shift that does not fit the model it is loaded into
    ├── DivergedError         a training whose loss or parameters are not finite any more
    ├── CacheError            the spectrum cache cannot be read or written
    ├── ProcessError          another of the processes that train together has ended
    └── OutputError           an output exists already or cannot be written

    UserWarning
    ├── CacheWarning          the spectrum cache sets a damaged entry aside, or cannot keep what it computes
    ├── OutputWarning         an output was written, but something beside it is not as it was
    ├── ClippingWarning       a shift moves most singular values of a weight below zero, where they are cut off
    ├── PictureWarning        pictures, captions or prompts of which not all is used, a drawn picture that is black
    └── RoundedCopyWarning    a shift is used on a copy of its base in another precision

Every message is one line that says what was expected, what came, and what to do. The command line prints it as it
is and exits with 1; anything else that reaches it is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from spectra.visible_text import one_line


class SpectraError(Exception):
    """Base class of every error that spectra raises on purpose.

    What a message quotes of a file or its name may be of strangers: it is shortened, and has no control characters.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))


class InputError(SpectraError, ValueError):
    """Something given by the user is wrong or missing."""


class Mistakes:
    """Collects what is wrong with something given, so that all of it can be told at once.

    mistakes = Mistakes()
    with mistakes.noted():
        check(one)
    with mistakes.noted():
        check(other)
    mistakes.tell()
    """

    def __init__(self) -> None:
        self.found: list[SpectraError] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """An error of ours that the block raises is noted, and the block left."""
        try:
            yield
        except SpectraError as error:
            self.found += error.several if isinstance(error, MistakesError) else [error]

    def tell(self) -> None:
        """Raise what was noted: a single error as it is.

        Raises:
            SpectraError: something was.
        """
        distinct = list({str(error): error for error in self.found}.values())
        if len(distinct) == 1:
            raise distinct[0]
        if distinct:
            raise MistakesError(distinct)


class MistakesError(InputError):
    """Several things given are wrong at once; each is an error of its own, in `several`, and the first ten are told."""

    TOLD = 10

    def __init__(self, several: Sequence[SpectraError]) -> None:
        self.several = tuple(several)
        told = "; ".join(f"({number}) {error}" for number, error in enumerate(several[: self.TOLD], 1))
        more = f"; and {len(several) - self.TOLD:,} more" if len(several) > self.TOLD else ""
        # Each is short and visible already; all together may be longer than one message.
        Exception.__init__(self, f"{len(self.several)} mistakes: {told}{more}")


class PictureError(InputError):
    """No pictures, or one that cannot be read."""


class TargetError(InputError):
    """An unknown subset name, or a pattern that matches nothing."""


class BaseError(InputError):
    """The base model is missing or is not what was expected."""


class FormatError(InputError):
    """A file of another tool that cannot be read, or cannot hold what it should."""


class WeightError(SpectraError, ValueError):
    """A weight that has no spectrum, or is not there: not finite, quantised, complex, or on the meta device."""


class ShiftFileError(SpectraError):
    """A file that is not a shift, is damaged, or is of a later format."""


class MismatchError(SpectraError):
    """A shift that does not fit the model it is loaded into."""


class RoundedCopyWarning(UserWarning):
    """A shift is used on a copy of its base in another precision."""


class OutputWarning(UserWarning):
    """An output was written, but something beside it is not as it was."""


class ClippingWarning(UserWarning):
    """A shift moves most singular values of a weight below zero, where they are cut off."""


class PictureWarning(UserWarning):
    """Pictures, captions or prompts of which not all is used, or a picture that was drawn and is black all over."""


class CacheWarning(UserWarning):
    """The cache went on, but not as it should: a damaged entry was set aside, or nothing can be stored."""


class DivergedError(SpectraError):
    """A training whose loss or parameters are not finite any more."""


class CacheError(SpectraError):
    """The spectrum cache cannot be read or written."""


class ProcessError(SpectraError):
    """Another of the processes that train together has ended."""


class OutputError(SpectraError):
    """An output exists already or cannot be written."""
