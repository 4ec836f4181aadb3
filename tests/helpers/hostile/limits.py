"""What reading one input may take and end in: success or one line of ours, 1 s of CPU, 64 MB beyond the file's size."""

from __future__ import annotations

import resource
import time
import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path

from spectra.errors import MistakesError, SpectraError
from spectra.spectrum.cache.entry_file import DamagedEntryError

SECONDS, MEGABYTES = 1.0, 64.0
LONGEST = 1100

_CLEAR = Path("/proc/self/clear_refs")


def _peak() -> float:
    """MB of memory that the process had at most since the peak was last cleared."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def clear_peak() -> bool:
    """Forget the peak of memory, so that the next one is seen; False where the system cannot."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


class Watch:
    """Reads inputs, one after the other, and says what is wrong with each.

    The peak of memory is cleared when it has grown by half of what is allowed, since that takes a millisecond.
    """

    def __init__(self, read: Callable[[Path], object]) -> None:
        self._read, self._watched = read, clear_peak()
        self._before = _peak()

    def complaint(self, path: Path) -> str:
        """What is wrong with reading this input, in words; empty if nothing is."""
        began = time.process_time()
        found = self._outcome(path)
        seconds = time.process_time() - began
        grown = _peak() - self._before if self._watched else 0.0
        if grown > MEGABYTES / 2:
            clear_peak()
            before = self._before = _peak()
            if grown > MEGABYTES:  # perhaps by many inputs together
                self._outcome(path)
                beyond = _peak() - before - path.stat().st_size / 2**20
                clear_peak()
                self._before = _peak()
                found += f" {beyond:.0f} MB beyond the file's size" if beyond > MEGABYTES else ""
        return (found + (f" {seconds:.1f} s of CPU" if seconds > SECONDS else "")).strip()

    def _outcome(self, path: Path) -> str:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._read(path)
        except (SpectraError, DamagedEntryError) as error:
            return _about(error)
        except Exception as error:
            return f"{type(error).__name__}: {error}"[:300]
        return ""


def _about(error: Exception) -> str:
    message, longest = str(error), LONGEST
    if isinstance(error, MistakesError):
        longest *= MistakesError.TOLD
    hidden = [each for each in message if unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp")]
    if not message or hidden:
        return f"an error with {hidden!r} in it, or of no words: {message[:100]!r}"
    return f"an error of {len(message)} characters" if len(message) > longest else ""
