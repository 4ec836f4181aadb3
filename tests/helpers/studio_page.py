"""A studio in a process of its own, and Debian's Chromium that looks at it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium")
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
WIDTHS = (1280, 390)
SERIOUS = ("serious", "critical")


@dataclass
class Running:
    """A studio that runs: where it is, its folder, and what it said on stderr."""

    address: str
    folder: Path
    said: list[str] = field(default_factory=list)

    @property
    def traces(self) -> list[str]:
        """Lines that only a bug says."""
        return [line for line in self.said if any(word in line for word in ("Traceback", "Error", "deprecated"))]


@contextlib.contextmanager
def running_studio(folder: Path, *options: str) -> Iterator[Running]:
    """`spectra studio` on a folder, until the block ends."""
    command = [sys.executable, "-m", "spectra.cli", "studio", "--folder", str(folder), "--port", "0", *options]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={**os.environ, "PYTHONUNBUFFERED": "1"}, **pipes) as server:
        assert server.stdout is not None and server.stderr is not None
        said: list[str] = []
        reading = threading.Thread(target=lambda: said.extend(server.stderr or ()), daemon=True)
        reading.start()
        try:
            line = server.stdout.readline()
            assert line.startswith("spectra studio: http"), (line, said)
            yield Running(line.split()[2].rstrip("/"), folder, said)
        finally:
            server.terminate()
            server.wait(30)
            reading.join(10)


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield opened
        opened.close()


def findings(page: Any) -> list[str]:
    """What axe-core finds that shuts somebody out of the page, light or dark."""
    from axe_playwright_python.sync_playwright import Axe

    said = []
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        found = [each for each in Axe().run(page).response["violations"] if each["impact"] in SERIOUS]
        said += [f"{scheme}: {each['id']}: {node['html'][:160]}" for each in found for node in each["nodes"]]
    return said


def take_shots(page: Any, name: str) -> None:
    """The page at each width, where nothing stands over; as pictures in the folder that SPECTRA_SCREENSHOTS names."""
    folder = os.environ.get("SPECTRA_SCREENSHOTS")
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        beyond = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert beyond <= 0, (name, width, beyond)
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=f"{folder}/{name}-{width}.png", full_page=True)
    page.set_viewport_size({"width": WIDTHS[0], "height": 900})
