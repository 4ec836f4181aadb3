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

from spectra.errors import OutputError
from spectra.io.atomic_writes import atomic_folder, atomic_write, check_output


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
        assert (temporary.parent, temporary.suffix) == (target.parent, ".png")
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
    with pytest.raises(OutputError, match="it is a file"), atomic_folder(tmp_path / "file", force=True):
        pytest.fail("the block must not run")


def test_a_folder_of_other_files_is_never_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    check_output(out, mark="index.json")
    out.mkdir()
    check_output(out, force=True, mark="index.json")
    (out / "thesis.txt").write_text("years")
    for mark in ("index.json", "weights*.bin"):
        with pytest.raises(OutputError, match="holds other files"):
            check_output(out, force=True, mark=mark)
    (out / "weights-1.bin").write_text("x")
    check_output(out, force=True, mark="weights*.bin")
    with pytest.raises(OutputError, match="exists already"):
        check_output(out, mark="weights*.bin")
    with pytest.raises(OutputError, match="name a folder"):
        check_output(out / "thesis.txt", force=True, mark="index.json")


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
    with atomic_folder(target) as temporary:
        (temporary / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_folder_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("1")
    with pytest.raises(OutputError, match="--force"), atomic_folder(target):
        pytest.fail("the block must not run")
    with pytest.raises(RuntimeError), atomic_folder(target, force=True) as temporary:
        (temporary / "new").write_text("2")
        raise RuntimeError
    assert [file.name for file in target.iterdir()] == ["old"]
    with atomic_folder(target, force=True) as temporary:
        (temporary / "new").write_text("2")
    assert [file.name for file in target.iterdir()] == ["new"]
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
        for write in (atomic_write, atomic_folder):
            with pytest.raises(OutputError, match=why), write(target, force=True):
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
