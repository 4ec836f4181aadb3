"""Hostile input: every reader ends in success or in one line of ours, within 1 s of CPU and 64 MB.

`make fuzz` reads 200,000 spoilt inputs a reader; here are some hundreds of each, and what was found once (`corpus/`).
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile.corpus import CORPUS, corpus
from hostile.limits import Watch
from hostile.mutation import ESCAPES, mutated
from hostile.readers import READERS
from PIL import Image

from spectra.convert.lora.reading import read_lora
from spectra.convert.svdiff.files import read_svdiff
from spectra.errors import FormatError, InputError, SpectraError
from spectra.io.safetensors_header import build_header
from spectra.spectrum.cache.entry_file import DamagedEntryError
from spectra.training.data.prompts import check_template

INPUTS = 300
"""Spoilt inputs of each reader."""


def watched(name: str, folder: Path) -> Callable[[bytes], str]:
    """Writes an input and reads it; what is wrong with that, in words."""
    reader = READERS[name]
    path = folder / f"input{reader.suffix}"
    for data in reader.seeds():  # what is imported and made once is none of what an input takes
        path.write_bytes(data)
        Watch(reader.read).complaint(path)
    watch = Watch(reader.read)

    def complaint(data: bytes) -> str:
        path.write_bytes(data)
        return watch.complaint(path)

    return complaint


@pytest.mark.parametrize("name", READERS)
def test_spoilt_inputs_and_all_that_were_found_once(name: str, tmp_path: Path) -> None:
    complaint, suffix = watched(name, tmp_path), READERS[name].suffix
    rng, known = random.Random(name), [*READERS[name].seeds(), *corpus(suffix)]
    inputs: Iterator[bytes] = (mutated(rng.choice(known), suffix, rng) for _ in range(INPUTS))
    found = {data[:200]: wrong for data in itertools.chain(known, inputs) if (wrong := complaint(data))}
    assert found == {}


@pytest.mark.parametrize("name", [name for name in READERS if name not in ("recipe", "cache")])
def test_seeds_are_read(name: str, tmp_path: Path) -> None:
    for data in READERS[name].seeds():
        path = tmp_path / f"input{READERS[name].suffix}"
        path.write_bytes(data)
        READERS[name].read(path)


def test_the_corpus_is_small() -> None:
    sizes = [path.stat().st_size for path in CORPUS.iterdir()]
    assert len(sizes) > 70
    assert sum(sizes) < 400_000


@pytest.mark.parametrize("name", [name for name, reader in READERS.items() if reader.suffix == ".safetensors"])
def test_headers_that_claim_and_nest(name: str, tmp_path: Path) -> None:
    complaint = watched(name, tmp_path)
    tensor = {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}
    million = ",".join(f'"t{i}.delta":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(200_000))
    texts = [
        *(json.dumps({f"unet.{ESCAPES}.delta": tensor}), "[" * 200_000, '{"a":' * 60_000, f"{{{million}}}"),
        json.dumps({"__metadata__": {"format": "spectra-shift", "version": "1", "seed": "9" * 9000}}),
        json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "b": {**tensor}}),
    ]
    for text in texts:
        data = text.encode()
        assert complaint(len(data).to_bytes(8, "little") + data + bytes(8)) == "", text[:60]
    for length in (1 << 62, 10**8, 3):
        assert complaint(length.to_bytes(8, "little") + b"{}") == ""


@pytest.mark.parametrize("name", READERS)
def test_links_and_pipes_and_folders(name: str, tmp_path: Path) -> None:
    read, suffix = READERS[name].read, READERS[name].suffix
    (tmp_path / f"folder{suffix}").mkdir()
    (tmp_path / f"nowhere{suffix}").symlink_to(tmp_path / "none")
    (tmp_path / f"circle{suffix}").symlink_to(tmp_path / f"circle{suffix}")
    (tmp_path / f"real{suffix}").write_bytes(READERS[name].seeds()[0])
    (tmp_path / f"link{suffix}").symlink_to(tmp_path / f"real{suffix}")
    for kind in ("folder", "nowhere", "circle"):
        with pytest.raises((SpectraError, DamagedEntryError, OSError), match="."):
            read(tmp_path / f"{kind}{suffix}")
    if name not in ("recipe", "cache"):
        read(tmp_path / f"link{suffix}")


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


def test_a_malicious_pickle_does_not_run(tmp_path: Path) -> None:
    mark, plain = tmp_path / "ran", tmp_path / "plain.pt"
    torch.save({"a.to_q.delta": torch.ones(8), "evil": Malicious(f"touch {mark}")}, tmp_path / "evil.pt")
    plain.write_bytes(pickle.dumps(Malicious(f"touch {mark}")))
    (tmp_path / "filled.pt").write_bytes(b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.")
    for path in (tmp_path / "evil.pt", plain, tmp_path / "filled.pt"):
        with pytest.raises(FormatError, match="a pickle, which can run code; pass --allow-pickle"):
            read_svdiff([path], {})
        with pytest.raises(FormatError, match="cannot be read as a pickle of tensors"):
            read_svdiff([path], {}, allow_pickle=True)
    assert not mark.exists()


def test_a_pickle_that_asks_for_more_than_it_stores_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a.to_q.delta": torch.ones(1).expand(1 << 40)}, path)
    with pytest.raises(FormatError, match="larger ones, than it stores"):
        read_svdiff([path], {"unet.a.to_q": (8, 8)}, allow_pickle=True)
    torch.save({"a.to_q.delta": torch.zeros(1 << 20)}, path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    assert (tmp_path / "b.pt").stat().st_size < 10_000
    with pytest.raises(FormatError, match="compressed"):
        read_svdiff([tmp_path / "b.pt"], {"unet.a.to_q": (8, 8)}, allow_pickle=True)
    nested: dict[str, Any] = {"a.delta": torch.ones(1)}
    for _ in range(40):
        nested = {"x": nested, "y": nested}
    torch.save(nested, path)
    with pytest.raises(FormatError, match="no tensor|more tensors"):
        read_svdiff([path], {}, allow_pickle=True)


def test_a_lora_that_multiplies_out_to_more_than_the_weight_is_refused(tmp_path: Path) -> None:
    shapes = {"unet.a.to_q": (8, 8)}
    cases = [
        {"lora_down.weight": (1, 30_000), "lora_up.weight": (30_000, 1)},
        {"lokr_w1": (200, 200), "lokr_w2": (200, 200)},
        {"hada_w1_a": (900, 1), "hada_w1_b": (1, 9000), "hada_w2_a": (900, 1), "hada_w2_b": (1, 9000)},
    ]
    for parts in cases:
        arrays = {f"lora_unet_a_to_q.{part}": np.ones(shape, np.float32) for part, shape in parts.items()}
        header = build_header({}, {key: ("float32", each.shape) for key, each in arrays.items()})
        (tmp_path / "a").write_bytes(header + b"".join(each.tobytes() for each in arrays.values()))
        with pytest.raises(FormatError, match="changes [0-9,]+ values, and the base has 64 there"):
            read_lora(tmp_path / "a", shapes)


@pytest.mark.parametrize("place", ["{left:>999999999}", "{left!r:>9}", "{left.__class__}", "{left[0]}", "{0}", "{"])
def test_a_template_has_places_and_nothing_else(place: str) -> None:
    with pytest.raises(InputError, match="expected places"):
        check_template(place + "{left}{right}")


def test_pictures_of_more_pixels_than_their_bytes_can_hold(tmp_path: Path) -> None:
    Image.new("1", (30_000, 30_000)).save(tmp_path / "a.png")
    assert watched("picture", tmp_path)((tmp_path / "a.png").read_bytes()) == ""
