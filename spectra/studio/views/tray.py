"""Uploaded pictures with their captions; what is known of how a training will see them is put beside each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nicegui import ui

from spectra.errors import SpectraError
from spectra.studio.looks import Look
from spectra.studio.studio import Studio
from spectra.studio.views.elements import button, picture, tag, text_field


class Tray:
    """The pictures of one tray on a page.

    Args:
        tray: its name.
        changed: is called after a caption or a picture has changed.
        tell: shows what is wrong with one.

    Attributes:
        files: the pictures that are shown.
    """

    def __init__(self, studio: Studio, tray: str, changed: Callable[[], Any], tell: Callable[[str], None]) -> None:
        self._studio, self._tray, self._changed, self._tell = studio, tray, changed, tell
        self.files: list[Path] = []
        self._elements: dict[Path, tuple[Any, Any, Any]] = {}
        self._list = ui.refreshable(self._show)
        self._list()

    def show(self) -> None:
        """Show which pictures are there now; elements of those that were stay, with what is being typed in them."""
        try:
            files = self._studio.trays.pictures(self._tray)
        except SpectraError as error:
            files = []
            self._tell(str(error))
        if files != self.files:
            self.files = files
            self._list.refresh()

    def show_looks(self, looks: Sequence[Look]) -> None:
        """Show each picture as it is learnt; without looks as it is."""
        seen = {look.file.name: look for look in looks}
        for file, (shown, prompt, size) in self._elements.items():
            look = seen.get(file.name)
            shown.props["src"] = f"/drawn/{look.key}" if look else self._source(file)
            shown.props["alt"] = f"{file.name}, as it is learnt" if look else file.name
            prompt.set_text(look.prompt if look else "")
            size.set_text(look.size if look else "")

    def _source(self, file: Path) -> str:
        return f"/file/{self._studio.workspace.name_of(file)}"

    def _show(self) -> None:
        self._elements = {}
        with tag("ul", "", "looks"):
            for file in self.files:
                with tag("li"):
                    shown = picture(self._source(file), file.name)
                    self._elements[file] = (shown, tag("span", "", "learnt"), tag("span", "", "quiet"))
                    beside = file.with_suffix(".txt")
                    own = beside.read_text(encoding="utf-8").strip() if beside.is_file() else ""
                    changed = partial(self._set_caption, file.name)
                    text_field(f"Caption of {file.name}", own, changed, placeholder="the prompt")
                    button("Remove", partial(self._remove, file.name), "quiet", aria_label=f"Remove {file.name}")

    async def _set_caption(self, name: str, caption: str) -> None:
        try:
            self._studio.trays.set_caption(self._tray, name, caption)
        except SpectraError as error:
            self._tell(str(error))
        await self._changed()

    async def _remove(self, name: str) -> None:
        self._studio.trays.remove(self._tray, name)
        await self._changed()
