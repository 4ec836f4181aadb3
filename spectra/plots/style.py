"""The look of every picture: colours that colour-blind people can tell apart, sizes for a page 1000 pixels wide."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from spectra.errors import InputError
from spectra.io.atomic_writes import atomic_write, check_output

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")

KIND_COLOURS = {
    "cross-attention": "#D55E00",
    "self-attention": "#0072B2",
    "joint attention": "#D55E00",
    "feed-forward": "#009E73",
    "modulation": "#CC79A7",
    "convolution": "#CC79A7",
    "projection": "#E69F00",
    "embedding": "#F0E442",
    "norm": "#56B4E9",
    "other": "#999999",
}
"""Colour of each kind of layer (`spectra.naming.blocks.KINDS`), by Okabe and Ito (jfly.uni-koeln.de/color).

Cross-attention and joint attention share one, and so do convolutions and modulations: no model has both.
"""

UP, DOWN, INK, PALE = "#0072B2", "#D55E00", "0.2", "0.75"
"""Colours of what grows, what shrinks, lines and text, and the background."""

LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Colours of curves, one after the other, from the same palette."""

_STYLE = {
    "axes.edgecolor": "0.4",
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.titlesize": 11,
    "font.size": 9,
    "legend.frameon": False,
    "savefig.dpi": 150,
    "svg.fonttype": "none",
    "svg.hashsalt": "spectra",
    "xtick.color": "0.3",
    "ytick.color": "0.3",
}


def check(path: Path | str, *, force: bool = False) -> None:
    """Refuse a path where no picture can be written, before slow work begins.

    Raises:
        InputError: a suffix that is none of `SUFFIXES`.
        OutputError: the file exists and `force` is not given, or cannot be written.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: expected a picture's name that ends in {' or '.join(SUFFIXES)}")
    check_output(path, force=force)


def write(make: Callable[[], Figure], path: Path | str, *, force: bool = False) -> None:
    """Write the figure that `make` draws, in this style, whatever the user's own settings of matplotlib are.

    The suffix of the file decides its format. The same picture always gives the same bytes. Raises what `check` does.
    """
    check(path, force=force)
    from matplotlib import rc_context, rcParamsDefault

    usual = {key: value for key, value in rcParamsDefault.items() if not key.startswith("backend")}
    metadata = {"Date": None} if Path(path).suffix.lower() == ".svg" else {"Software": None}
    with rc_context(usual | _STYLE), atomic_write(path, force=force) as temporary, warnings.catch_warnings():
        # A prompt in a script that the font lacks shows boxes, which is no reason to bother anybody.
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        make().savefig(temporary, metadata=metadata)


def new_figure(width: float, height: float) -> Figure:
    """An empty picture of this many inches, in which nothing overlaps."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def one_line(text: str, most: int = 90) -> str:
    """A user's text as a picture shows it: one line of at most `most` letters, in which a dollar starts no formula."""
    line = " ".join(text.split())
    return (line if len(line) <= most else f"{line[: most - 1]}…").replace("$", r"\$")


def short_name(text: str) -> str:
    """A file's name as a picture shows it: of a long one the last 31 letters, which tell more than the first."""
    return one_line(text if len(text) <= 32 else f"…{text[-31:]}")
