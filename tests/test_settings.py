"""Settings that are declared once: what is made of them, and the page that lists them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import settings_page

from spectra.cli.help import option_names
from spectra.errors import InputError, MistakesError
from spectra.settings import SHARE, check_ranges, check_types, declared_settings, embedded_defaults, meant, setting
from spectra.training.config import TrainConfig

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Example:
    steps: int = setting(5, "Number of steps.", least=1)
    shares: tuple[float, ...] = setting((0.5,), "Shares.", option="--share", embedded=(0.25,), **SHARE)
    density: float | None = setting(None, "Density.", above=0, most=1, formerly="thickness")
    rate: float = setting(1.0, "Rate.")
    kind: Literal["a", "b"] = setting("a", "Kind.")
    note: str = "no setting"


def test_what_a_field_declares_is_known_by_its_name() -> None:
    known = declared_settings(Example)
    assert list(known) == ["steps", "shares", "density", "rate", "kind"]
    assert (known["steps"].type, known["steps"].default, known["steps"].help) == (int, 5, "Number of steps.")
    assert known["kind"].choices == ("a", "b")
    assert embedded_defaults(Example) == {"shares": (0.25,)}
    assert Example().steps == 5


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"steps": 0}, "steps: expected a number of at least 1, got 0"),
        ({"shares": (0.5, 1.5)}, "share: expected a share from 0 to 1, got 1.5"),
        ({"density": 0.0}, "density: expected a number above 0, at most 1, got 0.0"),
        ({"rate": float("inf")}, "rate: expected a finite number, got inf"),
        ({"kind": "c"}, "kind: expected one of a, b, got 'c'"),
    ],
)
def test_a_value_out_of_range_is_named(wrong: dict[str, Any], says: str) -> None:
    check_ranges(Example())
    with pytest.raises(InputError, match=re.escape(says)):
        check_ranges(Example(**wrong))


def test_types_are_checked_and_old_names_told() -> None:
    assert check_types(Example, {"steps": 3, "rate": 2}, "x") == {"steps": 3, "rate": 2.0}
    for values, says in (
        ({"steps": "3"}, "x: steps: expected int, got '3'"),
        ({"stepps": 3}, "x: unknown setting 'stepps'"),
        ({"thickness": 3}, "x: thickness is called density now"),
    ):
        with pytest.raises(InputError, match=says):
            check_types(Example, values, "x")


def test_what_is_wrong_is_told_at_once() -> None:
    with pytest.raises(
        MistakesError, match=r"2 mistakes: \(1\) x: steps: expected int, got '3'; \(2\) x: unknown"
    ) as told:
        check_types(Example, {"steps": "3", "colour": 1, "rate": 2}, "x")
    assert len(told.value.several) == 2
    with pytest.raises(MistakesError, match=r"steps: expected .*; \(2\) rate: expected"):
        check_ranges(Example(steps=0, rate=float("nan")))


def test_a_name_that_is_none_leads_to_the_one_that_was_meant() -> None:
    known = declared_settings(TrainConfig)
    for wrong, right in (
        ("learning-rate", "lr"), ("learning_rate", "lr"), ("rank", "outer"), ("network_dim", "outer"),
        ("max_train_steps", "steps"), ("stepps", "steps"), ("train_batch_size", "batch"),
        ("lr_schedule", "lr_scheduler"), ("instance_prompt", "prompt"), ("checkpointing_steps", "save_every"),
        ("gradient_accumulation_steps", "accumulation"),
    ):  # fmt: skip
        assert meant(wrong, known)[0] == right, wrong
    assert meant("xyzzy", known) == []
    taken = [name for each in known.values() for name in each.elsewhere.split()]
    assert len(taken) == len(set(taken)), "a name elsewhere means one setting here"
    assert set(taken).isdisjoint(known)


def test_every_setting_of_a_training_has_an_option_and_a_sentence(spectra_cli: Callable[..., Any]) -> None:
    shown = spectra_cli("train", "--help-all").out
    for name, declared in declared_settings(TrainConfig).items():
        assert f"{option_names(name, declared).split()[0]} " in shown.replace(",", " "), name
        assert declared.help.endswith("."), name
        assert declared.panel, name


def test_the_page_of_settings_is_current(spectra_cli: Callable[..., Any]) -> None:
    assert settings_page.PAGE.read_text(encoding="utf-8") == settings_page.page(), "run: make pages"
    for command, (_, settings) in settings_page.COMMANDS.items():
        shown = spectra_cli(command, "--help-all" if command == "train" else "--help").out.replace(",", " ")
        for name, declared in settings.items():
            options = (
                [declared.metavar or name.upper()] if declared.positional else option_names(name, declared).split()
            )
            assert all(f"{option} " in shown for option in options), name
