"""A little of what `make crash`, `make contention` and `make endurance` do at length."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HELPERS = Path(__file__).parents[1] / "helpers"


def run(driver: str, *arguments: str) -> str:
    """What a driver printed; in a process of its own, since it forks."""
    command = [sys.executable, str(HELPERS / f"{driver}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return done.stdout


def test_a_few_kills() -> None:
    said = run("killed_commands", "--kills", "10", "--job", "merge", "--job", "bake")
    assert "0 of 10 kills left something wrong" in said


def test_processes_share_a_cache_that_is_damaged() -> None:
    assert "'wrong': 0" in run("cache_under_damage", "--processes", "4", "--seconds", "4")


@pytest.mark.slow
def test_kills_of_every_command() -> None:
    assert "0 of 60 kills left something wrong" in run("killed_commands", "--kills", "60")


@pytest.mark.slow
def test_memory_stays_flat() -> None:
    said = run("long_runs", "--generations", "500", "--steps", "200")
    assert "500 generations" in said
