"""Folders of pictures as people have them: sub-folders, captions, repeats, masks, and what is passed over by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spectra.errors import InputError, PictureError, PictureWarning
from spectra.training.data.captions import fill_prompt
from spectra.training.data.folders import picture_files, read_folder


def picture(path: Path, colour: str = "red", size: tuple[int, int] = (8, 6)) -> Path:
    """A plain picture at a path, whose folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, "JPEG" if path.suffix.lower() in (".jpg", ".jfif") else None)
    return path


def names(folder: Path) -> list[str]:
    """The pictures that are found, by their paths in the folder."""
    return [str(Path(str(each.source)).relative_to(folder)) for each in read_folder(folder).pictures]


def test_missing_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="found nothing"):
        read_folder(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden.png").write_bytes(b"x")
    with pytest.raises(PictureError, match=r"no pictures in it; passed over notes\.txt; expected"):
        read_folder(tmp_path)


def test_folders_below_unicode_and_upper_case_are_found(tmp_path: Path) -> None:
    for name in ("a.png", "b.JPG", "c.jfif", "d.gif", "e.avif", "more/é/ß.png", "more/画 像.webp"):
        picture(tmp_path / name)
    for name in (".cache/x.png", "__MACOSX/x.png", "more/.x.png"):
        picture(tmp_path / name)
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    assert sorted(names(tmp_path)) == sorted(
        ["a.png", "b.JPG", "c.jfif", "d.gif", "e.avif", "more/é/ß.png", "more/画 像.webp"]
    )


def test_what_is_passed_over_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "film.mp4").write_bytes(b"x")
    (tmp_path / "odd.psdx").write_bytes(b"x")
    (tmp_path / "b.txt").write_text("the caption of nothing")
    with pytest.warns(PictureWarning, match=r"passed over b\.txt, film\.mp4, odd\.psdx$"):
        found = read_folder(tmp_path)
    assert found.passed_over == ("b.txt", "film.mp4", "odd.psdx")
    for number in range(4):
        (tmp_path / f"z{number}.mov").write_bytes(b"x")
    with pytest.warns(PictureWarning, match="z0.mov, z1.mov and 2 more"):
        read_folder(tmp_path)


def test_a_kind_that_nothing_here_reads_is_passed_over_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "b.heic").write_bytes(b"x")
    monkeypatch.setattr(
        "spectra.training.data.folders.can_read", lambda path: path.suffix.lower() not in (".heic", ".jp2")
    )
    with pytest.warns(PictureWarning, match=r"b\.heic \(needs pip install pillow-heif\)"):
        assert len(read_folder(tmp_path).pictures) == 1
    (tmp_path / "b.heic").rename(tmp_path / "b.jp2")
    with pytest.warns(PictureWarning, match=r"b\.jp2 \(Pillow does not read it here\)"):
        read_folder(tmp_path)


def test_a_damaged_picture_is_refused_by_name(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    with pytest.raises(PictureError, match=r"b\.jpg: cannot be read as a picture"):
        read_folder(tmp_path)


def captions(folder: Path) -> dict[str, str]:
    """Captions by the names of pictures."""
    return {Path(str(each.source)).name: each.caption for each in read_folder(folder).pictures}


def test_a_caption_lies_beside_its_picture(tmp_path: Path) -> None:
    for name in "abcd":
        picture(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_bytes("\ufeffa fox,\r\n  on é grass \r\n".encode())
    (tmp_path / "b.caption").write_text("a fox in snow")
    (tmp_path / "c.txt").write_text("  \n")
    assert captions(tmp_path) == {"a.png": "a fox, on é grass", "b.png": "a fox in snow", "c.png": "", "d.png": ""}


def test_captions_can_be_left_alone(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a fox")
    with pytest.warns(PictureWarning, match="passed over a.txt"):
        assert read_folder(tmp_path, captions=False).pictures[0].caption == ""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.jsonl", '{"file_name": "a.png", "text": "one"}\n\n{"file_name": "more/b.png", "caption": "two"}\n'),
        ("captions.json", '[{"file_name": "a.png", "prompt": "one"}, {"file_name": "more/b.png", "text": "two"}]'),
        ("captions.json", '{"a.png": "one", "more/b.png": "two", "gone.png": "three"}'),
    ],
)
def test_captions_come_from_a_list(tmp_path: Path, name: str, text: str) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "more" / "b.png")
    (tmp_path / name).write_text(text)
    assert captions(tmp_path) == {"a.png": "one", "b.png": "two"}
    (tmp_path / "a.txt").write_text("its own")
    assert captions(tmp_path) == {"a.png": "its own", "b.png": "two"}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"\xff\xfe\x00", "not a text in UTF-8"),
        ("a.txt", b"x" * 70_000, "at most 65,536 bytes of them, got 70,000"),
        ("metadata.jsonl", b"{", "not JSON"),
        ("captions.json", b"[" * 100_000, "not JSON"),
        ("metadata.jsonl", b'{"file": "a.png"}', "entry 1: expected an object with file_name and text or caption"),
        ("captions.json", b'{"a.png": 3}', "entry 1: expected an object"),
    ],
)
def test_captions_that_are_none_are_named(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PictureError, match=says) as raised:
        read_folder(tmp_path)
    assert name in str(raised.value)


