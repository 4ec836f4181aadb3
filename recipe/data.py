"""The data list and the cut-outs of its drawings, as every stage needs them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recipe.icons import HERE, Drawing, join, load_cutouts, load_list, save_list
from recipe.scenes import Scene, choose_scene, draw_scene

LIST = HERE / "drawings.json"


@dataclass(frozen=True)
class Data:
    drawings: list[Drawing]
    cutouts: np.ndarray  # uint8 (n, 192, 192, 4)

    @property
    def known(self) -> np.ndarray:
        """Indices of the drawings that may be trained on."""
        return np.array([i for i, drawing in enumerate(self.drawings) if not drawing.held_out])

    @property
    def held_out(self) -> np.ndarray:
        return np.array([i for i, drawing in enumerate(self.drawings) if drawing.held_out])

    @property
    def concepts(self) -> list[str]:
        return list(dict.fromkeys(drawing.concept for drawing in self.drawings))

    def concept_of(self, index: int) -> int:
        return self.concepts.index(self.drawings[index].concept)


def read_subjects() -> list[str]:
    lines = (HERE / "subjects.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def make_list(modules: Path) -> None:
    """Writes drawings.json, which is committed: concept, icon_set, icon, tags, held-out flag."""
    subjects = read_subjects()
    drawings = join(modules, set(subjects))
    missing = set(subjects) - {drawing.name for drawing in drawings if drawing.held_out}
    if missing:
        raise SystemExit(f"subjects.txt names drawings that do not exist: {sorted(missing)}")
    save_list(drawings, LIST)


def load_data(modules: Path, work: Path) -> Data:
    drawings = load_list(LIST)
    return Data(drawings, load_cutouts(modules, drawings, work))


def draw_scenes(data: Data, per_drawing: int, seed: int) -> tuple[np.ndarray, list[Scene]]:
    """Random scenes about every known drawing: uint8 (n, 64, 64, 3) and what they show."""
    rng = np.random.default_rng(seed)
    cutouts, known = np.asarray(data.cutouts), data.known
    scenes = [choose_scene(int(index), known, rng) for _ in range(per_drawing) for index in known]
    return np.stack([draw_scene(scene, cutouts, rng) for scene in scenes]), scenes


def draw_plain(data: Data, indices: np.ndarray) -> np.ndarray:
    """Each drawing on white, centred: uint8 (n, 64, 64, 3)."""
    cutouts, rng = np.asarray(data.cutouts), np.random.default_rng(0)
    return np.stack([draw_scene(Scene((int(i),), None), cutouts, rng, steady=True) for i in indices])
