"""Frozen weights in a file instead of memory, while layers compute by both sides of their singular vectors.

    adapter = spectra.attach(pipe, "unet", low_memory=True)

The output is that of the base up to rounding, at delta = 0 too; `detach` reads the weights back, bit for bit.
"""

from __future__ import annotations

import math
import tempfile
import weakref

import torch
from torch import nn

from spectra.errors import OutputError
from spectra.spectrum.cache.environment import default_root
from spectra.spectrum.spectrum import has_no_values


class WeightOffload:
    """Parameters whose values are in a temporary file, in the folder of the spectrum cache; it ends with the process.

    Raises:
        OutputError: the file cannot be written.
    """

    def __init__(self) -> None:
        folder = default_root()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        except OSError as error:
            raise OutputError(f"cannot set weights aside in {folder}: {error.strerror or error}") from error
        weakref.finalize(self, self._file.close)
        self._places: dict[nn.Parameter, tuple[int, int, tuple[int, ...], torch.dtype]] = {}

    def offload(self, parameter: nn.Parameter) -> None:
        """Write the values to the file. What stays is one NaN, in their place: using it is seen."""
        held = parameter.detach()
        if not has_no_values(held):
            values = held.cpu().contiguous().flatten().view(torch.uint8).numpy()
            start = self._file.seek(0, 2)
            try:
                self._file.write(values.tobytes())
                self._file.flush()
            except OSError as error:
                raise OutputError(f"cannot set a weight aside: {error.strerror or error}") from error
            self._places[parameter] = (start, len(values), held.stride(), held.dtype)
        parameter.data = held.new_full((1,), math.nan).expand(held.shape)

    def restore(self, parameter: nn.Parameter) -> None:
        """Put the values back, on the device and in the precision that the parameter has now."""
        if parameter not in self._places:
            return
        start, size, strides, dtype = self._places.pop(parameter)
        self._file.seek(start)
        values = torch.frombuffer(bytearray(self._file.read(size)), dtype=dtype).reshape(parameter.shape)
        whole = torch.empty_strided(parameter.shape, strides, dtype=parameter.dtype, device=parameter.device)
        parameter.data = whole.copy_(values)
