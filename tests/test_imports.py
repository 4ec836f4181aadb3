"""Light parts stay light: what needs no torch imports none, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

HELP = "from spectra.cli.app import main; main(['{}', '--help'])"

WITHOUT_NUMPY = [
    ("import spectra", "rich typer"),
    ("from spectra.cli.app import main; main(['--help'])", "safetensors"),
    *((HELP.format(command), "") for command in ("inspect", "pack", "verify", "adjust", "diff", "mix", "edit")),
    ("import spectra.convert.file_kinds, spectra.convert.module_names", ""),
]
WITHOUT_TORCH = [
    ("import spectra.combine.merging, spectra.shift.sums, spectra.combine.adjusting", "rich typer"),
    ("import spectra.analysis.library, spectra.analysis.lineage, spectra.analysis.diffing, spectra.plots.shift", ""),
    (
        "import spectra.shift.shift_file, spectra.shift.singular_values, spectra.naming.target_subsets",
        "",
    ),
    ("import spectra.shift.packing.arrays, spectra.compatibility.verification, spectra.analysis.inspection", ""),
    ("import spectra.combine.mixing, spectra.naming.unet_layers, spectra.editing.settings", ""),
    ("import spectra.spectrum.cache.spectrum_cache", ""),
    ("import spectra.bases.embedded, spectra.bases.embedded.subjects", ""),
    ("from spectra.cli.app import main; main(['merge', '--list'])", ""),
]
STEP = """
{code}
loaded = [name for name in {absent!r} if name in sys.modules]
if loaded:
    sys.exit({code!r} + f" imported {{loaded}}")
"""


@pytest.mark.parametrize(
    ("steps", "absent"),
    [
        (WITHOUT_NUMPY, "torch numpy diffusers transformers"),
        (WITHOUT_TORCH, "torch diffusers transformers matplotlib"),
    ],
    ids=["without numpy", "without torch"],
)
def test_light_parts_import_no_heavy_package(steps: list[tuple[str, str]], absent: str) -> None:
    """One process goes through the steps; after each, nothing heavy has been imported by it or those before it.

    Args:
        steps: code, and packages that are still absent after it besides those that always are.
        absent: packages that are absent to the end.
    """
    done = run([(code, f"{absent} {further}".split()) for code, further in steps])
    assert done.returncode == 0, done.stderr


def test_a_heavy_import_is_seen() -> None:
    done = run([("import json", ["torch"]), ("import spectra.io.atomic_writes, csv", ["csv"])])
    assert done.returncode == 1
    assert "import spectra.io.atomic_writes, csv imported ['csv']" in done.stderr


def run(steps: list[tuple[str, list[str]]]) -> subprocess.CompletedProcess[str]:
    whole = "import sys\n" + "".join(STEP.format(code=code, absent=absent) for code, absent in steps)
    return subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, cwd="/", timeout=120)


def test_every_public_name_resolves() -> None:
    import spectra

    for name in spectra.__all__:
        assert getattr(spectra, name) is not None
    assert set(spectra.__all__) <= set(dir(spectra))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = spectra.nothing
