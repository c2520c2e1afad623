"""Selection of the model of an edit, from the request and the editor's defaults."""

from typing import NamedTuple

from sfumato.backbones import loading
from sfumato.backbones.attaching import check_kind
from sfumato.backbones.base import Backbone
from sfumato.backbones.capabilities import BRANCHES
from sfumato.backbones.encodings import Encodings
from sfumato.backbones.families import FAMILIES
from sfumato.backbones.options import LoadOptions
from sfumato.backbones.prediction import check_given, reading
from sfumato.errors import Unsupported
from sfumato.methods import registry
from sfumato.request import EditRequest


class Choice(NamedTuple):
    """The fields of a request that decide what is loaded."""

    model: str
    lora: tuple[str, ...] = ()
    vae: str | None = None
    prediction_type: str | None = None
    branch: str | None = None
    control_model: tuple[str, ...] = ()

    @classmethod
    def of(cls, request: EditRequest) -> "Choice":
        """The choice that a complete request makes."""
        return cls(*(getattr(request, name) for name in cls._fields))

    def for_method(self, method: str) -> "Choice":
        """The choice with the model or branch that ships for a method, if this names a model that ships, and no branch."""
        card = next((card for card in FAMILIES if card.name == self.model), None)
        if card is None or self.branch is not None:
            return self
        return self._replace(model=card.models.get(method, self.model), branch=card.branches.get(method))

    def check_branch(self, method: str) -> None:
        """Refuse a branch of another kind than a method takes, before its weights are read.

        Raises:
            Unsupported: Names both kinds.
            ModelNotFound, OptionError: There is no such branch, or no such method.
        """
        needs = registry.get(method).needs & BRANCHES
        if self.branch is not None and needs:
            check_kind(self.branch, method, *needs)

    def complete(self, request: EditRequest, method: str) -> EditRequest:
        """A request with this choice and method where it names none.

        What goes with a model (LoRA, autoencoder, prediction type, branches) is added only to a request for that model.
        """
        given = request.model_fields_set
        mine = {"method": method}
        if "model" not in given or request.model == self.model:
            mine |= self._asdict()
        return request.model_copy(update={name: value for name, value in mine.items() if name not in given})

    def check_pipeline(self, wanted: "Choice") -> None:
        """Refuse what an editor around the user's own pipeline, which this describes, cannot load.

        Raises:
            Unsupported: Another model, LoRA or autoencoder.
        """
        if wanted.model != self.model:
            raise Unsupported(
                f"The request names the model '{wanted.model}', but this editor was made around a pipeline ('{self.model}') and "
                "loads no other: leave model out, or use Editor(model=...)."
            )
        for name in ("lora", "vae", "branch", "control_model"):
            if given := getattr(wanted, name):
                raise Unsupported(
                    f"The request names {name}={given!r}, but this editor was made around a pipeline and loads nothing: "
                    "load it into the pipeline before from_pipe."
                )


class Held:
    """Holder of the one model that an editor keeps loaded.

    Args:
        own: What requests that name nothing run on.
        options: How models are loaded.
        pipe: The user's own pipeline, already wrapped, in place of what `own` names; nothing else is then loaded.
    """

    def __init__(self, own: Choice, options: LoadOptions, pipe: Backbone | None = None) -> None:
        check_given(own.prediction_type)
        self.own, self.options, self._pipe = own, options, pipe
        self._loaded_as: Choice | None = None

    def wanted(self, request: EditRequest, method: str) -> Choice:
        """What a complete request needs for a method: of a model that ships, its version for the method."""
        choice = Choice.of(request)
        return choice if self._pipe is not None else choice.for_method(method)

    def get(self, wanted: Choice) -> Backbone:
        """The requested model, loaded if it is another one; the old one is kept if that fails.

        Raises:
            BackboneError: As `loading.load`, and `Choice.check_pipeline`.
        """
        if wanted != self._loaded_as:
            if self._pipe is None:
                self._backbone = self._load(wanted)
            else:
                self.own.check_pipeline(wanted)
                self._backbone = reading(self._pipe, wanted.prediction_type)
            self._loaded_as = wanted
        return self._backbone

    def _load(self, wanted: Choice) -> Backbone:
        backbone = loading.load(**wanted._asdict(), **vars(self.options))
        backbone.encoded_texts = Encodings()
        return backbone