def test_a_caption_takes_its_place_in_the_prompt() -> None:
    assert fill_prompt("a photo of a [V1] dog", "a dog on grass") == "a dog on grass"
    assert fill_prompt("a photo of a [V1] dog", "") == "a photo of a [V1] dog"
    assert fill_prompt("a [V1] dog, {caption}", "on grass") == "a [V1] dog, on grass"
    assert fill_prompt("a [V1] dog, {caption}", "") == "a [V1] dog"
    assert fill_prompt("art, {caption}, by sks", "") == "art, by sks"
    assert fill_prompt("{caption}", "") == ""
    assert fill_prompt("{left} {caption}", "x") == "{left} x"


def test_folders_say_how_often_their_pictures_come(tmp_path: Path) -> None:
    for name in ("a.png", "10_dog/b.png", "10_dog/close/c.png", "side/d.png", "3_x/2_y/e.png"):
        picture(tmp_path / name)

    def times(*repeats: str) -> list[int]:
        return [each.repeats for each in read_folder(tmp_path, repeats=repeats).pictures]

    assert times() == [10, 10, 2, 1, 1]  # by path: 10_dog/b, 10_dog/close/c, 3_x/2_y/e, a, side/d
    assert times("side=5", "10_dog/close=4") == [10, 4, 2, 1, 5]
    for wrong in ("side", "side=", "side=0", "=3", "side=-1", "side=99999"):
        with pytest.raises(InputError, match="expected FOLDER=N"):
            times(wrong)
    with pytest.raises(InputError, match="nowhere is no folder of pictures"):
        times("nowhere=2")


def test_masks_come_from_a_folder_or_from_opacity(tmp_path: Path) -> None:
    folder, masks = tmp_path / "pictures", tmp_path / "pictures" / "masks"
    picture(folder / "a.png")
    picture(folder / "more" / "b.jpg")
    mask = np.zeros((6, 8), np.uint8)
    mask[:, :4] = 255
    masks.mkdir()
    Image.fromarray(mask).save(masks / "a.gif")
    found = read_folder(folder, mask=str(masks)).pictures
    assert [bool(each.mask) for each in found] == [True, False], "masks are no pictures, and b has none"
    Image.fromarray(mask[:3]).save(masks / "a.gif")
    with pytest.raises(PictureError, match=r"a\.gif: expected the shape of its picture, 8 x 6, got 8 x 3"):
        read_folder(folder, mask=str(masks))
    Image.fromarray(0 * mask).save(masks / "a.gif")
    with pytest.raises(PictureError, match=r"a\.gif: the mask is black"):
        read_folder(folder, mask=str(masks))
    with pytest.raises(PictureError, match="has no picture with transparency"):
        read_folder(folder / "more", mask="alpha")
    Image.fromarray(np.dstack([mask, mask, mask, mask])).save(folder / "more" / "c.png")
    assert [each.mask for each in read_folder(folder / "more", mask="alpha").pictures] == ["", "alpha"]


def test_a_mask_is_part_of_what_a_picture_is(tmp_path: Path) -> None:
    path = picture(tmp_path / "in" / "a.png")
    digests = set()
    for value in (255, 128):
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.new("L", (8, 6), value).save(tmp_path / "masks" / "a.png")
        digests.add(read_folder(path.parent, mask=str(tmp_path / "masks")).pictures[0].digest)
    digests.add(read_folder(path.parent).pictures[0].digest)
    assert len(digests) == 3


def test_files_alone_are_listed_without_being_read(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"x")
    (tmp_path / "c.txt").write_text("x")
    assert [path.name for path in picture_files(tmp_path)] == ["a.png", "b.jpg"]
    assert picture_files(tmp_path / "a.png") == [tmp_path / "a.png"]


def test_lists_are_json_as_it_is_written(tmp_path: Path) -> None:
    picture(tmp_path / "ü.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "ü.png", "text": "línea\nzwei"}))
    assert captions(tmp_path) == {"ü.png": "línea zwei"}
