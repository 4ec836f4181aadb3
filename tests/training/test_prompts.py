from __future__ import annotations

import pytest

from spectra.errors import InputError
from spectra.training.data.prompts import check_template, pair_prompt, parse_prompt, rare_word


@pytest.mark.parametrize(
    ("prompt", "before", "noun", "bare"),
    [
        ("photo of a [V1] dog", "photo of ", "a [V1] dog", "photo of a dog"),
        ("a drawing of a [V2] owl", "a drawing of ", "a [V2] owl", "a drawing of an owl"),
        ("photo of an [ohwx] dog", "photo of ", "an [ohwx] dog", "photo of a dog"),
        ("an [ohwx] owl", "", "an [ohwx] owl", "an owl"),
        ("a [V1] fox", "", "a [V1] fox", "a fox"),
        ("photo of [sks] dog on a beach", "photo of ", "[sks] dog on a beach", "photo of dog on a beach"),
        ("photo of the [V1]  old dog", "photo of ", "the [V1]  old dog", "photo of the old dog"),
        ("sofa [V1] chair", "sofa ", "[V1] chair", "sofa chair"),
    ],
)
def test_a_prompt_is_taken_apart(prompt: str, before: str, noun: str, bare: str) -> None:
    wording = parse_prompt(prompt)
    assert (wording.before, wording.noun) == (before, noun)
    assert wording.prompt == prompt
    assert wording.as_class.prompt == bare
    assert wording.as_class.word == ""


@pytest.mark.parametrize("prompt", ["a dog", "a [V1] and a [V2] dog", "a x[V1] dog", "a [] dog", ""])
def test_a_prompt_without_one_special_word_is_refused(prompt: str) -> None:
    with pytest.raises(InputError, match="expected one word in brackets"):
        parse_prompt(prompt)


@pytest.mark.parametrize(
    ("prompt", "class_prompt", "word"),
    [
        ("a photo of a sks dog", "a photo of a dog", "sks"),
        ("a sks owl", "an owl", "sks"),
        ("an Owl, sks, at night", "an owl at night", "sks"),
        ("photo of [V1] dog on a beach", "a dog", "[V1]"),
        ("photo of [V1] dog", "", "[V1]"),
    ],
)
def test_the_special_word_is_found(prompt: str, class_prompt: str, word: str) -> None:
    assert rare_word(prompt, class_prompt) == word


@pytest.mark.parametrize(
    ("prompt", "class_prompt", "got"),
    [
        ("a dog", "a dog", "none"),
        ("a sks dog", "", "none"),
        ("a sks dog on a beach", "a dog", "'sks' and 'on' and 'beach'"),
        ("a [V1] and a [V2]", "a dog", r"'\[V1\]' and '\[V2\]'"),
    ],
)
def test_prompts_that_do_not_tell_one_special_word_are_refused(prompt: str, class_prompt: str, got: str) -> None:
    with pytest.raises(InputError, match=f"expected one special word.*got {got}; let the two differ in it alone"):
        rare_word(prompt, class_prompt)


def test_two_subjects_are_named_as_the_template_says() -> None:
    dog, statue = parse_prompt("photo of a [V1] dog"), parse_prompt("picture of a [V2] sculpture")
    template = "{before}{left} on the left and {right} on the right"
    assert pair_prompt(template, dog, statue) == "photo of a [V1] dog on the left and a [V2] sculpture on the right"
    assert pair_prompt("{before}{right} and {left}", dog, statue) == "photo of a [V2] sculpture and a [V1] dog"
    assert (
        pair_prompt(template, statue.as_class, dog.as_class)
        == "picture of a sculpture on the left and a dog on the right"
    )


@pytest.mark.parametrize(
    "template", ["{left}", "{left} and {wrong} {right}", "{left and {right}", "{} {left} {right}", "{left.x} {right}"]
)
def test_a_template_has_both_subjects(template: str) -> None:
    check_template("{left} {right}")
    with pytest.raises(InputError, match="expected places"):
        check_template(template)
