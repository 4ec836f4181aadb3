"""`spectra pull`: fetches a shift from the Hugging Face Hub into a file. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from spectra.cli import output
from spectra.cli.next_steps import following
from spectra.cli.options import argument, command, force_option, json_option, output_option
from spectra.settings import setting


@dataclass(frozen=True)
class _Options:
    repo: str = argument("The repository.", "OWNER/NAME")
    out: str = output_option("The file.", default="")
    weight_name: str = setting("", "The file in the repository, where there are several.")
    revision: str = setting("", "Branch, tag or commit.")
    token: str = setting("", "Token of the hub.", default_text="that of hf auth login")
    force: bool = force_option("a file that is there")
    json: bool = json_option()


@command(_Options, "spectra pull me/fox", "spectra pull me/fox --revision v2 -o fox.safetensors")
def pull(options: _Options) -> None:
    """Fetches a shift from the hub into a file, named as there if --out does not say; once: then it is kept here."""
    from spectra.hub.fetching import pull

    path = pull(
        options.repo,
        options.out or None,
        force=options.force,
        weight_name=options.weight_name or None,
        revision=options.revision or None,
        token=options.token or None,
    )
    told = [str(path), following("spectra", "inspect", str(path))]
    output.result({"repo": options.repo, "file": str(path)}, json=options.json, human=lambda: told)
