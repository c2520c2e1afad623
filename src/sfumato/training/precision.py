"""Number format of training's matrix products."""

import torch

from sfumato.backbones.hardware import choose_dtype


def half_precision(device: torch.device) -> torch.autocast:
    """bfloat16 where the hardware multiplies it; elsewhere float32, which is faster than emulating it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu" or choose_dtype(device) is torch.bfloat16)
