"""Captions of scenes: mostly simple, the background's colour named where it is coloured, synonyms now and then."""

from __future__ import annotations

import numpy as np

from recipe.data import Data
from recipe.icons import read_concepts
from recipe.scenes import COLOURS, Scene

KINDS = ("drawing", "drawing", "drawing", "picture", "icon")
PLURALS = {"grapes", "cherries", "french fries", "glasses", "headphones", "scissors"}
STYLES = {  # icon set -> the word that names its style
    "noto": "noto",
    "noto-v1": "blob",
    "fxemoji": "fox os",
    "emojione": "joypixels",
    "twemoji": "twitter",
    "fluent-emoji-flat": "fluent",
}
SUBJECT_TOKENS = tuple(f"[V{i}]" for i in range(1, 9))  # never trained: free for subjects
FILLER_TOKENS = tuple(f"[R{i}]" for i in range(1, 9))  # random again at every step: teaches to read past strangers


def article(noun: str) -> str:
    if noun in PLURALS:
        return noun
    return ("an " if (noun[0] in "aeio" and not noun.startswith("one")) or noun.startswith("umb") else "a ") + noun


def write_caption(scene: Scene, data: Data, rng: np.random.Generator) -> str:
    """A caption of a scene; never empty (dropping is the trainer's part)."""
    synonyms = {concept.name: concept.synonyms for concept in read_concepts()}
    nouns = []
    for index in scene.drawings:
        drawing = data.drawings[index]
        noun, others = drawing.concept, synonyms[drawing.concept]
        if others and rng.random() < 0.15:
            noun = str(rng.choice(others))
        nouns.append(noun)
    where = f" on a {scene.background} background" if scene.background else ""
    if where and rng.random() < 0.15:
        where = f" on {scene.background}"
    if len(nouns) == 2:
        if rng.random() < 0.5:
            return f"{article(nouns[0])} on the left and {article(nouns[1])} on the right{where}"
        return f"{article(nouns[0])} and {article(nouns[1])}{where}"
    noun = nouns[0]
    if rng.random() < 0.12:
        noun = f"{rng.choice(FILLER_TOKENS)} {noun}"
    kind = str(rng.choice(KINDS))
    draw = rng.random()
    if draw < 0.15 and noun not in PLURALS:
        style = STYLES[data.drawings[scene.drawings[0]].icon_set]
        return f"a {style} {kind} of {with_article(noun)}{where}"
    if draw < 0.75:
        return f"a{'n' if kind == 'icon' else ''} {kind} of {with_article(noun)}{where}"
    return with_article(noun) + where if draw < 0.95 else noun + where


def with_article(noun: str) -> str:
    return f"a {noun}" if noun.startswith("[") else article(noun)


def all_words(data: Data) -> list[str]:
    """Texts from which the tokenizer learns: every concept, synonym, tag, colour and template word."""
    texts = [word for drawing in data.drawings for word in (drawing.concept, *drawing.tags)]
    texts += [word for concept in read_concepts() for word in concept.synonyms] * 6
    texts += [f"a drawing of a thing on a {colour} background" for colour in COLOURS] * 6
    texts += [f"an icon picture of an {style} drawing on the left and on the right" for style in STYLES.values()] * 6
    texts += ["photo small big two style in with at beach snow grass sky water toy painting sticker"] * 6
    return texts
