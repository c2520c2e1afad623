"""What is trained: the networks start well, and their losses fall for the right reasons."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sfumato.backbones.base import Conditions
from sfumato.backbones.hub import WEIGHTS
from sfumato.backbones.loading import load
from sfumato.embedded.autoencoder import PatchAutoencoder
from sfumato.embedded.text import MAX_TOKENS, make_tokenizer
from sfumato.embedded.world.scene import Scene, Thing
from sfumato.embedded.world.split import LEARNED, OTHERS
from sfumato.training import pixel
from sfumato.training.autoencoder import grain_loss, outlines
from sfumato.training.denoiser import Batches, TextDenoiser, diffusion_loss, make_scheduler, random_timesteps
from sfumato.training.latents import load_scene_latents
from sfumato.training.ranker import NEGATIVES, Views, contrastive_loss, fits
from sfumato.training.scenes import render_shard


def test_grain_is_the_same_noise_for_every_picture_and_absent_unless_drawn() -> None:
    model = PatchAutoencoder(latent_channels=8, block_out_channels=(8, 16, 16, 16))
    codes = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(1)).repeat(2, 1, 1, 1)
    plain, once, again = (model.picture(codes, draws) for draws in (None, *(torch.Generator().manual_seed(0) for _ in range(2))))
    assert torch.equal(plain, model.decoder(codes))
    assert torch.equal(once, again)
    assert torch.allclose(once[0], once[1])
    assert (once - plain).std() > 0


def test_grain_is_told_by_the_strength_of_small_differences_and_unwanted_along_outlines() -> None:
    noise = torch.Generator().manual_seed(0)
    grainy, other = (0.03 * torch.randn(4, 3, 64, 64, generator=noise) for _ in range(2))
    flat = torch.zeros_like(grainy)
    assert grain_loss(flat, other, grainy) < grain_loss(flat, flat, grainy) / 4  # other noise of the same strength is as good
    step = flat.clone()
    step[..., 32:] = 1.0
    assert outlines(step)[..., 30:34].all()
    assert not outlines(grainy).any()
    assert grain_loss(step, other, step) > grain_loss(step, flat, step)


def test_the_autoencoder_starts_as_a_good_linear_code() -> None:
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(-1, 1, (8, 3, 8, 8)).astype(np.float32))
    pixels = nn.functional.interpolate(coarse, size=64, mode="bilinear")
    model = PatchAutoencoder(latent_channels=8, block_out_channels=(8, 16, 16, 16))
    before = (model.decode(model.encode(pixels).latent_dist.mode()).sample - pixels).square().mean()
    model.start_from_patches(pixels)
    after = (model.decode(model.encode(pixels).latent_dist.mode()).sample - pixels).square().mean()
    assert after < 0.1 * before


def test_words_and_textures_are_trained_most() -> None:
    torch.manual_seed(0)
    shares = torch.histc(random_timesteps(20_000, 1000, torch.device("cpu")).float(), 5, 0, 1000) / 20_000
    assert shares.sum() == 1
    assert shares[[0, -1]].min() > shares[1:-1].max()


def test_what_a_caption_leaves_out_is_not_learnt(tmp_path) -> None:
    """Otherwise words for one thing, or for the ground alone, would bring more things into an edit."""
    red = Thing(kind="ball", colour="red", material="matte", x=0, y=0, size=0.9)
    blue = Thing(kind="cube", colour="blue", material="matte", x=2.2, y=0.5, size=0.8)
    scene = Scene(things=(red, blue), ground="sand")
    image, owner = scene.render(128)
    np.savez(tmp_path / "scenes-00000.npz", images=image[None], owners=owner[None], scenes=json.dumps([asdict(scene)]))
    batches = Batches(load_scene_latents(WEIGHTS / "vae", tmp_path), make_tokenizer(), 200, torch.device("cpu"))
    batches.rng = np.random.default_rng(0)
    _, weights, tokens = batches.draw()
    cover = {name: getattr(batches.data, name)[0, 0].float() for name in ("main", "others")}
    kinds = set()
    for weight, ids in zip(weights[:, 0], tokens, strict=True):
        text = batches.tokenizer.decode(ids, skip_special_tokens=True)
        named = any(word in text.split() for word in ("ball", "sphere"))
        kind = "main" if named else "dropped" if not text.strip() else "ground"
        counted = {name: bool((weight * share).sum()) for name, share in cover.items()}
        if kind == "ground":
            assert not any(counted.values())
        elif kind == "dropped" or "blue" in text:
            assert all(counted.values())
        else:
            kind += " alone" * (not counted["others"])
            assert counted["main"]
        assert weight.max() > 0
        kinds.add(kind)
    assert kinds == {"main", "main alone", "ground", "dropped"}


def test_latents_are_kept_beside_the_scenes_they_are_of(tmp_path: Path) -> None:
    """Not beside the autoencoder, which may be the installed one, and where scenes of another folder would find them."""
    vae = Path(shutil.copytree(WEIGHTS / "vae", tmp_path / "vae"))
    before = sorted(p.name for p in vae.iterdir())
    one, two = (render_shard(tmp_path / name, 0, count=2, size=size).parent for name, size in (("one", 64), ("two", 128)))
    small, large = (load_scene_latents(vae, folder).latents for folder in (one, two))
    assert (small.shape[-1], large.shape[-1]) == (8, 16)
    assert sorted(p.name for p in vae.iterdir()) == before
    (cache,) = one.rglob("*.pt")
    torch.save({"latents": torch.zeros_like(small)}, cache)
    assert not load_scene_latents(vae, one).latents.any()  # read, not encoded again


def test_latents_of_other_scenes_or_another_autoencoder_are_not_read(tmp_path: Path) -> None:
    vae = Path(shutil.copytree(WEIGHTS / "vae", tmp_path / "vae"))
    shard = render_shard(tmp_path / "scenes", 0, count=2, size=64)
    first = load_scene_latents(vae, shard.parent).latents
    shard.unlink()
    shutil.copy(render_shard(tmp_path / "others", 1, count=2, size=64), shard)
    assert not torch.equal(load_scene_latents(vae, shard.parent).latents, first)
    config = json.loads((vae / "config.json").read_text())
    other = load_scene_latents(vae, shard.parent).latents
    (vae / "config.json").write_text(json.dumps(config | {"scaling_factor": 2 * config["scaling_factor"]}))
    assert torch.equal(load_scene_latents(vae, shard.parent).latents, 2 * other)


def test_one_batch_can_be_learnt() -> None:
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    net = TextDenoiser(tokenizer, 4)
    tokens = tokenizer(["a red ball"] * 4, padding="max_length", max_length=MAX_TOKENS, return_tensors="pt").input_ids
    x, weights = torch.randn(4, 4, 8, 8), torch.ones(4, 1, 8, 8)
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    losses = []
    for _ in range(12):
        loss = diffusion_loss(net, make_scheduler(), x, weights, tokens)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.85 * sum(losses[:3])


def test_contrast_accepts_several_right_answers() -> None:
    positive = torch.tensor([[True, True], [True, True]])
    assert contrastive_loss(torch.randn(2, 2), positive).abs() < 1e-6
    right = torch.tensor([[9.0, -9.0], [-9.0, 9.0]])
    diagonal = torch.eye(2, dtype=torch.bool)
    assert contrastive_loss(right, diagonal) < 1e-3 < contrastive_loss(-right, diagonal)
    bare = torch.tensor([[True, False], [False, True], [False, False]])  # an image that nothing fits
    like_none, like_one = torch.full((1, 2), -9.0), torch.tensor([[9.0, -9.0]])
    assert contrastive_loss(torch.cat([right, like_none]), bare) < 1e-3 < contrastive_loss(torch.cat([right, like_one]), bare)


def test_the_ranker_sees_bare_ground_that_only_captions_of_that_ground_fit(tmp_path: Path) -> None:
    views = Views([render_shard(tmp_path, 0, count=8, size=64)], [], batch_size=16)
    images, owners, scenes = views.shards[0]
    scenes.append(replace(scenes[0], things=(), ground="sand"))
    views.shards[0] = np.concatenate([images, images[:1]]), np.concatenate([owners, owners[:1]]), scenes
    views.redrawn, views.bare = {}, [(0, len(scenes) - 1)]
    pixels, tokens, positive = views.draw()
    things = 16 * (1 + NEGATIVES)
    assert (len(pixels), len(tokens), positive.shape) == (18, things + 4, (18, things + 4))
    assert positive[:16].any(1).all()
    assert not positive[:16, things:].any()
    assert positive[16:].tolist() == [[False] * things + [True, True, False, False]] * 2


def test_the_ranker_sees_kinds_that_the_model_has_not_learnt(tmp_path: Path) -> None:
    learned = render_shard(tmp_path / "scenes", 0, count=8, size=64)
    others = render_shard(tmp_path / "others", 0, count=8, size=64, part=OTHERS)
    views = Views([learned], [others], batch_size=4)
    kinds = {views.shards[s][2][i].things[0].kind for s, i in (views.any() for _ in range(200))}
    assert kinds & set(LEARNED.kinds)
    assert kinds & set(OTHERS.kinds)


def test_a_caption_fits_what_shares_all_it_tells() -> None:
    red = Thing(kind="ball", colour="red", material="matte", x=0, y=0, size=1)
    blue = Thing(kind="ball", colour="blue", material="matte", x=0, y=0, size=1)
    assert fits(frozenset({"kind"}), red, blue)
    assert not fits(frozenset({"kind", "colour"}), red, blue)


def test_the_tokenizer_knows_its_words_in_any_case_and_punctuation() -> None:
    tokenizer = make_tokenizer()
    plain, loud = tokenizer("a red ball").input_ids, tokenizer("A RED, ball!").input_ids
    assert plain == loud
    assert tokenizer.unk_token_id not in plain
    assert tokenizer.unk_token_id in tokenizer("a zeppelin").input_ids


def test_words_keep_their_numbers_where_only_a_part_is_known() -> None:
    whole, part = make_tokenizer(), make_tokenizer(LEARNED)
    assert part("a red ball").input_ids == whole("a red ball").input_ids
    assert part.unk_token_id in part("a duck").input_ids
    assert whole.unk_token_id not in whole("a duck").input_ids


def test_the_pixel_model_is_exported_as_a_folder_that_loads(tmp_path: Path) -> None:
    unet = pixel.make_unet()
    pixel.export(unet, tmp_path / "pixel")
    backbone = load(str(tmp_path / "pixel"), dtype="float32")
    assert (backbone.traits.family, backbone.traits.resolution, backbone.traits.prediction) == ("pixel", 64, "sample")
    assert sum(path.stat().st_size for path in (tmp_path / "pixel").rglob("*")) < 8e6


def test_the_pixel_model_s_patches_are_cells_of_its_network(tmp_path: Path) -> None:
    unet = pixel.make_unet().eval()
    pixel.export(unet, tmp_path / "pixel")
    backbone = load(str(tmp_path / "pixel"), dtype="float32")
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    cells = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 1, 4, 5, 2, 3).reshape(2, 48, 16, 16)
    with torch.no_grad():
        answer = unet.half().float()(cells, torch.tensor(300.0)).sample.view(2, 3, 4, 4, 16, 16)
        given = backbone.denoiser(x, 300.0, Conditions()).prediction
    expected = answer.permute(0, 1, 4, 2, 5, 3).reshape(2, 3, 64, 64)
    assert expected.std() > 1e-3
    assert (given - expected).abs().max() < 1e-5


def test_pixel_scenes_are_means_of_blocks() -> None:
    scene = np.zeros((128, 128, 3), np.uint8)
    scene[::2, ::2] = 100
    assert (pixel._reduced(scene) == 25).all()


@pytest.mark.parametrize("place", [(0, 0, 20, 30), (100, 70, 28, 58), (50, 60, 5, 4), (0, 0, 128, 128), (0, 0, 0, 0)])
def test_a_window_of_training_is_square_and_holds_its_thing(place: tuple[int, int, int, int]) -> None:
    top, left, height, width = place
    image = np.arange(128 * 128 * 3, dtype=np.int64).reshape(128, 128, 3)
    thing = np.zeros((128, 128), bool)
    thing[top : top + height, left : left + width] = True
    for seed in range(20):
        window = pixel.thing_window(image, thing, np.random.default_rng(seed))
        assert window.shape[0] == window.shape[1] >= 32
        assert np.isin(image[thing], window).all()
        assert thing.any() or window.shape == image.shape


def test_a_sheet_of_the_pixel_model_is_the_same_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SHEET_ROWS": 1, "SHEET_COLUMNS": 2, "SHEET_STEPS": 2}.items():
        monkeypatch.setattr(pixel, name, value)
    pixel.export(pixel.make_unet(), tmp_path / "model")
    for name in ("a.png", "b.png"):
        pixel.write_sheet(tmp_path / "model", tmp_path / name, "cpu")
    first, second = (np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png"))
    assert first.shape == (64, 128, 3)
    assert (first == second).all()
    assert (first[:, :64] != first[:, 64:]).any()
