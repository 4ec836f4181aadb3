"""A base whose class needs a package that is not installed: one line names the package."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from spectra.bases.missing_packages import missing_package
from spectra.bases.pipeline import load_pipeline
from spectra.errors import BaseError


class StandIn:
    """What a library gives in place of a class that it cannot import."""

    _backends = ("numpy", "a_package_of_nobody")


def test_a_package_that_a_class_lacks_is_named(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert missing_package(tiny_base / "model_index.json") == ""
    assert missing_package(tmp_path / "model_index.json") == ""
    library = importlib.import_module("transformers")  # replaced by itself, while it is imported
    monkeypatch.setattr(library, "PixtralProcessor", StandIn, raising=False)
    base = tmp_path / "base"
    base.mkdir()
    for each in tiny_base.iterdir():
        if each.name != "model_index.json":
            (base / each.name).symlink_to(each)
    index = json.loads((tiny_base / "model_index.json").read_text(encoding="utf-8"))
    index["tokenizer"] = ["transformers", "PixtralProcessor"]
    (base / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(BaseError) as caught:
        load_pipeline(str(base))
    assert str(caught.value) == (
        f"{base}: its tokenizer, a PixtralProcessor, needs a_package_of_nobody, not installed here: "
        "pip install a_package_of_nobody"
    )
