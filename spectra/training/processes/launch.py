"""Which of the processes of a training this one is, by what its launcher has put into the environment."""

from __future__ import annotations

import os

_COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_NUMBERS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
"""Of torchrun and accelerate, and of MPI's launchers, as accelerate knows them."""

_speaks: bool | None = None


def process_count() -> int:
    """How many processes were started; 1 without a launcher."""
    return max(1, _from_environment(_COUNTS, 1))


def process_number() -> int:
    """The number of this one, from 0 on."""
    return _from_environment(_NUMBERS, 0) if process_count() > 1 else 0


def speaks() -> bool:
    """Whether it is this process that tells how the training ended: the first one, unless another has had to."""
    return process_number() == 0 if _speaks is None else _speaks


def set_speaks(value: bool) -> None:
    """Let this process tell how the training ended, or leave it to another."""
    global _speaks
    _speaks = value


def _from_environment(names: tuple[str, ...], default: int) -> int:
    found = (os.environ.get(name, "") for name in names)
    return next((int(value) for value in found if value.isdecimal()), default)
