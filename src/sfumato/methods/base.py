"""Interface of methods: a card in the registry, and a module with options, presets, plan, conditions and loop."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, Protocol, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo

from sfumato.backbones.capabilities import Capability

if TYPE_CHECKING:  # the registry is listed without torch
    from torch import Generator, Tensor

    from sfumato.backbones.base import Backbone, Control, Traits
    from sfumato.denoising.base import Model, Pair
    from sfumato.denoising.prompts import Texts
    from sfumato.noise.stream import NoiseStream
    from sfumato.perception.clip import Scorer

Task = Literal["edit", "shape", "remove", "fill", "outpaint"]
DRAWING: tuple[Task, ...] = ("edit", "shape")
"""Tasks that draw what the prompt says, and so need one; the others continue the surroundings."""

# Fields of EditRequest that several methods use, and some do not.
TEXT_FIELDS = ("negative_prompt", "guidance_scale", "guidance_interval", "guidance_embedding")
START_FIELDS = ("fill", "scribble", "start_fraction", "start_sigma")


class Watch(Protocol):
    """Callback after each step; it raises to stop, Cancelled for example."""

    def __call__(self, step: int, total: int, clean: "Tensor", /) -> None:
        """Receives steps done, total steps, and the predicted clean latents (B, C, h, w)."""


class PictureDistance(Protocol):
    """A differentiable distance of pictures, such as LPIPS."""

    def __call__(self, made: "Tensor", given: "Tensor", /) -> "Tensor":
        """(B,) distances of (B, 3, H, W) pictures from one of (1, 3, H, W), both in [-1, 1]."""


class MethodOptions(BaseModel):
    """Base of a method's own options. Users may set those declared with `option`; the others are set by presets alone.

    Args:
        posterior_sample: Whether the source is encoded as a sample from the autoencoder's posterior, not its mean. For every
            method; read by the editor, which encodes.
        mask_blur: Standard deviation in pixels of a Gaussian that softens the mask which the method is given (see
            `masks.latent.blurred`); 0 for none. For every method; read by the editor.
        precision: How roughly the mask is meant (see `masks.precision`): the editor makes it as rough. For every method; None
            takes it as it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    posterior_sample: bool = False
    mask_blur: float = 0.0
    precision: int | None = None

    @property
    def known_background(self) -> bool:
        """Whether the latents outside the mask are, in every step, the source with one noise: that drawn first."""
        return False

    def widest(self, mask: "Tensor", shrink: bool) -> "Tensor":
        """Where latents may change in any step, (1|B, 1, h, w), for a mask and whether it is shrunk (see `EditTask`)."""
        return mask

    @classmethod
    def exposed(cls, *, remote: bool = False) -> dict[str, FieldInfo]:
        """Options that a request may set, by name; if `remote`, without those that name files of this machine."""
        wanted = (_ANYWHERE,) if remote else (_ANYWHERE, _HERE)
        return {name: info for name, info in cls.model_fields.items() if _exposure(info) in wanted}

    @classmethod
    @cache
    def given(cls) -> type[BaseModel]:
        """A pydantic model of the options that a request may set, with the same validation; None by default."""
        fields: dict[str, Any] = {}
        for name, info in cls.exposed().items():
            kind: Any = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
            fields[name] = (kind | None, Field(None, description=info.description))
        return create_model(cls.__name__, __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **fields)

    def updated(self, values: Mapping[str, Any]) -> "MethodOptions":
        """A copy with some values replaced, validated.

        Raises:
            pydantic.ValidationError: A value that its option does not allow.
        """
        return type(self)(**{**dict(self), **values})


_ANYWHERE, _HERE = "anywhere", "here"
OptionsT = TypeVar("OptionsT", bound=MethodOptions)
PlanT = TypeVar("PlanT")


def option(default: Any, description: str, *, local: bool = False, **bounds: Any) -> Any:
    """A field of `MethodOptions` that users may set.

    Args:
        default: As in pydantic's `Field`.
        description: One sentence for help, API and page, where it is listed under the method's name.
        local: Whether it names files of this machine; such options are not accepted over HTTP.
        bounds: Constraints such as `ge`, as in pydantic's `Field`.
    """
    return Field(default, description=description, json_schema_extra={"x-exposed": _HERE if local else _ANYWHERE}, **bounds)


def _exposure(info: FieldInfo) -> Any:
    """Where an option may be set: "anywhere", "here" (not over HTTP), or "" if by presets alone."""
    extra = info.json_schema_extra
    return extra.get("x-exposed", "") if isinstance(extra, dict) else ""


