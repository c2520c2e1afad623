"""Validation of requests to all APIs, which become items: validated options, and pictures as bytes."""

from typing import Annotated, Any, ClassVar, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo

from sfumato.errors import EditError, ImageError, OptionError
from sfumato.jobs.item import Item
from sfumato.methods.own_options import WithOptions
from sfumato.pictures.formats import UPLOADED, listed
from sfumato.request import PICTURES, SEVERAL, EditRequest
from sfumato.server.failures import Refused
from sfumato.server.settings import Limits
from sfumato.server.uploads import Form, check_size, from_base64

# these name files of the server, which only its operator may choose
_NOT_OVER_HTTP = ("lora", "vae", "embedding", "branch", "control_model")
_PICTURE_TEXT: dict[str, Any] = {"contentEncoding": "base64", "format": "byte"}
ModelT = TypeVar("ModelT", bound=BaseModel)


class Sent(WithOptions):
    """Base of requests over HTTP: unknown names, and options that name files of this machine, are refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    remote: ClassVar[bool] = True


def _job_fields() -> dict[str, Any]:
    """The fields of `EditRequest` in JSON: pictures as base64, without those that name files of this machine."""
    fields: dict[str, Any] = {}
    for name in EditRequest.shared_fields():
        info = EditRequest.model_fields[name]
        if name in _NOT_OVER_HTTP:
            continue
        if name in PICTURES:
            fields[name] = _picture_field(name, info)
        else:
            fields[name] = (info.annotation, info)
    return fields


def _picture_field(name: str, info: FieldInfo) -> tuple[Any, Any]:
    """The type and the field of a picture in JSON."""
    required, several = info.is_required(), name in SEVERAL
    what = (info.description or "").partition(":")[0].rstrip(".")
    about = f"{what}: {listed(UPLOADED)} as base64, or {'files' if several else 'a file'} of a form."
    kind: Any = list[Annotated[str, Field(json_schema_extra=dict(_PICTURE_TEXT))]] if several else str
    default: Any = ... if required else None
    return (
        kind if required else kind | None,
        Field(default, description=about, json_schema_extra=None if several else dict(_PICTURE_TEXT)),
    )


JobRequest: type[Sent] = create_model("JobRequest", __base__=Sent, **_job_fields())
JobRequest.__doc__ = "An edit. A field that is left out or null has the default for this model and method."
JobOptions: type[Sent] = create_model(
    "JobOptions", __base__=Sent, **{name: field for name, field in _job_fields().items() if name not in PICTURES}
)


def accept(form: Form, limits: Limits, models: tuple[str, ...]) -> Item:
    """Validate a job's fields, with pictures as files of the form or as base64.

    Raises:
        OptionError, ImageError, Refused: Names the field at fault.
    """
    pictures = {
        name: from_base64(text, name, limits)
        for field in PICTURES
        for name, text in numbered(field, form.fields.get(field)).items()
    }
    for name, files in form.files.items():
        field = name.removesuffix("[]") if name.removesuffix("[]") in SEVERAL else name
        if field not in PICTURES:
            raise _unknown(name, JobRequest.known())
        if (len(files) > 1 and field not in SEVERAL) or any(numbered(field, files).keys() & pictures.keys()):
            raise OptionError(f"More than one {field} was given; give one.", code="option-repeated")
        pictures |= numbered(field, files if field in SEVERAL else files[0])
    fields = {name: value for name, value in form.fields.items() if name not in PICTURES}
    check_sizes(pictures, limits)
    options = validated(JobOptions, {"model": models[0], **fields}).model_dump(exclude_unset=True)
    return submission(options, pictures, limits, models)


def numbered(field: str, given: Any) -> dict[str, Any]:
    """What a field of pictures was given, by the names of `EditRequest.pictures`."""
    if given is None or field not in SEVERAL:
        return {} if given is None else {field: given}
    return {f"{field}-{i}": one for i, one in enumerate(given if isinstance(given, list) else [given], 1)}


def check_sizes(pictures: dict[str, bytes], limits: Limits) -> None:
    """Refuse a job without an image, or with a picture of too many bytes.

    Raises:
        ImageError: image-missing.
        Refused: image-too-large.
    """
    if "image" not in pictures:
        raise ImageError("The image is missing: send the picture to edit.", code="image-missing")
    for name, data in pictures.items():
        check_size(len(data), name, limits)


def submission(options: dict[str, Any], pictures: dict[str, bytes], limits: Limits, models: tuple[str, ...]) -> Item:
    """An item of validated fields, if it is within the limits.

    Raises:
        Refused: limit or model_not_found.
    """
    _check_limits(options, limits)
    if options["model"] not in models:
        raise Refused(
            f"There is no model {str(options['model'])[:200]!r} here; choose one of: {', '.join(models)}.",
            code="model_not_found",
            status=404,
            param="model",
        )
    return Item(options=options, pictures=pictures)


def validated(model: type[ModelT], fields: dict[str, Any]) -> ModelT:
    """The fields validated by a pydantic model.

    Raises:
        Refused: option-unknown or option-invalid, with the field as `param`.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise refusal(error, model) from None


