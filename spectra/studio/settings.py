"""What a studio is started with."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from spectra.serving.network import NetworkSettings
from spectra.serving.settings import BaseSettings, ServeSettings
from spectra.settings import check_ranges, setting


@dataclass(frozen=True)
class StudioSettings(NetworkSettings, BaseSettings):
    """The base and the folder of a studio, where its page is, and what may be uploaded."""

    port: int = setting(8080, "Port to listen at; 0 for any that is free.", least=0, most=65535, panel="Network")
    folder: Path = setting(
        Path("out"),
        "Folder of shifts, to which trainings and edits are written; made if it is not there. The page reaches no file "
        "outside of it.",
    )
    max_upload: int = setting(32, "Megabytes of one uploaded picture.", least=1, panel="Limits")
    max_pictures: int = setting(100, "Uploaded pictures of one training.", least=1, panel="Limits")
    max_uploads: int = setting(2000, "Uploaded pictures in the folder altogether.", least=1, panel="Limits")

    def __post_init__(self) -> None:
        """Refuse a value out of range by an InputError."""
        check_ranges(self)

    @property
    def drawing(self) -> ServeSettings:
        """The settings of the painter that draws the page's pictures, one at a time."""
        base = {each.name: getattr(self, each.name) for each in fields(BaseSettings)}
        return ServeSettings(**base, shifts=self.folder, batch=1, max_loaded=32)

    @property
    def base_options(self) -> list[str]:
        """What the command line takes to load the same base."""
        given = {"base": self.base, "components-from": self.components_from}
        if self.prediction_type != "auto":
            given["prediction-type"] = self.prediction_type
        return [text for name, value in given.items() if value for text in (f"--{name}", value)]
