"""Prediction type and noise schedule of a UNet: from its scheduler, the marks of a single file, or the user.

A single file carries no scheduler. Marks in use: the tensors `v_pred` and `ztsnr`, as ComfyUI and Forge read them, and the
metadata of Stability AI's ModelSpec and of kohya's trainer.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from sfumato.backbones.headers import Header
from sfumato.errors import OptionError, Unsupported
from sfumato.noise.levels import Prediction

if TYPE_CHECKING:
    from sfumato.backbones.base import Backbone, Traits

PredictionName = Literal["epsilon", "v_prediction", "sample"]
PREDICTIONS: tuple[str, ...] = get_args(PredictionName)
OPTION = "--prediction-type epsilon, v_prediction or sample"
_SPELLINGS = {"eps": "epsilon", "v": "v_prediction", "vprediction": "v_prediction", "vpred": "v_prediction", "x0": "sample"}
_METADATA = ("modelspec.prediction_type", "modelspec.predict_key", "prediction_type")
_TRUE = ("true", "1")
SIDES = {"epsilon": 512, "v_prediction": 768}  # of Stable Diffusion 2, whose two models differ in both
NOISE_LIKE = 0.5  # correlation with pure noise above which an output counts as a prediction of it


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Prediction type and schedule of a single file, as stated by it or inferred.

    Args:
        prediction_type: "epsilon", "v_prediction" or "sample"; None if unknown.
        zero_snr: Whether the schedule has zero terminal SNR (arXiv:2305.08891).
        side: Native side in pixels; None if the family has only one.
        notes: Notes for the user.
    """

    prediction_type: str | None = None
    zero_snr: bool = False
    side: int | None = None
    notes: tuple[str, ...] = ()


def check_given(prediction_type: str | None) -> None:
    """Refuse an unknown prediction type given by a user.

    Raises:
        OptionError: option-prediction-type.
    """
    if prediction_type is not None and prediction_type not in PREDICTIONS:
        raise OptionError(
            f"Prediction type '{prediction_type}' is unknown; choose from {', '.join(PREDICTIONS)}.",
            code="option-prediction-type",
        )


def check_prediction(value: Any, where: str, allowed: tuple[str, ...] = PREDICTIONS) -> str:
    """The prediction type in diffusers' spelling.

    Args:
        value: As a configuration or a file has it.
        where: Subject of the error's sentence.
        allowed: Known types.

    Raises:
        Unsupported: An unknown type.
    """
    text = str(value)
    if text in allowed:
        return text
    plain = text.lower().replace("-", "").replace("_", "").replace(" ", "")
    if plain in _SPELLINGS or plain == "epsilon":
        return _SPELLINGS.get(plain, plain)
    raise Unsupported(
        f"{where} says that the model predicts '{text}', which is not supported; known are {', '.join(PREDICTIONS)}: if it is "
        f"one of these, give {OPTION}."
    )


def read_prediction(config: Mapping[str, Any], name: str, allowed: tuple[str, ...] = (*PREDICTIONS, "flow")) -> Prediction:
    """Prediction type of a model by its scheduler's configuration; epsilon if that has none.

    Raises:
        Unsupported: An unknown type.
    """
    return Prediction(check_prediction(config.get("prediction_type") or "epsilon", f"The scheduler of '{name}'", allowed))


def read_marks(header: Header, family: str, given: str | None = None) -> Marks:
    """Read the marks of a single file: marker tensors first, then metadata; for Stable Diffusion 2 finally the file name.

    Args:
        header: Of the file.
        family: See `single_file.family_of`.
        given: The user's prediction type; an unknown one in the file is then no error.

    Raises:
        Unsupported: The metadata name an unknown prediction type.
    """
    metadata = header.metadata
    if "v_pred" in header.shapes:
        marks = Marks(prediction_type="v_prediction")
    elif (key := next((key for key in _METADATA if metadata.get(key)), None)) and given is None:
        said = check_prediction(metadata[key], f"The metadata of '{header.path}' ({key})")
        marks = Marks(prediction_type=said)
    elif metadata.get("ss_v_parameterization", "").lower() in _TRUE:
        marks = Marks(prediction_type="v_prediction")
    else:
        marks = _by_name(header) if family == "sd2" else Marks()
    zero = "ztsnr" in header.shapes or any(
        metadata.get(key, "").lower() in _TRUE for key in ("ztsnr", "ss_zero_terminal_snr", "zero_terminal_snr")
    )
    side = _side(header, given or marks.prediction_type) if family == "sd2" else None
    return replace(marks, zero_snr=zero, side=side)


