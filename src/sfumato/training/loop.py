"""Training loop shared by all trainers: time budget, learning-rate schedule, weight averaging, checkpoints."""

import errno
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from sfumato.embedded.writing import written_whole
from sfumato.errors import BackboneError, OptionError, ResourceError
from sfumato.training.muon import Muon, split
from sfumato.training.workers import rank_and_world_size

SAVE_EVERY_S = 300.0
AGREE_EVERY_S = 15.0
REPORT_EVERY_S = 10.0
LEAST_MINUTES = 0.001
AVERAGE = 0.9985  # share of the old average that each step keeps
DIFFERENCES_SHOWN = 3

OnProgress = Callable[[str], None]


def save_atomically(state: object, path: Path) -> None:
    """`torch.save`, atomically.

    Raises:
        ResourceError: disk-full; what was there before is untouched.
    """
    try:
        with written_whole(path) as temporary:
            torch.save(state, temporary)
    except (OSError, RuntimeError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if not full and not isinstance(error, RuntimeError):  # as which torch's writer reports a full disk
            raise
        raise ResourceError(
            f"{path} could not be written ({error}); free some space and go on with --resume: what was there is intact.",
            code="disk-full",
        ) from None


def check_fits(state: dict[str, Tensor], model: nn.Module, path: Path) -> None:
    """Refuse weights of another architecture, and say what differs.

    Raises:
        BackboneError: checkpoint-mismatch.
    """
    expected = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    found = {name: tuple(weight.shape) for name, weight in state.items()}
    differences = [
        f"{name} is {found.get(name, 'absent')} instead of {expected.get(name, 'absent')}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
    if differences:
        more = f", and {len(differences) - DIFFERENCES_SHOWN} more" if len(differences) > DIFFERENCES_SHOWN else ""
        raise BackboneError(
            f"{path} is of another architecture: {'; '.join(differences[:DIFFERENCES_SHOWN])}{more}. "
            "Give the options that it was made with, such as --size, or another --dir.",
            code="checkpoint-mismatch",
        )


def check_plan(minutes: float | None, lr: float | None = None, cooldown: float | None = None) -> None:
    """Refuse invalid settings of a training call; None stands for a default.

    Raises:
        OptionError: option-invalid.
    """
    if minutes is not None and not LEAST_MINUTES <= minutes < math.inf:
        raise OptionError(f"--minutes {minutes:g} is no time to train in; give at least {LEAST_MINUTES:g} minutes.")
    if lr is not None and not 0 < lr < math.inf:
        raise OptionError(f"--lr {lr:g} is no learning rate; give a number above 0, such as 0.001.")
    if cooldown is not None and not 0 <= cooldown <= 1:
        raise OptionError(f"--cooldown {cooldown:g} is no share of the minutes; give a number from 0 to 1.")


class Run:
    """A training run of a given number of minutes that can be killed and resumed.

    Matrices are trained with Muon, everything else with AdamW, or all with AdamW. The learning rate warms up over 100 steps,
    stays, and falls linearly to zero over the last `cooldown` share of the minutes: a run resumed later goes on from its weights
    at the full rate.

    Args:
        model: Trained in place, on the device it is on.
        path: Checkpoint; read when it exists.
        minutes: Length of this call, not of the whole run.
        lr: Peak learning rate.
        cooldown: Share of `minutes` over which the rate falls; 0 keeps it.
        on_save: Called with the run after each checkpoint, with the averaged weights in the model; for sheets of samples.
        on_progress: Called with a line of text at every report.
        muon: Whether matrices are trained with Muon.

    Raises:
        OptionError: option-invalid: minutes, lr or cooldown that nothing can be trained with.
        BackboneError: checkpoint-mismatch.
    """

    def __init__(
        self,
        model: nn.Module,
        path: Path,
        minutes: float,
        lr: float,
        cooldown: float = 0.3,
        on_save: Callable[["Run"], None] | None = None,
        on_progress: OnProgress = print,
        *,
        muon: bool = True,
    ) -> None:
        check_plan(minutes, lr, cooldown)
        self.model, self.path, self.seconds, self.lr, self.cooldown = model, path, minutes * 60, lr, cooldown
        self.on_save, self.on_progress = on_save, on_progress
        matrices, others = split(model) if muon else ([], list(model.parameters()))
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, lr, betas=(0.9, 0.99), weight_decay=0.01)]
        if matrices:
            self.optimizers.append(Muon(matrices, lr))
        rank, self.workers = rank_and_world_size()
        self.leader = rank == 0
        self.step = 0  # of this worker
        self.samples = 0  # of all workers
        self.trained_s = 0.0
        self.average = {k: v.detach().clone() for k, v in model.state_dict().items()}
        if path.exists():
            self._load()
        self._fresh = 0.0  # samples of this worker since the last agreement
        self._losses: list[float] = []

    def _load(self) -> None:
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        check_fits(state["model"], self.model, self.path)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        device = next(self.model.parameters()).device
        self.average = {k: v.to(device) for k, v in state["average"].items()}
        self.step, self.samples, self.trained_s = state["step"], state["samples"], state["trained_s"]

    def save(self) -> None:
        """Write the checkpoint, by the first process alone."""
        if not self.leader:
            return
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.average,
            "step": self.step,
            "samples": self.samples,
            "trained_s": self.trained_s,
        }
        save_atomically(state, self.path)
        if self.on_save is not None:
            current = {k: v.clone() for k, v in self.model.state_dict().items()}
            self.use_average()
            self.on_save(self)
            self.model.load_state_dict(current)
            self.model.train()

    def use_average(self) -> None:
        """Put the averaged weights into the model, ready for use."""
        self.model.load_state_dict(self.average)
        self.model.eval()

    def steps(self) -> Iterator[int]:
        """Step numbers until the minutes are over; sets the learning rate, agrees with the other workers, saves, reports.

        Raises:
            OptionError: training-no-step: the minutes were over before the first step of any worker. Nothing is saved.
        """
        first, first_samples = self.step, self.samples
        start = last = last_save = agreed = reported = time.monotonic()
        while True:
            now = time.monotonic()
            if now - agreed > AGREE_EVERY_S or now - start > self.seconds:
                over = self._agree(now - start > self.seconds)
                agreed = time.monotonic()
                self.trained_s, last = self.trained_s + agreed - last, agreed
                if self.leader and (agreed - reported > REPORT_EVERY_S or over):
                    self._report((self.samples - first_samples) / (agreed - start), max(0.0, self.seconds - (agreed - start)))
                    reported = agreed
                if over:
                    break  # the only agreement that may find no step: all others come after one
                if agreed - last_save > SAVE_EVERY_S:
                    self.save()
                    last_save = agreed
            left = max(0.0, 1 - (now - start) / self.seconds)
            rate = self.lr * min(1, (self.step - first + 1) / 100) * (min(1, left / self.cooldown) if self.cooldown else 1)
            for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
                group["lr"] = rate
            yield self.step
        if self.samples == first_samples:
            raise OptionError(
                f"The {self.seconds / 60:g} minutes were over before the first step: nothing was trained, and nothing is saved; "
                "give more --minutes.",
                code="training-no-step",
            )
        self.save()

    def _report(self, speed: float, left_s: float) -> None:
        loss = sum(self._losses) / max(len(self._losses), 1)
        self._losses.clear()
        self.on_progress(
            f"step {self.step}  samples {self.samples}  loss {loss:.4f}  {speed:.1f} samples/s  {left_s / 60:.1f} min left"
        )

    @torch.no_grad()
    def _agree(self, over: bool) -> bool:
        """Average the workers' weights, each by the samples it has seen since; returns whether any worker's time is over.

        Where no worker has seen any, all keep what they have.
        """
        seen = torch.tensor([self._fresh, float(over)])
        if self.workers > 1:
            torch.distributed.all_reduce(seen)
        if self.workers > 1 and seen[0] > 0:
            share = self._fresh / seen[0].item()
            for state in (self.model.state_dict(), self.average):
                floats = [v for v in state.values() if v.is_floating_point()]
                flat = torch.cat([v.reshape(-1) for v in floats]).mul_(share)
                torch.distributed.all_reduce(flat)
                for v, part in zip(floats, flat.split([v.numel() for v in floats]), strict=True):
                    v.copy_(part.view(v.shape))
        self.samples += int(seen[0].item())
        self._fresh = 0.0
        return bool(seen[1])

    def update(self, loss: Tensor, samples: int) -> None:
        """One optimizer step on `loss` over `samples` images, and the moving average of the weights."""
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.model.zero_grad(set_to_none=True)
        self.step += 1
        self._fresh += samples
        self._losses.append(loss.item())
        keep = min(AVERAGE, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            current = self.model.state_dict()
            floats = [k for k, v in current.items() if v.is_floating_point()]
            torch._foreach_lerp_([self.average[k] for k in floats], [current[k] for k in floats], 1 - keep)
