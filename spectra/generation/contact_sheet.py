"""Contact sheets: pictures in rows under headings, each with a caption that can be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

CELL = 160
"""Smallest side of a picture on a sheet, in pixels; smaller pictures are enlarged, so that captions fit under them."""

GAP = 10
CAPTION = 13
HEADING = 17
LINES = 3
"""A caption longer than this many lines ends in an ellipsis."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Section:
    """A heading, and the pictures under it with their captions (which may be empty)."""

    heading: str
    pictures: Sequence[Image.Image]
    captions: Sequence[str] = ()


def contact_sheet(sections: Sequence[Section], columns: int = 8) -> Image.Image:
    """An RGB picture with all sections below each other on white.

    Args:
        sections: with at least one picture in all.
        columns: most pictures in a row.
    """
    caption_font, heading_font = ImageFont.load_default(CAPTION), ImageFont.load_default(HEADING)
    columns = min(columns, max(len(section.pictures) for section in sections))
    cell = max(CELL, *(min(max(picture.size), 512) for section in sections for picture in section.pictures))
    width = GAP + columns * (cell + GAP)
    rows = sum(-(-len(section.pictures) // columns) for section in sections)
    most = rows * (cell + LINES * (CAPTION + 3) + GAP) + len(sections) * (LINES * (HEADING + 4) + 2 * GAP) + GAP
    sheet = Image.new("RGB", (width, most), "white")
    pen, y = ImageDraw.Draw(sheet), GAP
    for section in sections:
        for line in wrap(section.heading, heading_font, width - 2 * GAP):
            pen.text((GAP, y), line, "black", heading_font)
            y += HEADING + 4
        y += GAP // 2 if section.heading else 0
        for first in range(0, len(section.pictures), columns):
            captions = [wrap(text, caption_font, cell) for text in section.captions[first : first + columns]]
            for column, picture in enumerate(section.pictures[first : first + columns]):
                left = GAP + column * (cell + GAP)
                sheet.paste(ImageOps.pad(picture.convert("RGB"), (cell, cell), color="white"), (left, y))
                for number, line in enumerate(captions[column] if column < len(captions) else []):
                    pen.text((left, y + cell + 2 + number * (CAPTION + 3)), line, "#444444", caption_font)
            y += cell + max(map(len, captions), default=0) * (CAPTION + 3) + GAP
        y += GAP
    return sheet.crop((0, 0, width, y))


def stacked(sheets: Sequence[Image.Image]) -> Image.Image:
    """Sheets below each other on white; narrower ones at the left."""
    whole = Image.new("RGB", (max(each.width for each in sheets), sum(each.height for each in sheets)), "white")
    y = 0
    for each in sheets:
        whole.paste(each, (0, y))
        y += each.height
    return whole


def wrap(text: str, font: Font, width: int) -> list[str]:
    """`text` in lines of at most `width` pixels, at most `LINES` of them; a word that is too long is cut."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if font.getlength(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        while font.getlength(word) > width and len(word) > 1:
            cut = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or font.getlength(word[:n]) <= width)
            lines.append(word[:cut])
            word = word[cut:]
        line = word
    lines.append(line)
    if len(lines) > LINES:
        lines = lines[:LINES]
        while lines[-1] and font.getlength(lines[-1] + "...") > width:
            lines[-1] = lines[-1][:-1]
        lines[-1] += "..."
    return [line for line in lines if line]
