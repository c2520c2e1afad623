"""Training of PowerPaint: what samples are told, that it starts as the inpainting adapter, and what gradients reach."""

import copy
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from transformers import CLIPTextModel

from sfumato.backbones.base import Conditions, Text
from sfumato.backbones.embedded import EmbeddedText, task_text
from sfumato.embedded import adapter
from sfumato.embedded.adapter import Adapter
from sfumato.embedded.text import MAX_TOKENS, make_text_encoder, make_tokenizer
from sfumato.embedded.world.split import LEARNED
from sfumato.methods.conditioning import inpainting_channels
from sfumato.text.powerpaint import PLACEHOLDERS
from sfumato.training import inpainting
from sfumato.training.adapting import frozen
from sfumato.training.denoiser import make_scheduler, velocity_loss
from sfumato.training.mixture import TASKS, Picture, Sample, draw_sample
from sfumato.training.muon import split
from sfumato.training.powerpaint import VECTORS, said_of, states, table_rows, tell, texts, words_at_first
from tests import tiny_models

CPU, COUNT = torch.device("cpu"), 6
EMPTY = np.zeros((8, 8), bool)
TOKENIZER = make_tokenizer(LEARNED)  # as ships: the numbers of held-out words are free


def sample(task: str, caption: str = "a yellow ball", **changes: Any) -> Sample:
    return Sample(~EMPTY, caption, EMPTY, task, **changes)


SAMPLES = [
    sample("object"),
    sample("shape", fit=0.25),
    sample("context", ""),
    sample("outpaint", "grass"),
    sample("object", ""),
    sample("everything", "", dropped=True),
]


@pytest.fixture
def course() -> Any:
    """As `AdapterTraining` holds them: a frozen denoiser and text encoder, and the adapter with its words."""
    torch.manual_seed(0)
    text: CLIPTextModel = frozen(make_text_encoder(make_tokenizer()), CPU)
    unet = frozen(tiny_models.tiny_unet(sample_size=8, in_channels=8, out_channels=8, cross_attention_dim=192), CPU)
    teacher = SimpleNamespace(unet=unet, text=text, tokenizer=TOKENIZER, device=CPU)
    network = frozen(inpainting.widened(unet), CPU)
    learned = words_at_first(teacher)  # type: ignore[arg-type]
    adapter = Adapter(network, "ab" * 32, 4, learned=learned)
    return SimpleNamespace(teacher=teacher, network=network, adapter=adapter, changed=partial(adapter.call, network))


def loss_of(course: Any) -> torch.Tensor:
    """Of pictures whose colour the task alone tells."""
    torch.manual_seed(1)  # the same levels and noise, so that losses compare
    x = torch.arange(COUNT).view(COUNT, 1, 1, 1).expand(COUNT, 8, 8, 8) / COUNT - 0.5
    hole = torch.ones(COUNT, 1, 64, 64)
    seen = inpainting_channels(lambda pixels: torch.zeros_like(x), torch.zeros(COUNT, 3, 64, 64), hole)
    given = Conditions(text=Text(states=states(course, tell(SAMPLES, TOKENIZER))))
    return velocity_loss(
        lambda noisy, timesteps: inpainting.predict(course, noisy, timesteps, seen, given), make_scheduler(), x, torch.ones(1)
    )


def test_tokens_are_words_then_vectors() -> None:
    tokens, fit = tell(SAMPLES, TOKENIZER)
    assert tokens.shape == (COUNT, 2, MAX_TOKENS)
    assert fit.tolist() == [1, 0.25, 1, 1, 1, 1]
    start, end = TOKENIZER.bos_token_id, TOKENIZER.eos_token_id
    words = TOKENIZER("a yellow ball", add_special_tokens=False).input_ids
    first = {token: table_rows(TOKENIZER) + VECTORS * i for i, token in enumerate(PLACEHOLDERS)}

    def begins(row: torch.Tensor, words: list[int], token: str | None) -> bool:
        run = [] if token is None else list(range(first[token], first[token] + VECTORS))
        expected = [start, *words, *run, end]
        return row.tolist() == expected + [TOKENIZER.pad_token_id] * (MAX_TOKENS - len(expected))

    assert all(begins(row, words, "P_obj") for row in tokens[0])
    assert begins(tokens[1, 0], words, "P_shape")
    assert begins(tokens[1, 1], words, "P_ctxt")
    assert all(begins(row, [], "P_ctxt") for row in tokens[2])
    assert all(begins(row, [], "P_obj") for row in tokens[4])
    assert all(begins(row, [], None) for row in tokens[5])


def test_long_captions_are_cut_and_never_the_vectors() -> None:
    tokens, _ = tell([sample("object", "a yellow ball " * 12)], TOKENIZER)
    assert (tokens >= table_rows(TOKENIZER)).sum(-1).tolist() == [[VECTORS, VECTORS]]


