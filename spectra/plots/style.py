"""How every picture looks: colours that colour-blind people can tell apart, sizes for a page 1000 pixels wide."""

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
    "convolution": "#CC79A7",
    "projection": "#E69F00",
    "embedding": "#F0E442",
    "norm": "#56B4E9",
    "other": "#999999",
}
"""Of the kinds of layer (`spectra.analysis.inspection.KINDS`): the palette of Okabe and Ito (jfly.uni-koeln.de/color).

A model has cross-attention or joint attention.
"""

UP, DOWN, INK, PALE = "#0072B2", "#D55E00", "0.2", "0.75"
"""What grows, what shrinks, lines and text, and what stays in the background."""

LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Of curves, one after the other, from the same palette."""

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
    """Whether a picture can be written there, to be asked before slow work begins.

    Raises:
        InputError: a suffix that is none of `SUFFIXES`.
        OutputError: the file exists and `force` is not given, or cannot be written.
    """
    if Path(path).suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: expected a picture's name that ends in {' or '.join(SUFFIXES)}")
    check_output(path, force=force)


def write(make: Callable[[], Figure], path: Path | str, *, force: bool = False) -> None:
    """Draw a picture in this style, whatever the user's own settings are, in the format of the file's suffix.

    The same picture always gives the same bytes.

    Args:
        make: draws the figure.
        path: of the file.
        force: replace a file that exists.

    Raises:
        InputError: a suffix that is none of `SUFFIXES`.
        OutputError: the file exists and `force` is not given, or cannot be written.
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


def shown(text: str, most: int = 90) -> str:
    """Text of a user in a picture: in one line, no longer than `most` letters, and a dollar is a dollar."""
    line = " ".join(text.split())
    return (line if len(line) <= most else f"{line[: most - 1]}…").replace("$", r"\$")


def shown_name(text: str, most: int = 32) -> str:
    """The same of a file's name, of which the end tells more than the beginning."""
    return shown(text if len(text) <= most else f"…{text[1 - most :]}", most)