def refusal(error: ValidationError, model: type[BaseModel]) -> EditError:
    """An error of one sentence about the first invalid field."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = str(first["loc"][0])[:100] if first["loc"] else "body"
    if first["type"] == "extra_forbidden":
        return _unknown(name, model.known() if issubclass(model, WithOptions) else tuple(model.model_fields))
    sentence = f"The field {name!r} is missing." if first["type"] == "missing" else f"{name} is not possible: {first['msg']}."
    if name == "size" and first["type"] != "missing":
        sentence = "size is WIDTHxHEIGHT in whole pixels, such as 1024x768; leave it out for the picture's own."
    return Refused(sentence, code="option-invalid", status=422, param=name)


def _unknown(name: str, known: tuple[str, ...]) -> Refused:
    message = f"Unknown field {name[:100]!r}; the fields are: {', '.join(known)}."
    return Refused(message, code="option-unknown", status=422, param=name[:100])


def _check_limits(options: dict[str, Any], limits: Limits) -> None:
    most = dict.fromkeys(("n", "candidates", "batch_size"), limits.predictions) | {"steps": limits.steps}
    for name, limit in most.items():
        if (options.get(name) or 0) > limit:
            raise Refused(
                f"{name} is {options[name]}, and at most {limit} are allowed here.", code="limit", status=422, param=name
            )
    for name in ("prompt", "negative_prompt"):
        if len(options.get(name) or "") > limits.prompt_characters:
            raise Refused(
                f"The {name} has more than {limits.prompt_characters} characters; shorten it.",
                code="limit",
                status=422,
                param=name,
            )
    size = options.get("size")
    if size is not None and (min(size) < 1 or size[0] * size[1] > limits.pixels):
        raise Refused(
            f"The size {size[0]}x{size[1]} must have 1 to {limits.pixels} pixels; sfumato serve --max-pixels sets the most.",
            code="limit",
            status=422,
            param="size",
        )


def check_pictures(given: Item, limits: Limits, control_models: tuple[str, ...] = ()) -> None:
    """Decode all pictures once, to refuse a job before it is queued. Slow: do not call it in the event loop.

    Args:
        given: The job.
        limits: Of the server.
        control_models: The server's, for which there are to be control pictures, or none.

    Raises:
        ImageError, MaskError, OptionError: See `sfumato.errors`.
    """
    from sfumato.editing import tasks  # loads torch
    from sfumato.editing.reading import read_pictures
    from sfumato.masks.window import choose_window

    try:
        request = given.request()
    except ValidationError as error:
        raise refusal(error, EditRequest) from None
    tasks.check_controls(request.model_copy(update={"control_model": control_models}), named=False)
    _, change, _ = read_pictures(request, limits.pixels)
    if not isinstance(request.window, str):
        choose_window((change > 0).astype(np.uint8), 1, 1, request.window)  # a given window does not depend on the model
