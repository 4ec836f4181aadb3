"""The card of a shift's repository: what the hub understands, and what people read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from spectra.shift.shift import SpectralShift

TAGS = ("spectra", "svdiff", "spectral-shift", "diffusers", "text-to-image")


@dataclass(frozen=True)
class Card:
    """What a card says beside what the shift's metadata tells.

    Attributes:
        repo_id: `owner/name`.
        file: the shift's name in the repository.
        prompt: with which the subject is drawn.
        pictures: their names in the repository.
        licence: of the shift, as the hub calls it, such as "cc-by-4.0"; the metadata's by default.
    """

    repo_id: str
    file: str
    prompt: str = ""
    pictures: Sequence[str] = ()
    licence: str = ""

    def text(self, shift: SpectralShift, size: int) -> str:
        """The README.md of the repository, for a file of `size` bytes."""
        from huggingface_hub import ModelCardData

        metadata, more = shift.metadata, dict[str, Any]()
        if re.fullmatch(r"[\w.-]+/[\w.-]+", metadata.base):
            more |= {"base_model": metadata.base, "base_model_relation": "adapter"}
        if licence := self.licence or metadata.licence:
            more["license"] = licence
        if self.prompt:
            more["instance_prompt"] = self.prompt
        if self.pictures:
            more["widget"] = [{"text": self.prompt or " ", "output": {"url": name}} for name in self.pictures]
        tags = list(TAGS)
        data = ModelCardData(library_name="spectra-diffusion", pipeline_tag="text-to-image", tags=tags, **more)
        return f"---\n{data.to_yaml()}\n---\n\n{self._body(shift, size)}"

    def _body(self, shift: SpectralShift, size: int) -> str:
        base, name = shift.metadata.base or "an unnamed base", self.repo_id.partition("/")[2]
        parts = [f"# {name}", f"A spectral shift of `{base}`."]
        if self.prompt:
            parts.append(f"Prompt: `{self.prompt}`")
        if words := sorted({each.text for each in shift.words.values()}):
            parts.append(f"It has vectors for {', '.join(f'`{word}`' for word in words)}: prompts must have that.")
        parts += [f"![{self.prompt or picture}]({picture})" for picture in self.pictures]
        parts += ["## How to use", _USE.format(base=base, repo_id=self.repo_id, prompt=self.prompt or "...")]
        parts += ["## Figures", _table(self.figures(shift, size))]
        if shift.metadata.settings:
            parts += ["## Settings", _table(shift.metadata.settings.items())]
        return "\n\n".join(parts) + "\n"

    def figures(self, shift: SpectralShift, size: int) -> list[tuple[str, object]]:
        """Names and values of what a card tells in a table, for a file of `size` bytes."""
        told, terms = shift.metadata, sum(each.rank for each in shift.outer.values())
        found: list[tuple[str, object]] = [
            ("file", f"{self.file}, {size:,} bytes"),
            ("weights changed", f"{len(shift):,}"),
            ("floats", f"{shift.floats:,}"),
            ("outer terms", f"{terms:,}" if terms else ""),
            ("base", f"{told.base or 'unnamed'}, {told.base_dtype}, fingerprint {told.base_fingerprint}"),
            ("trained", told.subset and f"`{told.subset}`"),
            ("seed", "" if told.seed is None else told.seed),
            ("made with", ", ".join(f"{name} {version}" for name, version in told.versions.items())),
            ("made from", ", ".join(told.parents)),
            ("licence", self.licence or told.licence or "not named"),
        ]
        return [(name, value) for name, value in found if value != ""]


_USE = """```python
import spectra
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("{base}")
spectra.load(pipe, "{repo_id}")
pipe("{prompt}").images[0]
```
Or fetch the file: `spectra pull {repo_id}`."""


def _table(rows: Iterable[tuple[str, object]]) -> str:
    """A table of names and values, each value on one line."""
    cells = [(name, re.sub(r"\s+", " ", str(value)).replace("|", "\\|")) for name, value in rows]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in cells)])