def _by_name(header: Header) -> Marks:
    """Marks of a Stable Diffusion 2 by its metadata or name: the base model (512 pixels) predicts epsilon, the 768 model v."""
    if header.metadata.get("global_step") == "875000":
        return Marks(prediction_type="epsilon")
    architecture = header.metadata.get("modelspec.architecture", "").lower()
    for said, where in ((architecture, "its metadata (modelspec.architecture)"), (header.path.stem.lower(), "its name")):
        found = re.search(r"(?<!\d)(768|512)(?!\d)|(?<![a-z])(base)(?![a-z])", said)
        if found:
            prediction = "v_prediction" if found[1] == "768" else "epsilon"
            note = (
                f"'{header.path}' does not say what it predicts; {prediction} was inferred from {where}; if pictures look wrong, "
            )
            return Marks(prediction_type=prediction, notes=(f"{note}give {OPTION}.",))
    return Marks()


def _side(header: Header, prediction_type: str | None) -> int | None:
    """Native side of a Stable Diffusion 2: from metadata or name, else that of the published model of its kind."""
    for said in (header.metadata.get("modelspec.resolution", ""), header.path.stem):
        if found := re.search(r"(?<!\d)(768|512)(?!\d)", said):
            return int(found[1])
    return SIDES.get(prediction_type or "")


def by_trial(unet: Any) -> str | None:
    """Prediction type by a trial run: "epsilon" if the UNet, given pure noise at the highest level, nearly returns it; else None.

    At the highest level x_t is nearly all noise, so predicted noise is nearly x_t; v and the sample are nearly independent of it.
    An inpainting UNet is given a mask of the whole picture.
    """
    latents, others = int(unet.config.out_channels), int(unet.config.in_channels) - int(unet.config.out_channels)
    noise = torch.randn((1, latents, 32, 32), generator=torch.Generator().manual_seed(0))
    hole = torch.cat([torch.ones(1, 1, 32, 32), torch.zeros(1, latents, 32, 32)], dim=1)[:, :others]
    device, dtype = unet.device, unet.dtype
    width = unet.config.cross_attention_dim
    text = torch.zeros(1, 77, width if isinstance(width, int) else width[0], device=device, dtype=dtype)
    extra = None
    if unet.config.addition_embed_type == "text_time":
        pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        sizes = torch.tensor([[1024, 1024, 0, 0, 1024, 1024]], device=device, dtype=dtype)
        extra = {"text_embeds": torch.zeros(1, pooled, device=device, dtype=dtype), "time_ids": sizes}
    with torch.no_grad():
        output = unet(
            torch.cat([noise, hole], dim=1).to(device, dtype), 999, encoder_hidden_states=text, added_cond_kwargs=extra
        ).sample
    both = torch.stack([output.float().cpu().flatten(), noise.flatten()])
    return "epsilon" if bool(torch.corrcoef(both)[0, 1] > NOISE_LIKE) else None


def settle(marks: Marks, given: str | None, family: str, name: str, unet: Any) -> tuple[Marks, list[str]]:
    """Prediction type of a single file's UNet, and notes; the user's choice has priority.

    Without marks, a trial run decides for Stable Diffusion 2. Stable Diffusion 1 and XL are then taken to predict epsilon, as in
    other programs, with a note if the trial contradicts.
    """
    if given is not None or marks.prediction_type is not None:
        return marks, [] if given else list(marks.notes)
    noise = by_trial(unet) == "epsilon"
    if family != "sd2":
        note = f"'{name}' does not say what it predicts and is read as epsilon, but a trial finds its output unlike noise; "
        notes = [] if noise else [f"{note}if pictures look wrong, give --prediction-type v_prediction."]
        return replace(marks, prediction_type="epsilon"), notes
    found = "epsilon" if noise else "v_prediction"
    note = f"'{name}' does not say what it predicts; a trial says {found}; if pictures look wrong, give {OPTION}."
    return replace(marks, prediction_type=found, side=marks.side or SIDES[found]), [note]


