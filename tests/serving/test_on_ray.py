"""The same service on a Ray of this machine alone."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from spectra.serving.running import start_on_ray, stop_on_ray
from spectra.serving.settings import ServeSettings


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:Warning:ray")
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")
def test_a_replica_answers(tiny_base: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    try:
        address = start_on_ray(ServeSettings(base=str(tiny_base), shifts=tmp_path, port=8765), "", device="cpu")
        sent = urllib.request.Request(address + "/v1/images/generations", data=b'{"prompt": "a sun", "steps": 2}')
        with urllib.request.urlopen(sent, timeout=120) as answer:
            assert len(json.load(answer)["data"]) == 1
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(address + "/v1/images/generations", data=b'{"prompt": 1}', timeout=60)
        assert refused.value.code == 400
        refused.value.close()
    finally:
        stop_on_ray()
