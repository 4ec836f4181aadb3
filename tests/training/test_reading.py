"""Pictures as people have them: every kind of file is read right, or refused by its name."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from spectra.errors import PictureError
from spectra.training.data.reading import can_read, read_picture, read_with_alpha

QUADRANTS = np.zeros((40, 80, 3), np.uint8)
"""Red above, green and blue below: every turn of it is another picture."""
QUADRANTS[:20, :, 0] = QUADRANTS[20:, :40, 1] = QUADRANTS[20:, 40:, 2] = 255


def pixel(path: Path, at: tuple[int, int] = (1, 1)) -> Any:
    """One pixel of a picture that is read from a file."""
    return read_picture(path).getpixel(at)


@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_a_broken_picture_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "broken.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"hello", "cut": whole[: len(whole) // 2]}[damage])
    with pytest.raises(PictureError, match=r"broken\.png: cannot be read as a picture"):
        read_picture(path)


SAVED: dict[str, dict[str, Any]] = {
    "a.png": {},
    "A.PNG": {"format": "png"},
    "a.jpg": {"quality": 100, "subsampling": 0},
    "a.jfif": {"format": "jpeg", "quality": 100, "subsampling": 0},
    "a.webp": {"lossless": True},
    "a.avif": {"quality": 100, "subsampling": "4:4:4"},
    "a.gif": {},
    "a.bmp": {},
    "a.tif": {},
    "b.tiff": {"compression": "tiff_lzw"},
    "ünïcode – 画.png": {},
}


@pytest.mark.parametrize("name", SAVED)
def test_every_kind_of_file_is_read(name: str, tmp_path: Path) -> None:
    Image.fromarray(QUADRANTS).save(tmp_path / name, **SAVED[name])
    assert can_read(tmp_path / name)
    difference = np.asarray(read_picture(tmp_path / name)).astype(int) - QUADRANTS
    assert np.abs(difference).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright(orientation: int, tmp_path: Path) -> None:
    undone = {
        1: QUADRANTS,
        2: QUADRANTS[:, ::-1],
        3: QUADRANTS[::-1, ::-1],
        4: QUADRANTS[::-1],
        5: QUADRANTS.transpose(1, 0, 2),
        6: QUADRANTS.transpose(1, 0, 2)[::-1],
        7: QUADRANTS[::-1, ::-1].transpose(1, 0, 2),
        8: QUADRANTS.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    for name in ("a.png", "a.tif", "b.tiff", "a.jpg"):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(undone).save(tmp_path / name, exif=exif, **SAVED[name])
        turned = np.asarray(read_picture(tmp_path / name)).astype(int)
        assert np.abs(turned - QUADRANTS).max() <= 1, name


def badly_tagged(kind: int, count: int, value: bytes) -> bytes:
    """EXIF with orientation 6, and a horizontal resolution of a strange type."""
    entries = struct.pack("<HHII", 0x0112, 3, 1, 6) + struct.pack("<HHI4s", 0x011A, kind, count, value)
    return b"Exif\0\0" + b"II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<I", 0)


@pytest.mark.parametrize(
    "tag", [(2, 4, b"72\0\0"), (5, 1, b"\xff\xff\xff\x7f"), (99, 7, b"abcd"), (12, 1, b"\0\0\0\0")]
)
def test_other_tags_of_any_kind_do_not_matter(tag: tuple[int, int, bytes], tmp_path: Path) -> None:
    turned = Image.fromarray(QUADRANTS).transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "a.jpg", exif=badly_tagged(*tag), quality=100, subsampling=0)
    upright = np.asarray(read_picture(tmp_path / "a.jpg")).astype(int)
    assert np.abs(upright - QUADRANTS).max() <= 1
    turned.save(tmp_path / "a.jpg", exif=b"Exif\0\0not exif at all", quality=100, subsampling=0)
    assert read_picture(tmp_path / "a.jpg").size == turned.size


def test_a_tiff_with_a_broken_tag_is_upright(tmp_path: Path) -> None:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[0x0112] = 6
    info.tagtype[0x8769] = 4
    info[0x8769] = 7  # where EXIF would stand: nonsense
    Image.fromarray(QUADRANTS).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.tif", tiffinfo=info)
    np.testing.assert_array_equal(np.asarray(read_picture(tmp_path / "a.tif")), QUADRANTS)


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "rgba.png")
    Image.new("LA", (4, 4), (0, 0)).save(tmp_path / "la.png")
    Image.new("RGB", (4, 4), (1, 2, 3)).save(tmp_path / "rgb.png", transparency=(1, 2, 3))
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30])
    palette.save(tmp_path / "p.png", transparency=0)
    for name in ("rgba.png", "la.png", "rgb.png", "p.png"):
        picture, alpha = read_with_alpha(tmp_path / name)
        assert picture.getpixel((1, 1)) == (255, 255, 255)
        assert alpha is not None and alpha.getpixel((1, 1)) == 0
    Image.new("RGBA", (4, 4), (255, 0, 0, 51)).save(tmp_path / "half.png")
    assert pixel(tmp_path / "half.png") == (255, 204, 204)
    Image.new("RGB", (4, 4)).save(tmp_path / "opaque.png")
    assert read_with_alpha(tmp_path / "opaque.png")[1] is None


def test_sixteen_bits_are_scaled_by_their_own_white(tmp_path: Path) -> None:
    """Not by the picture's own maximum: a dark picture stays dark."""
    Image.fromarray(np.array([[0, 16000, 32768, 65535]], np.uint16)).save(tmp_path / "deep.png")
    assert np.asarray(read_picture(tmp_path / "deep.png"))[0, :, 0].tolist() == [0, 62, 128, 255]
    Image.fromarray(np.full((2, 2), 16000, np.uint16)).save(tmp_path / "dark.tif")
    assert pixel(tmp_path / "dark.tif") == (62, 62, 62)
    (tmp_path / "deep.pgm").write_bytes(b"P5 2 1 65535\n" + struct.pack(">2H", 16000, 65535))
    assert np.asarray(read_picture(tmp_path / "deep.pgm"))[0, :, 0].tolist() == [62, 255]


