"""Reads spoilt inputs by the hundred thousand: `make fuzz`, or `python tests/helpers/fuzz.py --reader shift`.

With atheris (pip install atheris) inputs that reach new lines of code are kept and spoilt further; without it all come
from the seeds. Each finding is written to build/fuzz and told in one line; the exit code is 1 if there is one.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import re
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

FOUND = Path(__file__).parents[2] / "build" / "fuzz"
MEMORY_LIMIT = 12 << 30
"""Bytes of address space, so that what claims terabytes ends in an error instead of the machine."""


class Run:
    """One reader's inputs so far: how many, how many were read and refused, and what was found."""

    def __init__(self, name: str, folder: Path) -> None:
        from hostile.limits import Watch
        from hostile.readers import READERS

        self.name, self.reader = name, READERS[name]
        self.path = folder / f"input{self.reader.suffix}"
        self.inputs = 0
        self.found: dict[str, Path] = {}
        for data in self.reader.seeds():  # what is imported and made once is none of what an input takes
            self.path.write_bytes(data)
            Watch(self.reader.read).complaint(self.path)
        self.watch = Watch(self.reader.read)

    def check(self, data: bytes) -> None:
        """Reads one input and keeps it if something is wrong with that."""
        self.inputs += 1
        self.path.write_bytes(data)
        wrong = self.watch.complaint(self.path)
        kind = re.sub(r"[0-9]+", "", wrong)[:40]
        if wrong and kind not in self.found:
            FOUND.mkdir(parents=True, exist_ok=True)
            kept = FOUND / f"{self.name}-{hashlib.sha256(data).hexdigest()[:8]}{self.reader.suffix}"
            kept.write_bytes(data)
            self.found[kind] = kept
            print(f"{self.name}: {kept}: {wrong}", flush=True)


def spoilt(run: Run, inputs: int) -> Iterator[bytes]:
    """The seeds and the corpus, and then spoilt copies of them."""
    from hostile.corpus import corpus
    from hostile.mutation import mutated

    rng = random.Random(run.name)
    known = [*run.reader.seeds(), *corpus(run.reader.suffix)]
    yield from known
    for _ in range(inputs - len(known)):
        yield mutated(rng.choice(known), run.reader.suffix, rng)


def guided(run: Run, inputs: int) -> None:
    """The same under atheris, which keeps what reaches new code."""
    import atheris  # type: ignore[import-not-found]
    from hostile.mutation import mutated

    seeds = FOUND / "seeds" / run.name
    seeds.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(spoilt(run, 200)):
        (seeds / str(number)).write_bytes(data)

    def mutator(data: bytes, most: int, seed: int) -> bytes:
        return mutated(data, run.reader.suffix, random.Random(seed))[:most]

    atheris.Setup([sys.argv[0], f"-runs={inputs}", "-max_len=100000", "-verbosity=0", str(seeds)], run.check,
                  custom_mutator=mutator)  # fmt: skip
    atheris.Fuzz()


def main() -> int:
    """Runs the readers that were asked for, each in this process, and tells how many inputs each read."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reader", action="append", default=[])
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--guided", action="store_true", help="by atheris; one reader a process")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    if options.guided:
        import atheris

        with atheris.instrument_imports(include=["spectra"]):
            from hostile.readers import READERS
    else:
        from hostile.readers import READERS
    found = 0
    for name in options.reader or READERS:
        with tempfile.TemporaryDirectory() as folder:
            run, began = Run(name, Path(folder)), time.monotonic()
            if options.guided:
                guided(run, options.inputs)
            for data in () if options.guided else spoilt(run, options.inputs):
                run.check(data)
            seconds = time.monotonic() - began
            print(f"{name}: {run.inputs:,} inputs, {len(run.found)} kinds of finding, {seconds:.0f} s", flush=True)
            found += len(run.found)
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
