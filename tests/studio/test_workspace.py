"""Nothing outside of the folder can be named, and what is uploaded is a picture, of a size and a number."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from PIL import Image

from spectra.errors import InputError, PictureError
from spectra.studio.settings import StudioSettings
from spectra.studio.uploads import Trays, new_tray
from spectra.studio.workspace import Workspace, plain_name


def png(side: int = 8, colour: str = "red") -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(written, "PNG")
    return written.getvalue()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "secret.png").write_bytes(png())
    made = Workspace(tmp_path / "out")
    (made.folder / "inside.png").write_bytes(png())
    (made.folder / "notes.txt").write_text("notes")
    (made.folder / "link.png").symlink_to(tmp_path / "secret.png")
    (made.folder / "way").symlink_to(tmp_path)
    return made


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "link.png",
        "way/secret.png",
        "/etc/passwd",
        "a\0b",
        "x" * 5000,
        "gone.png",
        "../out/../secret.png",
    ],
)
def test_a_name_outside_of_the_folder_means_nothing(name: str, workspace: Workspace) -> None:
    for look in (workspace.find, workspace.picture, workspace.shift):
        with pytest.raises(InputError, match="not in the folder"):
            look(name)


def test_a_picture_inside_is_given_and_nothing_else(workspace: Workspace) -> None:
    assert workspace.picture("inside.png") == workspace.folder / "inside.png"
    for name in ("notes.txt", ".", ""):
        with pytest.raises(InputError, match="no picture"):
            workspace.picture(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-o", ".hidden", "a b", "é", "x" * 61, "a\n"])
def test_a_new_name_is_plain(name: str) -> None:
    assert plain_name("Fox-2_b") == "Fox-2_b"
    with pytest.raises(InputError, match="letters, digits"):
        plain_name(name)


def take(trays: Trays, tray: str, name: str, content: bytes, announced: int = 0) -> str:
    async def body() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 1000):
            yield content[start : start + 1000]

    return asyncio.run(trays.take(tray, name, body(), announced))


def test_uploads_are_pictures_limited_in_size_and_number(workspace: Workspace) -> None:
    trays = Trays(workspace, StudioSettings(folder=workspace.folder, max_upload=1, max_pictures=3, max_uploads=4))
    tray = new_tray()
    assert take(trays, tray, "../../a fox.PNG", png()) == "a-fox.png"
    second = take(trays, tray, "a fox.png", png(9))
    assert second.startswith("a-fox-")
    assert {file.name for file in trays.pictures(tray)} == {"a-fox.png", second}
    with pytest.raises(PictureError, match=r"fox\.txt: expected a picture"):
        take(trays, tray, "fox.txt", png())
    with pytest.raises(PictureError, match=r"^no\.png: "):
        take(trays, tray, "no.png", b"GIF89a nothing")
    big = b"\0" * 1_000_001
    for announced in (0, len(big)):
        with pytest.raises(InputError, match="at most 1 MB"):
            take(trays, tray, "big.png", big, announced)
    take(trays, tray, "third.png", png())
    with pytest.raises(InputError, match="at most 3 pictures"):
        take(trays, tray, "fourth.png", png())
    other = new_tray()
    take(trays, other, "fourth.png", png())
    with pytest.raises(InputError, match="holds 4 uploaded pictures"):
        take(trays, other, "fifth.png", png())
    assert not list(workspace.hidden.rglob("*.spectra-*"))
    with pytest.raises(InputError, match="no tray"):
        take(trays, "../../../etc", "a.png", png())


def test_the_library_s_own_pictures_fill_a_tray_once(workspace: Workspace) -> None:
    trays, tray = Trays(workspace, StudioSettings(max_pictures=3)), new_tray()
    pictures = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for _ in range(2):
        trays.put(tray, pictures, "fox")
    assert [path.name for path in trays.pictures(tray)] == ["fox-0.png", "fox-1.png"]
    with pytest.raises(InputError, match="at most 3 pictures"):
        trays.put(tray, pictures, "wolf")


def test_captions_lie_beside_their_pictures(workspace: Workspace) -> None:
    trays, tray = Trays(workspace, StudioSettings(folder=workspace.folder)), new_tray()
    name = take(trays, tray, "fox.png", png())
    trays.set_caption(tray, name, "a fox\nin  snow")
    caption = trays.folder(tray) / "fox.txt"
    assert caption.read_text() == "a fox in snow\n"
    trays.set_caption(tray, name, " ")
    assert not caption.exists()
    trays.set_caption(tray, "../../inside.png", "stray")
    trays.remove(tray, "../../inside.png")
    assert (workspace.folder / "inside.png").exists() and not (workspace.folder / "inside.txt").exists()
    trays.remove(tray, name)
    assert trays.pictures(tray) == []
