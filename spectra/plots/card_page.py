"""A shift's card as one HTML page that needs nothing else: its pictures, where it acts, its figures, how to use it."""

from __future__ import annotations

import base64
import shlex
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
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
:root {{ color-scheme: light dark; --soft: light-dark(#56607a, #a3aec6); --line: light-dark(#d5dae3, #333c50); }}
body {{ font: 1rem/1.5 system-ui, sans-serif; margin: 0; background: light-dark(#f6f7f9, #10141d);
  color: light-dark(#1a2130, #e8ecf5); }}
main {{ max-width: 68rem; margin: 0 auto; padding: 2rem 1rem; }}
h1 {{ font-size: 2.2rem; line-height: 1.2; margin: 0; }}
h2 {{ font-size: 1.1rem; margin: 0 0 .75rem; }}
header {{ margin-bottom: 1.5rem; }}
header p {{ margin: .3rem 0; color: var(--soft); font-size: 1.1rem; }}
section {{ background: light-dark(#fff, #191f2c); border: 1px solid var(--line); border-radius: .9rem; padding: 1.25rem;
  margin-bottom: 1.25rem; min-width: 0; }}
.two {{ display: grid; gap: 0 1.25rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }}
img {{ display: block; max-width: 100%; height: auto; background: #fff; border-radius: .5rem; }}
img + img {{ margin-top: 1rem; }}
table {{ border-collapse: collapse; width: 100%; font-size: .9rem; }}
tr + tr {{ border-top: 1px solid var(--line); }}
th {{ text-align: left; font-weight: normal; color: var(--soft); padding: .3rem 1.5rem .3rem 0; vertical-align: top;
  width: 35%; }}
td {{ overflow-wrap: anywhere; padding: .3rem 0; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; padding: .8rem; border-radius: .5rem; font-size: .85rem;
  background: light-dark(#f6f7f9, #10141d); }}
summary {{ cursor: pointer; color: var(--soft); margin-top: .75rem; }}
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
    chosen: Mapping[str, object] | None = None,
    force: bool = False,
) -> None:
    """Write the page of a shift.

    Args:
        draw: makes the figure of where it acts.
        shift: as read from `file`.
        file: the shift file, of which the page tells name and size.
        path: where the page goes.
        pictures: shown on it; PNG, JPEG or WebP.
        chosen: the settings that are shown at once; all of the shift's by default.
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
    body = _body(shift, file, shown, plot, shift.metadata.settings if chosen is None else chosen)
    text = _PAGE.format(title=_safe(file.stem), body="\n".join(body))
    with atomic_write(path, force=force) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _body(
    shift: SpectralShift, file: Path, shown: Sequence[tuple[str, str]], plot: str, chosen: Mapping[str, object]
) -> Iterable[str]:
    told = shift.metadata
    given = told.settings.get("prompt")
    prompt = given if isinstance(given, str) and given else "..."
    base = told.base or "an unnamed base"
    of_base = [] if told.base == NAME else ["--base", "BASE"]
    command = shlex.join(["spectra", "generate", *of_base, "--shift", file.name, "--prompt", prompt])
    about = f"A spectral shift of <b>{_safe(base)}</b>, {_size(file.stat().st_size)}."
    called = f"<p>Prompt: <q>{_safe(prompt)}</q></p>" if prompt != "..." else ""
    yield f"<header><h1>{_safe(file.stem)}</h1><p>{about}</p>{called}</header>"
    if shown:
        pictures = "\n".join(f'<img src="{data}" alt="{_safe(name)}">' for data, name in shown)
        yield _section("Pictures", pictures)
    yield '<div class="two">'
    python = f"import spectra\n\nspectra.load(pipe, {_safe(repr(file.name))})  # a pipeline of the base"
    yield _section("How to use it", f"<pre>{_safe(command)}</pre>\n<pre>{python}</pre>")
    yield _section(
        "Figures", _table(Card(repo_id="", file=file.name, prompt=prompt).figures(shift, file.stat().st_size))
    )
    yield "</div>"
    yield _section("Where it acts", f'<img src="{plot}" alt="Energy by block and kind of layer, and weight by weight">')
    if told.settings:
        own = _table(_given(chosen))
        others = _given({name: value for name, value in told.settings.items() if name not in chosen})
        more = f"<details><summary>All others, as the preset has them</summary>\n{_table(others)}\n</details>"
        yield _section("Settings", f"{own}\n{more}" if others else own)


def _section(heading: str, content: str) -> str:
    return f"<section>\n<h2>{heading}</h2>\n{content}\n</section>"


def _given(settings: Mapping[str, object]) -> list[tuple[str, object]]:
    """Settings with a value, in words."""
    return [
        (name, ", ".join(map(str, value)) if isinstance(value, list | tuple) else value)
        for name, value in settings.items()
        if value not in ("", [], None)
    ]


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


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
