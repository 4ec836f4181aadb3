"""Special words as embedding files: what diffusers makes of them, and what is read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_sdxl
import torch
from safetensors.torch import load_file, save_file
from small_models import random_shift

import spectra
from spectra.bases.pipeline import load_pipeline
from spectra.convert.embeddings import read_embedding, write_embeddings
from spectra.convert.file_kinds import file_kind
from spectra.errors import FormatError, MismatchError, OutputError
from spectra.families.special_word import special_word
from spectra.shift.shift import SpectralShift
from spectra.shift.word_vectors import WordVectors

CLIP, CLIP_2 = (f"text_encoder{number}.embeddings.token_embedding" for number in ("", "_2"))
PROMPT, CLASS_PROMPT = "a zzqq sun", "a sun"


@pytest.fixture(scope="module")
def sdxl_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("base") / "sdxl"
    tiny_sdxl.build().save_pretrained(folder)
    return folder


def with_words(base: Path, targets: str, words: dict[str, str], size: float = 0.0) -> SpectralShift:
    """A shift of random vectors for the special word of each prompt, and of deltas of deviation `size`."""
    pipe = load_pipeline(str(base))
    found, rng = special_word(pipe, words, [CLASS_PROMPT]), np.random.default_rng(0)
    shift = random_shift(pipe, targets, seed=1, size=size)
    vectors = {
        name: WordVectors(ids, rng.normal(0, 0.5, (len(ids), shift_width(pipe, name))).astype(np.float32), found.text)
        for name, ids in found.ids.items()
        if name in shift
    }
    return SpectralShift(dict(shift), shift.metadata, words=vectors)


def shift_width(pipe: Any, name: str) -> int:
    width: int = getattr(pipe, name.split(".")[0]).get_input_embeddings().weight.shape[1]
    return width


def pictures(pipe: Any, prompt: str) -> np.ndarray[Any, Any]:
    """What the pipeline draws: `[1, h, w, 3]` from 0 to 1."""
    generator = torch.Generator("cpu").manual_seed(0)
    drawn: np.ndarray[Any, Any] = pipe(prompt, num_inference_steps=2, generator=generator, output_type="np").images
    return drawn


def with_shift(base: Path, shift: SpectralShift) -> Any:
    """The base's pipeline with a shift in force."""
    pipe = load_pipeline(str(base))
    spectra.activate(pipe, spectra.load(pipe, shift, name="given"))
    return pipe


def test_diffusers_draws_with_the_file_what_the_shift_draws(tiny_base: Path, tmp_path: Path) -> None:
    shift = with_words(tiny_base, CLIP, {PROMPT: "zzqq"})
    written = write_embeddings(shift, tmp_path / "zzqq.safetensors", base=str(tiny_base))
    assert written.vectors == {"zzqq": 4}
    assert written.bytes == (tmp_path / "zzqq.safetensors").stat().st_size
    theirs = load_pipeline(str(tiny_base))
    theirs.load_textual_inversion(str(tmp_path), weight_name="zzqq.safetensors")
    drawn = pictures(with_shift(tiny_base, shift), PROMPT)
    assert np.array_equal(pictures(theirs, "a <zzqq> sun"), drawn)
    assert np.abs(drawn - pictures(load_pipeline(str(tiny_base)), PROMPT)).max() > 0.01


def test_a_shift_of_the_whole_table_is_in_the_rows(tiny_base: Path, tmp_path: Path) -> None:
    """The rows are the live model's, delta and vectors together."""
    shift = with_words(tiny_base, CLIP, {PROMPT: "zzqq"}, size=0.2)
    write_embeddings(shift, tmp_path / "zzqq.safetensors", base=str(tiny_base))
    pipe = with_shift(tiny_base, shift)
    tokens = pipe.tokenizer("zzqq", add_special_tokens=False).input_ids
    live = pipe.text_encoder.get_input_embeddings()(torch.tensor(tokens))
    assert torch.allclose(load_file(tmp_path / "zzqq.safetensors")["<zzqq>"], live, rtol=0, atol=1e-6)


