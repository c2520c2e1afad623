"""Requests whose fields for the chosen method's own options stand beside those that all methods share."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import InitErrorDetails, PydanticCustomError

from sfumato.methods import registry


class WithOptions(BaseModel):
    """Base of requests: fields shared by all methods, and `options`, those of the chosen method alone.

    When parsed and serialised, the names are flat: a method's own options stand beside the shared fields. They are validated
    against the method's `Options` here if the request names its method, otherwise once the method is known.
    """

    remote: ClassVar[bool] = False  # received over HTTP: options that name files of this machine are not accepted

    options: SkipJsonSchema[dict[str, Any]] = Field(
        default_factory=dict, description="The chosen method's own options; those left out have their defaults."
    )

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, given: Any) -> Any:
        """Move the methods' own options into `options`. Methods are imported only if some are given."""
        if not isinstance(given, Mapping) or given.keys() <= cls.model_fields.keys() - {"options"}:
            return given
        inner = given.get("options", {})
        if not isinstance(inner, Mapping):
            return given
        fields = {name: value for name, value in given.items() if name != "options"}
        if twice := sorted(inner.keys() & {*fields, "options"}):
            repeated = PydanticCustomError("option_repeated", "it is given twice, beside options and in them")
            line = InitErrorDetails(type=repeated, loc=(twice[0],), input=inner[twice[0]])
            raise ValidationError.from_exception_data(cls.__name__, [line])
        fields |= inner
        own = {name: fields.pop(name) for name in registry.option_names(remote=cls.remote) if name in fields}
        own = {name: value for name, value in own.items() if value is not None}
        card = next((card for card in registry.CARDS if card.name == fields.get("method")), None)
        if card is not None:  # another method's options are kept, and refused when the edit is made
            model = card.load().Options.given()
            checked = model.model_validate({name: own[name] for name in model.model_fields if name in own})
            own |= checked.model_dump(exclude_unset=True)
        return {**fields, "options": own} if own else fields

    @model_serializer(mode="wrap")
    def _flatten(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        own = fields.pop("options", {})
        return fields | own

    @classmethod
    def shared_fields(cls) -> tuple[str, ...]:
        """Names of the fields, without `options`."""
        return tuple(name for name in cls.model_fields if name != "options")

    @classmethod
    def known(cls) -> tuple[str, ...]:
        """All accepted names. Imports the methods."""
        return (*cls.shared_fields(), *registry.option_names(remote=cls.remote))
