"""A place to drop pictures: each goes to the server by itself, and is checked there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from spectra.studio.views.elements import tag


def drop_zone(tray: str, label: str, uploaded: Callable[[], Any], *, many: bool = True) -> Any:
    """Pictures dropped or chosen here are uploaded into a tray.

    Args:
        uploaded: is called after all of them, also where some were refused; why is shown below.
    """
    send = f"window.studio.upload(FILES, {json.dumps(tray)}, ZONE)"
    with tag("label", "", "drop") as zone:
        tag("span", label)
        tag("span", "or press Enter to choose", "quiet")
        chosen = tag("input", "", "hidden-input", type="file", accept="image/*", multiple=many)
        tag("span", "", "told", role="alert")
    files = send.replace("FILES", "e.target.files").replace("ZONE", "e.target.closest('.drop')")
    chosen.on("change", js_handler=f"(e) => {files}")
    dropped = send.replace("FILES", "e.dataTransfer.files").replace("ZONE", "e.currentTarget")
    zone.on("dragover.prevent", js_handler="(e) => e.currentTarget.classList.add('over')")
    zone.on("dragleave", js_handler="(e) => e.currentTarget.classList.remove('over')")
    zone.on("drop.prevent", js_handler=f"(e) => {dropped}")
    zone.on("uploaded", lambda: uploaded(), [])
    return zone
