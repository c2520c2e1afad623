"""Training of PowerPaint v2's branch and words beside the frozen denoiser (Zhuang et al., arXiv:2312.03594, and later code).

It is born as a copy of the denoiser with its attention, and begins as the BrushNet where both have a weight. The denoiser reads
the caption; the branch reads the task alone, in words that are learned with it as PowerPaint's are (`powerpaint.py`), from the
same mixture of masks. What it learns is kept as a low-rank change of that copy, with the vectors of the words.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sfumato.backbones.base import Backbone, Conditions, Text
from sfumato.backbones.capabilities import Capability
from sfumato.backbones.embedded import task_text
from sfumato.backbones.powerpaint_v2 import CLASS_NAME, PowerPaintV2
from sfumato.methods.conditioning import brushnet_channels
from sfumato.training import brushnet, powerpaint
from sfumato.training.adapting import Adapted, AdapterTraining, with_class_name
from sfumato.training.masked import captions
from sfumato.training.masked_lessons import Course, Lesson, beside, caption_texts
from sfumato.training.mixture import TASKS, Sample

RANK = 8  # with attention it has twice the matrices of the BrushNet

ADAPTED = Adapted(
    describe=with_class_name(CLASS_NAME),
    born=PowerPaintV2.born,
    rank=RANK,
    whole=brushnet.ADAPTED.whole,
    learned=powerpaint.words_at_first,
    grows=True,
)

Told = tuple[Tensor, powerpaint.Told]
"""Tokens (B, T) of the captions, for the denoiser, and what the branch is told."""


def wordless(samples: Sequence[Sample]) -> list[Sample]:
    """The samples as the branch hears of them: by their tasks."""
    return [replace(sample, caption="") for sample in samples]


def tell(samples: Sequence[Sample], tokenizer: PreTrainedTokenizerFast) -> Told:
    """See `masked.Tell`."""
    return captions(samples, tokenizer), powerpaint.tell(wordless(samples), tokenizer)


def states(course: AdapterTraining, told: Told) -> Tensor:
    """Text states (B, 2 T, D): the denoiser's, and behind them the branch's."""
    tokens, tasks = told
    return torch.cat([course.teacher.states(tokens), powerpaint.states(course, tasks)], dim=1)


def condition(given: Conditions, seen: Tensor) -> Conditions:
    """Divide the states of `states` between denoiser and branch, and add what the branch sees."""
    assert given.text is not None
    of_base, of_branch = given.text.states.chunk(2, dim=1)
    control = replace(brushnet.control_of(seen), states=of_branch)
    return replace(given, text=Text(states=of_base), controls=(control,))


def predict(course: Course, noisy: Tensor, timesteps: Tensor, seen: Tensor, given: Conditions) -> Tensor:
    """The denoiser's output with what the changed branch adds to it; see `Lesson`."""
    return brushnet.predict_by(course, noisy, timesteps, condition(given, seen))


def texts(model: Backbone, samples: Sequence[Sample]) -> tuple[list[Text], list[Text]]:
    """For sheets: what is said against and for each sample, to both."""
    of_base, of_branch = caption_texts(model, samples), powerpaint.texts_by(model.branch_tasks, wordless(samples))
    against, toward = (
        [Text(states=torch.cat([one.states, other.states], dim=1)) for one, other in zip(*both, strict=True)]
        for both in zip(of_base, of_branch, strict=True)
    )
    return against, toward


def with_words(backbone: Backbone, change: Path) -> Backbone:
    """The model whose branch has the words in the file `change`."""
    encoder: Any = backbone.text_encoder
    return replace(backbone, branch_tasks=task_text(change, encoder.encoder))


LESSON = Lesson(
    gives=Capability.POWERPAINT_V2,
    adapted=ADAPTED,
    see=brushnet_channels,
    predict=predict,
    beside=beside,
    condition=condition,
    mixture=TASKS,
    tell=tell,
    states=states,
    texts=texts,
    with_words=with_words,
)
train = LESSON.train
