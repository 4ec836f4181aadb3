"""`spectra subjects`: the embedded subjects, and their instance pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectra.cli import output
from spectra.cli.next_steps import following
from spectra.cli.options import command, force_option, json_option, output_option
from spectra.cli.tables import table
from spectra.settings import LARGEST_SEED, setting


@dataclass(frozen=True)
class _Options:
    subject: tuple[str, ...] = setting((), "Only this subject; repeatable.", metavar="NAME")
    out: Path | None = output_option("Write the subjects' pictures to this folder.", None, "DIR")
    count: int = setting(5, "Pictures of each subject.", least=1)
    size: int = setting(64, "Side of each picture in pixels.", least=8, most=4096)
    seed: int = setting(0, "Seed of backgrounds, scales and rotations.", most=LARGEST_SEED)
    force: bool = force_option()
    json: bool = json_option()


@command(_Options, "spectra subjects", "spectra subjects --subject fox -o fox")
def subjects(options: _Options) -> None:
    """Lists the embedded subjects: drawings that the embedded base has never seen, of things it knows."""
    from spectra.bases.embedded.subjects import SUBJECTS, find_subject

    chosen = [find_subject(name) for name in dict.fromkeys(options.subject)] if options.subject else list(SUBJECTS)
    files = _write(chosen, options, options.out) if options.out is not None else {}
    rows = [
        output.values_of(known, "name", "concept", "icon_set", "licence", "prompt", "class_prompt")
        | {"pictures": files.get(known.name, [])}
        for known in chosen
    ]
    output.result({"subjects": rows}, json=options.json, human=lambda: _show(rows, options.out))


def _write(chosen: list[Any], options: _Options, out: Path) -> dict[str, list[str]]:
    """A folder for each subject in `out`; one subject alone goes into `out` itself."""
    from spectra.bases.embedded.subjects import instance_pictures
    from spectra.io.atomic_writes import atomic_folder, check_output

    kind = "spectra subjects"
    check_output(out, force=options.force, folder_of=kind)
    files: dict[str, list[str]] = {}
    notes = [
        f"{known.name}: {known.concept} from {known.icon_set} ({known.licence}); {known.prompt}\n" for known in chosen
    ]
    with atomic_folder(out, kind, force=options.force) as temporary:
        (temporary / "subjects.txt").write_text("".join(notes), encoding="utf-8")
        for known in chosen:
            inside = Path() if len(chosen) == 1 else Path(known.name)
            (temporary / inside).mkdir(exist_ok=True)
            pictures = instance_pictures(known, count=options.count, size=options.size, seed=options.seed)
            names = [inside / f"{known.name}-{number}.png" for number in range(len(pictures))]
            for name, picture in zip(names, pictures, strict=True):
                picture.save(temporary / name)
            files[known.name] = [str(out / name) for name in names]
    return files


def _show(rows: list[dict[str, Any]], out: Path | None) -> Iterator[output.Part]:
    headings = ("icon set", "licence", "prompt")
    cells = [(row["name"], row["icon_set"], row["licence"], row["prompt"]) for row in rows]
    yield table("subject", headings, cells, texts=headings, name_width=None)
    if out is not None:
        yield f"pictures in {out}"
        folder = out if len(rows) == 1 else out / rows[0]["name"]
        yield following("spectra", "train", "--images", str(folder), "--prompt", rows[0]["prompt"])
    else:
        yield "Learn one: spectra train --subject NAME    Its pictures: spectra subjects --subject NAME -o DIR"
