"""What other tools make of an exported file, as `convert --check` shows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from spectra.cli import output
from spectra.cli.output import Part
from spectra.cli.tables import facts, short_percent, table

if TYPE_CHECKING:
    from spectra.convert.tools.check import Tool
    from spectra.shift.shift import SpectralShift

NAMES = {
    "diffusers": "diffusers",
    "peft": "PEFT",
    "kohya": "kohya's scripts",
    "lycoris": "LyCORIS",
    "comfyui": "ComfyUI",
    "a1111": "A1111",
}


"""What each tool is called, by what `--check` takes."""


def check_tools(tools: Sequence[str]) -> None:
    """Refuses a tool that is not known."""
    unknown = [tool for tool in tools if tool not in (*NAMES, "all")]
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r} is none of {', '.join(NAMES)}, all", param_hint="--check")


def check(
    path: Path, tools: Sequence[str], shift: SpectralShift | None, base: str, variant: str | None
) -> list[dict[str, Any]]:
    """What each tool makes of a file, as JSON values."""
    from spectra.convert.tools.check import TOOLS, check_export

    asked = TOOLS if "all" in tools else tuple(dict.fromkeys(cast("Sequence[Tool]", tools)))
    done = check_export(path, asked, base=base, variant=variant, shift=shift, progress=output.progress())
    return [asdict(each) for each in done]


def show_check(found: Sequence[Mapping[str, Any]], of_shift: bool) -> Iterator[Part]:
    """A table of the tools, and below it why each passes over what."""
    rows = [
        (
            NAMES[each["tool"]],
            *(("none", "", "", "") if each["refusal"] else _counts(each)),
            short_percent(each["error"]),
        )
        for each in found
    ]
    yield table("tool", ("keys", "ignored", "weights", "wrong", "error"), rows)
    yield ""
    yield facts(
        [("", f"errors of Delta W, against {'the shift' if of_shift else 'what the file means'}"), *_why(found)]
    )


def _why(found: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """What each tool passes over and why, and what it reads otherwise than is meant."""
    for each in found:
        name = NAMES[each["tool"]]
        if each["refusal"]:
            yield name, f"loads nothing: {each['refusal']}"
        for reason in each["ignored"]:
            keys = f"{reason['keys']:,} keys: " if reason["keys"] else ""
            lost = f"\n{short_percent(reason['error'])} of ||Delta W|| is lost with them" if reason["error"] else ""
            yield name, f"{keys}{reason['why']}, such as {reason['example']}{lost}"
        if each["wrong"]:
            yield name, f"reads otherwise than is meant: {', '.join(each['wrong'][:3])}"


def _counts(each: Mapping[str, Any]) -> tuple[str, ...]:
    ignored = each["keys"] - each["loaded"]
    return (f"{each['loaded']:,}", f"{ignored:,}", f"{each['weights']:,}", f"{len(each['wrong']):,}")