def test_a_base_of_two_encoders_has_both_in_one_file(sdxl_base: Path, tmp_path: Path) -> None:
    shift = with_words(sdxl_base, f"{CLIP},{CLIP_2}", {PROMPT: "zzqq"})
    write_embeddings(shift, tmp_path / "zzqq.safetensors", base=str(sdxl_base))
    state = load_file(tmp_path / "zzqq.safetensors")
    assert {key: tuple(rows.shape) for key, rows in state.items()} == {"clip_l": (4, 16), "clip_g": (4, 24)}
    theirs = load_pipeline(str(sdxl_base))
    for key, number in (("clip_l", ""), ("clip_g", "_2")):
        parts = {name: getattr(theirs, name + number) for name in ("text_encoder", "tokenizer")}
        theirs.load_textual_inversion(state[key], token="<zzqq>", **parts)
    assert np.array_equal(pictures(theirs, "a <zzqq> sun"), pictures(with_shift(sdxl_base, shift), PROMPT))


def test_an_encoder_without_vectors_has_the_base_s_rows(sdxl_base: Path, tmp_path: Path) -> None:
    shift = with_words(sdxl_base, CLIP, {PROMPT: "zzqq"})
    write_embeddings(shift, tmp_path / "zzqq.safetensors", base=str(sdxl_base))
    pipe = load_pipeline(str(sdxl_base))
    tokens = pipe.tokenizer_2("zzqq", add_special_tokens=False).input_ids
    assert torch.equal(
        load_file(tmp_path / "zzqq.safetensors")["clip_g"], pipe.text_encoder_2.get_input_embeddings().weight[tokens]
    )
    assert list(read_embedding(tmp_path / "zzqq.safetensors", base=str(sdxl_base)).words) == [CLIP]


@pytest.mark.parametrize("both", [False, True])
def test_a_file_is_read_back(both: bool, tiny_base: Path, sdxl_base: Path, tmp_path: Path) -> None:
    base = sdxl_base if both else tiny_base
    shift = with_words(base, f"{CLIP},{CLIP_2}" if both else CLIP, {PROMPT: "zzqq"})
    write_embeddings(shift, tmp_path / "zzqq.safetensors", base=str(base))
    assert file_kind(tmp_path / "zzqq.safetensors") == "embedding"
    back = read_embedding(tmp_path / "zzqq.safetensors", base=str(base))
    assert list(back) == list(shift)
    assert back.metadata.fingerprints == shift.metadata.fingerprints
    assert (back.metadata.ndims, back.metadata.rounded) == (shift.metadata.ndims, shift.metadata.rounded)
    for name, word in shift.words.items():
        assert (back.words[name].ids, back.words[name].text) == (word.ids, "zzqq")
        assert np.abs(back.words[name].vectors - word.vectors).max() < 1e-7
        assert not back[name].any()
    assert np.array_equal(pictures(with_shift(base, back), PROMPT), pictures(with_shift(base, shift), PROMPT))


def test_a_file_of_other_tools_is_read_for_a_word(tiny_base: Path, tmp_path: Path) -> None:
    rows = torch.randn(2, 24, generator=torch.Generator().manual_seed(0))
    save_file({"emb_params": rows}, tmp_path / "kohya.safetensors")
    save_file({"<cat-toy>": rows[0]}, tmp_path / "one.safetensors")
    pipe = with_shift(tiny_base, read_embedding(tmp_path / "kohya.safetensors", base=str(tiny_base), word="zq"))
    tokens = pipe.tokenizer("zq", add_special_tokens=False).input_ids
    table = pipe.text_encoder.get_input_embeddings()
    assert torch.allclose(table(torch.tensor(tokens)), rows, rtol=0, atol=1e-6)
    assert read_embedding(tmp_path / "one.safetensors", base=str(tiny_base), word="z").words[CLIP].vectors.shape == (
        1,
        24,
    )


