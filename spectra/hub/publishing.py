"""Publishing a shift: a repository of the hub with its file, its pictures and its card."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from spectra.errors import InputError, OutputError
from spectra.hub.card import Card
from spectra.hub.fetching import is_hub_id
from spectra.shift.shift_file import read_shift

PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def push(
    file: str | os.PathLike[str],
    repo_id: str,
    *,
    prompt: str = "",
    pictures: Sequence[str | os.PathLike[str]] = (),
    licence: str = "",
    private: bool = False,
    token: str | None = None,
) -> str:
    """Publish a shift on the hub, in a repository that is made if it is not there; in one commit.

    Args:
        file: the shift's.
        repo_id: `owner/name`.
        prompt: with which the subject is drawn, for the card.
        pictures: files for the card.
        licence: of the shift, as the hub calls it; by default the one in its metadata.
        private: of a repository that is made.
        token: of the hub; by default the one of `hf auth login`.

    Returns:
        The repository's address.

    Raises:
        ShiftFileError: the file is no shift, or damaged.
        InputError: an id that is none, or a picture that is none.
        OutputError: the hub does not take it.
    """
    path = Path(file)
    shift, shown = read_shift(path), [Path(each) for each in pictures]
    if not is_hub_id(repo_id):
        raise InputError(f"{repo_id}: expected a repository of the hub (owner/name)")
    for picture in shown:
        if picture.suffix.lower() not in PICTURES or not picture.is_file():
            raise InputError(f"{picture}: expected a picture file ({', '.join(PICTURES)})")
    names = [f"pictures/{number}{picture.suffix.lower()}" for number, picture in enumerate(shown)]
    card = Card(repo_id, path.name, prompt, names, licence)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shutil.copyfile(path, folder / path.name)
        for name, picture in zip(names, shown, strict=True):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(picture, folder / name)
        (folder / "README.md").write_text(card.text(shift, path.stat().st_size), encoding="utf-8")
        return _upload(folder, repo_id, private, token)


def _upload(folder: Path, repo_id: str, private: bool, token: str | None) -> str:
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=url.repo_id, folder_path=folder, commit_message="Spectral shift")
    except Exception as error:  # the hub raises many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise OutputError(
            f"{repo_id}: the hub did not take it ({reason}); sign in (hf auth login) with a token that may write there"
        ) from error
    return str(url)
