"""Modules that moved can still be imported by their former names, with a warning that says the new one."""

import importlib
import sys

import pytest
from PIL import Image

from sfumato.backbones import loading
from sfumato.masks.reading import read_area, read_mask
from sfumato.noise.plan import make_plan
from sfumato.pictures import reading

CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


def former(name: str) -> object:
    """The module, imported as for the first time."""
    sys.modules.pop(name, None)
    with pytest.warns(DeprecationWarning, match="goes with version 0.2"):
        return importlib.import_module(name)


def test_images() -> None:
    assert former("sfumato.images").read is reading.read  # type: ignore[attr-defined]


def test_read_mask_is_the_hard_mask_of_the_area() -> None:
    picture, mask = reading.read(Image.new("RGB", (8, 6))), Image.new("L", (8, 6))
    mask.paste(255, (2, 1, 5, 4))

    hard = read_mask(picture.size, mask, None, picture, invert=True)

    assert (hard.dtype.name, int(hard.sum())) == ("uint8", 48 - 9)
    assert (hard == read_area(picture.size, mask, None, picture, invert=True).change).all()


def test_make_solver_lists_the_levels_of_the_plan() -> None:
    solver = former("sfumato.solvers").make_solver("ddim", CONFIG, "epsilon", 10, 0.2)  # type: ignore[attr-defined]
    plan = make_plan("ddim", CONFIG, "epsilon", 10, 0.2)

    assert solver.before == tuple(step.before for step in plan.steps)
    assert solver.after == tuple(step.after for step in plan.steps)
    assert (solver.start, len(solver.before)) == (plan.start, 10)


def test_a_models_parts_by_their_former_names() -> None:
    model = loading.load("embedded", device="cpu", dtype="float32")
    former = {
        "family": model.traits.family,
        "prediction_type": model.traits.prediction,
        "scheduler_config": model.traits.scheduler_config,
        "vae": model.autoencoder.vae,
        "encode": model.autoencoder.encode,
        "known_words": model.text_encoder.known_words,  # type: ignore[union-attr]
    }
    for name, now in former.items():
        with pytest.warns(DeprecationWarning, match=f"backbone.{name} is .* goes with version 0.2"):
            assert getattr(model, name) == now
    with pytest.raises(AttributeError, match="no attribute 'predict'"):
        getattr(model, "predict")  # noqa: B009, what mypy knows to be missing
