"""Runs the commands and Python blocks of the documents in an empty folder, those that take minutes too.

    python tests/helpers/docs_run.py [PAGE ...]         which is `make docs-run PAGES="training mixing"`

Pages are run in the order of the site. A training whose folder an earlier page has left is not done again. Pictures
that blocks make are copied to docs/pictures, with the settings that made them (`doc_pictures`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import doc_blocks
import doc_pictures
import doc_stand_ins

BIN = Path(sys.executable).parent


def main(names: list[str]) -> int:
    """Run the pages of these names, or all; 1 where a block failed."""
    pages = [page for page in doc_blocks.pages() if not names or page.stem in names]
    if missing := set(names) - {page.stem for page in pages}:
        print(f"no page is called {', '.join(sorted(missing))}", file=sys.stderr)
        return 2
    failed = 0
    with tempfile.TemporaryDirectory(prefix="spectra-docs-") as scratch:
        folder = Path(scratch)
        for page in pages:
            for block in doc_blocks.blocks(page):
                failed += not _run(block, folder)
    return int(bool(failed))


def _run(block: doc_blocks.Block, folder: Path) -> bool:
    if block.title:
        (folder / block.title).write_text(block.text, encoding="utf-8")
        return True
    python = block.language == "python"
    if block.run.startswith("no") or block.language not in ("sh", "python") or (python and not block.run):
        return True  # quick Python is run by the tests
    if not block.run:
        doc_stand_ins.place_missing(block.page, folder)
    lines = [line for line in block.text.replace("\\\n", " ").splitlines() if not _was_trained(line, folder)]
    command = [sys.executable, "-c", block.text] if python else ["bash", "-euo", "pipefail", "-c", "\n".join(lines)]
    print(f"== {block.place}", flush=True)
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "MAKEFLAGS": ""}
    place = doc_blocks.ROOT if block.text.startswith("make ") else folder
    ended = subprocess.run(command, cwd=place, env=environment)
    if ended.returncode:
        print(f"failed, {ended.returncode}: {block.place}", file=sys.stderr, flush=True)
        return False
    if place != folder and (place / "out").is_dir():
        shutil.copytree(place / "out", folder / "out", dirs_exist_ok=True)
    for picture, source in block.makes:
        doc_pictures.keep(picture, folder / source, block)
    return True


def _was_trained(line: str, folder: Path) -> bool:
    words = line.split()
    return words[:2] == ["spectra", "train"] and "-o" in words and (folder / words[words.index("-o") + 1]).exists()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