def apply_marks(model: "Backbone", marks: Marks, given: str | None) -> "Backbone":
    """The model with prediction type, schedule and resolution as its single file says.

    Args:
        model: The model; not changed.
        marks: Marks of the file.
        given: The user's prediction type; with "epsilon", zero terminal SNR is left out, see `reading`.
    """
    traits = model.traits
    if marks.prediction_type is not None:
        traits = predicting(traits, marks.prediction_type)
    notes = []
    if marks.zero_snr and (given or traits.prediction) == "epsilon":
        notes.append(f"'{traits.name}' is marked as having zero terminal SNR, which predicted noise rules out: left out.")
    elif marks.zero_snr:
        zero_snr = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        traits = replace(traits, scheduler_config={**traits.scheduler_config, **zero_snr})
    if marks.side is not None:
        traits = replace(traits, resolution=marks.side)
    return with_traits(model, traits, notes)


def predicting(traits: "Traits", prediction_type: str) -> "Traits":
    """The traits with another prediction type."""
    config = {**traits.scheduler_config, "prediction_type": prediction_type}
    return replace(traits, prediction=Prediction(prediction_type), scheduler_config=config)


def with_traits(model: "Backbone", traits: "Traits", notes: Sequence[str]) -> "Backbone":
    """A copy of the model with other traits and further notes; modules are shared."""
    denoiser: Any = copy.copy(model.denoiser)
    denoiser.traits = traits
    return replace(model, denoiser=denoiser, loading_notes=[*model.loading_notes, *notes])


def reading(model: "Backbone", prediction_type: str | None) -> "Backbone":
    """The model with the user's prediction type; the model itself is not changed, modules are shared.

    With "epsilon", zero terminal SNR is left out: at zero SNR predicted noise carries no information about the sample.

    Raises:
        Unsupported: EDM and flow-matching models and cascades, whose prediction type is fixed.
    """
    if prediction_type is None:
        return model
    traits = model.traits
    if "sigma_data" in traits.scheduler_config:
        raise Unsupported(f"'{traits.name}' is an EDM model, whose output its scheduler says; leave out prediction_type.")
    if traits.prediction == "flow":
        raise Unsupported(f"'{traits.name}' is a flow-matching model and predicts a velocity; leave out prediction_type.")
    if traits.upsampler is not None:
        raise Unsupported(f"'{traits.name}' is two models, whose files say what each predicts; leave out prediction_type.")
    if prediction_type == traits.prediction:
        return model
    note = f"'{traits.name}' is read as predicting {prediction_type}, as asked; it says {traits.prediction.value} itself."
    other = predicting(traits, prediction_type)
    if prediction_type == "epsilon" and other.scheduler_config.get("rescale_betas_zero_snr"):
        other = replace(other, scheduler_config={**other.scheduler_config, "rescale_betas_zero_snr": False})
        note += " Its zero terminal SNR is left out, which predicted noise rules out."
    return with_traits(model, other, [note])


def overrule(scheduler: Any, prediction_type: str | None) -> None:
    """Replace an unknown prediction type in a scheduler's configuration by the user's, in place."""
    said = scheduler.config.get("prediction_type")
    if prediction_type is None or said is None:
        return
    try:
        check_prediction(said, "")
    except Unsupported:
        scheduler.register_to_config(prediction_type=prediction_type)


def check_schedule(scheduler: Any, name: str) -> None:
    """Refuse a scheduler whose noise levels do not come from betas, such as flow matching's or consistency models'.

    Raises:
        Unsupported: Names the scheduler.
    """
    config = dict(scheduler.config)
    if "beta_start" in config or config.get("trained_betas") is not None:
        return
    kind = type(scheduler).__name__
    raise Unsupported(
        f"'{name}' has the scheduler {kind}, whose noise levels are its own, so an edit with those of Stable Diffusion would "
        "give noise; it is not supported, give another checkpoint."
    )
