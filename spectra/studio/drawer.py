"""Pictures while somebody waits: one base in memory, one picture at a time, few steps first, cancelled at any step."""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from spectra.errors import InputError, SpectraError
from spectra.studio.settings import StudioSettings

if TYPE_CHECKING:
    from spectra.adapters.adapter_weights import AdapterWeights
    from spectra.serving.painter import Painter

_KEPT = 512
"""Pictures that are kept for browsers to fetch."""

FEW = 6
"""Denoising steps of the first look, where the whole picture takes more than twice as many."""


@dataclass(frozen=True)
class Cell:
    """One picture of a drawing: what to draw, and which shifts are in force, by their files."""

    prompt: str
    seed: int
    shifts: Mapping[Path, AdapterWeights] = field(default_factory=dict)
    caption: str = ""
    negative: str = ""


class Drawing:
    """Pictures that were asked for, as far as they are drawn.

    Attributes:
        cells: what to draw.
        pictures: the key of each cell's newest picture (`Drawer.fetch`); empty before there is one.
        done, total: model steps.
        whole_steps: denoising steps of each whole picture; 0 before it began.
        error: the library's line on what went wrong; empty if nothing did.
        over: nothing more will come.
    """

    def __init__(
        self, cells: Sequence[Cell], steps: int = 0, guidance: float | None = None, quick: bool = True
    ) -> None:
        self.cells, self.steps, self.guidance, self.quick = list(cells), steps, guidance, quick
        self.pictures = [""] * len(self.cells)
        self.done, self.total, self.error, self.over = 0, 0, "", False
        self.whole_steps = 0
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Draw nothing more."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._cancelled.is_set()


class _Cancelled(Exception):  # noqa: N818 - no mistake
    """A drawing was cancelled between two steps."""


class Drawer:
    """The base in memory, and whoever wants something drawn waits in line.

    Args:
        settings: with the base and the folder of shifts.
        device: to draw on; a GPU if there is one by default.
    """

    def __init__(self, settings: StudioSettings, device: str = "") -> None:
        self._settings, self._device = settings, device
        self._line = ThreadPoolExecutor(1, "drawing")
        self._painter: Future[Painter] = self._line.submit(self._load)
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._keeping = threading.Lock()

    @property
    def ready(self) -> bool:
        """Whether the base is in memory."""
        return self._painter.done() and self._painter.exception() is None

    @property
    def failed(self) -> str:
        """Why there is no base; empty where there is one, or it is still loaded."""
        error = self._painter.exception() if self._painter.done() else None
        return "" if error is None else str(error)

    @property
    def pipe(self) -> Any:
        """The pipeline; waits until it is there."""
        return self._painter.result().pipe

    def steps(self) -> int:
        """Denoising steps of a whole picture, by default."""
        return self._painter.result().sampling.steps if self.ready else 25

    def start(self, drawing: Drawing) -> Drawing:
        """Put a drawing in line; its attributes tell how far it is."""
        self._line.submit(self._draw, drawing)
        return drawing

    def keep(self, picture: Image.Image) -> str:
        """Keep a picture for browsers to fetch, under a key that its content decides."""
        written = io.BytesIO()
        picture.save(written, "PNG")
        return self.keep_bytes(written.getvalue())

    def keep_bytes(self, written: bytes) -> str:
        """Keep the bytes of a PNG."""
        key = hashlib.sha256(written).hexdigest()[:24]
        with self._keeping:
            self._kept[key] = written
            self._kept.move_to_end(key)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return key

    def fetch(self, key: str) -> bytes | None:
        """The PNG that was kept under a key; None if it is forgotten."""
        with self._keeping:
            return self._kept.get(key)

    def close(self) -> None:
        """Draw nothing more."""
        self._line.shutdown(wait=False, cancel_futures=True)

    def _load(self) -> Painter:
        from spectra.serving.painter import Painter

        return Painter(self._settings.drawing, self._device)

    def _draw(self, drawing: Drawing) -> None:
        try:
            if not drawing.cancelled:
                self._draw_all(drawing, self._painter.result())
        except _Cancelled:
            pass
        except SpectraError as error:
            drawing.error = str(error)
        except Exception as error:  # a page must not wait for ever
            drawing.error = f"{type(error).__name__}: {error}"
            raise
        finally:
            drawing.over = True

    def _draw_all(self, drawing: Drawing, painter: Painter) -> None:
        from spectra.adapters.loaded_shifts import activate
        from spectra.generation.drawing import Request, draw

        whole = replace(painter.sampling, batch=1)
        if drawing.steps:
            whole = replace(whole, steps=drawing.steps)
        if drawing.guidance is not None:
            whole = replace(whole, guidance=drawing.guidance)
        drawing.whole_steps = whole.steps
        stages = [whole]
        if drawing.quick and whole.steps > 2 * FEW:
            stages.insert(0, replace(whole, steps=FEW))
        drawing.total = sum(stage.steps for stage in stages) * len(drawing.cells)
        named = _names(painter, [path for cell in drawing.cells for path in cell.shifts])
        for error in painter.shelf.take(list(named.values())).values():
            raise error
        in_force: Mapping[Path, AdapterWeights] | None = None
        with _steps_told(painter.pipe, drawing):
            for number, stage in enumerate(stages):
                for place, cell in enumerate(drawing.cells):
                    if in_force is None or dict(cell.shifts) != dict(in_force):
                        activate(painter.pipe, {named[path]: weights for path, weights in cell.shifts.items()})
                        in_force = cell.shifts
                    (picture,) = draw(painter.pipe, [Request(cell.prompt, cell.seed, cell.negative)], stage)
                    drawing.pictures[place] = self.keep(picture)
                    before = sum(each.steps for each in stages[:number]) * len(drawing.cells)
                    drawing.done = before + stage.steps * (place + 1)


@contextlib.contextmanager
def _steps_told(pipe: Any, drawing: Drawing) -> Iterator[None]:
    """Within the block a drawing counts the model's calls, and is left before the next one once it is cancelled."""
    from spectra.families.known import find_family

    family = find_family(pipe)
    model = getattr(pipe, family.model if family else "unet")

    def called(*given: object) -> None:
        if drawing.cancelled:
            raise _Cancelled
        drawing.done = min(drawing.done + 1, drawing.total)

    hook = model.register_forward_pre_hook(called)
    try:
        yield
    finally:
        hook.remove()


def _names(painter: Painter, paths: Sequence[Path]) -> dict[Path, str]:
    """What the shelf calls these files."""
    by_path = {entry.path: name for name, entry in painter.shelf.look().items()}
    for path in paths:
        if path not in by_path:
            raise InputError(f"{path}: no shift there any more; choose another")
    return {path: by_path[path] for path in paths}
