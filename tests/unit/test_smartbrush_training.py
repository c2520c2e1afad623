"""Training of the SmartBrush adapter: its samples, what the network sees, its losses, and what it starts from."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.backbones.capabilities import Capability, Layout
from sfumato.embedded.adapter import FILE, Adapter, merge, read
from sfumato.masks.precision import ROUGHEST, at_precision
from sfumato.training import masked, samples, smartbrush
from sfumato.training.denoiser import make_scheduler
from sfumato.training.inpainting import widened as widened_for_inpainting
from sfumato.training.latents import always
from sfumato.training.mixture import PRECISE, Picture, Sample, draw_sample
from tests import tiny_models

DIGEST, SIDE = "ab" * 32, 64


def unet(**changes: Any) -> Any:
    torch.manual_seed(0)
    given = {"sample_size": 8, "in_channels": 8, "out_channels": 8} | changes
    return tiny_models.tiny_unet(**given).requires_grad_(False).eval()


def picture() -> Picture:
    """A disc before a bar."""
    y, x = np.mgrid[:SIDE, :SIDE]
    owner = np.full((SIDE, SIDE), -1, np.int8)
    owner[40:50, 4:60], owner[np.hypot(x - 30, y - 30) < 14] = 1, 0
    words = {0: partial(always, "disc"), 1: partial(always, "bar")}
    return Picture(owner, words, partial(always, "ground"), partial(always, "whole"), None)


def test_samples_are_of_one_thing_at_every_precision_or_of_everything() -> None:
    rng, shown = np.random.default_rng(0), picture()
    drawn = [draw_sample(shown, PRECISE, rng) for _ in range(600)]
    whole = [sample for sample in drawn if sample.task == "everything"]
    assert 0.15 < len(whole) / len(drawn) < 0.25
    assert all(sample.outline is None and sample.mask.all() for sample in whole)
    of_things = [sample for sample in drawn if sample.task == "object"]
    assert len(whole) + len(of_things) == len(drawn)
    counts = np.bincount([sample.precision for sample in of_things], minlength=ROUGHEST + 1)
    assert counts.min() > 0.14 * len(of_things)
    for sample in of_things:
        assert sample.outline is not None
        assert np.array_equal(sample.mask, at_precision(sample.outline, sample.precision))
        index = 0 if sample.outline[30, 30] else 1
        assert sample.caption in (["disc", "bar"][index], "")
        assert np.array_equal(sample.outline, shown.owner == index)
        assert not sample.caption or np.array_equal(sample.untold, shown.owner == 1 - index)


class Source:
    """One picture with given samples, in turn."""

    def __init__(self, samples: list[Sample]) -> None:
        self.samples, self.latents = samples, torch.randn(1, 8, 8, 8)

    def draw(self, index: int, rng: np.random.Generator) -> tuple[Any, Sample]:
        self.samples = [*self.samples[1:], self.samples[0]]
        return np.zeros((SIDE, SIDE, 3), np.uint8), self.samples[-1]


def test_the_network_sees_cells_of_the_mask_and_learns_in_them_alone() -> None:
    outline, untold, everything = (np.zeros((SIDE, SIDE), bool) for _ in range(3))
    outline[17:30, 10:30], untold[20:24, 33:36], everything[:] = True, True, True
    exact = Sample(outline, "a red ball", untold, "object", outline, precision=0)
    boxed = Sample(at_precision(outline, 4) | untold, "", np.zeros_like(untold), "object", outline, precision=4)
    whole = Sample(everything, "", np.zeros_like(untold), "everything")
    tokenizer = tiny_models.word_tokenizer(tiny_models.EMBEDDED_WORDS)
    batches = smartbrush.Batches(Source([exact, boxed, whole]), tokenizer, 3, torch.device("cpu"))
    x, seen, weights, shape, known, tokens = batches.draw()
    assert (x.shape, seen.shape, weights.shape, shape.shape) == ((3, 8, 8, 8), (3, 2, 8, 8), (3, 1, 8, 8), (3, 1, 8, 8))
    assert len(tokens) == 3
    assert seen[:, 1, 0, 0].tolist() == [0, 1, 1]
    assert known.tolist() == [True, True, False]
    cells = torch.zeros(8, 8)
    cells[2:4, 1:4] = 1  # what the outline touches
    assert torch.equal(seen[0, 0], cells)
    assert torch.equal(shape[:2, 0], cells.expand(2, 8, 8))
    left = cells.clone()
    left[:, 3] = 0  # beside the cell of what the caption leaves out
    assert torch.equal(weights[0, 0], left)
    assert torch.equal(weights[1:], seen[1:, :1])


def test_the_dice_loss_is_between_nothing_for_the_mask_itself_and_one() -> None:
    outline = torch.zeros(3, 1, 6, 6)
    outline[:, :, 1:4, 2:5] = 1
    sure = 40 * (2 * outline - 1)
    every = torch.ones(3, dtype=torch.bool)
    assert smartbrush.dice_loss(sure, outline, every) == pytest.approx(0, abs=1e-5)
    assert smartbrush.dice_loss(-sure, outline, every) == pytest.approx(1, abs=1e-5)
    half = torch.zeros(3, 1, 6, 6)  # a half everywhere: 2 * 4.5 / (18 + 9)
    assert smartbrush.dice_loss(half, outline, every) == pytest.approx(1 - 9 / 27, abs=1e-5)
    assert smartbrush.dice_loss(torch.cat([sure[:2], -sure[:1]]), outline, torch.tensor([True, True, False])) < 1e-4
    assert smartbrush.dice_loss(half, outline, ~every) == 0
    logits = torch.full((1, 1, 6, 6), -2.0, requires_grad=True)
    smartbrush.dice_loss(logits, torch.zeros(1, 1, 6, 6), every[:1]).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_it_starts_as_the_denoiser_with_an_even_mask() -> None:
    base = unet()
    given = torch.randn(2, 10, 8, 8), torch.tensor([10, 700]), torch.randn(2, 5, tiny_models.TEXT_WIDTH)
    plain = base(given[0][:, :8], *given[1:]).sample
    network = smartbrush.widened(base)
    made = Adapter(network, DIGEST, 2)(network, *given)
    assert torch.allclose(made[:, :8], plain, atol=1e-6)
    assert (made[:, 8:] == 0).all()
    assert (network.config.in_channels, network.config.out_channels) == (10, 9)


def test_it_starts_from_what_inpainting_learnt_of_the_mask(tmp_path: Path) -> None:
    inpainting = widened_for_inpainting(unet())
    learnt = Adapter(inpainting, DIGEST, 2)
    with torch.no_grad():
        for weight in learnt.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    learnt.save(tmp_path)
    network = smartbrush.widened(unet())
    adapter = Adapter(network, DIGEST, 2)
    state = smartbrush.begun(read(tmp_path / FILE)[1])
    adapter.load_state_dict(state | {"base": adapter.base})
    assert smartbrush.begun(state) is state
    x = torch.randn(2, 8, 8, 8)
    mask, told = torch.ones(2, 1, 8, 8), (torch.tensor([10, 700]), torch.randn(2, 5, tiny_models.TEXT_WIDTH))
    expected = learnt(inpainting, torch.cat([x, mask, torch.zeros(2, 8, 8, 8)], 1), *told)
    made = adapter(network, torch.cat([x, mask, torch.rand(2, 1, 8, 8)], 1), *told)
    assert torch.allclose(made[:, :8], expected, atol=2e-2)  # the file has half precision
    assert not torch.allclose(made[:, :8], adapter(network, torch.cat([x, 0 * mask, mask], 1), *told)[:, :8], atol=1e-3)


def test_what_is_saved_makes_the_same_network_of_the_base(tmp_path: Path) -> None:
    adapter = Adapter(smartbrush.widened(unet()), DIGEST, 2)
    with torch.no_grad():
        for weight in adapter.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    base = unet()
    merge(base, adapter.save(tmp_path), DIGEST)
    given = torch.randn(1, 10, 8, 8), torch.tensor([300]), torch.randn(1, 5, tiny_models.TEXT_WIDTH)
    expected = adapter(smartbrush.widened(unet()), *given)
    assert torch.allclose(base(*given).sample, expected, atol=2e-2 * float(expected.abs().max()))
    assert (base.config.in_channels, base.config.out_channels) == (10, 9)


def boxed_disc() -> Sample:
    y, x = np.mgrid[:SIDE, :SIDE]
    outline = np.hypot(x - 32, y - 30) < 22
    return Sample(at_precision(outline, 4), "a red ball", np.zeros_like(outline), "object", outline, precision=4)


def test_the_thing_and_its_mask_are_learnt_and_the_denoiser_is_left() -> None:
    """Of latents that are one colour on a disc and another around it, in the disc's box."""
    tokenizer = tiny_models.word_tokenizer(tiny_models.EMBEDDED_WORDS)
    source = Source([boxed_disc()])
    outline = smartbrush.in_cells([source.samples[0].outline], 8)
    source.latents = 2 * outline - 1 + torch.zeros(1, 8, 8, 8)
    x, seen, weights, shape, known, _ = smartbrush.Batches(source, tokenizer, 8, torch.device("cpu")).draw()
    network = smartbrush.widened(unet())
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    adapter, states = Adapter(network, DIGEST, 4), torch.zeros(8, 4, tiny_models.TEXT_WIDTH)
    optimizer, scheduler, losses = torch.optim.AdamW(adapter.parameters(), 5e-3), make_scheduler(), []
    found = torch.zeros(0)

    def predict(given: Tensor, timesteps: Tensor) -> Tensor:
        nonlocal found
        kept = seen[:, :1] == 0
        assert torch.equal(torch.where(kept, given[:, :8], 0), torch.where(kept, x, 0))  # clean around the mask
        made = adapter(network, given, timesteps, states)
        found = made[:, 8:].detach() > 0
        return made

    for _ in range(40):
        torch.manual_seed(1)  # the same levels and noise, so that losses compare
        loss = smartbrush.smartbrush_loss(predict, scheduler, x, seen, weights, shape, known)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.6 * losses[0]
    inside = shape > 0
    assert (found & inside).sum() > 0.65 * (found | inside).sum()
    assert all(torch.equal(weight, before[name]) for name, weight in network.state_dict().items())


def test_a_course_leaves_an_adapter_that_loads_and_a_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = tiny_models.tiny_embedded(tmp_path / "model"), tmp_path / "out"
    monkeypatch.setattr(smartbrush, "masked_source", lambda *_: Source([boxed_disc()]))
    monkeypatch.setattr(samples, "PER_PROMPT", 1)
    monkeypatch.setattr(masked, "MAX_TOKENS", 16)  # of the tiny text encoder
    given: dict[str, Any] = {"vae": folder / "vae", "scenes": tmp_path, "model": folder, "out": out, "minutes": 0.001}
    smartbrush.train(**given, batch_size=2, on_progress=lambda _: None)
    assert len(list(out.glob("samples-*.png"))) == 1
    traits = samples.loaded(out / "model", torch.device("cpu"), folder).traits
    assert traits.layout is Layout.SMARTBRUSH
    assert traits.can(Capability.SMARTBRUSH)
