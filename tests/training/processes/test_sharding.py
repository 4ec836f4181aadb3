"""A base of which each process keeps a part: the same shift, and no whole weight but while a block computes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import tiny_sd3
from several_processes import Communication, difference, float64_training, in_processes

from spectra.cli.app import main
from spectra.training.config import make_config
from spectra.training.run.loop import Loop
from spectra.training.run.train import train

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
"""What `accelerate launch --use_fsdp --fsdp_version 2` puts into the environment."""


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "sd3"
    tiny_sd3.build().save_pretrained(folder)
    return folder


@pytest.fixture
def given(sd3: Path, settings: dict[str, Any]) -> dict[str, Any]:
    # A batch of one leaves the second process without a sample in every other call of the model.
    moved = {"base": str(sd3), "directions": "3", "outer": "1", "lr_1d": 1e-3, "lr": 1e-3}
    more = {"steps": 2, "batch": 1, "accumulation": 3, "save_every": 2, "validation_count": 1, "prior_count": 2}
    return {**settings, **moved, **more}


def test_a_sharded_base_trains_the_same_shift(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, moves, move = make_config(given), [], Loop._move

    def counted(self: Loop) -> Any:
        with Communication() as traffic:
            records = move(self)
        parts = [each for each in self.pipe.transformer.parameters() if hasattr(each, "to_local")]
        kept, whole = (sum(values) for values in zip(*((p.to_local().nbytes, p.nbytes) for p in parts), strict=True))
        trained = [each.nbytes for each in self.parameters.values()]
        sums = [size for name, size in traffic.calls if name == "allreduce_"]
        assert {name for name, _ in traffic.calls} - {"allreduce_"} == {"_allgather_base_"}
        moves.append({"kept": kept, "whole": whole, "trained": sum(trained), "sums": sums})
        return records

    def call(number: int) -> None:
        with mock.patch.dict(os.environ, FSDP), mock.patch.object(Loop, "_move", counted):
            train(config, tmp_path / "two" / "disc", device="cpu")
        (tmp_path / f"{number}.json").write_text(json.dumps(moves))

    with float64_training():
        monkeypatch.setenv("SPECTRA_CACHE", str(tmp_path / "cache" / "one"))
        train(config, tmp_path / "one" / "disc")
        monkeypatch.setenv("SPECTRA_CACHE", str(tmp_path / "cache" / "two"))
        ended = in_processes(2, call, tmp_path / "said")
    assert [(each.code, each.out, each.err) for each in ended] == [(0, "", "")] * 2
    assert difference(tmp_path / "two" / "disc", tmp_path / "one" / "disc") < 1e-9
    kinds = [[path.read_bytes() for path in sorted((tmp_path / "cache" / n).rglob("*.png"))] for n in ("one", "two")]
    assert len(kinds[0]) == 2 and kinds[0] == kinds[1]
    for number in range(2):
        *_, last = json.loads((tmp_path / f"{number}.json").read_text())
        assert 0.45 * last["whole"] < last["kept"] < 0.55 * last["whole"]
        assert last["sums"][0] == last["trained"] and len(last["sums"]) == 2


@pytest.mark.parametrize(
    ("changed", "environment", "says"),
    [
        ({"directions": "all"}, {}, "all its directions need the whole"),
        ({"outer": "6kB"}, {}, "cannot be chosen by gradient"),
        ({}, {"FSDP_VERSION": "1"}, "FSDP of version 1: expected --fsdp_version 2"),
        ({}, {"ACCELERATE_USE_DEEPSPEED": "true"}, "deepspeed is not for shifts"),
    ],
)
def test_what_needs_whole_weights_is_refused_in_one_line(
    given: dict[str, Any], tmp_path: Path, changed: dict[str, Any], environment: dict[str, str], says: str
) -> None:
    (tmp_path / "it.toml").write_text(make_config({**given, **changed}).to_toml())

    def call(number: int) -> int:
        with mock.patch.dict(os.environ, {**FSDP, **environment}):
            out = str(tmp_path / "disc")
            return main(["train", "--config", str(tmp_path / "it.toml"), "-o", out, "--device", "cpu"])

    ended = in_processes(2, call, tmp_path / "said")
    told = "".join(each.out + each.err for each in ended)
    assert [each.code for each in ended] == [1, 1]
    assert told.count("\n") == 1 and says in told
