"""Parts of the recipe whose mistakes would not show before hours of training."""

from __future__ import annotations

import copy
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[3]

if "recipe" not in sys.modules:  # by its file: the root of the repository must not come onto the path
    spec = importlib.util.spec_from_file_location(
        "recipe", ROOT / "recipe" / "__init__.py", submodule_search_locations=[str(ROOT / "recipe")]
    )
    assert spec is not None
    sys.modules["recipe"] = importlib.util.module_from_spec(spec)

from recipe import captions, critic, data, icons, mixed, progress, scenes, text, tokenizer, unet, vae  # noqa: E402


@pytest.fixture
def drawings() -> data.Data:
    """The data list with blank cut-outs, red in the middle."""
    listed = icons.load_list(data.LIST)
    cutouts = np.zeros((len(listed), 32, 32, 4), np.uint8)
    cutouts[:, 8:24, 8:24] = (255, 0, 0, 255)
    return data.Data(listed, cutouts)


def test_the_list_agrees_with_concepts_and_subjects(drawings: data.Data) -> None:
    assert drawings.concepts == [concept.name for concept in icons.read_concepts()]
    assert {drawings.drawings[i].name for i in drawings.held_out} == set(data.read_subjects())
    assert set(drawings.known).isdisjoint(drawings.held_out)
    assert {row["icon_set"] for row in json.loads(data.LIST.read_text())} == set(icons.ICON_SETS)


def test_held_out_drawings_are_never_drawn(drawings: data.Data) -> None:
    pictures, drawn = data.draw_scenes(drawings, 1, seed=0)
    shown = {index for scene in drawn for index in scene.drawings}
    assert shown.isdisjoint(drawings.held_out)
    assert len(pictures) == len(drawings.known)


def test_scenes_put_the_drawing_on_its_background(drawings: data.Data) -> None:
    rng = np.random.default_rng(0)
    plain = scenes.draw_scene(scenes.Scene((0,), None), drawings.cutouts, rng)
    blue = scenes.draw_scene(scenes.Scene((0, 1), "blue"), drawings.cutouts, rng)
    assert (plain[0, 0] == 255).all()
    assert plain[32, 32].tolist() == [255, 0, 0]
    assert abs(blue[0, 0].astype(int) - scenes.COLOURS["blue"]).max() < 60
    assert blue[32, 16, 0] > 200
    assert blue[32, 48, 0] > 200


def test_captions_name_what_is_shown(drawings: data.Data) -> None:
    rng = np.random.default_rng(0)
    fox, grapes = drawings.concepts.index("fox"), drawings.concepts.index("grapes")
    indices = [next(i for i in range(775) if drawings.concept_of(i) == concept) for concept in (fox, grapes)]
    for _ in range(40):
        both = captions.write_caption(scenes.Scene(tuple(indices), "green"), drawings, rng)
        assert "fox" in both
        assert both.index("fox") < both.index("grapes") < both.index("green")
    assert captions.article("owl") == "an owl"
    assert captions.article("unicorn") == "a unicorn"
    assert captions.article("umbrella") == "an umbrella"
    assert captions.article("grapes") == "grapes"


def test_tokenizer_keeps_spare_tokens_whole_and_splits_strange_words(drawings: data.Data) -> None:
    small = tokenizer.train_tokenizer(captions.all_words(drawings), captions.SUBJECT_TOKENS)
    tokenizer.check_tokenizer(small)
    strange = small("a zyzzyva é").input_ids
    assert small.unk_token_id not in strange[1:-1]
    with pytest.raises(ValueError, match="should be 8 tokens"):
        tokenizer.check_tokenizer(tokenizer.train_tokenizer(captions.all_words(drawings), ()))


def test_questions_follow_the_scene(drawings: data.Data) -> None:
    shown = [scenes.Scene((0,), None), scenes.Scene((0, 6), "blue")]
    style = captions.STYLES[drawings.drawings[0].icon_set]
    asked = text.ask(drawings, shown, [f"a {style} drawing of a dog", "a dog and a cat on blue"])
    nothing = len(drawings.concepts)
    assert asked.left.tolist() == [0, 0]
    assert asked.right.tolist() == [nothing, drawings.concept_of(6)]
    assert asked.background.tolist() == [0, 1 + list(scenes.COLOURS).index("blue")]
    assert asked.icon_set.tolist() == [0, -100]


