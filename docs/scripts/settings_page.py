"""Writes docs/settings.md: the settings of `train`, `edit`, `generate`, `serve`, `studio` and `merge`, as declared.

python docs/scripts/settings_page.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from spectra.cli.generate import SETTINGS
from spectra.cli.help import default_text, option_names
from spectra.combine.merge_settings import MergeSettings
from spectra.editing.settings import EditSettings, training_settings
from spectra.serving.settings import ServeSettings
from spectra.settings import Setting, declared_settings
from spectra.studio.settings import StudioSettings
from spectra.training.config import TrainConfig

PAGE = Path(__file__).parents[1] / "settings.md"

COMMANDS: dict[str, tuple[str, dict[str, Setting]]] = {
    "train": (
        "A TOML file for `--config` names a setting as in the first column.",
        declared_settings(TrainConfig),
    ),
    "edit": ("", declared_settings(EditSettings) | training_settings()),
    "generate": ("", SETTINGS),
    "serve": ("", declared_settings(ServeSettings)),
    "studio": ("", declared_settings(StudioSettings)),
    "merge": ("Each method has its own defaults: `spectra merge --list`.", declared_settings(MergeSettings)),
}


def page() -> str:
    """The page's text."""
    lines = [
        "# Settings",
        "",
        "Made by `docs/scripts/settings_page.py` from the dataclasses that declare the settings; `spectra COMMAND",
        "--help` shows the same. The embedded base, which is small, has some defaults of its own.",
    ]
    for command, (remark, settings) in COMMANDS.items():
        lines += ["", f"## spectra {command}", *(["", remark] if remark else []), *_table(settings)]
    return "\n".join(lines) + "\n"


def _table(settings: dict[str, Setting]) -> Iterator[str]:
    panel = None
    for name, declared in settings.items():
        if declared.panel != panel:
            panel = declared.panel
            yield ""
            if panel:
                yield f"**{panel}**"
                yield ""
            yield "| setting | option | values | default | meaning |"
            yield "|---|---|---|---|---|"
        values = declared.expected if declared.expected != "a finite number" else ""
        default = default_text(declared)
        if not default and isinstance(declared.default, (bool, int, float)):
            default = "off" if declared.default is False else "0"
        cells = (f"`{name}`", f"`{option_names(name, declared)}`", values, default, declared.help)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
