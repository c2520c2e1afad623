"""What a method is: a card in the registry, and a file with its options, presets, plan, conditions and loop."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, Protocol, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo

from sfumato.backbones.capabilities import Capability

if TYPE_CHECKING:  # the registry is listed without torch
    from torch import Tensor

    from sfumato.backbones.base import Backbone, Traits
    from sfumato.denoising.base import Model, Pair
    from sfumato.denoising.prompts import Texts
    from sfumato.noise.stream import NoiseStream
    from sfumato.perception.clip import Scorer

Task = Literal["edit", "remove", "fill", "outpaint"]

# Fields of EditRequest that several methods use, and some do not.
TEXT_FIELDS = ("negative_prompt", "guidance_scale", "guidance_embedding")
START_FIELDS = ("fill", "scribble", "start_fraction", "start_sigma")


class Watch(Protocol):
    """Called after each step; raises Cancelled to stop."""

    def __call__(self, step: int, total: int, clean: "Tensor", /) -> None:
        """Steps done, steps in all, and the predicted clean latents (B, C, h, w)."""


class PictureDistance(Protocol):
    """A distance of pictures, with gradients."""

    def __call__(self, made: "Tensor", given: "Tensor", /) -> "Tensor":
        """From (B, 3, H, W) to (1, 3, H, W), both in [-1, 1], as (B,)."""


class MethodOptions(BaseModel):
    """A method's own options. Those declared with `option` are flags and fields of forms; presets alone set the others.

    Args:
        posterior_sample: Whether the source is encoded as a sample from the autoencoder's posterior, not its mean. Of every
            method: the editor, which encodes, reads it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    posterior_sample: bool = False

    @classmethod
    def exposed(cls, *, remote: bool = False) -> dict[str, FieldInfo]:
        """The options that a request may set, by name; with `remote`, without those that name files of this machine."""
        wanted = (_ANYWHERE,) if remote else (_ANYWHERE, _HERE)
        return {name: info for name, info in cls.model_fields.items() if _exposure(info) in wanted}

    @classmethod
    @cache
    def given(cls) -> type[BaseModel]:
        """A model of what a request may set: each option checked as it is declared here, or None where it is left open."""
        fields: dict[str, Any] = {}
        for name, info in cls.exposed().items():
            kind: Any = Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation
            fields[name] = (kind | None, Field(None, description=info.description))
        return create_model(cls.__name__, __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **fields)

    def updated(self, values: Mapping[str, Any]) -> "MethodOptions":
        """The same options but for these; they are checked."""
        return type(self)(**{**dict(self), **values})


_ANYWHERE, _HERE = "anywhere", "here"
OptionsT = TypeVar("OptionsT", bound=MethodOptions)
PlanT = TypeVar("PlanT")


def option(default: Any, description: str, *, local: bool = False, **bounds: Any) -> Any:
    """A field of `MethodOptions` that users may set.

    Args:
        default: As in pydantic's `Field`.
        description: One sentence, shown in help, API and page, where the method's name stands above it.
        local: Whether it names files of the machine, which requests over HTTP may not.
        bounds: As in pydantic's `Field`.
    """
    return Field(default, description=description, json_schema_extra={"x-exposed": _HERE if local else _ANYWHERE}, **bounds)


def _exposure(info: FieldInfo) -> Any:
    """Where an option may be set; "" for those that presets alone set."""
    extra = info.json_schema_extra
    return extra.get("x-exposed", "") if isinstance(extra, dict) else ""


@dataclass(frozen=True, kw_only=True)
class Preset(Generic[OptionsT]):
    """A named set of options.

    Args:
        options: The method's own.
        defaults: Values for fields of EditRequest that are left None.
    """

    options: OptionsT
    defaults: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Inputs of a plan: the resolved fields of EditRequest, and scheduler settings that the picture's size asks for."""

    scheduler: str
    steps: int
    start_fraction: float = 0.0
    start_sigma: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Guide:
    """A CLIP that guides sampling by its gradients, and its embedding of the prompt, (1, D); LPIPS too, if requested."""

    scorer: "Scorer"
    text: "Tensor"
    lpips: PictureDistance | None = None


@dataclass(frozen=True, kw_only=True)
class EditInputs(Generic[OptionsT]):
    """One edit in one window, before any batch: what its conditions are made from.

    Args:
        texts: The prompts, as the model reads them.
        pixels: (1, 3, H, W) in [-1, 1] the source.
        mask_pixels: (1, 1, H, W) in {0, 1}; 1 = edit.
        mask_latent: (1, 1, h, w) in [0, 1]: how much each latent cell may change.
        options: The method's own options.
        guidance_embedding: The guidance scale that distilled models embed; None for those that embed none.
    """

    texts: "Texts"
    pixels: "Tensor"
    mask_pixels: "Tensor"
    mask_latent: "Tensor"
    options: OptionsT
    guidance_embedding: float | None = None


@dataclass(frozen=True, kw_only=True)
class EditTask(Generic[OptionsT, PlanT]):
    """One batch of predictions in latent space. Tensors lead with the batch, or with 1 where all predictions share them.

    Args:
        source: (1|B, C, h, w) clean scaled latents of the image, which everything outside the mask is replaced by.
        start: (1|B, C, h, w) clean scaled latents that the masked area starts from (the source, a fill or a scribble).
        mask: (1|B, 1, h, w) in [0, 1]; 1 = edit. Values between, for methods that use `soft_mask` only, are a per-pixel
            edit strength.
        seeds: One per prediction.
        plan: What the method's `plan` made.
        options: The method's own options.
        shrink: Whether to start from dilated masks (progressive mask shrinking).
        guide: For methods that are guided by CLIP.
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
    """Plan a run, before the first step: (what model it is, the request's sampling, options) -> plan."""

    condition: Callable[["Backbone", EditInputs[Any]], "Pair"]
    """What both branches of guidance are conditioned on. Called once per edit in a window, before the first batch."""

    run: Callable[["Model", EditTask[Any, Any], Watch, "NoiseStream | None"], "Tensor"]
    """The loop, called once per batch: gives (B, C, h, w) clean scaled latents."""


@dataclass(frozen=True, kw_only=True)
class TaskCard:
    """How a method does a task.

    Args:
        defaults: Values for fields of EditRequest that are left None; they go before those of the model's family and of the
            default preset, and behind those of a preset that is named.
        wordless: Further ones where no words say what is to appear; None if the method needs words.
        says_empty: Whether without words the model is told that nothing stands there (`FamilyCard.empty`).
    """

    defaults: Mapping[str, Any] = field(default_factory=dict)
    wordless: Mapping[str, Any] | None = field(default_factory=dict)
    says_empty: bool = False


@dataclass(frozen=True, kw_only=True)
class MethodCard:
    """The row of a method in the registry. Listing cards loads no method and no torch.

    Args:
        name, kind, title, paper: What it is.
        module: The file that holds its `Options`, `PRESETS`, `plan`, `condition` and `run`.
        needs: What a model must be able to do.
        uses: Fields of EditRequest that it uses, among those that not all methods do.
        tasks: What it can be asked for.
        guided: Whether it needs a CLIP to take gradients of.
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
        """The method's module."""
        return cast(Method, importlib.import_module(self.module))