@dataclass(frozen=True, kw_only=True)
class Preset(Generic[OptionsT]):
    """A named set of options.

    Args:
        options: Values of the method's own options.
        defaults: Values for fields of EditRequest that are None.
    """

    options: OptionsT
    defaults: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Inputs of a plan: resolved fields of EditRequest, and scheduler settings that depend on the latents' size."""

    scheduler: str
    steps: int
    start_fraction: float = 0.0
    start_sigma: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Guide:
    """CLIP that guides sampling by its gradients, its (1, D) embedding of the prompt, and LPIPS if the options use it."""

    scorer: "Scorer"
    text: "Tensor"
    lpips: PictureDistance | None = None


@dataclass(frozen=True, kw_only=True)
class EditInputs(Generic[OptionsT]):
    """Inputs of a method's `condition`: one edit in one window.

    Args:
        texts: The parsed prompts.
        pixels: (1, 3, H, W) in [-1, 1]: the source.
        mask_pixels: (1, 1, H, W) in {0, 1}; 1 = edit.
        mask_latent: (1, 1, h, w) in [0, 1]: how much each latent cell may change.
        options: The method's own options.
        guidance_embedding: Embedded guidance scale of guidance-distilled models; None for others.
        controls: Inputs of the model's ControlNets for control pictures, in their order.
        task: What the request asks for.
        generator: Draws whatever is random in the conditions of one prediction; None takes means.
    """

    texts: "Texts"
    pixels: "Tensor"
    mask_pixels: "Tensor"
    mask_latent: "Tensor"
    options: OptionsT
    guidance_embedding: float | None = None
    controls: "tuple[Control, ...]" = ()
    task: Task = "edit"
    generator: "Generator | None" = None


@dataclass(frozen=True, kw_only=True)
class EditTask(Generic[OptionsT, PlanT]):
    """Inputs of a method's `run`: one batch. Leading dimensions are B, or 1 for tensors that all predictions share.

    Args:
        source: (1|B, C, h, w) clean scaled latents of the source, kept outside the mask.
        start: (1|B, C, h, w) clean scaled latents that the masked area starts from: the source, a fill or a scribble.
        mask: (1|B, 1, h, w) in [0, 1]; 1 = edit. Values between are a per-pixel edit strength, for methods that use
            `soft_mask` only.
        seeds: One per prediction.
        plan: Result of the method's `plan`.
        options: The method's own options.
        shrink: Whether to start from dilated masks (progressive mask shrinking).
        guide: CLIP of methods that are guided by it.
    """

    source: "Tensor"
    start: "Tensor"
    mask: "Tensor"
    seeds: tuple[int, ...]
    plan: PlanT
    options: OptionsT
    shrink: bool = False
    guide: Guide | None = None


class Method(Protocol):
    """Interface of a method's module."""

    Options: type[MethodOptions]
    PRESETS: Mapping[str, Preset[Any]]  # "default" is always there

    plan: Callable[["Traits", Sampling, Any], Any]
    """Plan of a run: (traits of the model, sampling of the request, options) -> plan."""

    condition: Callable[["Backbone", EditInputs[Any]], "Pair"]
    """Conditions of both branches of guidance. Called once per edit and window, before the first batch; if the model encodes
    pictures as samples of the posterior, also once per prediction, with its generator."""

    run: Callable[["Model", EditTask[Any, Any], Watch, "NoiseStream | None"], "Tensor"]
    """The loop: (model, inputs, step callback, noise) -> (B, C, h, w) clean scaled latents. Called once per batch."""


@dataclass(frozen=True, kw_only=True)
class TaskCard:
    """How a method does a task.

    Args:
        defaults: Values for fields of EditRequest that are None. They override those of the model's family and of the default
            preset, but not those of a preset that the request names.
        wordless: Further defaults for requests without a prompt; None if the method needs a prompt.
        says_empty: Whether, without a prompt, the family's words for an empty scene (`FamilyCard.empty`) are the prompt.
    """

    defaults: Mapping[str, Any] = field(default_factory=dict)
    wordless: Mapping[str, Any] | None = field(default_factory=dict)
    says_empty: bool = False


@dataclass(frozen=True, kw_only=True)
class MethodCard:
    """Entry of a method in the registry. Listing cards imports neither methods nor torch.

    Args:
        name, kind, title, paper: Name for requests, kind of method, title and publication.
        module: Module with its `Options`, `PRESETS`, `plan`, `condition` and `run`.
        needs: Capabilities that a model must have.
        uses: Fields of EditRequest that it uses, of those that not all methods use.
        tasks: Tasks that it does, and how.
        guided: Whether it is guided by the gradients of a CLIP.
    """

    name: str
    kind: Literal["sampling", "finetuned", "branch"]
    title: str
    paper: str
    module: str
    needs: frozenset[Capability]
    uses: tuple[str, ...]
    tasks: Mapping[Task, TaskCard] = field(default_factory=lambda: {"edit": TaskCard(wordless=None)})
    guided: bool = False

    def load(self) -> Method:
        """Import and return the method's module."""
        return cast(Method, importlib.import_module(self.module))
