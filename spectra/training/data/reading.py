"""Picture files of every kind that Pillow reads, as 8-bit sRGB: the one place that opens a picture.

What a file says beside its pixels (EXIF, profiles) may be broken in any way: pixels that decode are used. What would
have to be guessed (the range of floating-point and 32-bit pixels) is refused. docs/pictures-and-captions.md says how
each kind is read.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from spectra.errors import PictureError

SUFFIXES = frozenset(
    [
        ".png",
        ".apng",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".mpo",
        ".webp",
        ".gif",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".avif",
        ".avifs",
        ".heic",
        ".heif",
        ".hif",
        ".jxl",
        ".jp2",
        ".j2k",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".pfm",
        ".tga",
        ".qoi",
        ".psd",
        ".ico",
    ]
)
"""Endings of files that claim to be pictures, in lower case."""

PLUGINS = {".heic": "pillow-heif", ".heif": "pillow-heif", ".hif": "pillow-heif", ".jxl": "pillow-jxl-plugin"}
"""Packages that teach Pillow to read what it does not read by itself."""

_PLAUSIBLE = 2**21, 1000
"""A file of more pixels than the first has a byte for every so many of them: nothing honest is packed more tightly."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How a picture is turned upright, by EXIF's orientation."""

_COLOURS = {"RGBA": "RGB", "LA": "L", "PA": "RGB", "P": "RGB", "1": "L"}
"""The mode of a picture's colours, without its opacity, as profiles take them."""


def can_read(path: Path) -> bool:
    """Whether Pillow reads files with this ending here; plugins that are installed count."""
    _register_plugins()
    return path.suffix.lower() in Image.registered_extensions()


def read_picture(path: Path) -> Image.Image:
    """One picture as 8-bit sRGB, upright, with whatever is transparent laid on white; of several frames the first.

    Raises:
        PictureError: the file cannot be read as a picture, or its pixels have no known range.
    """
    return read_with_alpha(path)[0]


def read_with_alpha(path: Path) -> tuple[Image.Image, Image.Image | None]:
    """A picture as `read_picture` reads it, and its opacity in 8-bit grey; None where nothing can be transparent.

    Raises:
        PictureError: see `read_picture`.
    """
    _register_plugins()
    with _named(path), Image.open(path) as opened:
        pixels, (least, per_byte) = opened.width * opened.height, _PLAUSIBLE
        if pixels > max(least, per_byte * path.stat().st_size):
            raise PictureError(f"{opened.width} x {opened.height} pixels in {path.stat().st_size} bytes")
        _load(opened)
        turn = _turn(opened)
        picture, alpha = to_srgb(opened)
    if turn is not None:
        picture, alpha = picture.transpose(turn), alpha and alpha.transpose(turn)
    return picture, alpha


def to_srgb(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Pixels of any mode as 8-bit sRGB on white, and their opacity; profiles are honoured where they can be.

    Raises:
        PictureError: pixels whose range is not known.
    """
    profile, alpha = picture.info.get("icc_profile"), None
    if picture.mode == "F":
        picture = _fractions(picture)
    elif picture.mode.startswith("I"):
        picture = _sixteen_bits(picture)
    picture = picture.convert({"RGBa": "RGBA", "La": "LA"}.get(picture.mode, picture.mode))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        alpha = picture.convert("RGBA").getchannel("A")
    colours = picture.convert(_COLOURS.get(picture.mode, picture.mode))
    rgb = _by_profile(colours, profile) or colours.convert("RGB")
    if alpha is None:
        return rgb, None
    return Image.composite(rgb, Image.new("RGB", rgb.size, "white"), alpha), alpha


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Whatever goes wrong with a file is a PictureError that names it; Pillow's warnings are not shown."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # Pillow's readers raise whatever they stumble over: struct.error, KeyError, ...
        package = PLUGINS.get(path.suffix.lower())
        if isinstance(error, UnidentifiedImageError):
            reason = f"needs pip install {package}" if package and not can_read(path) else "not a known kind of picture"
        else:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise PictureError(f"{path}: cannot be read as a picture ({reason}); repair or remove it") from error


def _turn(opened: Image.Image) -> Image.Transpose | None:
    """How the picture is turned upright, whatever its other tags hold. A TIFF turns itself as it is loaded."""
    try:
        return _TURNS.get(opened.getexif().get(0x0112, 1))
    except Exception:  # EXIF that cannot be read says nothing
        return None


def _load(opened: Image.Image) -> None:
    """Decode the pixels. A TIFF's tags are read after them, and may fail by themselves."""
    try:
        opened.load()
    except Exception:
        opened.load()  # raises again where the pixels are at fault, since these are then not there yet


def _fractions(picture: Image.Image) -> Image.Image:
    """Floating-point grey from 0 (black) to 1 (white) in 8 bits."""
    values = np.asarray(picture, dtype=np.float64)
    if not np.isfinite(values).all():
        raise PictureError("floating-point pixels that are not finite; save it with 8 or 16 bits")
    if values.min() < 0 or values.max() > 1:
        raise PictureError(
            f"floating-point pixels from {values.min():g} to {values.max():g}, expected 0 (black) to 1 (white); "
            "save it with 8 or 16 bits"
        )
    return Image.fromarray((values * 255).round().astype(np.uint8))


def _sixteen_bits(picture: Image.Image) -> Image.Image:
    """16-bit grey in 8 bits: 65,535 is white, however bright the picture is."""
    values = np.asarray(picture)
    if picture.mode == "I" and picture.format not in ("PNG", "PPM"):  # which have 16 bits, and were scaled to them
        raise PictureError(
            f"32-bit pixels from {values.min()} to {values.max()}, of which white is not known; "
            "save it with 8 or 16 bits"
        )
    return Image.fromarray((values.astype(np.float64).clip(0, 65535) / 257).round().astype(np.uint8))


def _by_profile(picture: Image.Image, profile: bytes | None) -> Image.Image | None:
    """The picture in sRGB by its colour profile; None where there is none that fits, or it is sRGB already."""
    if not profile:
        return None
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if ImageCms.getProfileDescription(own).startswith("sRGB"):
            return None
        return ImageCms.profileToProfile(
            picture,
            own,
            ImageCms.createProfile("sRGB"),
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):  # broken, or for another kind of pixels
        return None


def _register_plugins() -> None:
    """Let Pillow read what installed packages teach it."""
    with contextlib.suppress(ImportError, AttributeError):
        importlib.import_module("pillow_heif").register_heif_opener()
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_jxl")  # which registers itself
