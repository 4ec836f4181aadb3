"""A folder of pictures: which of its files are pictures, how often each comes, its caption and mask, what is left."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spectra.errors import InputError, PictureError, PictureWarning
from spectra.training.data.captions import find_captions
from spectra.training.data.pictures import ALPHA, Picture
from spectra.training.data.reading import PLUGINS, SUFFIXES, can_read

_REPEATS = re.compile(r"([1-9][0-9]{0,3})_.*")
"""A folder that says how often its pictures come, as kohya's do: 10_dog."""

_LITTER = ("thumbs.db", "desktop.ini", "__macosx")

SHOWN = 5
"""Files that a message names; it counts the others."""


@dataclass(frozen=True)
class PictureFolder:
    """The pictures of a folder and those below it, by path; and the files that are none, each with its reason."""

    pictures: tuple[Picture, ...]
    passed_over: tuple[str, ...] = ()


def read_folder(path: Path, *, captions: bool = True, repeats: Sequence[str] = (), mask: str = "") -> PictureFolder:
    """Read every picture of a folder, or one picture, to see that it can be; a warning names the files passed over.

    Args:
        captions: use those beside the pictures.
        repeats: "FOLDER=N": how often the pictures in a folder below come in a round, on top of `10_name` folders.
        mask: folder of masks with the pictures' names, `ALPHA`, or empty.

    Raises:
        PictureError: no such folder, no picture in it, a picture, mask or caption that cannot be read, or a mask for
            none of them.
        InputError: repeats of a folder that is not there.
    """
    files, folder = _files(path, Path(mask) if mask and mask != ALPHA else None), path if path.is_dir() else path.parent
    readable = (
        files if path.is_file() else [each for each in files if each.suffix.lower() in SUFFIXES and can_read(each)]
    )
    own, used = find_captions(readable, files if path.is_dir() else ()) if captions else ({}, set())
    passed = [
        f"{file.relative_to(folder)}{_reason(file)}" for file in files if file not in readable and file not in used
    ]
    if not readable:
        raise PictureError(
            f"{path}: no pictures in it{listed(passed, '; passed over ')}; expected files ending in .png, .jpg, .webp "
            "or another of docs/pictures-and-captions.md"
        )
    times, masks = _repeats(folder, repeats), _masks(folder, readable, mask)
    pictures = tuple(
        Picture.checked(file, caption=own.get(file, ""), repeats=_times(file, folder, times), mask=masks.get(file, ""))
        for file in readable
    )
    if mask and not any(each.mask for each in pictures):
        raise PictureError(f"mask {mask}: {path} has no picture with {'transparency' if mask == ALPHA else 'a mask'}")
    if passed:
        warnings.warn(f"{path}: passed over {listed(passed)}", PictureWarning, stacklevel=2)
    return PictureFolder(pictures, tuple(passed))


def picture_files(path: Path) -> list[Path]:
    """The files of a folder and those below it that can be read as pictures, by path; a file stands for itself."""
    return [
        file for file in _files(path, None) if path.is_file() or (can_read(file) and file.suffix.lower() in SUFFIXES)
    ]


def _files(path: Path, without: Path | None) -> list[Path]:
    """Every file below a folder by path, without hidden ones and what lies in another folder."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise PictureError(f"{path}: expected a folder of pictures, or one picture, found nothing")
    excluded = without.resolve() if without is not None and without.resolve() != path.resolve() else None
    found = []
    for file in sorted(path.rglob("*")):
        parts = file.relative_to(path).parts
        hidden = any(part.startswith(".") or part.lower() in _LITTER for part in parts)
        if file.is_file() and not hidden and not (excluded and file.resolve().is_relative_to(excluded)):
            found.append(file)
    return found


def _reason(file: Path) -> str:
    if file.suffix.lower() not in SUFFIXES:
        return ""
    package = PLUGINS.get(file.suffix.lower())
    return f" (needs pip install {package})" if package else " (Pillow does not read it here)"


def listed(names: Sequence[str], before: str = "") -> str:
    """Names for a message, `before` in front of them; of many the first, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{before}{', '.join(names[:SHOWN])}{more}" if names else ""


def _repeats(folder: Path, given: Sequence[str]) -> dict[Path, int]:
    """How often the pictures of folders come, as was given."""
    times = {}
    for each in given:
        name, _, number = each.rpartition("=")
        if not name or not re.fullmatch("[1-9][0-9]{0,3}", number):
            raise InputError(f"repeats: expected FOLDER=N, such as close-ups=5, got {each!r}")
        place = folder / name
        if not place.is_dir():
            raise InputError(f"repeats: {place} is no folder of pictures; name one below {folder}")
        times[place] = int(number)
    return times


def _times(file: Path, folder: Path, given: dict[Path, int]) -> int:
    """How often a picture comes: as was given for the nearest folder around it, or as that is called."""
    for place in file.parents:
        if place in given:
            return given[place]
        if place == folder:
            break
        if match := _REPEATS.fullmatch(place.name):
            return int(match[1])
    return 1


def _masks(folder: Path, pictures: Sequence[Path], mask: str) -> dict[Path, str]:
    """Each picture's mask: the picture of its name, whatever its ending, at the same place in the masks' folder."""
    if not mask or mask == ALPHA:
        return dict.fromkeys(pictures, mask)
    by_name = {file.relative_to(mask).with_suffix(""): file for file in picture_files(Path(mask))}
    found = {}
    for picture in pictures:
        name = picture.relative_to(folder)
        own = by_name.get(name.with_suffix(""))
        if own is not None:
            found[picture] = str(own)
    return found
