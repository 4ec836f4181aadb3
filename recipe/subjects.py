"""Renders the held-out drawings into the package, as cut-outs of 192 px."""

from __future__ import annotations

from pathlib import Path

from recipe.icons import Drawing, render

FOLDER = Path(__file__).parent.parent / "spectra" / "bases" / "embedded" / "subjects"


def save_subjects(modules: Path, drawings: list[Drawing]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for drawing in drawings:
        if drawing.held_out:
            render(modules, drawing).save(FOLDER / f"{drawing.name}.png", optimize=True)