def test_sixteen_bit_colours_are_read(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + struct.pack(">6H", 65535, 16000, 0, 0, 32768, 65535)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    assert [pixel(tmp_path / "deep.png", (x, 0)) for x in (0, 1)] == [(255, 62, 0), (0, 128, 255)]


def test_floating_point_is_read_from_0_to_1_and_refused_beyond(tmp_path: Path) -> None:
    def saved(values: list[float], dtype: Any = np.float32) -> Path:
        Image.fromarray(np.array([values], dtype)).save(tmp_path / "a.tif")
        return tmp_path / "a.tif"

    assert np.asarray(read_picture(saved([0, 0.5, 1])))[0, :, 0].tolist() == [0, 128, 255]
    with pytest.raises(PictureError, match=r"a\.tif: .*pixels from -0\.5 to 1, expected 0 \(black\) to 1"):
        read_picture(saved([-0.5, 1]))
    with pytest.raises(PictureError, match="pixels from 0 to 255, expected 0"):
        read_picture(saved([0, 255]))
    with pytest.raises(PictureError, match="not finite"):
        read_picture(saved([0, float("nan")]))
    with pytest.raises(PictureError, match="32-bit pixels from 0 to 9, of which white is not known"):
        read_picture(saved([0, 9], np.int32))


def test_other_colour_models_become_rgb(tmp_path: Path) -> None:
    for mode, name in (("CMYK", "a.jpg"), ("CMYK", "a.tif"), ("YCbCr", "a.tif"), ("LAB", "a.tif"), ("1", "a.png")):
        Image.new("RGB", (16, 16), (255, 255, 255)).convert(mode).save(tmp_path / name)
        assert min(pixel(tmp_path / name)) >= 250, mode
    Image.new("RGB", (16, 16), (255, 0, 0)).convert("CMYK").save(tmp_path / "red.jpg", quality=100, subsampling=0)
    assert pixel(tmp_path / "red.jpg") == (255, 0, 0)


def profile(red: float, gamma: float = 2.2) -> bytes:
    """An RGB profile like sRGB, but for the place of its red primary on the x axis; made from sRGB's own bytes."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack(">I", data[128:132])[0]
    for number in range(count):
        name, at, _ = struct.unpack(">4sII", data[132 + 12 * number : 144 + 12 * number])
        if name == b"rXYZ":
            data[at + 8 : at + 12] = struct.pack(">i", round(red * 65536))
        if name == b"desc":  # or it would be taken for sRGB by its name
            data[at + 12 : at + 12 + 200] = bytes(data[at + 12 : at + 12 + 200]).replace(b"s\0R\0G", b"x\0R\0G")
    return bytes(data)


def test_colour_profiles_are_honoured(tmp_path: Path) -> None:
    grey = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    wide = profile(0.6)
    own = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")))
    assert own.startswith("sRGB")
    picture = Image.new("RGB", (8, 8), (200, 80, 80))
    picture.save(tmp_path / "srgb.png", icc_profile=grey)
    assert pixel(tmp_path / "srgb.png") == (200, 80, 80)
    picture.save(tmp_path / "wide.png", icc_profile=wide)
    red, green, _ = pixel(tmp_path / "wide.png")
    assert red > 220 and green < 80, "a redder red lies further out"
    picture.putalpha(Image.new("L", (8, 8), 255))
    picture.save(tmp_path / "alpha.png", icc_profile=wide)
    assert pixel(tmp_path / "alpha.png") == pixel(tmp_path / "wide.png")
    picture.save(tmp_path / "broken.png", icc_profile=b"no profile")
    assert pixel(tmp_path / "broken.png") == (200, 80, 80)
    Image.new("L", (8, 8), 90).save(tmp_path / "other.png", icc_profile=wide)  # for other pixels than it has
    assert pixel(tmp_path / "other.png") == (90, 90, 90)


def test_the_first_frame_of_an_animation_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert pixel(tmp_path / name)[0] > 250, name


@pytest.mark.parametrize(
    ("package", "name", "exact"),
    [
        ("pillow_heif", "a.heic", {"quality": -1, "chroma": 444}),
        ("pillow_heif", "A.HIF", {"format": "HEIF", "quality": -1, "chroma": 444}),
        ("pillow_jxl", "a.jxl", {"lossless": True}),
    ],
)
def test_what_a_package_reads_is_read_as_others_are(
    package: str, name: str, exact: dict[str, Any], tmp_path: Path
) -> None:
    """Upright, on white, and refused when it is cut; the packages are no dependency."""
    pytest.importorskip(package)
    assert can_read(tmp_path / name)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(QUADRANTS).transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / name, exif=exif.tobytes(), **exact)
    read = np.asarray(read_picture(tmp_path / name)).astype(int)
    assert read.shape == QUADRANTS.shape
    assert np.abs(read - QUADRANTS).max() <= 1
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PictureError, match="cannot be read as a picture"):
        read_picture(tmp_path / name)
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / name, **exact)
    picture, alpha = read_with_alpha(tmp_path / name)
    assert min(picture.getpixel((1, 1))) >= 254  # type: ignore[arg-type, type-var]
    assert alpha is not None and alpha.getpixel((1, 1)) == 0


def test_what_needs_a_plugin_says_which(tmp_path: Path) -> None:
    files = {"a.heic": "pillow-heif", "a.HEIF": "pillow-heif", "a.hif": "pillow-heif", "a.jxl": "pillow-jxl-plugin"}
    for name, package in files.items():
        file = tmp_path / name
        file.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
        if can_read(file):
            pytest.skip(f"{package} is installed")
        with pytest.raises(PictureError, match=rf"{name}: .*pip install {package}\)"):
            read_picture(file)


def test_many_pixels_in_few_bytes_are_not_decoded(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 13000, 9000, 8, 2, 0, 0, 0)
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x" * 100))
    with pytest.raises(PictureError, match="13000 x 9000 pixels in"):
        read_picture(tmp_path / "bomb.png")
