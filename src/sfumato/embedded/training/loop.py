"""What every training run shares: a clock, a learning-rate schedule, an average of the weights, workers, and checkpoints."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn as start_processes

SAVE_EVERY_S = 120.0
AGREE_EVERY_S = 15.0


def save_atomically(state: object, path: Path) -> None:
    """`torch.save` to a temporary file beside `path`, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    torch.save(state, temporary)
    temporary.rename(path)


def _start_worker(rank: int, workers: int, meeting: str, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=workers)
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[rank % len(cores)]})
    function(*arguments)


def spawn(function: Callable[..., None], arguments: tuple[Any, ...], workers: int, folder: Path) -> None:
    """Run `function(*arguments)` in `workers` single-threaded processes, one a core, that `Run` keeps in agreement.

    They average their weights every few seconds instead of their gradients every step (post-local SGD, arXiv:1808.07217),
    so a core that other work slows down does not slow the others.
    """
    if workers == 1:
        function(*arguments)
        return
    folder.mkdir(parents=True, exist_ok=True)
    meeting = folder / f"meeting-{os.getpid()}"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an ordinary exit takes the workers along
    try:
        start_processes(_start_worker, (workers, str(meeting), function, arguments), nprocs=workers, daemon=True)
    finally:
        meeting.unlink(missing_ok=True)


def together() -> tuple[int, int]:
    """This worker's number, and how many there are."""
    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def wait_for_all() -> None:
    """Return when every worker has come here."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


class Run:
    """A training run of a given number of minutes that can be killed and resumed.

    The learning rate warms up over 100 steps, stays, and falls linearly to zero over the last `cooldown` share of the minutes:
    a run resumed later goes on from its weights at the full rate again.

    Args:
        model: Trained in place.
        path: Checkpoint; read when it exists.
        minutes: Length of this call, not of the whole run.
        lr: Peak learning rate of AdamW.
        cooldown: Share of `minutes` over which the rate falls; 0 keeps it.
    """

    def __init__(self, model: nn.Module, path: Path, minutes: float, lr: float, cooldown: float = 0.3) -> None:
        self.model, self.path, self.seconds, self.lr, self.cooldown = model, path, minutes * 60, lr, cooldown
        self.optimizer = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        self.average = {k: v.detach().clone() for k, v in model.state_dict().items()}
        rank, self.workers = together()
        self.leader = rank == 0
        self.step = 0  # of this worker
        self.samples = 0  # of all workers
        self.trained_s = 0.0
        if path.exists():
            state = torch.load(path, map_location="cpu", weights_only=True)
            model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average, self.step = state["average"], state["step"]
            self.samples, self.trained_s = state["samples"], state["trained_s"]
        self._fresh = 0.0  # samples of this worker since the last agreement

    def save(self) -> None:
        if not self.leader:
            return
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": self.step,
            "samples": self.samples,
            "trained_s": self.trained_s,
        }
        save_atomically(state, self.path)

    def steps(self) -> Iterator[int]:
        """Step numbers until the minutes are over; sets the learning rate, agrees with the other workers, saves."""
        first = self.step
        start = last = last_save = agreed = time.monotonic()
        while True:
            now = time.monotonic()
            if now - agreed > AGREE_EVERY_S or now - start > self.seconds:
                over = self._agree(now - start > self.seconds)
                agreed = time.monotonic()
                self.trained_s, last = self.trained_s + agreed - last, agreed
                if over:
                    break
                if agreed - last_save > SAVE_EVERY_S:
                    self.save()
                    last_save = agreed
            left = max(0.0, 1 - (now - start) / self.seconds)
            rate = self.lr * min(1, (self.step - first + 1) / 100) * (min(1, left / self.cooldown) if self.cooldown else 1)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            yield self.step
        self.save()

    @torch.no_grad()
    def _agree(self, over: bool) -> bool:
        """Average the workers' weights, each by the samples it has seen since; returns whether any worker's time is over."""
        seen = torch.tensor([self._fresh, float(over)])
        if self.workers > 1:
            torch.distributed.all_reduce(seen)
            share = self._fresh / max(seen[0].item(), 1.0)
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
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._fresh += samples
        keep = min(0.9985, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            current = self.model.state_dict()
            floats = [k for k, v in current.items() if v.is_floating_point()]
            torch._foreach_lerp_([self.average[k] for k in floats], [current[k] for k in floats], 1 - keep)


def progress(run: Run, every: int = 50) -> Callable[[float], None]:
    """A function to call with each step's loss; prints the smoothed loss and the speed of all workers."""
    start, first = time.monotonic(), run.samples
    smooth: list[float] = []

    def report(loss: float) -> None:
        smooth[:] = [loss if not smooth else 0.98 * smooth[0] + 0.02 * loss]
        if run.leader and run.step % every == 0:
            passed = time.monotonic() - start
            speed, left = (run.samples - first) / passed, max(0.0, run.seconds - passed)
            print(
                f"step {run.step}  samples {run.samples}  loss {smooth[0]:.4f}  {speed:.1f} images/s  {left:.0f} s left",
                flush=True,
            )

    return report
