"""A log of JSON lines, echoed to the terminal."""

from __future__ import annotations

import json
from pathlib import Path


class Log:
    """Appends rows to a file: `log(step=1, loss=0.5)`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, **row: float | str) -> None:
        line = json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()})
        with self.path.open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)
