"""Training of the judge (`embedded/judge.py`), on renders that no other model is trained on."""

import functools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.embedded.judge import ATTRIBUTES, CONTEXT, Judge, crop
from sfumato.embedded.world.shapes import KINDS
from sfumato.embedded.world.surfaces import COLOURS, GROUNDS, MATERIALS
from sfumato.training.loop import OnProgress, Run
from sfumato.training.pairs import Pair, load_pairs, shards_of, softened_shard
from sfumato.training.precision import half_precision
from sfumato.training.views import View, plain_view, view
from sfumato.training.workers import shard_by_rank

Maker = Callable[[Pair, Pair, np.random.Generator], View]
UNREAD = -100  # the label of what a view does not show
LEAST_CONTEXT, MOST_CONTEXT = 1.15, 1.45  # of the crops that are trained on
PLAIN = 0.2  # share of the views that show a render as it is: in degraded ones materials are hardly recognisable
MAKERS: dict[str, Maker] = {
    "held-out renders": lambda pair, other, rng: plain_view(pair, rng),
    "held-out views, put together as edits are": functools.partial(view, wear=False),
    "the same, worn as a small model's pictures are": view,
}


def sometimes_plain(pair: Pair, other: Pair, rng: np.random.Generator) -> View:
    """A training view: sometimes a plain render, else a composited and degraded one."""
    return plain_view(pair, rng) if rng.random() < PLAIN else view(pair, other, rng)


def batch(
    judge: Judge, pairs: list[Pair], count: int, rng: np.random.Generator, make: Maker, vary: bool = True
) -> tuple[Tensor, Tensor]:
    """Crops (B, 4, SIDE, SIDE), of varied context if asked, and labels (B, attributes), UNREAD where nothing can be read."""
    views = [make(pairs[i], pairs[j], rng) for i, j in rng.integers(0, len(pairs), (count, 2))]
    crops = np.stack(
        [crop(shown.image, shown.mask, rng.uniform(LEAST_CONTEXT, MOST_CONTEXT) if vary else CONTEXT) for shown in views]
    )
    labels = [[_label(judge, name, shown.truth[name]) for name in ATTRIBUTES] for shown in views]
    return torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


def _label(judge: Judge, attribute: str, name: str) -> int:
    return list(judge.labels[attribute]).index(name) if name else UNREAD


def loss_of(logits: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Sum over the attributes of the cross entropies of what can be read."""
    parts = [F.cross_entropy(logits[name].float(), labels[:, i], ignore_index=UNREAD) for i, name in enumerate(ATTRIBUTES)]
    return torch.stack([part for part in parts if part.isfinite()]).sum()


def make_judge() -> Judge:
    """An untrained judge of today's world."""
    return Judge(kinds=list(KINDS), colours=list(COLOURS), materials=list(MATERIALS), grounds=list(GROUNDS))


def train(
    *,
    pairs: Path,
    out: Path,
    minutes: float,
    device: str = "cpu",
    start_from: Path | None = None,
    batch_size: int = 64,
    lr: float = 1e-3,
    cooldown: float = 0.7,
    on_progress: OnProgress = print,
) -> None:
    """Train on the rendered shards in `pairs`; `out` gets `checkpoint.pt` and the averaged weights in `model`.

    Begins with the weights in the folder `start_from`, if it is given and there is no checkpoint. Prints at the end the accuracy
    on held-out pairs, which are rendered from seeds of their own.

    Raises:
        InputError: no-scenes.
    """
    shards = shards_of(pairs, held_out=False)
    for path in shard_by_rank(shards):
        softened_shard(path)  # the workers share the work out
    data = load_pairs(shards)
    place = torch.device(device)
    judge = make_judge()
    if start_from is not None:
        judge.load_state_dict(Judge.load(start_from).state_dict())
    judge.to(place, memory_format=torch.channels_last)
    run = Run(judge, out / "checkpoint.pt", minutes, lr, cooldown, on_progress=on_progress)
    rng = np.random.default_rng(time.time_ns())
    for _ in run.steps():
        crops, labels = batch(judge, data, batch_size, rng, sometimes_plain)
        with half_precision(place):
            logits = judge(crops.to(place, memory_format=torch.channels_last))
        run.update(loss_of(logits, labels.to(place)), batch_size)
    if run.leader:
        run.use_average()
        judge.cpu()
        for name, make in MAKERS.items():
            found = accuracy(judge, pairs, make)
            on_progress(f"{name}: " + ", ".join(f"{attribute} {found[attribute]:.1%}" for attribute in ATTRIBUTES))
        export(judge, out / "model")


@torch.inference_mode()
def accuracy(judge: Judge, folder: Path, make: Maker, count: int = 2000) -> dict[str, float]:
    """Share of held-out views, made by `make`, that are read rightly, by attribute, with the number of views under "views"."""
    pairs = load_pairs(shards_of(folder, held_out=True))
    rng = np.random.default_rng(0)
    hits: dict[str, list[bool]] = {name: [] for name in ATTRIBUTES}
    judge.eval()
    for _ in range(count // 50):
        crops, labels = batch(judge, pairs, 50, rng, make, vary=False)
        logits = judge(crops)
        for i, name in enumerate(ATTRIBUTES):
            read = labels[:, i] != UNREAD
            hits[name] += (logits[name].argmax(1) == labels[:, i])[read].tolist()
    return {name: round(float(np.mean(values)), 4) for name, values in hits.items()} | {"views": float(count)}


def export(judge: Judge, out: Path) -> None:
    """Write the weights as a folder that `Judge.load` reads, float16 safetensors."""
    copy = make_judge()
    copy.load_state_dict(judge.state_dict())
    copy.half().save_pretrained(out)
