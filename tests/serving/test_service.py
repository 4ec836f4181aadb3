"""The service on a tiny base: batches of different shifts, errors as one line each, limits that hold."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.requests import Request

import spectra
from spectra.bases.pipeline import load_pipeline
from spectra.errors import SpectraError
from spectra.serving import service as service_module
from spectra.serving.image_requests import ImageRequest
from spectra.serving.painter import Painter
from spectra.serving.running import run_here
from spectra.serving.service import LARGEST_BODY, Service
from spectra.serving.settings import ServeSettings

PATH = "/v1/images/generations"


@pytest.fixture(scope="module")
def shifts(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shifts")
    pipe = load_pipeline(str(tiny_base))
    adapter = spectra.attach(pipe, "unet-ca", directions=0, outer=2)
    for seed, name in enumerate("abcdefgh"):
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.copy_(torch.randn(parameter.shape))
        spectra.write_shift(adapter.shift(base="tiny"), folder / f"{name}.safetensors")
    (folder / "deep" / "a").mkdir(parents=True)
    spectra.write_shift(adapter.shift(base="tiny"), folder / "deep" / "a" / "b.safetensors")
    (folder / "damaged.safetensors").write_bytes((folder / "c.safetensors").read_bytes()[:-7])
    (folder / "secret.txt").write_text("secret")
    return folder


def settings_of(tiny_base: Path, shifts: Path, **more: Any) -> ServeSettings:
    return ServeSettings(base=str(tiny_base), shifts=shifts, **({"max_loaded": 3, "batch": 4} | more))


@pytest.fixture(scope="module")
def painter(tiny_base: Path, shifts: Path) -> Painter:
    return Painter(settings_of(tiny_base, shifts), "cpu")


@pytest.fixture
def served(painter: Painter, tiny_base: Path, shifts: Path) -> Service:
    return Service(painter, settings_of(tiny_base, shifts, queue=12))


def request(method: str, path: str, body: bytes | AsyncIterator[bytes] = b"", **headers: str) -> Request:
    async def receive() -> dict[str, Any]:
        if isinstance(body, bytes):
            return {"type": "http.request", "body": body}
        return {"type": "http.request", "body": await anext(body), "more_body": True}

    told = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": told, "query_string": b"", "server": ("x", 1)}
    return Request(scope, receive)


def asked(service: Service, *bodies: Any) -> list[tuple[int, Any]]:
    """Status and answer of requests that are in flight together."""

    async def all_of_them() -> list[tuple[int, Any]]:
        sent = [service.handle(request("POST", PATH, json.dumps(body).encode())) for body in bodies]
        return [(each.status_code, json.loads(bytes(each.body))) for each in await asyncio.gather(*sent)]

    return asyncio.run(all_of_them())


def picture(answer: Any, number: int = 0) -> np.ndarray:
    data = base64.b64decode(answer["data"][number]["b64_json"])
    return np.asarray(Image.open(io.BytesIO(data))).astype(int)


def body(*names: str, **more: Any) -> dict[str, Any]:
    return {"prompt": "a sun", "seed": 3, "steps": 2, "shifts": [{"name": name} for name in names], **more}


def test_each_of_a_batch_has_its_own_shifts(served: Service, tiny_base: Path, shifts: Path) -> None:
    together = asked(served, body("a"), body("c", "d"), body(), body("c"))
    assert [status for status, _ in together] == [200] * 4
    pipe = load_pipeline(str(tiny_base))
    from spectra.generation.drawing import Request as Drawn
    from spectra.generation.drawing import draw
    from spectra.generation.settings import Sampling

    for names, (_, answer) in zip((["a"], ["c", "d"], [], ["c"]), together, strict=True):
        for name in names:
            spectra.load(pipe, shifts / f"{name}.safetensors")
        if names:
            spectra.activate(pipe, dict.fromkeys(names, 1.0))
        (alone,) = draw(pipe, [Drawn("a sun", 3)], Sampling(2))
        assert np.abs(picture(answer) - np.asarray(alone).astype(int)).max() <= 1
        spectra.unload(pipe)
    assert np.abs(picture(together[0][1]) - picture(together[2][1])).max() > 8


def test_pictures_of_one_request_follow_its_seed(served: Service) -> None:
    (_, two), (_, second) = asked(served, body("a", n=2), body("a", seed=4))
    assert [each["seed"] for each in two["data"]] == [3, 4]
    assert np.abs(picture(two, 1) - picture(second)).max() <= 1


def test_what_is_wrong_with_one_keeps_no_other_from_its_pictures(served: Service) -> None:
    answers = asked(
        served, body("a"), body("damaged"), body("nobody"), body("../secret"), body("c", size="12x12"), body("c")
    )
    assert [status for status, _ in answers] == [200, 404, 404, 404, 400, 200]
    for status, answer in answers:
        if status != 200:
            assert answer["error"]["type"] == "invalid_request_error" and "\n" not in answer["error"]["message"]
    assert "multiples of" in answers[4][1]["error"]["message"]


def test_a_file_that_is_damaged_after_it_was_listed(served: Service, shifts: Path) -> None:
    file = shifts / "e.safetensors"
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        (status, answer), (other, _) = asked(served, body("e"), body("a"))
    finally:
        file.write_bytes(whole)
    assert (status, other) == (400, 200)
    assert "e.safetensors" in answer["error"]["message"]


def test_least_recently_used_shifts_are_forgotten(served: Service, painter: Painter) -> None:
    for name in "abcdfgh"[::2]:
        asked(served, body(name) if name != "b" else body("deep/a/b"))
    assert painter.shelf.loaded == ("c", "f", "h")
    asked(served, body("c"), body("d"))
    assert set(painter.shelf.loaded) == {"c", "d", "h"}
    assert set(spectra.loaded(painter.pipe)) == {"c", "d", "h"}


def test_two_files_of_one_name_are_called_by_their_paths(painter: Painter) -> None:
    assert {"b", "deep/a/b"} <= painter.shelf.look().keys()


def test_a_changed_file_is_loaded_anew(tiny_base: Path, shifts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spectra.serving.shelf._LOOK_AGAIN", 0.0)
    service = Service(Painter(settings_of(tiny_base, shifts), "cpu"), settings_of(tiny_base, shifts))
    file = shifts / "f.safetensors"
    whole = file.read_bytes()
    ((_, before),) = asked(service, body("f"))
    try:
        file.write_bytes((shifts / "g.safetensors").read_bytes())
        os.utime(file, (1, 1))
        (_, after), (_, other) = asked(service, body("f"), body("g"))
    finally:
        file.write_bytes(whole)
    assert np.array_equal(picture(after), picture(other))
    assert not np.array_equal(picture(before), picture(after))


def test_lists_health_and_metrics(served: Service) -> None:
    asked(served, body("a"), {})

    async def get(path: str) -> Any:
        return await served.handle(request("GET", path))

    async def all_of_them() -> list[Any]:
        return [await get(path) for path in ("/v1/models", "/v1/shifts", "/health", "/metrics", "/nowhere", PATH)]

    models, listed, health, metrics, nowhere, wrong = asyncio.run(all_of_them())
    assert "deep/a/b" in [each["id"] for each in json.loads(models.body)["data"]]
    assert [each["loaded"] for each in json.loads(listed.body)["shifts"] if each["name"] == "a"] == [True]
    assert json.loads(health.body)["status"] == "ok"
    assert b'spectra_requests_total{status="400"} 1.0' in metrics.body
    assert (nowhere.status_code, wrong.status_code) == (404, 405)


def test_more_than_the_queue_holds_are_told_to_come_again(served: Service) -> None:
    answers = asked(served, *[body("a")] * 15)
    statuses = [status for status, _ in answers]
    assert statuses.count(429) == 3 and statuses.count(200) == 12
    assert asked(served, body("a"))[0][0] == 200


def test_large_slow_and_broken_off_requests(served: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "BODY_SECONDS", 0.2)

    async def large() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 4096

    async def slow() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0.05)

    async def all_of_them() -> list[int]:
        sent = [
            request("POST", PATH, large()),
            request("POST", PATH, slow()),
            request("POST", PATH, b"{}", content_length=str(LARGEST_BODY + 1)),
            request("POST", PATH, b"{}", content_length="many"),
        ]
        return [(await served.handle(each)).status_code for each in sent]

    assert asyncio.run(all_of_them()) == [413, 408, 413, 400]


def test_only_who_bears_the_token_enters(painter: Painter, tiny_base: Path, shifts: Path) -> None:
    service = Service(painter, settings_of(tiny_base, shifts), "s3cret")

    async def statuses() -> list[int]:
        sent = [
            request("GET", "/v1/models"),
            request("GET", "/v1/models", authorization="Bearer wrong"),
            request("GET", "/v1/models", authorization="Bearer s3cret"),
            request("GET", "/health"),
        ]
        return [(await service.handle(each)).status_code for each in sent]

    assert asyncio.run(statuses()) == [401, 401, 200, 200]


def test_time_out_and_what_nobody_foresaw(painter: Painter, tiny_base: Path, shifts: Path) -> None:
    class Slow:
        name, sampling, shelf = painter.name, painter.sampling, painter.shelf

        def paint(self, requests: list[ImageRequest]) -> list[list[bytes] | SpectraError]:
            if requests[0].prompt == "fail":
                raise ZeroDivisionError
            time.sleep(0.3)
            return [[b""] for _ in requests]

    service = Service(Slow(), settings_of(tiny_base, shifts, timeout=0.1))  # type: ignore[arg-type]
    assert asked(service, body("a"))[0][0] == 504
    (status, answer), (other, _) = asked(service, body("a", prompt="fail"), {})
    assert (status, other) == (500, 400) and "log" in answer["error"]["message"]


@pytest.fixture
def address(tiny_base: Path, shifts: Path) -> str:
    """Of a server in a thread, which ends with the process."""
    told: list[str] = []
    started = threading.Event()

    def note(address: str) -> None:
        told.append(address)
        started.set()

    settings = settings_of(tiny_base, shifts, port=0)
    threading.Thread(target=run_here, args=(settings, "", note, "cpu"), daemon=True).start()
    assert started.wait(60)
    return told[0]


def test_over_the_wire(address: str) -> None:
    sent = urllib.request.Request(address + PATH, data=json.dumps(body("a")).encode())
    with urllib.request.urlopen(sent, timeout=60) as answer:
        assert picture(json.load(answer)).shape[2] == 3
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(address + PATH, data=b"{", timeout=60)
    assert refused.value.code == 400
    refused.value.close()
