"""The page in a real browser: train, see, mix, keep, edit, compare, reload, cancel; by keyboard, and through axe-core.

With SPECTRA_SCREENSHOTS=FOLDER every view is photographed at 1280 and at 390 pixels.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from studio_page import CHROMIUM, Running, browser, findings, running_studio, take_shots

import spectra
from spectra.bases.pipeline import load_pipeline
from spectra.studio.jobs import Queue

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")

SECONDS = 400_000
"""Milliseconds that a training may take on a busy machine."""


@pytest.fixture(scope="module")
def studio(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("studio") / "out"
    pipe = load_pipeline(str(tiny_base))
    for seed, name in enumerate(("one", "two")):
        adapter = spectra.attach(pipe, "unet-ca", directions=4, outer=1)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape))
        spectra.write_shift(
            adapter.shift(base="tiny", settings={"prompt": f"a sun {name}"}), folder / f"{name}.safetensors"
        )
        adapter.detach()
    os.environ["SPECTRA_CACHE"] = str(tmp_path_factory.getbasetemp() / "spectra-cache")
    with running_studio(folder, "--base", str(tiny_base)) as made:
        yield made
        queue = Queue(folder / ".studio" / "queue")
        for job in queue.jobs():
            queue.stop(job)
        assert made.traces == []


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as opened:
        yield opened


@pytest.fixture
def page(studio: Running, chromium: Any) -> Iterator[Any]:
    """A page of the studio; what goes wrong in its scripts fails the test, and what it asks of anybody else."""
    wrong: list[str] = []
    asked: set[str] = set()
    context = chromium.new_context(base_url=studio.address, viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    context.on("request", lambda request: asked.add(request.url))
    opened.set_default_timeout(60_000)
    yield opened
    context.close()
    assert wrong == []
    assert {url for url in asked if not url.startswith((studio.address, "data:"))} == set()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for number, colour in enumerate(("gold", "orange", "tomato")):
        picture = Image.new("RGB", (48, 40), "navy")
        ImageDraw.Draw(picture).ellipse((8, 4, 38, 34), fill=colour)
        paths.append(str(folder / f"sun{number}.png"))
        picture.save(paths[-1])
    return paths


def choose(page: Any, files: list[str]) -> None:
    """Drop pictures, as far as a page can tell."""
    page.set_input_files(".drop input", files)


def fill(page: Any, label: str, value: str) -> None:
    """Write into a field and leave it."""
    field = page.get_by_label(label, exact=True)
    field.fill(value)
    field.blur()


def address_has(page: Any, text: str) -> None:
    """Wait until the address says so."""
    page.wait_for_function("text => location.href.includes(text)", arg=text)


def drawn(page: Any, count: int) -> None:
    """Wait until so many pictures are there, whole."""
    page.wait_for_function(
        "count => document.querySelectorAll('figure img[src]:not(.old)').length === count", arg=count
    )
    page.wait_for_function("!document.querySelector('.gallery-place .progress:not(.hidden)')")


def state(page: Any, words: str, most: int = SECONDS) -> None:
    page.wait_for_function(
        "words => document.querySelector('main > .state').textContent.includes(words)", arg=words, timeout=most
    )


def test_a_training_from_dropped_pictures_is_seen_to_its_end(page: Any, studio: Running, pictures: list[str]) -> None:
    page.goto("/train")
    fill(page, "Prompt", "a s sun")
    choose(page, [*pictures, __file__])
    page.get_by_text("test_browser.py: expected a picture").wait_for()  # the reader's own line
    page.get_by_text("prior preservation needs --class-prompt").wait_for()
    page.get_by_text("More: class pictures").click()
    fill(page, "Prior weight", "0")
    page.locator(".looks .learnt", has_text="a s sun").nth(2).wait_for()
    page.get_by_text("32 x 32 of 48 x 40").first.wait_for()
    fill(page, "Caption of sun1.png", "a s sun at sea")
    page.locator(".looks .learnt", has_text="a s sun at sea").wait_for()
    page.get_by_role("button", name="Start").click()
    page.get_by_text("name: expected letters").wait_for()
    fill(page, "Name", "sun")
    fill(page, "Steps", "20")
    address_has(page, "steps=20")
    page.reload()
    assert page.get_by_label("Name", exact=True).input_value() == "sun"
    page.locator(".looks .learnt", has_text="a s sun at sea").wait_for()
    assert findings(page) == []
    take_shots(page, "train")
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/job/0001-sun")
    state(page, "runs")
    page.reload()  # in the middle: the page only looks at the folder
    state(page, "is done")
    page.get_by_role("img", name="Sheet of sun").wait_for()
    page.get_by_role("img", name="Loss after 20 steps").wait_for()
    assert "Learnt" in page.locator("pre").text_content()
    assert findings(page) == []
    take_shots(page, "job")
    settings = spectra.read_shift(studio.folder / "sun" / "sun.safetensors").metadata.settings
    assert (settings["steps"], settings["prompt"]) == (20, "a s sun")
    page.get_by_role("link", name="Play with it").click()
    drawn(page, 4)


def test_two_tabs_share_a_training_that_stops_and_goes_on(page: Any, studio: Running, pictures: list[str]) -> None:
    page.goto("/train?name=long&prompt=a+sun&prior=0&steps=4000&sheets=0")
    choose(page, pictures[:1])
    page.locator(".looks li").wait_for()
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/job/*-long")
    other = page.context.new_page()
    other.goto(page.url)
    page.goto(page.url.rpartition("/")[0].replace("/job", "/train"))
    page.get_by_text("Training runs").wait_for()
    page.go_back()
    other.get_by_role("button", name="Stop").click()
    for each in (page, other):
        state(each, "was stopped")
    queue = Queue(studio.folder / ".studio" / "queue")
    (job,) = (job for job in queue.jobs() if job.name == "long")
    assert job.state == "stopped"
    page.get_by_role("button", name="Start again").or_(page.get_by_role("button", name="Resume")).click()
    for each in (page, other):
        state(each, "runs")
    page.get_by_role("img", name="Loss after").wait_for(timeout=SECONDS)
    page.get_by_role("button", name="Stop").click()
    state(other, "was stopped")
    other.get_by_role("button", name="Resume").wait_for()
    assert "--resume" not in job.command
    other.get_by_role("button", name="Take off the list").click()
    other.wait_for_url("**/train")
    page.goto(f"/job/{job.key}")
    page.get_by_role("heading", name="No such job").wait_for()


def test_two_subjects_change_sides(page: Any, pictures: list[str]) -> None:
    page.goto("/train")
    page.get_by_role("button", name="Add a second subject").click()
    for side, number in (("left", 1), ("right", 2)):
        subject = page.get_by_role("group", name=f"Subject on the {side}")
        prompt = subject.get_by_label("Prompt", exact=True)
        prompt.fill(f"a [V{number}] sun")
        prompt.blur()
        subject.locator("input[type=file]").set_input_files(pictures[number])
    learnt = page.get_by_role("group", name="Subject on the right").locator(".learnt", has_text="a [V2] sun")
    learnt.wait_for()
    page.get_by_role("button", name="Swap left and right").click()
    page.get_by_role("group", name="Subject on the right").locator(".learnt", has_text="a [V1] sun").wait_for()
    page.get_by_role("button", name="Remove the right one").click()
    page.locator(".learnt", has_text="a [V2] sun").wait_for()


def test_play_with_two_keep_them_and_cancel(page: Any, studio: Running) -> None:
    page.goto("/play?shift=one;0.5&shift=two&seeds=3,4")
    assert page.get_by_label("Prompt", exact=True).input_value() == "a sun one"
    drawn(page, 2)
    before = page.locator("figure img").first.get_attribute("src")
    slider = page.get_by_role("group", name="one").get_by_label("scale")
    slider.focus()
    page.keyboard.press("End")  # by keyboard, as every part of the page
    address_has(page, "one%3B2")
    page.wait_for_function("before => document.querySelector('figure img').getAttribute('src') !== before", arg=before)
    page.get_by_role("group", name="two").get_by_text("groups of blocks").click()
    page.get_by_role("group", name="two").get_by_label("unet.up_blocks").fill("0.5")
    address_has(page, "unet.up_blocks%3D0.5")
    page.get_by_role("button", name="Strip between the two").click()
    drawn(page, 5)
    page.get_by_text("one 1.00, two 0.50").wait_for()
    page.reload()
    drawn(page, 5)
    assert findings(page) == []
    take_shots(page, "play")
    fill(page, "Save as", "mixed")
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Saved as mixed.").wait_for()
    recipe: Any = spectra.read_shift(studio.folder / "mixed.safetensors").metadata.recipe
    assert [each["scale"] for each in recipe["shifts"]] == [2.0, 1.0]
    assert {"pattern": "unet.up_blocks", "weights": [1.0, 0.5]} in recipe["blocks"]
    page.get_by_role("button", name="Save").click()
    page.get_by_text("mixed.safetensors exists already").wait_for()
    page.get_by_text("More: negative prompt").click()
    fill(page, "Steps", "200")
    page.locator("progress[max]").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Cancelled.").wait_for()
    fill(page, "Seeds", "1,x")
    page.get_by_text("seeds: expected one to 16").wait_for()


def test_the_library_is_searched_compared_and_followed_back(page: Any, studio: Running) -> None:
    page.goto("/?find=sun")
    page.get_by_role("article", name="one").wait_for()
    page.get_by_role("button", name="Draw missing pictures").click()
    page.locator(".cards .thumb img:not(.sheet)").nth(1).wait_for()
    assert findings(page) == []
    take_shots(page, "library")
    page.get_by_label("Find").fill("two")
    page.get_by_role("article", name="one").wait_for(state="detached")
    address_has(page, "find=two")
    page.reload()
    page.get_by_role("article", name="two").get_by_label("pick").check()
    page.get_by_label("Find").fill("")
    page.get_by_role("article", name="one").get_by_label("pick").check()
    page.get_by_role("link", name="Compare").click()
    page.wait_for_url("**/compare?a=two&b=one")
    page.get_by_role("img", name="Where the two differ").wait_for()
    page.get_by_role("img", name="Energy of one by block").wait_for()
    page.get_by_text("cosine", exact=True).wait_for()
    drawn(page, 4)
    assert findings(page) == []
    take_shots(page, "compare")
    page.goto("/lineage")
    assert findings(page) == []


def test_a_picture_is_edited_in_a_sweep(page: Any, studio: Running, pictures: list[str]) -> None:
    page.goto("/edit")
    choose(page, pictures[:1])
    page.get_by_role("img", name="sun0.png, to be edited").wait_for()
    fill(page, "What it shows", "a sun")
    fill(page, "What it should show", "a red sun")
    fill(page, "Name", "red")
    page.get_by_text("A sweep").click()
    fill(page, "Fresh noise", "0, much")
    fill(page, "Steps of learning", "5")
    page.get_by_role("button", name="Start").click()
    page.get_by_text("noise mixes: expected numbers").wait_for()
    fill(page, "Fresh noise", "0,0.5")
    assert findings(page) == []
    take_shots(page, "edit")
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/job/*-red")
    state(page, "is done")
    page.get_by_role("img", name="Sheet of red").wait_for()
    report = json.loads((studio.folder / "red" / "edit.json").read_text())
    assert [each["noise_mix"] for each in report["pictures"]] == [0, 0.5]


def test_no_request_reaches_out_of_the_folder(studio: Running, pictures: list[str]) -> None:
    (studio.folder.parent / "secret.png").write_bytes(Path(pictures[0]).read_bytes())

    def answer(path: str, data: bytes | None = None, **headers: str) -> int:
        asked = urllib.request.Request(studio.address + path, data, headers)
        try:
            with urllib.request.urlopen(asked, timeout=30) as given:
                return int(given.status)
        except urllib.error.HTTPError as error:
            error.close()
            return int(error.code)

    assert answer("/file/../secret.png") == 404
    assert answer("/file/%2e%2e/secret.png") == 404
    assert answer("/file//etc/passwd") == 404
    assert answer("/file/one.safetensors") == 404
    assert answer("/drawn/none") == 404
    assert answer("/upload/..%2f..?name=a.png", b"x") in (400, 404)
    assert answer("/upload/abcdefabcdef?name=a.png", b"x") == 400
    assert answer("/upload/abcdefabcdef?name=a.png", b"x", Origin="http://evil.example") == 403
    assert answer("/", None, Host="evil.example") == 403
    assert answer("/compare?a=../../secret&b=two") == 200  # a page that says so
    assert answer("/play?shift=../../secret") == 200


def hammer(page: Any, studio: Running, seconds: float) -> int:
    """Twenty clicks a second on whatever draws, for so long; returns how many."""
    page.goto("/play?shift=one&shift=two&seeds=0")
    drawn(page, 1)
    end, clicks = time.monotonic() + seconds, 0
    click: Callable[[str], Any] = lambda label: page.evaluate(  # noqa: E731
        "label => [...document.querySelectorAll('button')].find(each => each.textContent.trim() === label)?.click()",
        label,
    )
    while time.monotonic() < end:
        click(("Draw", "Strip between the two", "Draw", "Draw the seeds", "Cancel")[clicks % 5])
        clicks += 1
        time.sleep(0.05)
    page.reload()
    page.locator("figure img[src]").first.wait_for()
    return clicks


def test_many_clicks_break_nothing(page: Any, studio: Running) -> None:
    assert hammer(page, studio, 4) > 0
    assert studio.traces == []


def test_a_training_is_filled_in_and_started_by_keyboard_alone(page: Any, pictures: list[str]) -> None:
    page.goto("/train?prompt=a+sun&prior=0&steps=2&sheets=0")
    choose(page, pictures[:1])  # the system's own dialogue
    page.locator(".looks li").wait_for()
    page.keyboard.press("Tab")
    for name, key in (("Name", "keys"), ("Preset", "t"), ("Start", "Enter")):
        focus(page, name)
        page.keyboard.type(key) if name != "Start" else page.keyboard.press(key)
    page.wait_for_url("**/job/*-keys")
    focus(page, "Stop")
    page.keyboard.press("Space")
    page.wait_for_function("['done', 'stopped'].includes(document.querySelector('main > .state').dataset.state)")
    assert "--preset tiny" in page.locator("code.command").text_content()


def focus(page: Any, name: str) -> None:
    """Press Tab until an element of this name has the focus, and can be seen to have it."""
    told = """() => {
        const at = document.activeElement, label = at.closest('label')?.querySelector('.label') ?? at;
        return [label.textContent.trim(), getComputedStyle(at).outlineStyle];
    }"""
    for _ in range(60):
        text, outline = page.evaluate(told)
        if text == name:
            assert outline != "none", name
            return
        page.keyboard.press("Tab")
    pytest.fail(f"Tab does not come to {name}")


@pytest.mark.slow
def test_the_first_picture_comes_within_a_minute_of_the_start(chromium: Any, tmp_path: Path) -> None:
    start = time.monotonic()
    with running_studio(tmp_path / "out") as studio:
        page = chromium.new_page(base_url=studio.address)
        page.goto("/play")
        page.locator("figure img[src]").first.wait_for(timeout=60_000)
    assert time.monotonic() - start < 60


@pytest.mark.slow
def test_a_minute_of_clicks_breaks_nothing(page: Any, studio: Running) -> None:
    hammer(page, studio, 60)
    assert studio.traces == []
