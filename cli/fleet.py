"""`spectra fleet`: many concepts trained by the processes of a Ray cluster."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.cli import output
from spectra.cli.next_steps import following
from spectra.cli.options import argument, check_device, command, device_option
from spectra.cli.tables import plural
from spectra.errors import InputError
from spectra.settings import setting

if TYPE_CHECKING:
    from spectra.fleet.fleet import Ended, FleetReport


@dataclass(frozen=True)
class _Options:
    concepts: Path = argument(
        "Settings, then a table [[concept]] for each, as `spectra train --concepts` takes them.", "FILE.toml"
    )
    out: Path | None = setting(
        None,
        "Folder of the concepts that name no output of their own.",
        option="--out -o",
        metavar="DIR",
        default_text="out",
    )
    address: str = setting(
        "", "Ray cluster to train on.", metavar="HOST:PORT", default_text="a Ray of this machine alone"
    )
    workers: int = setting(
        0, "Trainings at once on this machine.", least=0, default_text="as many as it has cores, or GPUs"
    )
    device: str = device_option("train on")
    json: bool = setting(False, "Print a JSON object a line: each concept as it ends, then the summary.")


@command(_Options, "spectra fleet pets.toml -o out", "spectra fleet pets.toml -o /shared/out --address head:6379")
def fleet(options: _Options) -> None:
    """Trains many concepts, each as `spectra train` would alone, several at a time by the processes of a Ray cluster.

    Called again, it goes on: what has ended stays, what was interrupted continues from its saved state or begins anew.
    """
    from spectra.training.run.concepts import read_concepts

    check_device(options.device)
    concepts = read_concepts(options.concepts, options.out)
    from spectra.fleet.fleet import run_fleet

    view = _View(len(concepts), options.json)
    report = run_fleet(
        concepts, address=options.address, workers=options.workers, device=options.device, told=view.ended
    )
    view.summary(report)
    if report.failed:
        raise InputError(f"{plural(len(report.failed), 'concept')} of {len(concepts)} failed; call it again to retry")


class _View:
    """A line for each concept that ends, with how many are left and how long they will take."""

    def __init__(self, total: int, as_json: bool) -> None:
        self.total, self.as_json = total, as_json
        self.count, self.seconds = 0, list[float]()

    def ended(self, ended: Ended) -> None:
        self.count += 1
        if ended.summary is not None:
            self.seconds.append(ended.summary.total_seconds)
        if self.as_json:
            told = ended.summary.as_dict() if ended.summary else {}
            state = "failed" if ended.error else "done" if ended.summary else "had ended"
            self._line({"event": state, "name": ended.name, "folder": ended.folder, "error": ended.error, **told})
            return
        place = f"{self.count}/{self.total} {ended.name}"
        if ended.error:
            output.say(f"{place}: {ended.error}")
        elif ended.summary is None:
            output.line(f"{place}: had ended before, {ended.folder}")
        else:
            s = ended.summary
            output.line(
                f"{place}: loss {s.loss_before:.4f} -> {s.loss_after:.4f} in {s.total_seconds:.0f} s, {ended.folder}"
                f"{self._left()}"
            )

    def _left(self) -> str:
        left = self.total - self.count
        seconds = left * statistics.median(self.seconds)
        return f"; {left} left, {seconds:.0f} s of a worker" if left else ""

    def summary(self, report: FleetReport) -> None:
        trained, failed = len(report.trained), len(report.failed)
        earlier = len(report.ended) - trained - failed
        if self.as_json:
            counts = {"trained": trained, "had_ended": earlier, "failed": failed}
            self._line(
                {"event": "summary", **counts, "seconds": report.seconds, "worker_seconds": report.training_seconds}
            )
            return
        output.line(
            f"{trained} trained, {earlier} had ended before, {failed} failed, in {report.seconds:.0f} s "
            f"({report.training_seconds:.0f} s of workers)"
        )
        if report.ended:
            folders = dict.fromkeys(str(Path(each.folder).parent) for each in report.ended)
            output.line(following("spectra", "inspect", *folders))

    def _line(self, event: dict[str, Any]) -> None:
        output.line(json.dumps(event))
