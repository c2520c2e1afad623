"""Training of PowerPaint's adapter and words (Zhuang et al., ECCV 2024, arXiv:2312.03594, section 3): tasks told apart by words.

An inpainting adapter is trained further, together with four vectors for each of the words `P_ctxt`, `P_shape` and `P_obj`, which
the frozen text encoder reads. A thing to be drawn is told by `P_obj`; one whose outline was dilated by the mixture of `P_shape`
and `P_ctxt` in which the outline's share of the mask is the weight of `P_shape`; all else by `P_ctxt`. Gradients reach the first
of the two mixed prompts alone, as in the authors' code. There all vectors begin as one word's; at our few samples they would
still be alike at the end, and the tasks too, so here they begin as random ones.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from transformers import PreTrainedTokenizerFast

from sfumato.backbones.base import Backbone, Text
from sfumato.backbones.capabilities import Capability
from sfumato.backbones.embedded import task_text
from sfumato.embedded.text import MAX_TOKENS
from sfumato.methods.conditioning import inpainting_channels
from sfumato.text.chunks import Token
from sfumato.text.grammar import Span
from sfumato.text.powerpaint import PLACEHOLDERS, PLAIN, Around, TaskPrompts, TaskText, as_embeddings, mixed, splice
from sfumato.training import inpainting
from sfumato.training.adapting import Adapted, AdapterTraining, Teacher, with_scheduler
from sfumato.training.denoiser import make_scheduler
from sfumato.training.masked_lessons import Lesson
from sfumato.training.mixture import TASKS, Sample

VECTORS = 4  # of each word: the captions are short, and so is what the text encoder reads
TOLD_AS = {"object": "edit", "shape": "shape"}  # tasks of samples by those of edits; all others continue the surroundings
SHARED = "fill"
NOTHING = TaskPrompts.same(Around(), Around())  # of samples whose caption was dropped

Told = tuple[Tensor, Tensor]
"""Tokens (B, 2, T) of the prompts A and B, with numbers behind the vocabulary's for the vectors, and the weight (B,) of A."""


def words_at_first(teacher: Teacher) -> dict[str, Tensor]:
    """The vectors (VECTORS, width) of each word before training: random, as far apart as words are, and always the same."""
    table = teacher.text.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(0)
    return {
        token: torch.randn(VECTORS, table.shape[1], generator=generator).to(table) * table.detach().std()
        for token in PLACEHOLDERS
    }


def said_of(sample: Sample) -> TaskPrompts:
    """What is said around the caption of a sample."""
    return NOTHING if sample.dropped else PLAIN[TOLD_AS.get(sample.task, SHARED)]


def tell(samples: Sequence[Sample], tokenizer: PreTrainedTokenizerFast) -> Told:
    """See `masked.Tell`: the same tokens as in editing."""
    blank = as_embeddings({token: torch.zeros(VECTORS, 1) for token in PLACEHOLDERS}, Path())

    def numbers(around: Around, caption: str) -> list[int]:
        tokens = splice(tokenizer, MAX_TOKENS, around, [Span(caption)], blank)
        ids = [tokenizer.bos_token_id, *(_number(token, table_rows(tokenizer)) for token in tokens), tokenizer.eos_token_id]
        return ids + [tokenizer.pad_token_id] * (MAX_TOKENS - len(ids))

    pairs = [[numbers(around, sample.caption) for around in (said.a, said.b)] for sample in samples for said in [said_of(sample)]]
    return torch.tensor(pairs), torch.tensor([sample.fit for sample in samples])


def table_rows(tokenizer: PreTrainedTokenizerFast) -> int:
    """Number of rows of the table of words: more than there are words, since one that is held out leaves its number free."""
    return max(tokenizer.get_vocab().values()) + 1


def _number(token: Token, words: int) -> int:
    if token.vector is None:
        return token.id
    placeholder, row = token.vector
    return words + VECTORS * placeholder + row


def states(course: AdapterTraining, told: Told) -> Tensor:
    """Text states (B, T, D) through the frozen encoder, of the vectors that are learnt."""
    tokens, fit = told
    text: Any = course.teacher.text
    words = text.get_input_embeddings().weight
    table = torch.cat([words[: table_rows(course.teacher.tokenizer)], *(course.adapter.learned[token] for token in PLACEHOLDERS)])
    (name,) = (name for name, weight in text.named_parameters() if weight is words)

    def encoded(ids: Tensor) -> Tensor:
        read: Tensor = functional_call(text, {name: table}, (ids,)).last_hidden_state
        return read.float()

    return mixed(encoded(tokens[:, 0]), encoded(tokens[:, 1]).detach(), fit[:, None, None])


def texts(model: Backbone, samples: Sequence[Sample]) -> tuple[list[Text], list[Text]]:
    """For sheets: what is said against and for each sample."""
    assert model.text_encoder is not None
    return texts_by(model.text_encoder.tasks, samples)


def texts_by(tasks: TaskText | None, samples: Sequence[Sample]) -> tuple[list[Text], list[Text]]:
    """What is said against and for each sample, encoded."""
    assert tasks is not None

    def both(a: Around, b: Around, sample: Sample, words: str) -> Text:
        of_a, of_b = (tasks.encode(around, [[Span(words)]]) for around in (a, b))
        return Text(states=mixed(of_a, of_b, sample.fit))

    said = [said_of(sample) for sample in samples]
    against = [both(each.negative_a, each.negative_b, sample, "") for each, sample in zip(said, samples, strict=True)]
    return against, [both(each.a, each.b, sample, sample.caption) for each, sample in zip(said, samples, strict=True)]


def with_words(backbone: Backbone, change: Path) -> Backbone:
    """The model with the words in the file `change`."""
    encoder: Any = backbone.text_encoder
    encoder.tasks = task_text(change, encoder.encoder)
    return backbone


LESSON = Lesson(
    gives=Capability.POWERPAINT,
    adapted=Adapted(
        describe=with_scheduler(make_scheduler()), born=inpainting.widened, rank=inpainting.ADAPTED.rank, learned=words_at_first
    ),
    see=inpainting_channels,
    predict=inpainting.predict,
    beside=inpainting.LESSON.beside,
    condition=lambda given, seen: replace(given, channels=seen),
    mixture=TASKS,
    tell=tell,
    states=states,
    texts=texts,
    with_words=with_words,
)
train = LESSON.train