def test_whitening_changes_latents_and_not_reconstructions() -> None:
    torch.manual_seed(0)
    model = vae.build_vae().eval()
    pictures = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), dtype=np.uint8)
    x = vae.to_signal(pictures)
    with torch.no_grad():
        before = model.decode(model.encode(x).latent_dist.mean).sample
        deviation = model.encode(x).latent_dist.std
        spread = model.encode(x).latent_dist.mean.std((0, 2, 3))
        vae.whiten(model, pictures)
        after = model.decode(model.encode(x).latent_dist.mean).sample
        latents = model.encode(x).latent_dist
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(latents.mean.std((0, 2, 3)), torch.ones(4), rtol=0.03, atol=0.0)
    torch.testing.assert_close(latents.std, deviation / spread.view(1, -1, 1, 1), rtol=0.05, atol=1e-6)


@pytest.mark.slow
def test_the_decoder_learns_and_latents_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    trainer = mixed.MixedTrainer(vae.build_vae(), weight_decay=0.0)
    before = copy.deepcopy(trainer.model)
    for part in (trainer.fast.encoder, trainer.fast.quant_conv):
        part.requires_grad_(False)
    pictures = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), dtype=np.uint8)
    judge, clock = critic.Critic(), iter((0.0, 0.0, 0.5, 2.0))  # two steps
    score = judge.score.weight.detach().clone()
    monkeypatch.setattr(vae.time, "time", lambda: next(clock))
    log = progress.Log(tmp_path / "log")
    vae._fit(trainer, pictures, pictures, log, 1, seed=0, kl_weight=0.0, crops=0.0, noise=0.2, critic=judge)
    for part, stays in (("encoder", True), ("quant_conv", True), ("post_quant_conv", False), ("decoder", False)):
        new, old = getattr(trainer.model, part).state_dict(), getattr(before, part).state_dict()
        assert all(torch.equal(new[name], old[name]) for name in new) is stays, part
    assert not torch.equal(judge.score.weight, score)


def test_the_critic_sees_what_is_missing() -> None:
    torch.manual_seed(0)
    judge, real = critic.Critic(), torch.rand(4, 3, 32, 32) * 2 - 1
    blurred = torch.nn.functional.avg_pool2d(real, 5, 1, 2)
    for _ in range(20):
        judge.learn(blurred, real)
    assert judge.loss(real, real) < judge.loss(blurred, real)
    assert judge._judge(real)[0].mean() > judge._judge(blurred)[0].mean()


def test_timesteps_are_within_range_and_mostly_early() -> None:
    timesteps = unet.draw_timesteps(1000, 1000, torch.Generator().manual_seed(0))
    assert timesteps.min() >= 0
    assert timesteps.max() <= 999
    assert (timesteps < 650).float().mean() == pytest.approx(0.8, abs=0.01)


def test_mixed_training_continues_exactly_and_steps_fp32_weights() -> None:
    torch.manual_seed(0)
    x = mixed.fast_input(torch.randn(2, 3, 16, 16))

    def advance(trainer: mixed.MixedTrainer, steps: int) -> None:
        for _ in range(steps):
            trainer.fast.decode(trainer.fast.encode(x).latent_dist.mean).sample.float().pow(2).mean().backward()
            trainer.step(1e-4, decay=0.9)

    whole = mixed.MixedTrainer(vae.build_vae())
    advance(whole, 2)
    resumed = mixed.MixedTrainer(vae.build_vae())
    resumed.load(copy.deepcopy(whole.state()))
    advance(whole, 1), advance(resumed, 1)
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)
    assert any(not torch.equal(p, p.bfloat16().float()) for p in whole.model.parameters())
    assert all(p.dtype == torch.bfloat16 for p in whole.fast.parameters())


def test_the_unet_hears_the_caption_twice() -> None:
    torch.manual_seed(0)
    model = unet.build_unet().eval()
    x, caption = torch.randn(1, 4, 16, 16), torch.randn(1, 24, 128)
    with torch.no_grad():
        out = model(x, torch.tensor([500]), caption).sample
        for name, module in model.named_modules():
            if name.endswith("attn2.to_out.0"):
                module.weight.zero_(), module.bias.zero_()
        without = model(x, torch.tensor([500]), caption).sample
        other = model(x, torch.tensor([500]), torch.randn(1, 24, 128)).sample
    assert not torch.allclose(out, without)
    assert not torch.allclose(without, other)  # the pooled caption, through the time embedding
    assert sum(p.numel() for p in model.parameters()) < 10_000_000
