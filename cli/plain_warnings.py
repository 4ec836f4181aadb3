"""What the library warns of, as one plain line on stderr when it happens."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import TextIO

from spectra.cli import output
from spectra.errors import RoundedCopyWarning
from spectra.spectrum.cache.usage import CacheWarning

_OURS = (CacheWarning, RoundedCopyWarning)


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """The library's warnings inside the block are said without the place in our source that Python shows by default."""
    with warnings.catch_warnings():
        for category in _OURS:
            warnings.simplefilter("always", category)
        before = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, _OURS):
                output.say(f"warning: {message}")
            else:
                before(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield
