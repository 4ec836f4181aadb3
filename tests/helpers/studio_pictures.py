"""Takes the pictures of the studio's page for its documentation: docs/pictures/studio-*.png.

    python tests/helpers/studio_pictures.py OUT

OUT has the shifts of the merging cookbook: fox, wolf and lion, each in its folder, as `spectra train --subject fox -o
OUT/fox` leaves it. It is copied; nothing is written there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from studio_page import browser, running_studio

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
SIZE = {"width": 1280, "height": 800}
SUBJECTS = ("fox", "wolf", "lion")


def main(out: Path) -> None:
    """Start a studio on a copy, go through its views, and keep a picture of each."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "out"
        for name in SUBJECTS:
            shutil.copytree(out / name, folder / name)
        files = [str(folder / name / f"{name}.safetensors") for name in SUBJECTS[:2]]
        blend = [sys.executable, "-m", "spectra.cli", "merge", *files, "--alpha", "0.5"]
        subprocess.run([*blend, "-o", str(folder / "fox-wolf.safetensors")], check=True, capture_output=True)
        with running_studio(folder) as studio, browser() as chromium:
            page = chromium.new_page(base_url=studio.address, viewport=SIZE, color_scheme="light")
            page.set_default_timeout(120_000)
            _library(page)
            _play(page)
            _train(page)


def _library(page: Any) -> None:
    page.goto("/")
    page.get_by_role("button", name="Draw missing pictures").click()
    page.wait_for_function("document.querySelectorAll('.thumb img:not(.sheet)').length === 4")
    for name in SUBJECTS[:2]:
        page.get_by_role("article", name=f"{name}/{name}", exact=True).get_by_label("pick").check()
    page.get_by_role("link", name="Compare").wait_for()
    _keep(page, "library")


def _play(page: Any) -> None:
    page.goto("/play?shift=fox/fox&shift=wolf/wolf&strip=1&seeds=3")
    page.wait_for_function("document.querySelectorAll('figure img[src]:not(.old):not(.none)').length === 5")
    page.get_by_text("Drawn in 25 steps each.").wait_for()
    _keep(page, "play")


def _train(page: Any) -> None:
    page.goto("/train")
    page.get_by_role("button", name="Try it with a fox").click()
    page.locator(".looks .learnt", has_text="[V1] fox").nth(4).wait_for()
    page.wait_for_function("[...document.images].every(each => each.complete)")
    _keep(page, "train")


def _keep(page: Any, view: str) -> None:
    """Keep what is seen, when nothing moves any more."""
    page.wait_for_timeout(500)
    path = PICTURES / f"studio-{view}.png"
    page.screenshot(path=path)
    with Image.open(path) as taken:
        taken.convert("RGB").save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
