"""Training of an adapter of the embedded denoiser, the part shared by all kinds. Denoiser and text encoder stay frozen."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, PreTrainedTokenizerFast

from sfumato.embedded.adapter import LEARNED, RANK, WHOLE, Adapter, base_digest, grown, read
from sfumato.embedded.text import MAX_TOKENS
from sfumato.training.denoiser import quick_attention
from sfumato.training.loop import OnProgress, Run, check_fits
from sfumato.training.precision import half_precision
from sfumato.training.samples import write_sheet


def frozen(network: Any, device: torch.device) -> Any:
    """A network as adapters are trained for: float32, not trained itself, channels last."""
    return network.float().requires_grad_(False).eval().to(device, memory_format=torch.channels_last)


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
        unet, text = (frozen(network, device) for network in networks)
        return cls(unet, text, tokenizer, device)

    @torch.no_grad()
    def states(self, tokens: Tensor) -> Tensor:
        """Text states (B, T, D) of tokens (B, T)."""
        return self.text(tokens).last_hidden_state.float()

    def empty(self) -> Tensor:
        """Text states (1, T, D) of no caption."""
        tokens = self.tokenizer([""], padding="max_length", max_length=MAX_TOKENS, return_tensors="pt").input_ids
        return self.states(tokens.to(self.device))


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """The network that an adapter is of.

    Args:
        describe: Writes into the folder of the adapter what says what the network is.
        born: Makes it of the denoiser, which it may change; by default it is the denoiser.
        rank, whole: See `Adapter`.
        begun: Makes the state of an adapter that it starts from one of this network; by default it is one.
        learned: What is trained beside it, as it begins.
        grows: Whether it may begin as the adapter of another network that shares weights with it; see `adapter.grown`.
        digest: Of the weights that it changes, by the folder of the denoiser.
    """

    describe: Callable[[Path], object]
    born: Callable[[UNet2DConditionModel], nn.Module] = lambda unet: unet
    rank: int = RANK
    whole: tuple[str, ...] = WHOLE
    begun: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda state: state
    learned: Callable[[Teacher], Mapping[str, Tensor]] = lambda teacher: {}
    grows: bool = False
    digest: Callable[[Path], str] = base_digest


def with_scheduler(scheduler: Any) -> Callable[[Path], object]:
    """Describes a denoiser by diffusers' scheduler."""
    return lambda folder: scheduler.save_pretrained(folder / "scheduler")


def with_class_name(name: str) -> Callable[[Path], object]:
    """Describes a network beside a denoiser by the name of its class, in config.json."""
    return lambda folder: (folder / "config.json").write_text(json.dumps({"_class_name": name}) + "\n", encoding="utf-8")


class Batches(Protocol):
    """What a lesson learns from: `draw` gives the arguments of its loss; last, what is told, tokens (B, T) of captions mostly."""

    def draw(self) -> tuple[Any, ...]:
        """A random batch."""


class AdapterTraining:
    """A run that trains an adapter of a denoiser, or of a network born of it; batches and loss are the lesson's.

    Args:
        model: Folder of the denoiser.
        out: Gets `checkpoint.pt`, sheets of samples, and the adapter in `model`.
        adapted: What it is an adapter of.
        minutes, lr, cooldown, on_progress: See `loop.Run`.
        device: Where.
        start: An adapter to begin with if there is no checkpoint and this is there. It may be of another denoiser: what it
            learnt there mostly holds.
        sheet: Draws samples of the adapter in a folder into a file; text-to-image by default.

    Raises:
        BackboneError: checkpoint-mismatch, adapter-mismatch.
    """

    def __init__(
        self,
        *,
        model: Path,
        out: Path,
        adapted: Adapted,
        minutes: float,
        lr: float,
        device: str = "cpu",
        cooldown: float = 0.5,
        start: Path | None = None,
        sheet: Callable[[Path, Path], None] | None = None,
        on_progress: OnProgress = print,
    ) -> None:
        self.model, self.out, self.adapted = model, out, adapted
        self.teacher = Teacher.load(model, torch.device(device))
        self.sheet = sheet or partial(write_sheet, device=self.teacher.device, base=model)
        with torch.random.fork_rng():
            torch.manual_seed(0)  # the same in all workers
            self.network: nn.Module = frozen(adapted.born(self.teacher.unet), self.teacher.device)
            digest, learned = adapted.digest(model), adapted.learned(self.teacher)
            self.adapter = Adapter(self.network, digest, adapted.rank, adapted.whole, learned)
        if start is not None and start.exists():
            begun = {name: tensor for name, tensor in self.adapter.state_dict().items() if name.startswith(LEARNED)}
            state = begun | adapted.begun(read(start)[1]) | {"base": self.adapter.base}
            if adapted.grows and state.keys() != self.adapter.state_dict().keys():
                state = grown(state, self.adapter, self.network)
            check_fits(state, self.adapter, start)
            self.adapter.load_state_dict(state)
        self.run = Run(self.adapter, out / "checkpoint.pt", minutes, lr, cooldown, self._on_save, on_progress)
        self.adapter.check_base(out / "checkpoint.pt")

    @property
    def base(self) -> UNet2DConditionModel:
        """The frozen denoiser."""
        return self.teacher.unet

    def changed(self, *given: Any, **named: Any) -> Any:
        """What the network with its adapter makes of its arguments."""
        return self.adapter.call(self.network, *given, **named)

    def learn(
        self, batches: Batches, loss_of: Callable[..., Tensor], states: Callable[[Any], Tensor] | None = None
    ) -> Iterator[None]:
        """Step on a loss until the minutes are over.

        Args:
            batches: Give what is learnt from.
            loss_of: Of what was drawn, with text states (B, T, D) for what is told.
            states: Makes these; by default the frozen text encoder, of tokens.
        """
        device = self.teacher.device
        for _ in self.run.steps():
            *given, told = batches.draw()
            with half_precision(device), quick_attention(device):
                loss = loss_of(*given, (states or self.teacher.states)(told))
            self.run.update(loss, len(given[0]))
            yield

    def _on_save(self, run: Run) -> None:
        folder = self.out / "model"
        self.adapter.save(folder)
        self.adapted.describe(folder)
        self.sheet(folder, self.out / f"samples-{run.samples:08d}.png")
