"""`spectra push`: publishes a shift on the Hugging Face Hub, with a card. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spectra.cli import output
from spectra.cli.options import argument, command, json_option
from spectra.settings import setting


@dataclass(frozen=True)
class _Options:
    file: Path = argument("The shift.", "FILE")
    repo: str = argument("The repository, which is made if it is not there.", "OWNER/NAME")
    prompt: str = setting("", "Prompt with which the subject is drawn, for the card.")
    pictures: tuple[Path, ...] = setting((), "A picture for the card; repeatable.", option="--picture", metavar="FILE")
    licence: str = setting("", "Licence of the shift, as the hub calls it, such as cc-by-4.0.")
    private: bool = setting(False, "Make the repository a private one.")
    token: str = setting("", "Token of the hub.", default_text="that of hf auth login")
    json: bool = json_option()


@command(_Options, 'spectra push fox.safetensors me/fox --prompt "a drawing of a [V] fox" --picture fox.png')
def push(options: _Options) -> None:
    """Publishes a shift on the hub: its file, pictures, and a card with base, prompt, settings, figures and licence."""
    from spectra.hub.publishing import push

    url = push(
        options.file,
        options.repo,
        prompt=options.prompt,
        pictures=options.pictures,
        licence=options.licence,
        private=options.private,
        token=options.token or None,
    )
    output.result({"repo": options.repo, "url": url}, json=options.json, human=lambda: [url])
