"""Training of PowerPaint v2: begun as the BrushNet, told of tasks by learned words alone, loaded as it was trained."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel, PreTrainedTokenizerFast

from sfumato.backbones import hub
from sfumato.backbones.base import Conditions, Text
from sfumato.backbones.brushnet import BrushNet
from sfumato.backbones.loading import load
from sfumato.cli.train_parts import CARDS
from sfumato.embedded.adapter import FILE, Adapter, base_digest, grown
from sfumato.training import brushnet, powerpaint_v2
from sfumato.training.adapting import frozen
from sfumato.training.mixture import Sample
from tests import tiny_models

CPU, COUNT = torch.device("cpu"), 3


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """As `AdapterTraining` holds them."""
    home = tiny_models.tiny_embedded(tmp_path / "weights")
    monkeypatch.setattr(hub, "WEIGHTS", home)
    for module in ("masked", "powerpaint"):
        monkeypatch.setattr(f"sfumato.training.{module}.MAX_TOKENS", 16)  # of the tiny text encoder
    torch.manual_seed(0)
    unet = frozen(UNet2DConditionModel.from_pretrained(home / "unet"), CPU)
    text = frozen(CLIPTextModel.from_pretrained(home / "text_encoder"), CPU)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(home / "tokenizer")
    teacher = SimpleNamespace(
        unet=unet, text=text, tokenizer=tokenizer, states=lambda tokens: text(tokens).last_hidden_state.float()
    )
    network = frozen(powerpaint_v2.ADAPTED.born(unet), CPU)
    learned = powerpaint_v2.ADAPTED.learned(teacher)  # type: ignore[arg-type]
    adapter = Adapter(network, base_digest(home), 4, powerpaint_v2.ADAPTED.whole, learned)
    changed = partial(adapter.call, network)
    return SimpleNamespace(teacher=teacher, network=network, adapter=adapter, base=unet, changed=changed, home=home)


def sample(task: str, caption: str = "a ball", **changes: Any) -> Sample:
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    return Sample(mask, caption, np.zeros_like(mask), task, **changes)


def told(course: Any, *samples: Sample) -> torch.Tensor:
    return powerpaint_v2.states(course, powerpaint_v2.tell(samples, course.teacher.tokenizer))


def given_of(states: torch.Tensor) -> Conditions:
    return Conditions(text=Text(states=states))


def learnt(course: Any, seed: int = 5) -> None:
    """Change all of the adapter, as its file can hold it."""
    with tiny_models.seeded(seed), torch.no_grad():
        for weight in course.adapter.parameters():
            weight.copy_((weight + 0.05 * torch.randn_like(weight)).half())


def test_it_is_trained_by_name() -> None:
    card = next(card for card in CARDS if card.name == "powerpaint-v2")
    assert card.load() == powerpaint_v2.train


def test_it_starts_by_adding_nothing_and_keeps_the_attention(course: Any) -> None:
    noisy, timesteps, seen = torch.randn(COUNT, 8, 8, 8), torch.tensor([1, 400, 900]), torch.randn(COUNT, 9, 8, 8)
    states = told(course, *[sample("object")] * COUNT)
    predicted = powerpaint_v2.predict(course, noisy, timesteps, seen, given_of(states))
    expected = course.teacher.unet(noisy, timesteps, states.chunk(2, dim=1)[0]).sample
    assert torch.equal(predicted, expected)
    assert any("attn2" in key for key in course.adapter.up)
    assert {"P_ctxt", "P_shape", "P_obj"} == set(course.adapter.learned.keys())


def test_the_caption_reaches_the_denoiser_and_the_task_the_branch(course: Any) -> None:
    learnt(course)
    of_base, of_branch = told(course, sample("object"), sample("object", "a cube"), sample("context"), sample("shape")).chunk(
        2, 1
    )
    assert not torch.equal(of_base[0], of_base[1])
    assert torch.equal(of_base[0], of_base[2])
    assert torch.equal(of_branch[0], of_branch[1])
    assert not torch.equal(of_branch[0], of_branch[2])
    dropped, empty = told(course, sample("shape", "", dropped=True), sample("shape", "")).chunk(2, 1)[1]
    assert not torch.equal(dropped, empty)
    tokens = course.teacher.tokenizer([""], padding="max_length", max_length=16, return_tensors="pt").input_ids
    assert (dropped - course.teacher.states(tokens)[0]).abs().max() < 1e-6
    half, whole, context = told(course, sample("shape", fit=0.5), sample("shape"), sample("context")).chunk(2, 1)[1]
    assert (half - (whole + context) / 2).abs().max() < 1e-6


def test_gradients_reach_the_words_and_the_branch_alone(course: Any) -> None:
    learnt(course)
    noisy, timesteps, seen = torch.randn(COUNT, 8, 8, 8), torch.tensor([1, 400, 900]), torch.randn(COUNT, 9, 8, 8)
    states = told(course, sample("object"), sample("context"), sample("shape", fit=0.5))
    powerpaint_v2.predict(course, noisy, timesteps, seen, given_of(states)).square().mean().backward()
    assert all(vectors.grad is not None and vectors.grad.any() for vectors in course.adapter.learned.values())
    assert all(weight.grad is not None for weight in course.adapter.up.values())
    fixed = (course.teacher.unet, course.teacher.text, course.network)
    assert all(weight.grad is None for module in fixed for weight in module.parameters())


def test_it_begins_as_the_brushnet_where_both_have_a_weight(course: Any) -> None:
    """Of a rank that it holds exactly, else the nearest of its own."""
    plain = frozen(BrushNet.born(course.teacher.unet), CPU)
    for rank in (3, 8):
        other = Adapter(plain, course.adapter.digest, rank, brushnet.ADAPTED.whole)
        with tiny_models.seeded(6), torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
        course.adapter.load_state_dict(grown(other.state_dict(), course.adapter, course.network))
        changed, born = course.adapter.weights(course.network), dict(course.network.named_parameters())
        for name, weight in other.weights(plain).items():
            if name.replace(".", "/") in course.adapter.whole or rank == 3:
                torch.testing.assert_close(changed[name], weight, rtol=0, atol=1e-5)
            else:
                wanted = (weight - born[name]).reshape(len(weight), -1)
                lost = torch.linalg.matrix_norm((changed[name] - weight).reshape(len(weight), -1))
                assert lost <= torch.linalg.svdvals(wanted)[4:].norm() + 1e-4
        attention = next(name for name in changed if "attn2.to_q" in name)
        assert torch.equal(changed[attention], born[attention])


def test_it_is_loaded_and_acts_as_it_was_trained(course: Any, tmp_path: Path) -> None:
    learnt(course)
    folder = tmp_path / "branch"
    course.adapter.save(folder)
    powerpaint_v2.ADAPTED.describe(folder)
    noisy, seen = torch.randn(2, 8, 8, 8), torch.randn(2, 9, 8, 8)
    samples = [sample("object"), sample("shape", fit=0.5)]
    states = told(course, *samples)
    trained = powerpaint_v2.predict(course, noisy, torch.tensor([500, 500]), seen, given_of(states))

    loaded: Any = load(str(course.home), device="cpu", dtype="float32", branch=str(folder))
    edited = powerpaint_v2.LESSON.edited(course.home, CPU, folder / FILE)
    for model in (loaded, edited):
        _, toward = powerpaint_v2.texts(model, samples)
        given = Conditions(text=Text(states=torch.cat([text.states for text in toward])))
        made = model.denoiser(noisy, 500.0, powerpaint_v2.condition(given, seen)).prediction
        assert (made - trained).abs().max() < 1e-4
    assert (trained - course.teacher.unet(noisy, 500, states.chunk(2, dim=1)[0]).sample).abs().max() > 1e-2
