"""Outputs appear whole or not at all."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spectra.errors import OutputError, OutputWarning
from spectra.io.atomic_writes import atomic_folder, atomic_write, check_output
from spectra.io.exchange import exchange
from spectra.io.workplaces import remove_leftovers


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """A file system on which no file may grow beyond `limit` bytes: what a full disk looks like to one writer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "new" / "deep" / "a.png"
    with atomic_write(target) as temporary:
        temporary.write_bytes(b"whole")
        assert not target.exists()
        assert temporary.name == target.name  # writers such as Pillow choose their format by it
    assert target.read_bytes() == b"whole"
    assert list(target.parent.iterdir()) == [target]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="half way"), atomic_write(target, force=True) as temporary:
        temporary.write_text("ne")
        raise RuntimeError("half way")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_block_that_writes_nothing_is_a_bug_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_needs_force(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_text("old")
    with pytest.raises(OutputError, match="exists already.*--force"), atomic_write(target):
        pytest.fail("the block must not run")
    with atomic_write(target, force=True) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"


def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "a"
    with pytest.raises(OutputError, match="exists already"), atomic_write(target) as temporary:
        temporary.write_text("mine")
        target.write_text("theirs")
    assert target.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [target]


def test_file_systems_without_hard_links_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", none)
    with atomic_write(tmp_path / "a") as temporary:
        temporary.write_text("whole")
    assert (tmp_path / "a").read_text() == "whole"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "a"
    with (
        file_size_limit(4096),
        pytest.raises(OutputError, match=r"cannot write .*; choose another place"),
        atomic_write(target) as temporary,
    ):
        temporary.write_bytes(b"x" * 10_000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_what_the_system_refuses_says_what_to_do(number: int, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="free some space"), atomic_write(tmp_path / "a"):
        raise OSError(number, os.strerror(number))


def test_other_system_errors_are_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output") as caught, atomic_write(tmp_path / "a"):
        raise OSError(errno.EIO, "Input/output error")
    assert not isinstance(caught.value, OutputError)


def test_impossible_places_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="not a folder"):
        check_output(tmp_path / "file" / "a")
    with pytest.raises(OutputError, match="it is a folder"), atomic_write(tmp_path, force=True):
        pytest.fail("the block must not run")
    with pytest.raises(OutputError, match="it is a file"), atomic_folder(tmp_path / "file", "baking", force=True):
        pytest.fail("the block must not run")


def write_folder(target: Path, *names: str, kind: str = "baking") -> None:
    with atomic_folder(target, kind, force=True) as temporary:
        for name in names:
            (temporary / name).parent.mkdir(exist_ok=True)
            (temporary / name).write_text(name)


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def test_a_folder_of_other_files_is_never_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    check_output(out, folder_of="baking")
    out.mkdir()
    check_output(out, force=True, folder_of="baking")
    (out / "thesis.txt").write_text("years")
    with pytest.raises(OutputError, match="holds other files than baking writes"):
        check_output(out, force=True, folder_of="baking")
    with pytest.raises(OutputError, match="exists already"):
        check_output(out, folder_of="baking")
    with pytest.raises(OutputError, match="name a folder"):
        check_output(out / "thesis.txt", force=True, folder_of="baking")
    (out / ".spectra.json").write_text("[" * 100_000)
    with pytest.raises(OutputError, match="holds other files than baking writes"):
        write_folder(out, "a")


def test_an_earlier_output_is_replaced_only_with_nothing_else_in_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_folder(out, "a", "unet/b")
    write_folder(out, "c")
    assert names_in(out) == [".spectra.json", "c"]
    with pytest.raises(OutputError, match="other files than merging writes"):
        write_folder(out, "d", kind="merging")
    (out / ".DS_Store").touch()  # which file browsers leave everywhere
    write_folder(out, "a", "unet/b")
    (out / "unet" / "notes.txt").write_text("years")
    (out / "link").symlink_to(tmp_path)
    with pytest.raises(OutputError, match=r"other files than baking wrote \(link and 1 more\)"):
        write_folder(out, "d")
    (out / "link").unlink()
    with pytest.raises(OutputError, match=r"\(unet/notes.txt\) and is not replaced; move them"):
        write_folder(out, "d")
    assert names_in(out) == [".spectra.json", "a", "unet/b", "unet/notes.txt"]


def test_what_others_put_there_meanwhile_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_folder(out, "a")

    def meanwhile() -> None:
        with atomic_folder(out, "baking", force=True) as temporary:
            (temporary / "b").touch()
            (out / "notes.txt").write_text("years")

    with pytest.warns(OutputWarning, match="had got other files meanwhile, and is kept as"):
        meanwhile()
    (kept,) = set(tmp_path.iterdir()) - {out}
    assert names_in(out) == [".spectra.json", "b"]
    assert names_in(kept) == [".spectra.json", "a", "notes.txt"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_unwritable_folder_is_one_clear_error(tmp_path: Path) -> None:
    """Root may write anywhere, so another user is asked to."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o755)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    code = (
        "import os, sys; from spectra.io.atomic_writes import atomic_write; from spectra.errors import OutputError\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try:\n    with atomic_write(sys.argv[1]): raise SystemExit('entered')\n"
        "except OutputError as error: raise SystemExit(0 if 'permission denied' in str(error) else str(error))"
    )
    done = subprocess.run([sys.executable, "-c", code, closed / "a"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert list(closed.iterdir()) == []


def test_a_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with atomic_folder(target, "baking") as temporary:
        (temporary / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "out"
    write_folder(target, "old")
    with pytest.raises(OutputError, match="--force"), atomic_folder(target, "baking"):
        pytest.fail("the block must not run")
    with pytest.raises(RuntimeError), atomic_folder(target, "baking", force=True) as temporary:
        (temporary / "new").write_text("2")
        raise RuntimeError
    assert names_in(target) == [".spectra.json", "old"]
    with atomic_folder(target, "baking", force=True) as temporary:
        (temporary / "new").write_text("2")
    assert names_in(target) == [".spectra.json", "new"]
    assert list(tmp_path.iterdir()) == [target]


def test_links_devices_and_pipes_are_never_replaced(tmp_path: Path) -> None:
    real, folder = tmp_path / "real", tmp_path / "folder"
    real.write_text("kept")
    folder.mkdir()
    (tmp_path / "link").symlink_to(real)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder-link").symlink_to(folder)
    os.mkfifo(tmp_path / "pipe")
    before = {path.name: path.lstat().st_ino for path in tmp_path.iterdir()}
    for name, why in (
        *((name, "a link") for name in ("link", "dangling", "folder-link")),
        *((name, "no regular file") for name in ("pipe", "/dev/null")),
    ):
        target = tmp_path / name
        for write in (atomic_write(target, force=True), atomic_folder(target, "baking", force=True)):
            with pytest.raises(OutputError, match=why), write:
                pytest.fail("nothing may be made")
        with pytest.raises(OutputError, match=why):
            check_output(target, force=False)
    assert {path.name: path.lstat().st_ino for path in tmp_path.iterdir()} == before
    assert real.read_text() == "kept"


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(OutputError, match="null"):
        check_output("a\0b")
    with pytest.raises(OutputError, match="too long"), atomic_write("a" * 5000):
        pass


KILLED = """
import os, signal, sys
from pathlib import Path
from unittest import mock
from spectra.io import atomic_writes

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

target, moment = Path(sys.argv[1]), sys.argv[2]
if moment == "between":
    mock.patch.object(atomic_writes, "exchange", lambda *_: False).start()
    real = Path.rename
    mock.patch.object(Path, "rename", lambda self, to: die() if Path(to) == target else real(self, to)).start()
with atomic_writes.atomic_folder(target, "baking", force=True) as temporary:
    (temporary / "new").write_text("2")
    if moment == "writing":
        die()
"""


@pytest.mark.parametrize("moment", ["writing", "between"])
def test_what_a_killed_process_left_is_removed_and_what_it_set_aside_put_back(tmp_path: Path, moment: str) -> None:
    target = tmp_path / "out"
    write_folder(target, "old")
    done = subprocess.run([sys.executable, "-c", KILLED, target, moment], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert target.exists() == (moment == "writing")
    assert len(list(tmp_path.glob(".spectra-*"))) == 1
    with atomic_write(tmp_path / "another"):  # any next output into that folder
        assert names_in(target) == [".spectra.json", "old"]
        (live,) = tmp_path.glob(".spectra-*")
        remove_leftovers(tmp_path)
        assert live.is_dir()  # in use: it stays
        (live / "new" / "another").touch()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["another", "out"]


def test_names_change_places_at_once(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_folder(tmp_path / name, name)
    if not exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this system or its file system has no such call")
    assert (names_in(tmp_path / "a"), names_in(tmp_path / "b")) == ([".spectra.json", "b"], [".spectra.json", "a"])
    assert not exchange(tmp_path / "a", tmp_path / "gone")
