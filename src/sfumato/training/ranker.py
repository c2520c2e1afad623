"""Training of the embedded ranker: a small CLIP (arXiv:2103.00020) of what is under a mask, with black around it.

Captions of a batch often fit several images, so every fitting pair is a positive. Beside each caption stand hard negatives: what
would be said of the same thing with one attribute changed. Some of the images show bare ground, which only captions of that
ground alone fit: an edit may have drawn nothing, and a removal should. And some show kinds that the denoiser has not learnt: what
it draws badly may look like one of those.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPVisionConfig

from sfumato.backbones.hub import WEIGHTS
from sfumato.embedded.text import MAX_TOKENS, make_tokenizer, tell_words_apart, text_config
from sfumato.embedded.world.captions import ground_alone, name
from sfumato.embedded.world.scene import Scene, Thing
from sfumato.embedded.world.split import LEARNED, WHOLE, unseen
from sfumato.training.denoiser import quick_attention
from sfumato.training.loop import OnProgress, Run
from sfumato.training.precision import half_precision
from sfumato.training.scenes import HELD_OUT, load_shard, shard_path, training_shards
from sfumato.training.softening import redrawn_shard
from sfumato.training.views import worn
from sfumato.training.workers import shard_by_rank

SIZE = 64
MEAN = STD = 0.5
REDRAWN_SHARDS, REDRAWN = 8, 0.8  # of the scenes, how many shards are redrawn, and how often those are shown so
OTHER_SHARDS, OTHERS_SHARE = 6, 0.25  # of other kinds, how many shards there are and how often they are shown
OTHERS_REDRAWN = 2
NEGATIVES = 2


def make_ranker() -> CLIPModel:
    """A small CLIP, untrained."""
    tokenizer = make_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=160,
        intermediate_size=640,
        num_hidden_layers=5,
        num_attention_heads=5,
        image_size=SIZE,
        patch_size=8,
        projection_dim=128,
        hidden_act="gelu",
    )
    text = text_config(tokenizer, width=128, layers=2)
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=128))
    tell_words_apart(model.text_model)
    return model


def masked_view(image: np.ndarray, owner: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The main thing under a plausible mask, black elsewhere, (SIZE, SIZE, 3) in [0, 255]; one time in five without a mask.

    One time in two the picture is worn as predictions are, which are softer than renders.
    """
    mask = (owner == 0).astype(np.uint8)
    image = worn(image, rng) if rng.random() < 0.5 else image
    if rng.random() < 0.2:
        mask[:] = 1
    elif rng.random() < 0.5:
        ys, xs = np.nonzero(mask)
        m = rng.integers(0, 24, 4)
        mask[max(0, ys.min() - m[0]) : ys.max() + m[1], max(0, xs.min() - m[2]) : xs.max() + m[3]] = 1
    else:
        mask = cv2.dilate(mask, np.ones((3, 3), np.uint8), iterations=int(rng.integers(1, 8)))
    view = cv2.resize(image * mask[..., None], (SIZE, SIZE), interpolation=cv2.INTER_AREA).astype(np.float32)
    return view[:, ::-1] if rng.random() < 0.5 else view


def fits(named: frozenset[str], described: Thing, seen: Thing) -> bool:
    """Whether what a caption tells of a thing is true of another."""
    return all(getattr(described, attribute) == getattr(seen, attribute) for attribute in named)


def contrastive_loss(logits: Tensor, positive: Tensor) -> Tensor:
    """Softmax over those rows and those columns that have a positive, with several positives each.

    Args:
        logits: (images, texts).
        positive: (images, texts) bool.
    """
    held = logits.masked_fill(~positive, -torch.inf)
    rows = (logits.logsumexp(1) - held.logsumexp(1))[positive.any(1)]
    columns = (logits.logsumexp(0) - held.logsumexp(0))[positive.any(0)]
    return (rows.mean() + columns.mean()) / 2


def changed(thing: Thing, named: frozenset[str], rng: np.random.Generator) -> Thing:
    """The thing with one of the named attributes changed, to no combination that is held out."""
    values: dict[str, tuple[str, ...]] = {"kind": WHOLE.kinds, "colour": WHOLE.colours, "material": WHOLE.materials}
    while True:
        attribute = str(rng.choice(sorted(named)))
        change: dict[str, Any] = {attribute: str(rng.choice(values[attribute]))}
        other = replace(thing, **change)
        if other != thing and not unseen(other.kind, other.colour):
            return other


def redrawn_ones(scenes: Sequence[Path], others: Sequence[Path]) -> list[Path]:
    """Those of the shards that are redrawn."""
    return [*scenes[:REDRAWN_SHARDS], *others[:OTHERS_REDRAWN]]


