"""Where a shift's file is: a path, a folder with one, or a repository of the hub, which is fetched once."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

from spectra.errors import ShiftFileError
from spectra.io.atomic_writes import atomic_write
from spectra.shift.shift_header import read_shift_header

ENDING = ".safetensors"


class HubOptions(TypedDict, total=False):
    """What of a repository is meant, and how it is reached.

    Attributes:
        weight_name: the file in the repository or folder; by default the only shift there.
        revision: branch, tag or commit.
        token: of the hub; by default the one of `hf auth login`.
        cache_dir: where fetched files are kept; by default huggingface_hub's cache.
        local_files_only: take what was fetched before, and ask nobody.
    """

    weight_name: str | None
    revision: str | None
    token: str | bool | None
    cache_dir: str | os.PathLike[str] | None
    local_files_only: bool


def is_hub_id(source: object) -> bool:
    """Whether something is a repository's id, `owner/name`, and no path that is there or a file's name."""
    text = str(source)
    named = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", text) is not None
    return named and not text.endswith(ENDING) and not Path(text).exists()


def find_shift_file(source: str | os.PathLike[str], **options: Unpack[HubOptions]) -> Path:
    """The shift file that a path, a folder or a hub id means; one of the hub is fetched if it is not here yet.

    Without a connection, what was fetched before is found.

    Raises:
        ShiftFileError: a folder or repository without a shift or with several, or a repository or revision that is not
            there, or cannot be reached and was not fetched before. Of a path nothing is checked.
    """
    if is_hub_id(source):
        return _fetched(str(source), options)
    if Path(source).is_dir():
        return _only_shift(Path(source), options.get("weight_name"), str(source))
    return Path(source)


def pull(
    repo_id: str, out: str | os.PathLike[str] | None = None, *, force: bool = False, **options: Unpack[HubOptions]
) -> Path:
    """Fetch a shift from the hub into a file.

    Args:
        repo_id: `owner/name`.
        out: the file; by default one in the working folder, named as in the repository.
        force: replace a file that is there.
        options: see `HubOptions`.

    Returns:
        The file's path.

    Raises:
        ShiftFileError: as `find_shift_file`, or what is there is no shift.
        OutputError: the file is there already, or cannot be written.
    """
    if not is_hub_id(repo_id):
        raise ShiftFileError(f"{repo_id}: expected a repository of the hub (owner/name)")
    found = _fetched(repo_id, options)
    read_shift_header(found)
    path = Path(out or found.name)
    with atomic_write(path, force=force) as temporary:
        temporary.write_bytes(found.read_bytes())
    return path


def _fetched(repo_id: str, options: HubOptions) -> Path:
    from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    where: dict[str, Any] = {"revision": options.get("revision"), "token": options.get("token")}
    here = {**where, "cache_dir": options.get("cache_dir")}
    name, local = options.get("weight_name"), options.get("local_files_only", False) or constants.is_offline_mode()
    label = f"{repo_id}@{where['revision']}" if where["revision"] else repo_id
    reason = "it was not fetched before"
    if not local:
        try:
            name = name or _only(_shift_names(HfApi().list_repo_files(repo_id, **where)), label)
            return Path(hf_hub_download(repo_id, name, **here))
        except GatedRepoError as error:
            raise ShiftFileError(f"{label}: access must be asked for on the hub; then give its token") from error
        except RepositoryNotFoundError as error:
            raise ShiftFileError(
                f"{label}: the hub has no such repository, or it is private; check the name, give token=... or sign in "
                "(hf auth login)"
            ) from error
        except RevisionNotFoundError as error:
            raise ShiftFileError(f"{label}: the repository has no such revision") from error
        except ShiftFileError:
            raise
        except Exception as error:  # no connection: the hub raises many kinds
            reason = (str(error).splitlines() or [type(error).__name__])[0]
    try:
        if name:
            return Path(hf_hub_download(repo_id, name, local_files_only=True, **here))
        folder = snapshot_download(repo_id, local_files_only=True, **here)
    except Exception as error:
        raise ShiftFileError(f"{label}: cannot be fetched from the hub, and is not here ({reason})") from error
    return _only_shift(Path(folder), None, label)


def _shift_names(names: Sequence[str]) -> list[str]:
    """Of the files of a repository those that may be shifts: at its top, so that no base is taken for one."""
    return [name for name in names if name.endswith(ENDING) and "/" not in name]


def _only_shift(folder: Path, name: str | None, label: str) -> Path:
    """The only shift in a folder, or the file of that name."""
    if name:
        return folder / name
    names = []
    for path in sorted(folder.glob(f"*{ENDING}")):
        try:
            read_shift_header(path)
        except ShiftFileError:
            continue
        names.append(path.name)
    return folder / _only(names, label)


def _only(names: Sequence[str], label: str) -> str:
    if len(names) != 1:
        found = f"{len(names)} ({', '.join(names[:3])})" if names else "none"
        raise ShiftFileError(f"{label}: expected one {ENDING} file of a shift, found {found}; name it: weight_name=...")
    return names[0]
