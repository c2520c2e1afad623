"""Training of an adapter of the embedded denoiser, the part shared by all kinds. Denoiser and text encoder stay frozen."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, PreTrainedTokenizerFast

from sfumato.embedded.adapter import RANK, Adapter, base_digest, read
from sfumato.embedded.text import MAX_TOKENS
from sfumato.training.denoiser import Batches, quick_attention
from sfumato.training.latents import load_scene_latents
from sfumato.training.loop import OnProgress, Run, check_fits


@dataclass(frozen=True)
class Teacher:
    """The frozen denoiser that an adapter starts from.

    Args:
        unet: Float32, channels last.
        text, tokenizer: What its captions go through.
        device: Where all of it is.
    """

    unet: UNet2DConditionModel
    text: CLIPTextModel
    tokenizer: PreTrainedTokenizerFast
    device: torch.device

    @classmethod
    def load(cls, model: Path, device: torch.device) -> "Teacher":
        """From the folders `unet`, `text_encoder` and `tokenizer` of `model`."""
        tokenizer = PreTrainedTokenizerFast.from_pretrained(model / "tokenizer", local_files_only=True)
        networks = (UNet2DConditionModel.from_pretrained(model / "unet"), CLIPTextModel.from_pretrained(model / "text_encoder"))
        unet, text = (n.float().requires_grad_(False).eval().to(device, memory_format=torch.channels_last) for n in networks)
        return cls(unet, text, tokenizer, device)

    @torch.no_grad()
    def states(self, tokens: Tensor) -> Tensor:
        """Text states (B, T, D) of tokens (B, T)."""
        return self.text(tokens).last_hidden_state.float()

    def empty(self) -> Tensor:
        """Text states (1, T, D) of no caption."""
        tokens = self.tokenizer([""], padding="max_length", max_length=MAX_TOKENS, return_tensors="pt").input_ids
        return self.states(tokens.to(self.device))


class AdapterTraining:
    """A run that trains an adapter of a denoiser on captioned scenes.

    Args:
        model: Folder of the denoiser.
        vae, scenes: Folders of the autoencoder and of rendered scenes.
        out: Gets `checkpoint.pt`, sheets of samples, and adapter and scheduler in `model`.
        scheduler: diffusers' scheduler that says what the adapted denoiser is.
        minutes, lr, cooldown, on_progress: See `loop.Run`.
        rank: Of the adapter.
        device, batch_size: Where, and how many scenes a step.
        start: An adapter to begin with if there is no checkpoint and this is there. It may be of another denoiser: what it
            learnt there mostly holds.

    Raises:
        BackboneError: checkpoint-mismatch, adapter-mismatch.
        InputError: no-scenes.
    """

    def __init__(
        self,
        *,
        model: Path,
        vae: Path,
        scenes: Path,
        out: Path,
        scheduler: Any,
        minutes: float,
        lr: float,
        rank: int = RANK,
        device: str = "cpu",
        batch_size: int = 16,
        cooldown: float = 0.5,
        start: Path | None = None,
        on_progress: OnProgress = print,
    ) -> None:
        self.model, self.out, self.scheduler = model, out, scheduler
        self.teacher = Teacher.load(model, torch.device(device))
        with torch.random.fork_rng():
            torch.manual_seed(0)  # the same in all workers
            self.adapter = Adapter(self.teacher.unet, base_digest(model), rank)
        if start is not None and start.exists():
            state = read(start)[1] | {"base": self.adapter.base}
            check_fits(state, self.adapter, start)
            self.adapter.load_state_dict(state)
        self.run = Run(self.adapter, out / "checkpoint.pt", minutes, lr, cooldown, self._on_save, on_progress)
        self.adapter.check_base(out / "checkpoint.pt")
        self.batches = Batches(load_scene_latents(vae, scenes), self.teacher.tokenizer, batch_size, self.teacher.device)

    def learn(self, loss_of: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
        """Step on a loss of clean latents (B, C, h, w) and text states (B, T, D) until the minutes are over."""
        device = self.teacher.device
        for _ in self.run.steps():
            x, _, tokens = self.batches.draw()
            with torch.autocast(device.type, torch.bfloat16), quick_attention(device):
                loss = loss_of(x, self.teacher.states(tokens))
            self.run.update(loss, len(x))
            yield

    def _on_save(self, run: Run) -> None:
        from sfumato.training.samples import write_sheet

        folder = self.out / "model"
        self.adapter.save(folder)
        self.scheduler.save_pretrained(folder / "scheduler")
        write_sheet(folder, self.out / f"samples-{run.samples:08d}.png", self.teacher.device, base=self.model)