class Views:
    """Random masked views with captions, of the scenes and of those with other kinds."""

    def __init__(self, scenes: Sequence[Path], others: Sequence[Path], batch_size: int) -> None:
        paths = [*scenes, *others]
        self.shards = [load_shard(path) for path in paths]
        self.redrawn = {paths.index(path): redrawn_shard(path, WEIGHTS) for path in redrawn_ones(scenes, others)}
        shown = [
            (s, i)
            for s, (_, owners, drawn) in enumerate(self.shards)
            for i in range(len(drawn))
            if drawn[i].things and (owners[i] == 0).sum() > 300
        ]
        self.learned = [(s, i) for s, i in shown if s < len(scenes)]
        self.others = [(s, i) for s, i in shown if s >= len(scenes)]
        self.bare = [(s, i) for s, (_, _, scenes) in enumerate(self.shards) for i in range(len(scenes)) if not scenes[i].things]
        self.tokenizer, self.batch_size = make_tokenizer(), batch_size
        self.rng = np.random.default_rng()

    def picture(self, s: int, i: int) -> np.ndarray:
        """Picture (S, S, 3) of a scene, mostly the redrawn one if there is one."""
        redrawn = s in self.redrawn and self.rng.random() < REDRAWN
        return np.asarray(self.redrawn[s][i] if redrawn else self.shards[s][0][i])

    def any(self) -> tuple[int, int]:
        """Shard and place of a scene with something to see."""
        pool = self.others if self.others and self.rng.random() < OTHERS_SHARE else self.learned
        return pool[self.rng.integers(len(pool))]

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels (N, 3, S, S) normalised, tokens (M, T) of right captions and hard negatives, positives (N, M) of both.

        N is B, and B / 8 more that show bare ground if there are empty scenes.
        """
        views, things, captions = [], [], []
        for _ in range(self.batch_size):
            s, i = self.any()
            _, owners, scenes = self.shards[s]
            scene: Scene = scenes[i]
            views.append(masked_view(self.picture(s, i), owners[i], self.rng))
            things.append(scene.things[0])
            captions.append((*name(scene.things[0], self.rng), scene.things[0]))
        for _, named, thing in NEGATIVES * captions:
            other = changed(thing, named, self.rng)
            captions.append((*name(other, self.rng), other))
        texts, grounds = [text for text, _, _ in captions], []
        for _ in range(self.batch_size // 8 if self.bare else 0):
            s, i = self.any()
            shape = self.shards[s][1][i]
            s, i = self.bare[self.rng.integers(len(self.bare))]
            views.append(masked_view(self.picture(s, i), shape, self.rng))
            grounds.append(self.shards[s][2][i].ground)
        named_grounds = grounds + [str(self.rng.choice([g for g in LEARNED.grounds if g != ground])) for ground in grounds]
        texts += [ground_alone(ground, self.rng) for ground in named_grounds]
        positive = torch.zeros(len(views), len(texts), dtype=torch.bool)
        positive[: len(things), : len(captions)] = torch.tensor(
            [[fits(named, described, seen) for _, named, described in captions] for seen in things]
        )
        for i, ground in enumerate(grounds):
            positive[len(things) + i, len(captions) :] = torch.tensor([ground == other for other in named_grounds])
        pixels = (torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2) / 255 - MEAN) / STD
        tokens = self.tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
        return pixels, tokens.input_ids, positive


def logits_of(model: CLIPModel, pixels: Tensor, tokens: Tensor) -> Tensor:
    """Likeness of every picture (rows) to every caption (columns)."""
    return model(input_ids=tokens, pixel_values=pixels).logits_per_image


def train(
    *,
    scenes: Path,
    others: Path,
    out: Path,
    minutes: float,
    device: str = "cpu",
    start_from: Path | None = None,
    batch_size: int = 96,
    lr: float = 1e-3,
    cooldown: float = 0.6,
    on_progress: OnProgress = print,
) -> None:
    """Train on the rendered shards in `scenes` and `others`; `out` gets `checkpoint.pt` and the averaged weights in `model`.

    Begins with the weights in the folder `start_from`, if it is given and there is no checkpoint.
    """
    shards = training_shards(scenes), training_shards(others)
    for path in shard_by_rank(redrawn_ones(*shards)):
        redrawn_shard(path, WEIGHTS)
    views = Views(*shards, batch_size)
    place = torch.device(device)
    model = make_ranker()
    if start_from is not None:
        model.load_state_dict(load_file(start_from / "model.safetensors"))
    model.to(place)
    run = Run(model, out / "checkpoint.pt", minutes, lr, cooldown, on_progress=on_progress)
    for _ in run.steps():
        pixels, tokens, positive = (tensor.to(place) for tensor in views.draw())
        with half_precision(place), quick_attention(place):
            logits = logits_of(model, pixels, tokens)
        run.update(contrastive_loss(logits.float(), positive), batch_size)
    if run.leader:
        run.use_average()
        on_progress(f"the best caption fits {accuracy(model.cpu(), scenes, others):.1%} of held-out views")
        export(model, out / "model")


@torch.inference_mode()
def accuracy(model: CLIPModel, scenes: Path, others: Path, batches: int = 10) -> float:
    """Share of held-out views whose best caption, of 36 right ones and 68 hard negatives, fits them."""

    def held_out(folder: Path) -> list[Path]:
        return [path for i in range(2) if (path := shard_path(folder, HELD_OUT + i)).exists()]

    views = Views(held_out(scenes), held_out(others), 32)
    views.rng = np.random.default_rng(0)
    hits = []
    for _ in range(batches):
        pixels, tokens, positive = views.draw()
        best = logits_of(model, pixels, tokens).argmax(1)
        hits += positive[torch.arange(len(best)), best][positive.any(1)].tolist()
    return float(np.mean(hits))


def export(model: CLIPModel, out: Path) -> None:
    """Write the weights in transformers' CLIPModel format, float16 safetensors, with tokenizer and preprocessing."""
    copy = make_ranker()
    copy.load_state_dict(model.state_dict())
    copy.half().save_pretrained(out)
    make_tokenizer(LEARNED).save_pretrained(out)
    CLIPImageProcessorPil(
        size={"height": SIZE, "width": SIZE}, do_center_crop=False, image_mean=[MEAN] * 3, image_std=[STD] * 3
    ).save_pretrained(out)
