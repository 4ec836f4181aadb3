"""Locks are kept by the operating system: one holder at a time, and none after its death."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from spectra.io.locks import locked, take_lock


def test_one_holds_it_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path) as first:
        assert first is not None
        assert first.certain
        with locked(path) as second:
            assert second is None
        assert path.exists()
    assert not path.exists()
    with locked(path) as third:
        assert third is not None


def test_the_dead_hold_nothing(tmp_path: Path) -> None:
    code = "import os, signal, sys; from pathlib import Path; from spectra.io.locks import take_lock\n" \
           "lock = take_lock(Path(sys.argv[1])); print(lock is not None, flush=True); sys.stdin.read()"  # fmt: skip
    path = tmp_path / "lock"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        assert take_lock(path) is None
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
    assert path.exists()
    with locked(path) as lock:
        assert lock is not None
    assert not path.exists()


def test_many_threads_take_turns(tmp_path: Path) -> None:
    """Each that lets go removes the file: whoever opened it before must not think that it holds the name."""
    path, inside, most, taken = tmp_path / "lock", [0], [0], [0]

    def work() -> None:
        for _ in range(300):
            with locked(path) as lock:
                if lock is not None:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    taken[0] += 1
                    inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert taken[0] >= 300
    assert not path.exists()


def test_a_file_system_without_locks_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with locked(tmp_path / "lock") as lock:
        assert lock is not None
        assert not lock.certain


def test_a_link_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        take_lock(tmp_path / "lock")
    assert not (tmp_path / "elsewhere").exists()
