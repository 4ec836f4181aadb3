"""Elements of HTML as the views use them: plain ones, which browsers, keyboards and screen readers know."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

_VALUE = "(e) => emit(e.target.value)"
_CHECKED = "(e) => emit(e.target.checked)"


def tag(name: str, text: str = "", classes: str = "", **attributes: Any) -> Any:
    """An element with a text; `aria_label` is the attribute aria-label, `for_` is for.

    Attributes that are None or False are left out.
    """
    made = TextElement(tag=name, text=text)
    made.classes(classes)
    for key, value in attributes.items():
        if value is not None and value is not False:
            made.props[key.rstrip("_").replace("_", "-")] = "" if value is True else value
    return made


def link(text: str, to: str, classes: str = "", **attributes: Any) -> Any:
    """A link to another view."""
    return tag("a", text, classes, href=to, **attributes)


def button(text: str, pressed: Callable[..., Any], classes: str = "", **attributes: Any) -> Any:
    """A button."""
    return tag("button", text, f"button {classes}".strip(), type="button", **attributes).on("click", pressed, [])


def text_field(
    label: str, value: str, changed: Callable[[str], Any], *, hint: str = "", at_once: bool = False, **attributes: Any
) -> Any:
    """A line of text with its label; `at_once` tells every letter, otherwise when it is left."""
    with _field(label, hint) as describe:
        made = tag("input", "", **{"type": "text", "autocomplete": "off", "spellcheck": "false", **attributes})
        # An attribute `value` would be put back whenever the page changes, over what is being typed.
        made.props[".defaultValue"] = value
        made.on("input" if at_once else "change", lambda event: changed(str(event.args)), js_handler=_VALUE)
        describe(made)
    return made


@contextmanager
def _field(label: str, hint: str) -> Iterator[Callable[[Any], None]]:
    """A label around an input, and a hint, which is not part of its name."""
    with tag("div", "", "field"):
        described: list[Any] = []
        with tag("label"):
            tag("span", label, "label")
            yield described.append
        if hint:
            shown = tag("span", hint, "hint")
            for each in described:
                each.props["aria-describedby"] = f"c{shown.id}"


def number_field(label: str, value: float | str, changed: Callable[[str], Any], **attributes: Any) -> Any:
    """A number with its label, told when it is left; a hint as that of a text."""
    return text_field(label, str(value), changed, **{"type": "number", **attributes})


def select_field(
    label: str, value: str, choices: Mapping[str, str], changed: Callable[[str], Any], *, hint: str = ""
) -> Any:
    """A choice of several, by what each is called."""
    with _field(label, hint) as describe:
        with tag("select") as made:
            for key, shown in choices.items():
                tag("option", shown, value=key).props[".defaultSelected"] = key == value
        made.on("change", lambda event: changed(str(event.args)), js_handler=_VALUE)
        describe(made)
    return made


def slider(
    label: str, value: float, changed: Callable[[float], Any], *, low: float, high: float, step: float = 0.05
) -> Any:
    """A slider with its label and value; told while it moves, a few times a second."""
    with tag("label", "", "slider"):
        tag("span", label, "label")
        made = tag("input", "", type="range", min=low, max=high, step=step)
        made.props[".defaultValue"] = f"{value:g}"
        shown = tag("output", f"{value:.2f}")

        def moved(event: Any) -> None:
            number = float(event.args)
            shown.set_text(f"{number:.2f}")
            changed(number)

        made.on("input", moved, js_handler=_VALUE, throttle=0.15, leading_events=False)
    return made


def checkbox(label: str, value: bool, changed: Callable[[bool], Any]) -> Any:
    """A box to tick, with its label."""
    with tag("label", "", "check"):
        made = tag("input", "", type="checkbox")
        made.props[".defaultChecked"] = value
        made.on("change", lambda event: changed(bool(event.args)), js_handler=_CHECKED)
        tag("span", label)
    return made


def picture(source: str, alt: str, classes: str = "", **attributes: Any) -> Any:
    """A picture with what it shows in words."""
    return tag("img", "", classes, src=source, alt=alt, **attributes)


def show_error(message: str) -> None:
    """The library's own line, where a screen reader says it at once."""
    tag("p", message, "error", role="alert")


def progress_bar(label: str, done: int, total: int) -> Any:
    """How far something is; of unknown length where there is no total."""
    known: dict[str, Any] = {"value": done, "max": total} if total else {}
    return tag("progress", "", aria_label=label, **known)


def facts(pairs: Sequence[tuple[str, str]]) -> None:
    """Names and values."""
    with tag("dl", "", "facts"):
        for name, value in pairs:
            if value:
                with tag("div"):
                    tag("dt", name)
                    tag("dd", value)


@contextmanager
def section(heading: str, classes: str = "", level: int = 2) -> Iterator[Any]:
    """A part of a view under a heading."""
    with tag("section", "", f"part {classes}".strip(), aria_label=heading) as made:
        tag(f"h{level}", heading)
        yield made


def url(path: str, **query: Any) -> str:
    """An address within the page; what is empty is left out."""
    given = {name: value for name, value in query.items() if value not in ("", None, (), [], False)}
    return path + (f"?{urlencode(given, doseq=True)}" if given else "")


def remember(address: str) -> None:
    """Make this the address of the view, so that a reload or a bookmark opens it as it is."""
    ui.run_javascript(f"history.replaceState(history.state, '', {json.dumps(address)})")