def test_several_words_go_into_a_folder(tiny_base: Path, tmp_path: Path) -> None:
    shift = with_words(tiny_base, CLIP, {"a zq sun": "zq", "a zx sun": "zx"})
    with pytest.raises(FormatError, match="a file holds one word, and this shift has zq, zx; name a folder"):
        write_embeddings(shift, tmp_path / "both.safetensors", base=str(tiny_base))
    assert write_embeddings(shift, tmp_path / "both", base=str(tiny_base)).vectors == {"zq": 2, "zx": 2}
    assert {file.name for file in (tmp_path / "both").glob("*.safetensors")} == {"zq.safetensors", "zx.safetensors"}
    theirs = load_pipeline(str(tiny_base))
    for word in ("zq", "zx"):
        theirs.load_textual_inversion(str(tmp_path / "both"), weight_name=f"{word}.safetensors")
    drawn = pictures(with_shift(tiny_base, shift), "a zq zx sun")
    assert np.array_equal(pictures(theirs, "a <zq> <zx> sun"), drawn)
    with pytest.raises(OutputError, match="exists already"):
        write_embeddings(shift, tmp_path / "both", base=str(tiny_base))


def test_half_precision_is_what_diffusers_reads(tiny_base: Path, tmp_path: Path) -> None:
    shift = with_words(tiny_base, CLIP, {PROMPT: "zzqq"})
    write_embeddings(shift, tmp_path / "32.safetensors", base=str(tiny_base))
    write_embeddings(shift, tmp_path / "16.safetensors", base=str(tiny_base), dtype="float16")
    full, half = (load_file(tmp_path / f"{bits}.safetensors")["<zzqq>"] for bits in (32, 16))
    assert torch.equal(half, full.half())


def test_what_has_no_word_or_another_base_is_refused(tiny_base: Path, other_base: Path, tmp_path: Path) -> None:
    plain = random_shift(load_pipeline(str(tiny_base)), CLIP, seed=0)
    with pytest.raises(FormatError, match="this shift has no special word with a vector of its own"):
        write_embeddings(plain, tmp_path / "x.safetensors", base=str(tiny_base))
    shift = with_words(tiny_base, CLIP, {PROMPT: "zzqq"})
    with pytest.raises(MismatchError, match=r"give that base"):
        write_embeddings(shift, tmp_path / "x.safetensors", base=str(other_base))
    word = shift.words[CLIP]
    wrong = SpectralShift(dict(shift), shift.metadata, words={CLIP: WordVectors(word.ids, word.vectors, "zx")})
    with pytest.raises(MismatchError, match=r"reads 'zx' as tokens \[27, 51\], and the shift has vectors for"):
        write_embeddings(wrong, tmp_path / "x.safetensors", base=str(tiny_base))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("tensors", "word", "error", "message"),
    [
        ({"<x>": torch.randn(2, 24)}, "", FormatError, r"does not tell its word in prompts; .*\(--word\)"),
        ({"<x>": torch.randn(2, 24)}, "zqx", MismatchError, r"<x> has 2 rows, and .* reads 'zqx' as 3 tokens"),
        ({"<x>": torch.randn(3, 24)}, "zzq", MismatchError, r"as 3 tokens, 2 of them different"),
        ({"<x>": torch.randn(2, 32)}, "zq", MismatchError, r"rows of 32 values, and the base's are of 24"),
        ({"<x>": torch.full((2, 24), torch.nan)}, "zq", FormatError, r"<x> has values that are not finite"),
        ({"<x>": torch.randn(2, 24), "y": torch.randn(2, 24)}, "zq", FormatError, "no embedding file"),
        ({"<x>": torch.randn(2, 3, 24)}, "zq", FormatError, "no embedding file"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read_are_refused(
    tensors: dict[str, torch.Tensor], word: str, error: type[Exception], message: str, tiny_base: Path, tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(error, match=message):
        read_embedding(tmp_path / "x.safetensors", base=str(tiny_base), word=word)
