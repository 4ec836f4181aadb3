"""Kills commands at random moments, looks at what they leave, runs them again, and compares with an undisturbed run.

    python tests/helpers/killed_commands.py --kills 300         which is `make crash`

A kill is SIGKILL, at a random time of the command or before a random one of its file operations. Afterwards no file
under a final name is damaged, the next run goes on, its outputs are those of the undisturbed run byte for byte, and
nothing else is left. Each command runs in a fork of this process, which has done the imports.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "SPECTRA_TEST": "1"}

FILE_OPERATIONS = frozenset(
    {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "os.utime", "ctypes.dlsym"}
)
"""Audit events before which a command is killed; the last is that of two names that change places."""

UNEQUAL = frozenset({"log.jsonl", ".spectra.json", "state.safetensors"})
"""Files that hold times, or list what an interrupted run leaves in addition."""

Files = dict[str, str]


@dataclass(frozen=True)
class Scene:
    """What all commands are given: a base, pictures, shifts of the base, and a cache that knows its spectra."""

    base: Path
    photos: Path
    shifts: tuple[Path, ...]
    cache: Path


@dataclass(frozen=True)
class Job:
    """A command.

    Attributes:
        name: of it.
        run: the arguments.
        again: those of the next run after a kill, by the folder in which it happened; None where nothing is left to do.
        earlier: a command that ran before it, whose output it replaces.
        cold: it begins with an empty cache, which is its output.
    """

    name: str
    run: tuple[str, ...]
    again: Callable[[Path], Sequence[str] | None]
    earlier: tuple[str, ...] = ()
    cold: bool = False


def jobs(scene: Scene) -> list[Job]:
    """The commands that are killed."""
    base, (first, second) = str(scene.base), map(str, scene.shifts)
    train = (
        "train", "--preset", "svdiff", "--base", base, "--steps", "5", "--save-every", "2", "--batch", "1",
        "--validation-count", "0", "--prior-weight", "0",
    )  # fmt: skip
    alone = (*train, "--images", str(scene.photos), "--prompt", "a v disc", "-o", "dog")
    table = f'[[concept]]\nname = "NAME"\nimages = "{scene.photos}"\nprompt = "a v disc"\nseed = SEED\n'
    (scene.base.parent / "pets.toml").write_text(
        "".join(table.replace("NAME", name).replace("SEED", str(seed)) for seed, name in enumerate(("rex", "mia")))
    )
    together = (*train, "--concepts", str(scene.base.parent / "pets.toml"), "-o", "pets")

    def forced(arguments: tuple[str, ...]) -> Callable[[Path], Sequence[str]]:
        return lambda folder: (*arguments, "--force")

    def resumed(arguments: tuple[str, ...], *names: str) -> Callable[[Path], Sequence[str] | None]:
        def again(folder: Path) -> Sequence[str] | None:
            states = [(folder / f"{name}.progress" / "state.safetensors").is_file() for name in names]
            if all((folder / name).is_dir() for name in names) and not any(states):
                return None
            return (*arguments, "--force", *(["--resume"] if all(states) else []))

        return again

    bake = ("bake", base, "--shift", first, "-o", "baked")
    merge = ("merge", first, f"{second}:0.5", "-o", "merged.safetensors", "--save-recipe", "merged.toml")
    pack = ("pack", first, second, "-o", "packed")
    return [
        Job("train", alone, resumed(alone, "dog")),
        Job("train together", together, resumed(together, "pets/rex", "pets/mia")),
        Job("decompose", ("decompose", base), lambda folder: ("decompose", base), cold=True),
        Job("bake", (*bake, "--force"), forced(bake), earlier=("bake", base, "--shift", second, "-o", "baked")),
        Job("merge", merge, forced(merge)),
        Job("pack", pack, forced(pack)),
    ]


def make_scene(folder: Path) -> Scene:
    """The tiny base, pictures and two shifts, in a folder."""
    import numpy as np
    import tiny_base
    from PIL import Image

    from spectra.bases.weight_files import base_weights
    from spectra.compatibility.base_check import delta_length
    from spectra.shift.metadata import FINGERPRINT_DIGITS, ShiftMetadata
    from spectra.shift.shift import SpectralShift
    from spectra.shift.shift_file import write_shift
    from spectra.spectrum.cache.spectrum_cache import SpectrumCache
    from spectra.spectrum.fingerprint import fingerprint

    scene = Scene(
        folder / "base", folder / "photos", (folder / "a.safetensors", folder / "b.safetensors"), folder / "cache"
    )
    tiny_base.build().save_pretrained(scene.base)
    scene.photos.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(scene.photos / f"{number}.png")
    weights = base_weights(str(scene.base), ("unet",), dtype="float32")
    names = [name for name in weights if "attn" in name or "norm" in name]
    described = ShiftMetadata(
        "tiny",
        {name: fingerprint(weights[name])[:FINGERPRINT_DIGITS] for name in names},
        ndims={name: weights[name].ndim for name in names},
    )
    for path in scene.shifts:
        deltas = {name: rng.normal(0, 0.1, delta_length(weights[name].shape)).astype(np.float32) for name in names}
        write_shift(SpectralShift(deltas, described), path)
    SpectrumCache(scene.cache).fill({name: weights[name] for name in weights if weights[name].ndim > 1})
    return scene


def forked(arguments: Sequence[str], folder: Path, cache: Path, *, die_at: int = 0, report: Path | None = None) -> int:
    """Start a command in a fork, in a folder, and return its process.

    Args:
        die_at: the number of the file operation before which it kills itself; 0 for none.
        report: file for the number of its operations and the modules that it imported.
    """
    process = os.fork()
    if process:
        return process
    code = 70
    try:
        os.chdir(folder)
        os.environ["SPECTRA_CACHE"] = str(cache)
        said = os.open(folder.with_suffix(".said"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        count = 0
        within = (str(folder), str(cache))

        def hook(event: str, given: tuple[object, ...]) -> None:
            nonlocal count
            if event not in FILE_OPERATIONS:
                return
            if event == "open" and not str(given[0]).startswith(within) and str(given[0]).startswith("/"):
                return  # a source file or a library
            count += 1
            if count == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        from spectra.cli.app import main

        code = main(list(arguments))
        if report is not None:
            report.write_text(json.dumps({"operations": count, "modules": sorted(sys.modules)}))
    finally:
        os._exit(code)


def finished(process: int) -> int:
    """The exit code of a process; negative for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def files_in(folder: Path) -> Files:
    """Digests of everything in a folder by its path, files with times in them apart."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in UNEQUAL and not _is_on_the_way(path.relative_to(folder))
    }


def _is_on_the_way(path: Path) -> bool:
    """Whether it lies in the folder of an unfinished training, or what became of that."""
    return any(part == "progress" or part.endswith(".progress") for part in path.parts)


@dataclass(frozen=True)
class Undisturbed:
    """A job that was not killed: its files, those there before, its seconds, and its number of file operations."""

    before: Files
    after: Files
    seconds: float
    operations: int


class Trials:
    """A job that is killed again and again, each time in a folder of its own.

    Args:
        job: which.
        scene: what it is given.
        folder: for its folders.
    """

    def __init__(self, job: Job, scene: Scene, folder: Path) -> None:
        self.job, self.scene, self.folder = job, scene, folder
        self.start = folder / "start"
        self.start.mkdir(parents=True)
        if job.earlier and finished(forked(job.earlier, self.start, scene.cache)):
            raise RuntimeError(f"{job.name}: {self.start.with_suffix('.said').read_text()}")
        for _ in range(2):  # once to know what it imports, once to know how long it takes
            self.undisturbed = self._undisturbed()

    def _place(self, name: str) -> tuple[Path, Path]:
        """A fresh folder, and the cache that a run in it takes."""
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.start, place)
        return place, place / "cache" if self.job.cold else self.scene.cache

    def _undisturbed(self) -> Undisturbed:
        place, cache = self._place("undisturbed")
        report, began = self.folder / "report.json", time.monotonic()
        if finished(forked(self.job.run, place, cache, report=report)):
            raise RuntimeError(f"{self.job.name}: {place.with_suffix('.said').read_text()}")
        seconds, found = time.monotonic() - began, json.loads(report.read_text())
        for module in found["modules"]:
            with contextlib.suppress(Exception), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(module)
        return Undisturbed(files_in(self.start), files_in(place), seconds, found["operations"])

    def kill_once(self, rng: random.Random) -> tuple[str, list[str]]:
        """One kill and the next run; returns what was killed and what is wrong with what they left."""
        place, cache = self._place("killed")
        known = self.undisturbed
        if rng.random() < 0.5:
            process = forked(self.job.run, place, cache, die_at=rng.randint(1, known.operations))
        else:
            process = forked(self.job.run, place, cache)
            time.sleep(rng.uniform(0, known.seconds))
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        killed = finished(process) == -signal.SIGKILL
        wrong = self._damage(place, cache)
        again = self.job.again(place)
        how = "finished before" if not killed else "nothing left to do" if again is None else "run again"
        if again is not None:
            how = "resumed" if "--resume" in again else how
            if finished(forked(again, place, cache)):
                wrong.append("the next run failed: " + place.with_suffix(".said").read_text()[-600:])
        if files_in(place) != known.after and again is not None:
            wrong.append(f"its files are others: {_difference(files_in(place), known.after)}")
        left = [str(path.relative_to(place)) for path in place.rglob("*") if _is_leftover(path)] if again else []
        left += [str(path) for path in cache.rglob(".spectra-*")] if self.job.cold else []
        return how, [*wrong, *(f"left over: {each}" for each in left)]

    def _damage(self, place: Path, cache: Path) -> list[str]:
        """What is damaged under a final name."""
        from spectra.errors import SpectraError
        from spectra.spectrum.cache.spectrum_cache import SpectrumCache
        from spectra.training.run.state import read_state

        known, wrong = self.undisturbed, []
        found = {path: digest for path, digest in files_in(place).items() if ".spectra-" not in path}
        for path, digest in found.items():
            if digest not in (known.before.get(path), known.after.get(path)):
                wrong.append(f"damaged: {path}")
        for folder in {path.parent for path in place.rglob(".spectra.json") if ".spectra-" not in str(path)}:
            listed = json.loads((folder / ".spectra.json").read_text())["files"]
            wrong += [f"gone: {folder.name}/{name}" for name in listed if not (folder / name).is_file()]
        if known.before and not found:
            wrong.append("what was there before is gone")
        for state in place.glob("**/*.progress/state.safetensors"):
            try:
                read_state(state)
            except SpectraError as error:
                wrong.append(str(error))
        return wrong + [f"damaged: {name}" for name in SpectrumCache(cache).verify().damaged]


def _is_leftover(path: Path) -> bool:
    return path.name.startswith(".spectra-") or path.name == "lock" or path.name.endswith(".progress")


def _difference(found: Files, expected: Files) -> str:
    return ", ".join(sorted(path for path in found.keys() | expected.keys() if found.get(path) != expected.get(path)))


def main() -> int:
    """Kill every job in turn, and print what came of it; 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300, help="how many kills, of all jobs together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--job", action="append", help="only this one; repeatable")
    given = parser.parse_args()
    rng, failures = random.Random(given.seed), 0
    with tempfile.TemporaryDirectory() as folder:
        scene = make_scene(Path(folder))
        chosen = [job for job in jobs(scene) if not given.job or job.name in given.job]
        for number, job in enumerate(chosen):
            trials = Trials(job, scene, Path(folder) / job.name.replace(" ", "-"))
            kills = given.kills // len(chosen) + (number < given.kills % len(chosen))
            came: Counter[str] = Counter()
            for _ in range(kills):
                how, wrong = trials.kill_once(rng)
                came[how] += 1
                for each in wrong:
                    print(f"{job.name}, kill {came.total()}: {each}", flush=True)
                failures += bool(wrong)
            told = ", ".join(f"{count} {how}" for how, count in sorted(came.items()))
            print(f"{job.name}: {kills} kills ({told}), {trials.undisturbed.operations} file operations", flush=True)
    print(f"{failures} of {given.kills} kills left something wrong")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
