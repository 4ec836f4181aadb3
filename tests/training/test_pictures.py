from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spectra.errors import PictureError
from spectra.training.data.pictures import fit, read_picture, read_pictures, to_tensor


def test_missing_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="found nothing"):
        read_pictures(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden.png").write_bytes(b"x")
    with pytest.raises(PictureError, match="no pictures in it"):
        read_pictures(tmp_path)


@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_a_broken_picture_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "broken.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"hello", "cut": whole[: len(whole) // 2]}[damage])
    with pytest.raises(PictureError, match=r"broken\.png: cannot be read as a picture"):
        read_picture(path)


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "a.png")
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30])
    palette.save(tmp_path / "p.png", transparency=0)
    for name in ("a.png", "p.png"):
        assert read_picture(tmp_path / name).getpixel((1, 1)) == (255, 255, 255)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 32768, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    grey = np.asarray(read_picture(tmp_path / "deep.png"))[0, :, 0].tolist()
    assert grey == [0, 127, 255]


def test_fractions_of_white_are_no_black_picture(tmp_path: Path) -> None:
    Image.fromarray(np.array([[-0.1, 0.5, 1.0]], np.float32)).save(tmp_path / "fractions.tif")
    grey = np.asarray(read_picture(tmp_path / "fractions.tif"))[0, :, 0].tolist()
    assert grey == [0, 127, 255]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    picture = Image.new("RGB", (8, 4), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    picture.save(tmp_path / "t.jpg", exif=exif)
    assert read_picture(tmp_path / "t.jpg").size == (4, 8)


def test_fit_crops_the_longer_side_at_both_ends() -> None:
    array = np.zeros((10, 30, 3), np.uint8)
    array[:, 10:20] = 255
    assert np.asarray(fit(Image.fromarray(array), 10)).min() == 255


def test_pixels_lie_in_minus_one_to_one() -> None:
    tensor = to_tensor([Image.new("RGB", (2, 3), (0, 255, 51))])
    assert tensor.shape == (1, 3, 3, 2)
    assert torch.equal(tensor[0, :, 0, 0], torch.tensor([-1.0, 1.0, 51 / 127.5 - 1]))
