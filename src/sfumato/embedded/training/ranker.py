"""Train the embedded ranker: a small CLIP (arXiv:2103.00020) that reads what is under a mask, all else black.

Captions of a batch often fit several images, so every fitting pair is a positive; images that differ in one told attribute are
the hard negatives that a small world provides by itself.
"""

import argparse
import os
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig

from sfumato.embedded.text import MAX_TOKENS, make_tokenizer, tell_words_apart, text_config
from sfumato.embedded.training.loop import Run, progress, spawn
from sfumato.embedded.training.scenes import HELD_OUT, load_shard, shard_path
from sfumato.embedded.world.captions import name
from sfumato.embedded.world.scene import Scene, Thing

SIZE = 64
MEAN = STD = 0.5


def make_ranker() -> CLIPModel:
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
    """The main thing under a plausible mask, black elsewhere, (SIZE, SIZE, 3) in [0, 255]; one time in five without a mask."""
    mask = (owner == 0).astype(np.uint8)
    if rng.random() < 0.2:
        mask[:] = 1
    elif rng.random() < 0.5:
        ys, xs = np.nonzero(mask)
        m = rng.integers(0, 24, 4)
        mask[max(0, ys.min() - m[0]) : ys.max() + m[1], max(0, xs.min() - m[2]) : xs.max() + m[3]] = 1
    else:
        mask = cv2.dilate(mask, np.ones((3, 3), np.uint8), iterations=int(rng.integers(1, 8)))
    view = cv2.resize(image * mask[..., None], (SIZE, SIZE), interpolation=cv2.INTER_AREA).astype(np.float32)
    if rng.random() < 0.5:
        view = view[:, ::-1]
    if rng.random() < 0.3:  # predictions are softer than renders
        view = cv2.GaussianBlur(view, (0, 0), rng.uniform(0.4, 1.0))
    return view


def fits(told: frozenset[str], described: Thing, seen: Thing) -> bool:
    return all(getattr(described, attribute) == getattr(seen, attribute) for attribute in told)


def contrastive_loss(logits: Tensor, positive: Tensor) -> Tensor:
    """Softmax over rows and over columns with several positives each. Both arguments (images, texts)."""
    held = logits.masked_fill(~positive, -torch.inf)
    rows = logits.logsumexp(1) - held.logsumexp(1)
    columns = logits.logsumexp(0) - held.logsumexp(0)
    return (rows.mean() + columns.mean()) / 2


class Views:
    """Random masked views with captions."""

    def __init__(self, paths: list[Path], batch_size: int) -> None:
        self.shards = [load_shard(p) for p in paths]
        self.index = [
            (s, i)
            for s, (_, owners, scenes) in enumerate(self.shards)
            for i in range(len(scenes))
            if scenes[i].things and (owners[i] == 0).sum() > 300
        ]
        self.tokenizer, self.batch_size = make_tokenizer(), batch_size
        self.rng = np.random.default_rng()

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels (B, 3, S, S) normalised, tokens (B, T), positives (B, B)."""
        views, texts, told, things = [], [], [], []
        for k in self.rng.integers(0, len(self.index), self.batch_size):
            images, owners, scenes = self.shards[self.index[k][0]]
            i = self.index[k][1]
            scene: Scene = scenes[i]
            views.append(masked_view(images[i], owners[i], self.rng))
            text, attributes = name(scene.things[0], self.rng)
            texts.append(text)
            told.append(attributes)
            things.append(scene.things[0])
        pixels = (torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2) / 255 - MEAN) / STD
        tokens = self.tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
        positive = torch.tensor([[fits(told[j], things[j], seen) for j in range(len(things))] for seen in things])
        return pixels, tokens.input_ids, positive


def logits_of(model: CLIPModel, pixels: Tensor, tokens: Tensor) -> Tensor:
    return model(input_ids=tokens, pixel_values=pixels).logits_per_image


def train(scenes: Path, out: Path, minutes: float, batch_size: int, lr: float) -> None:
    views = Views([p for i in range(1000) if (p := shard_path(scenes, i)).exists()], batch_size)
    model = make_ranker()
    run = Run(model, out / "checkpoint.pt", minutes, lr, cooldown=0.6)
    report = progress(run)
    for _ in run.steps():
        pixels, tokens, positive = views.draw()
        with torch.autocast("cpu", torch.bfloat16):
            logits = logits_of(model, pixels, tokens)
        loss = contrastive_loss(logits.float(), positive)
        run.update(loss, batch_size)
        report(loss.item())
    if run.leader:
        model.load_state_dict(run.average)
        print("held-out accuracy", accuracy(model.eval(), scenes))
        model.save_pretrained(out)


@torch.inference_mode()
def accuracy(model: CLIPModel, scenes: Path, batches: int = 5) -> float:
    """Share of held-out views whose best caption of 64 fits them."""
    views = Views([shard_path(scenes, HELD_OUT), shard_path(scenes, HELD_OUT + 1)], 64)
    views.rng = np.random.default_rng(0)
    hits = []
    for _ in range(batches):
        pixels, tokens, positive = views.draw()
        best = logits_of(model, pixels, tokens).argmax(1)
        hits += positive[torch.arange(len(best)), best].tolist()
    return float(np.mean(hits))


def export(checkpoint: Path, out: Path) -> None:
    """Write the averaged weights in transformers' CLIPModel format, float16 safetensors, with tokenizer and preprocessing."""
    from transformers import CLIPImageProcessorPil

    model = make_ranker()
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["average"])
    model.half().save_pretrained(out)
    make_tokenizer().save_pretrained(out)
    CLIPImageProcessorPil(
        size={"height": SIZE, "width": SIZE}, do_center_crop=False, image_mean=[MEAN] * 3, image_std=[STD] * 3
    ).save_pretrained(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--batch-size", type=int, default=96)
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--export", type=Path, help="only write the checkpoint's averaged weights to this folder")
    a = parser.parse_args()
    if a.export:
        export(a.out / "checkpoint.pt", a.export)
    else:
        spawn(train, (a.scenes, a.out, a.minutes, a.batch_size, a.lr), a.workers, a.out)
