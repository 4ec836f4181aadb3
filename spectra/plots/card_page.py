"""A shift's card as one HTML page that needs nothing else: its pictures, where it acts, its figures, how to use it."""

from __future__ import annotations

import base64
import shlex
import tempfile
from collections.abc import Callable, Iterable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from spectra.bases.embedded import NAME
from spectra.errors import InputError, PictureError
from spectra.hub.card import Card
from spectra.io.atomic_writes import atomic_write, check_output
from spectra.plots import style
from spectra.visible_text import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from spectra.shift.shift import SpectralShift

KINDS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
"""Pictures that a browser shows, by the ending of their names."""

LARGEST_PICTURE = 20_000_000
"""Bytes of a picture that is put into a page."""

SHEET = "before-after.png"
"""What a training leaves beside its shift."""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
img {{ max-width: 100%; height: auto; background: #fff; border-radius: .3rem; }}
th {{ text-align: left; font-weight: normal; opacity: .7; padding-right: 2rem; vertical-align: top; }}
td {{ overflow-wrap: anywhere; }}
pre {{ overflow-x: auto; padding: .8rem; border: 1px solid #8886; border-radius: .3rem; }}
</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def check(path: Path | str, *, force: bool = False) -> None:
    """Refuse a path where no page can be written.

    Raises:
        InputError: its name does not end in .html.
        OutputError: the file exists and `force` is not given, or cannot be written.
    """
    if Path(path).suffix.lower() != ".html":
        raise InputError(f"{path}: expected a page's name that ends in .html")
    check_output(path, force=force)


def pictures_of(file: Path) -> tuple[Path, ...]:
    """The pictures that a training left beside its shift."""
    sheet = file.parent / SHEET
    return (sheet,) if sheet.is_file() else ()


def write(
    draw: Callable[[], Figure],
    shift: SpectralShift,
    file: Path,
    path: Path | str,
    *,
    pictures: Sequence[Path] = (),
    force: bool = False,
) -> None:
    """Write the page of a shift.

    Args:
        draw: makes the figure of where it acts.
        shift: as read from `file`.
        file: the shift file, of which the page tells name and size.
        path: where the page goes.
        pictures: shown on it; PNG, JPEG or WebP.
        force: replace an earlier page.

    Raises:
        PictureError: a picture that cannot be read, is of another kind or is too large.
        InputError, OutputError: see `check`.
    """
    check(path, force=force)
    shown = [(_data(picture), picture.stem) for picture in pictures]
    with tempfile.TemporaryDirectory() as folder:
        style.write(draw, Path(folder) / "plot.svg")
        plot = _encoded((Path(folder) / "plot.svg").read_bytes(), "svg+xml")
    text = _PAGE.format(title=_safe(file.stem), body="\n".join(_body(shift, file, shown, plot)))
    with atomic_write(path, force=force) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _body(shift: SpectralShift, file: Path, shown: Sequence[tuple[str, str]], plot: str) -> Iterable[str]:
    told = shift.metadata
    given = told.settings.get("prompt")
    prompt = given if isinstance(given, str) and given else "..."
    base = told.base or "an unnamed base"
    of_base = [] if told.base == NAME else ["--base", "BASE"]
    command = shlex.join(["spectra", "generate", *of_base, "--shift", file.name, "--prompt", prompt])
    yield f"<h1>{_safe(file.stem)}</h1>"
    yield f"<p>A spectral shift of <b>{_safe(base)}</b>. Prompt: <q>{_safe(prompt)}</q></p>"
    for data, name in shown:
        yield f'<p><img src="{data}" alt="{_safe(name)}"></p>'
    yield "<h2>Where it acts</h2>"
    yield f'<p><img src="{plot}" alt="Energy by block and kind of layer, and weight by weight"></p>'
    yield "<h2>Figures</h2>"
    yield _table(Card(repo_id="", file=file.name, prompt=prompt).figures(shift, file.stat().st_size))
    yield "<h2>How to use it</h2>"
    yield f"<pre>{_safe(command)}</pre>"
    yield f"<pre>import spectra\n\nspectra.load(pipe, {_safe(repr(file.name))})  # a pipeline of the base</pre>"
    if told.settings:
        yield "<h2>Settings</h2>"
        yield _table((name, value) for name, value in told.settings.items() if value not in ("", [], None))


def _table(rows: Iterable[tuple[str, object]]) -> str:
    cells = (
        f"<tr><th scope=row>{_safe(name)}</th><td>{_safe(str(value).strip('`'))}</td></tr>" for name, value in rows
    )
    return "<table>\n" + "\n".join(cells) + "\n</table>"


def _safe(text: str) -> str:
    return escape(one_line(text))


def _data(picture: Path) -> str:
    kind = KINDS.get(picture.suffix.lower())
    if kind is None:
        raise PictureError(f"{picture}: expected a picture that ends in {', '.join(KINDS)}")
    try:
        if picture.stat().st_size > LARGEST_PICTURE:
            raise PictureError(f"{picture}: larger than {LARGEST_PICTURE // 10**6} MB; give a smaller picture")
        return _encoded(picture.read_bytes(), kind)
    except OSError as error:
        raise PictureError(f"{picture}: cannot be read ({error.strerror}); check the path") from error


def _encoded(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
