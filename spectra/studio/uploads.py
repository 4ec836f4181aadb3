"""Pictures that were dropped on the page: kept in folders of the workspace, one for each subject of a training."""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spectra.errors import InputError, PictureError
from spectra.io.atomic_writes import atomic_write
from spectra.studio.settings import StudioSettings
from spectra.studio.workspace import Workspace
from spectra.training.data.folders import picture_files
from spectra.training.data.pictures import Picture
from spectra.training.data.reading import SUFFIXES

if TYPE_CHECKING:
    from PIL import Image

_TRAY = re.compile(r"[a-z0-9]{12}")
_LONGEST_CAPTION = 2000


class Trays:
    """Folders of uploaded pictures. A tray is called by twelve letters that nobody guesses.

    Args:
        workspace: in which they lie.
        settings: with what may be uploaded.
    """

    def __init__(self, workspace: Workspace, settings: StudioSettings) -> None:
        self._folder, self._settings = workspace.hidden / "pictures", settings

    def folder(self, tray: str) -> Path:
        """The folder of a tray, which need not be there.

        Raises:
            InputError: it is not the name of one.
        """
        if not _TRAY.fullmatch(tray):
            raise InputError(f"{tray!r} is no tray of pictures")
        return self._folder / tray

    def pictures(self, tray: str) -> list[Path]:
        """The pictures in a tray, by name."""
        folder = self.folder(tray)
        return picture_files(folder) if folder.is_dir() else []

    async def take(self, tray: str, name: str, body: AsyncIterator[bytes], announced: int = 0) -> str:
        """Keep an uploaded picture, once it was read as a training would read it.

        Args:
            tray: where to.
            name: as the browser calls it.
            body: the bytes, of which no more are read than are allowed.
            announced: how many the request says there are.

        Returns:
            The name under which it is kept.

        Raises:
            InputError: too large, or too many.
            PictureError: no picture.
        """
        folder, most = self.folder(tray), self._settings.max_upload * 1_000_000
        stem, suffix = re.sub(r"[^\w-]+", "-", Path(name).stem).strip("-")[:60], Path(name).suffix.lower()
        if suffix not in SUFFIXES:
            raise PictureError(f"{name}: expected a picture, such as .png, .jpg or .webp")
        self._check_room(tray)
        too_large = InputError(f"{name}: expected at most {self._settings.max_upload} MB")
        if announced > most:
            raise too_large
        parts, size = [], 0
        async for part in body:
            size += len(part)
            if size > most:
                raise too_large
            parts.append(part)
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{stem or 'picture'}{suffix}"
        while target.exists():
            target = folder / f"{stem or 'picture'}-{secrets.token_hex(2)}{suffix}"
        with atomic_write(target) as temporary:
            temporary.write_bytes(b"".join(parts))
            try:
                Picture.checked(temporary)
            except PictureError as error:
                raise PictureError(str(error).replace(str(temporary), name)) from error
        return target.name

    def put(self, tray: str, pictures: Sequence[Image.Image], name: str) -> None:
        """Keep pictures of the library's own, in place of those of an earlier call.

        Raises:
            InputError: too many.
        """
        folder = self.folder(tray)
        for number, picture in enumerate(pictures):
            target = folder / f"{name}-{number}.png"
            if not target.exists():
                self._check_room(tray)
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(target, force=True) as temporary:
                picture.save(temporary, "PNG")

    def _check_room(self, tray: str) -> None:
        if len(self.pictures(tray)) >= self._settings.max_pictures:
            raise InputError(f"expected at most {self._settings.max_pictures} pictures; remove some first")
        most = self._settings.max_uploads
        if self._folder.is_dir() and sum(len(self.pictures(each.name)) for each in self._folder.iterdir()) >= most:
            raise InputError(f"{self._folder} holds {most} uploaded pictures; remove those of old trainings")

    def remove(self, tray: str, name: str) -> None:
        """Forget a picture and its caption; one that is not there is no mistake."""
        for file in self.pictures(tray):
            if file.name == name:
                file.with_suffix(".txt").unlink(missing_ok=True)
                file.unlink(missing_ok=True)

    def set_caption(self, tray: str, name: str, caption: str) -> None:
        """Write a picture's caption beside it, where a training reads it; an empty one is none."""
        text = " ".join(caption.split())
        if len(text) > _LONGEST_CAPTION:
            raise InputError(f"caption: expected at most {_LONGEST_CAPTION} letters, got {len(text)}")
        for file in self.pictures(tray):
            if file.name == name:
                beside = file.with_suffix(".txt")
                if not text:
                    beside.unlink(missing_ok=True)
                    continue
                with atomic_write(beside, force=True) as temporary:
                    temporary.write_text(text + "\n", encoding="utf-8")


def new_tray() -> str:
    """The name of a new tray."""
    return secrets.token_hex(6)
