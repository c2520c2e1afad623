"""What a model predicts: validated once, overruled by the user, and refused where it is none of ours."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.backbones.prediction import reading
from sfumato.errors import Unsupported
from sfumato.noise.levels import Level, Prediction, output_for, predicted_clean
from sfumato.noise.plan import make_plan
from tests import tiny_flow, tiny_models
from tests.unit.loading.helpers import load, scheduled

SCHEDULER = "scheduler/scheduler_config.json"


@pytest.mark.parametrize("said", ["velocity", "flow_prediction", "x1", "V", "v-prediction"])
def test_a_schedulers_prediction_type_is_understood_or_refused(said: str, copy: Path) -> None:
    tiny_models.rewrite_json(copy / SCHEDULER, prediction_type=said)

    if said in ("V", "v-prediction"):
        assert load(copy).traits.prediction == "v_prediction"
        return
    with pytest.raises(Unsupported, match=f"predicts '{said}'.*epsilon, v_prediction, sample.*--prediction-type"):
        load(copy)
    assert load(copy, prediction_type="sample").traits.prediction == "sample"


def test_an_unknown_prediction_type_is_never_taken_for_the_sample() -> None:
    one, level = torch.ones(1, 4, 2, 2), Level(0.6, 0.8)
    with pytest.raises(ValueError, match="velocity"):
        Prediction("velocity")
    for convert in (predicted_clean, output_for):
        assert torch.equal(convert(Prediction.SAMPLE, one, level, one), one)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("FlowMatchEulerDiscreteScheduler", {"shift": 1.0}),
        ("CMStochasticIterativeScheduler", {"sigma_max": 80.0}),
    ],
)
def test_schedulers_with_noise_levels_of_their_own_are_named(kind: str, config: dict[str, Any], copy: Path) -> None:
    with pytest.raises(Unsupported, match=f"the scheduler {kind}"):
        load(scheduled(copy, kind, config))


def test_the_user_overrules_a_model_with_a_note(sd1: Path) -> None:
    own, told, same = load(sd1), load(sd1, prediction_type="v_prediction"), load(sd1, prediction_type="epsilon")

    assert (own.traits.prediction, told.traits.prediction) == ("epsilon", "v_prediction")
    assert told.traits.scheduler_config["prediction_type"] == "v_prediction"
    assert ["epsilon itself" in note for note in told.notes] == [True]
    assert own.notes == same.notes == []


def test_zero_terminal_snr_is_left_out_for_predicted_noise(sd1: Path) -> None:
    model = load(sd1, prediction_type="v_prediction")
    model.traits.scheduler_config["rescale_betas_zero_snr"] = True

    read = reading(model, "epsilon")
    first = make_plan("ddim", read.traits.scheduler_config, read.traits.prediction, 10).steps[0].before

    assert first.signal > 0.05
    assert "zero terminal SNR" in read.notes[-1]
    assert model.traits.scheduler_config["rescale_betas_zero_snr"]  # the model itself is as it was
    assert (read.denoiser.unet is model.denoiser.unet, model.traits.prediction) == (True, "v_prediction")


def test_a_flow_model_predicts_a_velocity_and_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="flow-matching"):
        load(tiny_flow.tiny_sd3(tmp_path), prediction_type="epsilon")
