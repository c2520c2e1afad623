"""What the tests of loading share."""

import json
from pathlib import Path
from typing import Any

import torch

from sfumato.backbones import loading
from tests import tiny_models
from tests.guided import conditioned, predict

SD1 = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def load(model: Path | str, **options: Any) -> Any:
    return loading.load(str(model), device="cpu", dtype="float32", **options)


def prediction(model: Any) -> torch.Tensor:
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return predict(model, z, 301.0, conditioned(model, "a red ball", "", (16, 16)), 3.0)


def scheduled(folder: Path, kind: str, config: dict[str, Any]) -> Path:
    """The model with another scheduler."""
    tiny_models.rewrite_json(folder / "model_index.json", scheduler=["diffusers", kind])
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps({"_class_name": kind, **config}))
    return folder
