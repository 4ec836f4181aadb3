"""A shift is held against its base before anything slow begins."""

from __future__ import annotations

from pathlib import Path

import plain_base
import pytest

from spectra.convert.full_difference import write_difference
from spectra.convert.lora.writing import write_lora
from spectra.convert.svdiff.conversion import export_svdiff
from spectra.errors import MismatchError
from spectra.spectrum.cache.spectrum_cache import SpectrumCache


def test_of_another_base_nothing_is_decomposed(tmp_path: Path) -> None:
    base = plain_base.write(tmp_path, plain_base.tensors())
    other = plain_base.random_shift(plain_base.tensors(seed=5))
    cache, out = SpectrumCache(tmp_path / "cache"), tmp_path / "out"
    with pytest.raises(MismatchError, match="another base: .* carry the shift over"):
        write_lora(other, out, base=base, rank=1, cache=cache)
    for write in (write_difference, export_svdiff):
        with pytest.raises(MismatchError, match="another base: .* carry the shift over"):
            write(other, out, base=base, cache=cache)
    assert not cache.entries()


def test_an_option_of_a_lora_that_there_is_none_of_is_refused(tmp_path: Path) -> None:
    shift = plain_base.random_shift(plain_base.tensors())
    with pytest.raises(TypeError, match="no option 'ranks'; it has rank, error, layout, dtype"):
        write_lora(shift, tmp_path / "out", ranks=1)  # type: ignore[call-arg]