def test_words_begin_apart_and_always_the_same(course: Any) -> None:
    words = torch.cat([course.adapter.learned[token] for token in PLACEHOLDERS]).float()
    again = torch.cat(list(words_at_first(course.teacher).values())).float()
    assert torch.equal(words, again)
    table = course.teacher.text.get_input_embeddings().weight.float()
    apart = torch.pdist(table).median()  # as words are
    assert (torch.pdist(words) > 0.7 * apart).all()


def test_states_are_those_of_editing(course: Any, tmp_path: Path) -> None:
    with torch.no_grad():
        for token in PLACEHOLDERS:
            course.adapter.learned[token].copy_(torch.randn(VECTORS, 192).half())
    course.adapter.save(tmp_path)
    encoder = EmbeddedText(TOKENIZER, course.teacher.text, CPU, torch.float32)
    encoder.tasks = task_text(tmp_path / adapter.FILE, encoder.encoder)
    _, told = texts(SimpleNamespace(text_encoder=encoder), SAMPLES)  # type: ignore[arg-type]
    trained = states(course, tell(SAMPLES, TOKENIZER))
    assert (trained - torch.cat([text.states for text in told])).abs().max() < 1e-5


def test_gradients_reach_the_adapter_and_the_words_alone(course: Any) -> None:
    for network in (course.teacher.unet, course.teacher.text):
        assert not any(weight.requires_grad for weight in network.parameters())
    before = copy.deepcopy(course.teacher.text.state_dict())
    loss_of(course).backward()
    assert all(weight.grad is None for network in (course.teacher.unet, course.teacher.text) for weight in network.parameters())
    assert {name for name, weight in course.adapter.named_parameters() if name.startswith("learned.") and weight.grad.any()} == {
        f"learned.{token}" for token in PLACEHOLDERS
    }
    assert all(torch.equal(weight, before[name]) for name, weight in course.teacher.text.state_dict().items())
    assert all(id(weight) in set(map(id, split(course.adapter)[1])) for weight in course.adapter.learned.values())  # AdamW's


def test_the_second_prompt_is_not_learned_from(course: Any) -> None:
    states(course, tell([sample("shape", fit=0.25)], TOKENIZER)).sum().backward()
    assert course.adapter.learned["P_shape"].grad.any()
    assert not course.adapter.learned["P_ctxt"].grad.any()


@pytest.mark.slow
def test_the_loss_falls(course: Any) -> None:
    optimizer, losses = torch.optim.AdamW(course.adapter.parameters(), 5e-3), []
    for _ in range(30):
        loss = loss_of(course)
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.6 * losses[0]


def test_an_inpainting_adapter_is_a_start(course: Any, tmp_path: Path) -> None:
    plain = Adapter(course.network, "ab" * 32, 4)
    path = plain.save(tmp_path)
    assert adapter.learned(path) == {}
    begun = {name: tensor for name, tensor in course.adapter.state_dict().items() if name.startswith(adapter.LEARNED)}
    course.adapter.load_state_dict(begun | adapter.read(path)[1] | {"base": course.adapter.base})
    assert set(adapter.learned(course.adapter.save(tmp_path))) == set(PLACEHOLDERS)


def test_outlines_are_dilated_and_their_share_is_told() -> None:
    owner = cv2.circle(np.zeros((64, 64), np.uint8), (32, 32), 12, 1, -1).astype(np.int8) - 1
    shown = Picture(owner, {0: lambda rng: "red"}, lambda rng: "ground", lambda rng: "whole", None)
    rng = np.random.default_rng(0)
    drawn = [draw_sample(shown, TASKS, rng) for _ in range(600)]
    shaped = [each for each in drawn if each.task == "shape"]
    assert 0.15 < len(shaped) / len(drawn) < 0.28
    for each in shaped:
        assert each.mask[owner == 0].all()
        assert each.fit == pytest.approx((owner == 0).sum() / each.mask.sum())
    fits = [each.fit for each in shaped]
    assert min(fits) < 0.5
    assert max(fits) > 0.95
    assert all(each.fit == 1 for each in drawn if each.task != "shape")
    wordless = [not each.caption for each in drawn if each.task == "context" and not each.dropped]
    assert np.mean(wordless) > 0.6
    assert 0.06 < np.mean([each.dropped for each in drawn]) < 0.14
    assert all(each.caption == "" and not each.untold.any() for each in drawn if each.dropped)


def test_tasks_of_samples_are_said_as_in_editing() -> None:
    said = {each.task: said_of(each) for each in map(sample, ("object", "shape", "context", "outpaint", "random", "everything"))}
    assert said["object"].a.text("p") == "p P_obj"
    assert (said["shape"].a.text("p"), said["shape"].b.text("p")) == ("p P_shape", "p P_ctxt")
    assert {said[task].a.text("p") for task in ("context", "outpaint", "random", "everything")} == {"p P_ctxt"}
    assert said_of(sample("object", dropped=True)).a.text("") == ""
