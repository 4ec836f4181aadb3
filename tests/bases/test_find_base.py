"""What a base's name means, where it might be a path or a hub id."""

from __future__ import annotations

from pathlib import Path

import pytest

from spectra.bases.pipeline import find_base
from spectra.errors import BaseError


def test_a_mistyped_path_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "sd15-dog").mkdir(parents=True)
    (tmp_path / "models" / "sd15-dog" / "model_index.json").write_text("{}")
    (tmp_path / "models" / "v1-5.safetensors").touch()
    for wrong, right in (
        ("models/sd15-dgo", "models/sd15-dog"),
        ("models/v1_5.safetensors", "models/v1-5.safetensors"),
    ):
        with pytest.raises(BaseError, match=rf"{wrong}: no base there; did you mean {right}\?"):
            find_base(wrong)
    with pytest.raises(BaseError, match="no base there; expected a diffusers folder"):
        find_base("nowhere/model.safetensors")
    assert find_base("models/sd15-dog").kind == "folder"
    assert find_base("models/v1-5.safetensors").kind == "file"
    assert find_base("models/another").kind == find_base("owner/name").kind == "hub"
