"""The host does not wait for a device within the loop: tensors without values ("meta") fail wherever one would be read."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sfumato.methods.blending import check_finite

MODEL: Any = SimpleNamespace(name="a model", dtype=torch.float32)


def test_latents_on_a_device_are_looked_at_after_the_last_step() -> None:
    latents = torch.zeros(1, 4, 2, 2, device="meta")
    for step in range(3):
        check_finite(latents, MODEL, step, 4)
    with pytest.raises(RuntimeError, match="meta"):
        check_finite(latents, MODEL, 3, 4)


def test_latents_on_the_cpu_are_looked_at_after_every_step() -> None:
    with pytest.raises(Exception, match="at step 1 of 4"):
        check_finite(torch.full((1, 4, 2, 2), torch.nan), MODEL, 0, 4)
