"""Where results are kept: one JSON object a line, and the rows of a run that has not ended yet.

`<case>.jsonl` is only ever appended to. `<case>.partial.jsonl` holds each row as soon as it is measured,
together with what it was measured under, so that a stopped run can be resumed; it goes away when all items
have been recorded.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spectra.benchmarks import machine
from spectra.errors import OutputError


def results_folder(out: Path | None = None) -> Path:
    """Where results go: `out`, else `benchmarks/results` of the checkout, else the current folder."""
    if out is not None:
        return out
    root = machine.checkout()
    return Path.cwd() if root is None else root / "benchmarks" / "results"


class Results:
    """The two files of one case in one folder.

    Raises:
        OutputError: by every method that writes, when the folder or the file cannot be written.
    """

    def __init__(self, case: str, folder: Path) -> None:
        self.path = folder / f"{case}.jsonl"
        self.partial = folder / f"{case}.partial.jsonl"

    def open(self) -> None:
        """Makes the folder and proves that it can be written, before anything slow starts."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                self.path.open("a").close()
            else:  # not by making it: another process may be writing there
                tempfile.TemporaryFile(dir=self.path.parent).close()
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def recorded_rows(self, key: str) -> list[dict[str, Any]]:
        """The rows of all records, one for each value of `key`: the latest of several."""
        rows = (row for record in _lines(self.path) for row in record.get("rows", []))
        return list({row[key]: row for row in rows}.values())

    def record(self, record: Mapping[str, Any]) -> None:
        """Appends a whole result."""
        _append(self.path, record)

    def keep(self, item: str, under: Mapping[str, Any], row: Mapping[str, Any]) -> None:
        """Keeps one row of an unfinished run, with what it was measured under."""
        _append(self.partial, {"item": item, "under": under, "row": row})

    def kept(self, under: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The rows kept so far that were measured under the same conditions, by item; the latest of two."""
        return {line["item"]: line["row"] for line in _lines(self.partial) if line.get("under") == under}

    def forget(self) -> None:
        """Removes the kept rows."""
        self.partial.unlink(missing_ok=True)


def _append(path: Path, value: Mapping[str, Any]) -> None:
    # The newline comes first where an earlier run was stopped in the middle of a line.
    try:
        with path.open("ab+") as file:
            if file.tell() > 0:
                file.seek(-1, 2)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n")
    except OSError as error:
        raise _unwritable(path, error) from error


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file; a line cut off by a stop is no object and is left out."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def _unwritable(path: Path, error: OSError) -> OutputError:
    reason = error.strerror or type(error).__name__
    return OutputError(f"cannot write the results to {path}: {reason}; choose another folder with --out")


def base_stamp(*parts: bytes) -> str:
    """Content hash of the embedded base's weights and of whatever else decides a row: a case's `stamp`."""
    from spectra.bases.pipeline import find_base

    whole = hashlib.sha256(b"".join(parts))
    for file in sorted(Path(find_base("").target).rglob("*.safetensors")):
        whole.update(file.read_bytes())
    return whole.hexdigest()[:16]
