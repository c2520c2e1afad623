"""Training survives a kill, goes on where it was, and its loss falls."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sfumato.embedded.autoencoder import PatchAutoencoder
from sfumato.embedded.text import make_tokenizer
from sfumato.embedded.training.denoiser import TextDenoiser, diffusion_loss, make_scheduler
from sfumato.embedded.training.loop import Run, save_atomically, spawn
from sfumato.embedded.training.ranker import contrastive_loss, fits
from sfumato.embedded.world.scene import Thing


def fit(path: Path, minutes: float) -> Run:
    torch.manual_seed(0)
    model = nn.Linear(4, 4)
    run = Run(model, path, minutes, lr=0.01)
    for _ in run.steps():
        run.update((model(torch.ones(2, 4)) ** 2).mean(), samples=2)
    return run


def test_a_resumed_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    first = fit(tmp_path / "checkpoint.pt", 0.005)
    second = fit(tmp_path / "checkpoint.pt", 0.005)
    assert second.step > first.step > 0
    assert second.samples > first.samples > 0
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_two_workers_agree(tmp_path: Path) -> None:
    spawn(_train_apart, (tmp_path,), 2, tmp_path)
    weights = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert torch.equal(weights[0], weights[1])


def _train_apart(folder: Path) -> None:
    rank = torch.distributed.get_rank()
    model = nn.Linear(4, 4)
    with torch.no_grad():
        model.weight.fill_(float(rank))
    run = Run(model, folder / "checkpoint.pt", 0.005, lr=0.01)
    for _ in run.steps():
        run.update((model(torch.ones(2, 4)) ** 2).mean(), samples=2)
    torch.save(model.weight.detach(), folder / f"{rank}.pt")


def test_saving_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_atomically({"a": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        save_atomically({"a": lambda: None}, path)
    assert torch.load(path, weights_only=True) == {"a": 1}


def test_the_autoencoder_starts_as_a_good_linear_code() -> None:
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.uniform(-1, 1, (8, 3, 8, 8)).astype(np.float32))
    pixels = nn.functional.interpolate(coarse, size=64, mode="bilinear")
    model = PatchAutoencoder(latent_channels=8, block_out_channels=(8, 16, 16, 16))
    before = (model.decode(model.encode(pixels).latent_dist.mode()).sample - pixels).square().mean()
    model.start_from_patches(pixels)
    after = (model.decode(model.encode(pixels).latent_dist.mode()).sample - pixels).square().mean()
    assert after < 0.1 * before


def test_one_batch_can_be_learnt() -> None:
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    net = TextDenoiser(tokenizer, 4, 8)
    tokens = tokenizer(["a red ball"] * 4, padding="max_length", return_tensors="pt").input_ids
    x, main = torch.randn(4, 4, 8, 8), torch.zeros(4, 1, 8, 8)
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    losses = []
    for _ in range(12):
        loss = diffusion_loss(net, make_scheduler(), x, main, tokens)
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
