"""What a request may say, and the line that says what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spectra.errors import InputError
from spectra.generation.settings import Sampling
from spectra.serving.image_requests import ImageRequest, parse_request
from spectra.serving.network import read_token
from spectra.serving.settings import ServeSettings

SETTINGS = ServeSettings(max_images=4, max_steps=50, max_side=128)


def parsed(body: Any) -> ImageRequest:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse_request(text, SETTINGS, Sampling(steps=20, guidance=3.0))


def test_what_openais_clients_send() -> None:
    found = parsed({"prompt": "a fox", "model": "dog", "n": 2, "size": "64x96", "response_format": "b64_json"})
    assert (found.prompt, found.shifts, found.count) == ("a fox", {"dog": 1.0}, 2)
    assert (found.sampling.width, found.sampling.height, found.sampling.steps) == (64, 96, 20)
    assert parsed({"prompt": "a fox", "model": "base"}).shifts == {}
    assert parsed({"prompt": "a fox"}).seed != parsed({"prompt": "a fox"}).seed


def test_shifts_with_scales() -> None:
    found = parsed({"prompt": "a fox", "shifts": [{"name": "a", "scale": -0.5}, {"name": "b"}], "seed": 7, "steps": 3})
    assert found.shifts == {"a": -0.5, "b": 1.0}
    assert (found.seed, found.sampling.steps, found.sampling.guidance) == (7, 3, 3.0)


def test_the_bases_steps_are_cut_to_the_limit() -> None:
    assert parse_request(b'{"prompt": "x"}', SETTINGS, Sampling(steps=80)).sampling.steps == 50


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "JSON object"),
        (b"[]", "JSON object"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"prompt": "\\ud800"}', "JSON object"),
        (b"\xff\xfe", "JSON object"),
        ({}, "what to draw"),
        ({"prompt": "  "}, "what to draw"),
        ({"prompt": 3}, "expected text"),
        ({"prompt": "x" * 5000}, "at most 4000"),
        ({"prompt": "x", "promt": 1}, "'promt'; expected prompt"),
        ({"prompt": "x", "n": 5}, "from 1 to 4"),
        ({"prompt": "x", "n": True}, "whole number"),
        ({"prompt": "x", "n": 1.5}, "whole number"),
        ({"prompt": "x", "seed": -1}, "seed"),
        ({"prompt": "x", "seed": 2**63 - 1, "n": 2}, "seed"),
        ({"prompt": "x", "steps": 51}, "from 1 to 50"),
        ({"prompt": "x", "guidance_scale": "7"}, "guidance_scale"),
        (b'{"prompt": "x", "guidance_scale": 1e999}', "not finite"),
        ({"prompt": "x", "size": "64"}, "size"),
        ({"prompt": "x", "size": [64, 64]}, "size"),
        ({"prompt": "x", "size": "0x64"}, "size"),
        ({"prompt": "x", "size": "129x64"}, "at most 128"),
        ({"prompt": "x", "size": "9999999999x8"}, "size"),
        ({"prompt": "x", "response_format": "url"}, "b64_json alone"),
        ({"prompt": "x", "output_format": "webp"}, "png alone"),
        ({"prompt": "x", "shifts": "dog"}, "shifts"),
        ({"prompt": "x", "shifts": ["dog"]}, "shifts"),
        ({"prompt": "x", "shifts": [{"name": 3}]}, "shifts"),
        ({"prompt": "x", "shifts": [{"name": "a"}, {"name": "a"}]}, "twice"),
        ({"prompt": "x", "shifts": [{"name": "a", "scale": 1e6}]}, "scale"),
        ({"prompt": "x", "shifts": [{"name": str(n)} for n in range(17)]}, "at most 16"),
        ({"prompt": "x", "model": "a", "shifts": [{"name": "b"}]}, "not both"),
    ],
)
def test_what_is_wrong_is_said(body: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as found:
        parsed(body)
    assert len(str(found.value)) < 600


@pytest.mark.parametrize(
    ("host", "needs"),
    [("127.0.0.1", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("10.0.0.1", True), ("box", True)],
)
def test_others_take_a_token(host: str, needs: bool, tmp_path: Path) -> None:
    settings = ServeSettings(host=host)
    assert settings.needs_token is needs
    if needs:
        with pytest.raises(InputError, match="give a token"):
            read_token(settings, "")
    assert read_token(settings, " secret\n") == "secret"
    file = tmp_path / "token"
    file.write_text("mine\n")
    assert read_token(ServeSettings(host=host, token_file=file), "secret") == "mine"
    file.write_text("\n")
    with pytest.raises(InputError, match="empty"):
        read_token(ServeSettings(host=host, token_file=file), "secret")
