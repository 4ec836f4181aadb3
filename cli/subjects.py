"""`spectra subjects`: the embedded subjects, and their instance pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spectra.cli import output

if TYPE_CHECKING:
    from rich.console import Console

_EXAMPLE = "Example:  spectra subjects     |     spectra subjects --subject fox -o fox"


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command(epilog=_EXAMPLE)
    def subjects(
        subject: Annotated[
            list[str] | None, typer.Option(metavar="NAME", help="Only this one; repeatable.", show_default=False)
        ] = None,
        out: Annotated[
            Path | None,
            typer.Option("--out", "-o", metavar="DIR", help="Write their pictures here.", show_default=False),
        ] = None,
        count: Annotated[int, typer.Option(min=1, help="Pictures of each.")] = 5,
        size: Annotated[int, typer.Option(min=8, max=4096, help="Their side in pixels.")] = 64,
        seed: Annotated[int, typer.Option(help="Of backgrounds, scales and rotations.")] = 0,
        force: Annotated[bool, typer.Option("--force", help="Replace an earlier output.")] = False,
        json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ) -> None:
        """Lists the embedded subjects: drawings that the embedded base has never seen, of things it knows."""
        from spectra.bases.embedded.subjects import SUBJECTS, find_subject

        chosen = [find_subject(name) for name in dict.fromkeys(subject)] if subject else list(SUBJECTS)
        files = _write(chosen, out, count, size, seed, force=force) if out is not None else {}
        rows = [
            {
                "name": known.name,
                "concept": known.concept,
                "icon_set": known.icon_set,
                "licence": known.licence,
                "prompt": known.prompt,
                "class_prompt": known.class_prompt,
                "pictures": files.get(known.name, []),
            }
            for known in chosen
        ]
        output.result({"subjects": rows}, json=json, human=lambda console: _show(rows, out, console))


def _write(chosen: list[Any], out: Path, count: int, size: int, seed: int, *, force: bool) -> dict[str, list[str]]:
    """A folder for each subject in `out`; one subject alone goes into `out` itself."""
    from spectra.bases.embedded.subjects import instance_pictures
    from spectra.io.atomic_writes import atomic_folder, check_replaceable

    mark = "subjects.txt"
    check_replaceable(out, mark)
    files: dict[str, list[str]] = {}
    with atomic_folder(out, force=force) as temporary:
        notes = []
        for known in chosen:
            inside = Path() if len(chosen) == 1 else Path(known.name)
            (temporary / inside).mkdir(exist_ok=True)
            for number, picture in enumerate(instance_pictures(known, count=count, size=size, seed=seed)):
                name = inside / f"{known.name}-{number}.png"
                picture.save(temporary / name)
                files.setdefault(known.name, []).append(str(out / name))
            notes.append(f"{known.name}: {known.concept} from {known.icon_set} ({known.licence}); {known.prompt}\n")
        (temporary / mark).write_text("".join(notes), encoding="utf-8")
    return files


def _show(rows: list[dict[str, Any]], out: Path | None, console: Console) -> None:
    from rich.table import Table

    table = Table("subject", "icon set", "licence", "prompt", box=None)
    for row in rows:
        table.add_row(row["name"], row["icon_set"], row["licence"], row["prompt"].replace("[", "\\["))
    console.print(table)
    if out is not None:
        console.print(f"pictures in {out}", markup=False)
    else:
        console.print("Learn one: spectra train --subject NAME    Its pictures: spectra subjects --subject NAME -o DIR",
                      markup=False, soft_wrap=True)  # fmt: skip
