"""A base's weights from its files: under the names, and with the values, of the loaded model's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import original_checkpoint as original
import pytest
import small_models
import tiny_base
import torch
from diffusers import Flux2Transformer2DModel, QwenImageTransformer2DModel, ZImageTransformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spectra.bases.original_layouts import original_layout
from spectra.bases.weight_files import FileWeights, base_tensors, base_weights
from spectra.errors import BaseError
from spectra.families import targets
from spectra.io.safetensors_header import StoredTensor
from spectra.io.tensor_files import read_rows, stored_tensors, write_rows


def live(models: Any) -> dict[str, Tensor]:
    """Every weight of a pipeline, or of components by name, as a shift names it."""
    parts = models if isinstance(models, Mapping) else models.components
    denoisers = {name: part for name, part in parts.items() if isinstance(part, nn.Module) and name != "vae"}
    return {target.name: target.weight for target in targets(denoisers, ",".join(f"{name}.*" for name in denoisers))}


def check(files: FileWeights, models: Any) -> None:
    found = dict(files)
    expected = live(models)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    shapes = {name: files.shape(name) for name in files}
    assert shapes == {name: tuple(weight.shape) for name, weight in expected.items()}


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_base.build()


def test_a_folder_whole_and_in_shards(pipe: Any, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "whole")
    check(base_weights(str(tmp_path / "whole")), pipe)
    pipe.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    assert len(list((tmp_path / "shards" / "unet").glob("*.safetensors"))) > 2
    check(base_weights(str(tmp_path / "shards")), pipe)


def test_stable_diffusion_1(pipe: Any, tmp_path: Path) -> None:
    save_file(original.original_checkpoint(pipe), tmp_path / "v1.safetensors")
    check(base_weights(str(tmp_path / "v1.safetensors")), pipe)
    tensors = base_tensors(str(tmp_path / "v1.safetensors"), ["unet"])
    assert {key.removeprefix("unet.") for key in tensors} == pipe.unet.state_dict().keys()


def test_stable_diffusion_2(pipe: Any, tmp_path: Path) -> None:
    models = {"unet": pipe.unet, "text_encoder": small_models.text_encoder(16)}
    state = original.original_unet(pipe.unet) | original.open_clip(models["text_encoder"], "cond_stage_model.model.")
    save_file(state, tmp_path / "v2.safetensors")
    check(base_weights(str(tmp_path / "v2.safetensors")), models)


def test_sdxl(tmp_path: Path) -> None:
    models = {
        "unet": small_models.build("sdxl")[0],
        "text_encoder": small_models.text_encoder(16),
        "text_encoder_2": small_models.text_encoder(24, True),
    }
    state = (
        original.original_unet(models["unet"])
        | original.clip(models["text_encoder"], "conditioner.embedders.0.transformer.")
        | original.open_clip(models["text_encoder_2"], "conditioner.embedders.1.model.")
    )
    save_file(state, tmp_path / "xl.safetensors")
    check(base_weights(str(tmp_path / "xl.safetensors")), models)


def test_sd3(tmp_path: Path) -> None:
    models = {
        "transformer": small_models.build("sd3")[0],
        "text_encoder": small_models.text_encoder(16, True),
        "text_encoder_2": small_models.text_encoder(24, True),
        "text_encoder_3": small_models.build("t5")[0],
    }
    t5 = models["text_encoder_3"].state_dict()
    assert torch.equal(t5["shared.weight"], t5["encoder.embed_tokens.weight"])  # one table, stored twice here
    state = (
        original.original_sd3(models["transformer"])
        | original.clip(models["text_encoder"], "text_encoders.clip_l.transformer.")
        | original.clip(models["text_encoder_2"], "text_encoders.clip_g.transformer.")
        | {f"text_encoders.t5xxl.transformer.{key}": value.clone() for key, value in t5.items()}
    )
    save_file(state, tmp_path / "sd3.safetensors")
    files = base_weights(str(tmp_path / "sd3.safetensors"))
    check(files, models)
    assert len(files.places["text_encoder_3.shared"]) == 2


def without_values(tensors: Mapping[str, torch.Tensor]) -> dict[str, StoredTensor]:
    """The tensors of a file of which only the header is known."""
    return {key: StoredTensor(Path("x"), key, "F32", tuple(value.shape), 0, 0) for key, value in tensors.items()}


def test_flux_by_shapes_alone() -> None:
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):  # diffusers' conversion knows FLUX.1's width only
        model = FluxTransformer2DModel(num_layers=2, num_single_layers=1, guidance_embeds=True)
    found = original_layout(without_values(original.original_flux(model)))["transformer"]
    assert found.keys() == model.state_dict().keys()
    assert found["single_transformer_blocks.0.proj_mlp.weight"].spans == ((9216, 21504),)
    assert found["transformer_blocks.1.attn.add_k_proj.weight"].stored.key == "double_blocks.1.txt_attn.qkv.weight"
    assert found["norm_out.linear.weight"].spans == ((3072, 6144), (0, 3072))
    for key, value in model.state_dict().items():
        assert found[key].shape[0] == value.shape[0]


def test_chroma_by_shapes_alone() -> None:
    from diffusers import ChromaTransformer2DModel

    with torch.device("meta"):
        model = ChromaTransformer2DModel(num_layers=2, num_single_layers=1)
    theirs = original.original_chroma(model)
    t5 = {"text_encoders.t5xxl.transformer.shared.weight": torch.empty(8, 4)}
    layout = original_layout(without_values(theirs | t5))
    found = layout["transformer"]
    assert found.keys() == model.state_dict().keys()
    assert {place.stored.key for place in found.values()} == theirs.keys()
    assert found["single_transformer_blocks.0.proj_mlp.weight"].spans == ((9216, 21504),)
    assert found["distilled_guidance_layer.norms.3.weight"].stored.key == "distilled_guidance_layer.norms.3.scale"
    for key, value in model.state_dict().items():
        assert found[key].shape[0] == value.shape[0]
    assert layout.keys() == {"transformer", "text_encoder"}


def test_flux2_z_image_and_qwen_image(tmp_path: Path) -> None:
    torch.manual_seed(0)
    flux2 = Flux2Transformer2DModel(
        in_channels=8, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=12, timestep_guidance_channels=8, axes_dims_rope=(2, 2, 2, 2),
    )  # fmt: skip
    z_image = ZImageTransformer2DModel(
        in_channels=4, dim=16, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=12,
        axes_dims=[4, 2, 2], axes_lens=[16, 8, 8],
    )  # fmt: skip
    qwen = QwenImageTransformer2DModel(
        in_channels=8, out_channels=2, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=12, axes_dims_rope=(4, 2, 2),
    )  # fmt: skip
    states = {
        "flux2": (flux2, original.original_flux2(flux2)),
        "z-image": (z_image, original.original_z_image(z_image)),
        "qwen": (qwen, {original.DENOISER + key: value for key, value in qwen.state_dict().items()}),
    }
    for name, (model, state) in states.items():
        for prefix in (original.DENOISER, ""):
            path = tmp_path / f"{name}{len(prefix)}.safetensors"
            save_file(
                {key.replace(original.DENOISER, prefix): value.contiguous() for key, value in state.items()}, path
            )
            check(base_weights(str(path)), {"transformer": model})
            assert len(base_tensors(str(path))) == len(model.state_dict()), name


def test_an_original_file_with_tensors_missing_is_one_line() -> None:
    tensors = without_values({"joint_blocks.0.x_block.attn.qkv.weight": torch.zeros(48, 16)})
    with pytest.raises(BaseError, match="not whole"):
        original_layout(tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_rows_are_read_and_overwritten_where_they_lie(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "x.safetensors"
    values = torch.randn(6, 3, 2).to(dtype)
    tensors = {"a": values, "b": torch.arange(4), "c": torch.zeros(0, 5), "d": torch.tensor(2.5)}
    save_file(tensors, path, {"format": "pt"})
    entries = stored_tensors(path)
    assert entries.keys() == {"a", "c", "d"}
    assert read_rows(entries["c"]).shape == (0, 5)
    assert read_rows(entries["d"]) == 2.5
    spans = ((4, 6), (0, 1))
    assert torch.equal(read_rows(entries["a"], spans).float(), values[[4, 5, 0]].float())
    before = path.read_bytes()
    write_rows(entries["a"], values[[4, 5, 0]], spans)
    write_rows(entries["a"], values)
    write_rows(entries["c"], torch.zeros(0, 5))
    assert path.read_bytes() == before
    write_rows(entries["a"], values[[1, 2, 3]], spans)
    assert torch.equal(load_file(path)["a"].float(), values[[3, 1, 2, 3, 1, 2]].float())
    for wrong in (values.double(), values[:2]):
        with pytest.raises(ValueError, match="expected"):
            write_rows(entries["a"], wrong, spans)
