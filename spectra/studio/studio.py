"""What all views share: settings, the folder, the queue, the uploads and the base in memory."""

from __future__ import annotations

from dataclasses import dataclass

from spectra.studio.drawer import Drawer
from spectra.studio.jobs import Queue
from spectra.studio.settings import StudioSettings
from spectra.studio.uploads import Trays
from spectra.studio.workspace import Workspace


@dataclass(frozen=True)
class Studio:
    """A studio that runs."""

    settings: StudioSettings
    workspace: Workspace
    queue: Queue
    trays: Trays
    drawer: Drawer

    @classmethod
    def of(cls, settings: StudioSettings, device: str = "") -> Studio:
        """Open the folder, and begin to load the base."""
        workspace = Workspace(settings.folder)
        return cls(
            settings,
            workspace,
            Queue(workspace.hidden / "queue"),
            Trays(workspace, settings),
            Drawer(settings, device),
        )
