from __future__ import annotations

import pytest

from spectra.errors import InputError
from spectra.training.data.wording import both, check_template, take_apart


@pytest.mark.parametrize(
    ("prompt", "before", "noun", "bare"),
    [
        ("photo of a [V1] dog", "photo of ", "a [V1] dog", "photo of a dog"),
        ("a drawing of a [V2] owl", "a drawing of ", "a [V2] owl", "a drawing of an owl"),
        ("a [V1] fox", "", "a [V1] fox", "a fox"),
        ("photo of [sks] dog on a beach", "photo of ", "[sks] dog on a beach", "photo of dog on a beach"),
        ("photo of the [V1]  old dog", "photo of ", "the [V1]  old dog", "photo of the old dog"),
        ("sofa [V1] chair", "sofa ", "[V1] chair", "sofa chair"),
    ],
)
def test_a_prompt_is_taken_apart(prompt: str, before: str, noun: str, bare: str) -> None:
    wording = take_apart(prompt)
    assert (wording.before, wording.noun) == (before, noun)
    assert wording.prompt == prompt
    assert wording.bare.prompt == bare
    assert wording.bare.word == ""


@pytest.mark.parametrize("prompt", ["a dog", "a [V1] and a [V2] dog", "a x[V1] dog", "a [] dog", ""])
def test_a_prompt_without_one_special_word_is_refused(prompt: str) -> None:
    with pytest.raises(InputError, match="expected one word in brackets"):
        take_apart(prompt)


def test_two_subjects_are_named_as_the_template_says() -> None:
    dog, statue = take_apart("photo of a [V1] dog"), take_apart("picture of a [V2] sculpture")
    template = "{before}{left} on the left and {right} on the right"
    assert both(template, dog, statue) == "photo of a [V1] dog on the left and a [V2] sculpture on the right"
    assert both("{before}{right} and {left}", dog, statue) == "photo of a [V2] sculpture and a [V1] dog"
    assert both(template, statue.bare, dog.bare) == "picture of a sculpture on the left and a dog on the right"


@pytest.mark.parametrize("template", ["{left}", "{left} and {wrong} {right}", "{left and {right}", "{} {left} {right}"])
def test_a_template_has_both_subjects(template: str) -> None:
    check_template("{left} {right}")
    with pytest.raises(InputError, match="expected places"):
        check_template(template)
