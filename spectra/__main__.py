"""`python -m spectra`, as launchers of several processes start a module: `torchrun -m spectra train ...`."""

from __future__ import annotations

import sys
from pathlib import Path

# Python has put the folder of the call first on its path: what lies there is no package of ours.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path.cwd()]

from spectra.cli.app import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
