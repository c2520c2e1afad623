"""The one door: read, cut out the window, run the method, restore the background, rank, put back."""

import inspect
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import sfumato
from sfumato import ranking
from sfumato.accel.base import Accelerator
from sfumato.backbones import loading
from sfumato.backbones.base import Backbone
from sfumato.backbones.families import family
from sfumato.background.registry import usual_times
from sfumato.editing import tasks
from sfumato.editing.choice import Choice, Held
from sfumato.editing.finishing import Predictions, put_back
from sfumato.editing.preparing import Inputs, prepare
from sfumato.editing.progress import Listener, Meter, Progress
from sfumato.editing.resolving import Resolved, resolve, with_background
from sfumato.editing.sampling import Clock, Run, as_run, average_scores, in_part
from sfumato.errors import BackboneError, OptionError
from sfumato.masks.islands import surrounding
from sfumato.methods import registry
from sfumato.methods.base import Guide, MethodCard, PictureDistance
from sfumato.metrics.diversity import guiding_lpips
from sfumato.perception import clip
from sfumato.pictures.colour import shown
from sfumato.pictures.reading import MAX_PIXELS
from sfumato.pictures.samples import narrow
from sfumato.pictures.sizing import size_notes
from sfumato.pictures.tensors import to_uint8
from sfumato.pictures.writing import write_animation
from sfumato.request import EditRequest, EditResult, make_request

WORDS_SHOWN = 60
LIBRARIES = ("torch", "diffusers", "transformers")  # whose versions decide the pixels


class Editor:
    """Holds one loaded model and edits pictures with it.

    Args:
        model: "embedded", a hub id that is cached, a diffusers folder, or a .safetensors file.
        method: Name of the method used when an edit does not name one.
        device: "cpu", "cuda", "mps"; the best one present by default.
        dtype: "float32", "bfloat16" or "float16"; the device's fastest good one by default.
        offline: Never touch the network.
        allow_pickle: Load pickled checkpoints too (with weights_only=True).
        lora: LoRA files, each FILE or FILE:SCALE.
        max_pixels: Refuse larger pictures before decoding them.
        vae: Autoencoder in place of the model's own: a file, or a folder in diffusers' format.
        prediction_type: "epsilon", "v_prediction" or "sample", in place of what the model says of itself.
        ranker: CLIP that orders predictions: "embedded", a transformers CLIP folder or id, or "open_clip:ARCH/WEIGHTS";
            by default the embedded one for the embedded model, and ViT-B/16 if it is cached for others.

    Raises:
        BackboneError: The model is absent, unsafe or not supported.
    """

    def __init__(
        self,
        model: str = "embedded",
        method: str = "blended-latent-diffusion",
        device: str | None = None,
        dtype: str | None = None,
        *,
        offline: bool = False,
        allow_pickle: bool = False,
        lora: tuple[str, ...] = (),
        max_pixels: int = MAX_PIXELS,
        ranker: str | None = None,
        vae: str | None = None,
        prediction_type: str | None = None,
    ) -> None:
        registry.get(method)
        self.max_pixels = max_pixels
        self.method, self.device = method, loading.choose_device(device)
        self.dtype = loading.choose_dtype(self.device, dtype)
        self._loading: dict[str, Any] = {"offline": offline, "allow_pickle": allow_pickle}
        self._ranker_name = ranker
        self.accelerators: tuple[Accelerator, ...] = ()  # attached to the denoiser in every edit
        self._scorer: clip.Scorer | None = None
        self._guide_scorer: tuple[str, clip.Scorer] | None = None
        self._guide_lpips: PictureDistance | None = None
        self.model, self.lora = model, tuple(lora)
        how = {"device": self.device, "dtype": self.dtype, **self._loading}
        self._held = Held(Choice(model, tuple(lora), vae, prediction_type), how)
        self.backbone: Backbone = self._held.get(self._held.own)

    @classmethod
    def from_pipe(
        cls,
        pipe: Any,
        *,
        method: str = "blended-latent-diffusion",
        ranker: str | None = None,
        prediction_type: str | None = None,
    ) -> "Editor":
        """An editor around an already loaded diffusers pipeline, which keeps its device, dtype and weights.

        Requests that name no model run on it; those that name another model, a LoRA or an autoencoder are refused.

        Raises:
            Unsupported: If it is of no family that we edit with, or has parts, as a ControlNet, that would be left out.
        """
        registry.get(method)
        editor = cls.__new__(cls)
        wrapped = loading.from_pipe(pipe)
        own = Choice(wrapped.traits.name, prediction_type=prediction_type)
        editor._held = Held(own, {}, wrapped)
        editor.backbone = editor._held.get(own)
        editor.method, editor.device, editor.dtype = method, editor.backbone.traits.device, editor.backbone.traits.dtype
        editor._loading, editor._ranker_name, editor.accelerators = {}, ranker, ()
        editor._scorer, editor._guide_scorer, editor._guide_lpips = None, None, None
        editor.max_pixels = MAX_PIXELS
        editor.model, editor.lora = own.model, ()
        return editor

    def edit(
        self,
        request: EditRequest | None = None,
        *,
        on_progress: Listener | None = None,
        save_steps: Path | None = None,
        **options: Any,
    ) -> EditResult:
        """Make the predictions of one request.

        Args:
            request: The edit; or give its fields as keyword arguments. Where it names no model or method, it has this editor's,
                and with that model its LoRA files, autoencoder and prediction type.
            on_progress: Called after every step.
            save_steps: Write the first prediction's clean estimate of every step to this animated GIF.

        Raises:
            InputError, BackboneError, ResourceError, Cancelled: See `sfumato.errors`. The editor stays usable.
        """
        if request is None:
            request = make_request(options)
        elif options:
            raise OptionError(f"Give either a request or options, not both (got {', '.join(options)}).")
        named = "method" in request.model_fields_set or self.method != EditRequest.model_fields["method"].default
        request = self._held.own.complete(request, self.method)
        clock, meter = Clock(), Meter()
        tell = meter.telling(on_progress)
        with clock.stage("load"):
            tell(Progress(stage="load", step=0, total=1))
            if (backbone := self._held.get(Choice.of(request))) is not self.backbone:
                self.backbone, self._scorer = backbone, None
            card = tasks.choose_method(request, backbone.traits, named)
            request = request.model_copy(update={"method": card.name})
            resolved = resolve(request, self.backbone, card, allow_pickle=self._loading.get("allow_pickle", False))
        with torch.inference_mode():
            with clock.stage("encode"):
                tell(Progress(stage="encode", step=0, total=1))
                parts = prepare(
                    resolved.request,
                    resolution=self.backbone.traits.resolution,
                    factor=self.backbone.traits.factor,
                    context=self.backbone.traits.context,
                    max_pixels=self.max_pixels,
                )
                guide = self._make_guide(resolved) if card.guided else None
                runs = [
                    Run(
                        self.backbone,
                        card.load(),
                        with_background(resolved, part.border_tells),
                        part,
                        clock,
                        in_part(tell, i, len(parts)),
                        save_steps is not None,
                        guide,
                        self.accelerators,
                    )
                    for i, part in enumerate(parts)
                ]
            meter.expect(usual_times(runs[0].request))
            tell(Progress(stage="encode", step=1, total=1))
            windows = [run.predictions() for run in runs]
        request, notes = as_run(runs)
        with clock.stage("rank"):
            tell(Progress(stage="rank", step=0, total=1))
            scores = self._rank(request, resolved.texts.words, parts, windows, notes)
        order = [score.index for score in scores] if scores else list(range(request.n))
        if save_steps is not None:
            write_animation(self._steps(runs, windows, request), save_steps)
        tell(Progress(stage="rank", step=1, total=1))
        return EditResult(
            images=Predictions(parts, request, [made[order] for made in windows]),
            seeds=[request.seed + i for i in order],
            scores=[score.as_dict() for score in scores],
            timings=clock.seconds,
            request=request.model_copy(update={"size": request.size and parts[0].picture.size}),
            mask=Image.fromarray(parts[0].levels),
            notes=[
                *size_notes(request.size, parts[0].picture.size),
                *self.backbone.notes,
                *notes,
                *tasks.notes(request, resolved.texts.prompt),
                *resolved.texts.notes,
                *self._prompt_notes(resolved.texts.prompt, card),
            ],
            facts=self._facts(parts),
        )

    def _steps(self, runs: list[Run], windows: list[np.ndarray], request: EditRequest) -> list[Image.Image]:
        """The first prediction after every step: one window after the other, with those before finished."""
        frames: list[Image.Image] = []
        finished: list[np.ndarray] = []
        for run, made in zip(runs, windows, strict=True):
            with torch.inference_mode():
                pictures = [to_uint8(self.backbone.autoencoder.decode(frame)[0]) for frame in run.frames]
            parts = [each.inputs for each in runs[: len(finished) + 1]]
            frames += [shown(put_back(parts, [*finished, picture], request)) for picture in pictures]
            finished.append(made[0])
        return frames

    def _make_guide(self, resolved: Resolved) -> Guide:
        """What guides, kept for further edits, and the prompt in CLIP's space."""
        name = str(resolved.options.clip_model)
        if resolved.options.background_lpips_weight and self._guide_lpips is None:
            self._guide_lpips = guiding_lpips(self.device)
        if self._guide_scorer is None or self._guide_scorer[0] != name:
            with torch.inference_mode(False):  # its weights take part in gradients
                self._guide_scorer = name, clip.load_scorer(name, self.device)
        scorer = self._guide_scorer[1]
        return Guide(scorer=scorer, text=scorer.embed_text([resolved.texts.words]), lpips=self._guide_lpips)

    def _rank(
        self, request: EditRequest, words: str, parts: list[Inputs], windows: list[np.ndarray], notes: list[str]
    ) -> list[ranking.Score]:
        if request.rank == "none":
            return []
        scorer = self._ranking_scorer(request.rank, notes) if tasks.has_words(request) else None
        # by its border the best stroke would be the one that shows least
        told = all(part.border_tells for part in parts)
        by_prompt = not told and request.rank == "both" and scorer is not None
        mode = "region" if by_prompt else request.rank
        scores = []
        for part, made in zip(parts, windows, strict=True):
            mask = part.mask_pixels[0, 0].numpy().astype(np.uint8)
            scores.append(ranking.rank(narrow(made), to_uint8(part.pixels[0]), mask, words, scorer, mode))
        return average_scores(scores)

    def _ranking_scorer(self, mode: str, notes: list[str]) -> clip.Scorer | None:
        if self._scorer is None:
            self._scorer, note = self._load_scorer(mode)
            notes += note
        return self._scorer

    def _load_scorer(self, mode: str) -> tuple[clip.Scorer | None, list[str]]:
        """The ranking model; without one that was asked for by name, ranking goes on by the whole picture alone, and says so."""
        suited = family(self.backbone.traits.family).clip
        if self._ranker_name is not None or suited == "embedded":
            return clip.load_scorer(self._ranker_name or suited, self.device), []
        try:
            return clip.load_scorer(suited, self.device), []
        except BackboneError as error:
            if mode == "region":
                raise
            return None, [f"Ranked without reading the prompt: {error.message}"]

    def _prompt_notes(self, prompt: str, card: MethodCard) -> list[str]:
        encoder = self.backbone.text_encoder
        if encoder is None:
            name = self.backbone.traits.name
            note = f"{name} reads no text: {card.name} continues the surroundings, and the prompt only ranks."
            return [] if card.guided or not prompt else [note]
        unknown = encoder.unknown_words(prompt)
        if not unknown:
            return []
        known = ", ".join(encoder.known_words()[:WORDS_SHOWN])
        return [f"The model does not know {', '.join(map(repr, unknown))}, so it ignores it; it knows: {known}."]

    def _facts(self, parts: list[Inputs]) -> dict[str, Any]:
        return {
            "versions": {"sfumato": sfumato.__version__, **{name: version(name) for name in LIBRARIES}},
            "device": str(self.device),
            "dtype": str(self.dtype).removeprefix("torch."),
            "prediction_type": self.backbone.traits.prediction,
            "machine": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "window": list(surrounding([part.window for part in parts]).box),
            "windows": [list(part.window.box) for part in parts],
            **parts[0].hashes,
        }


def edit(image: Any, mask: Any = None, prompt: str = "", **options: Any) -> EditResult:
    """Edit a picture: only what lies under the mask changes, or its margins (`task="outpaint", expand=(64, 0, 64, 0)`).

    Args:
        image: Path or PIL image.
        mask: Path or PIL image, white = edit; None if `box=(x, y, width, height)` is given instead, or to outpaint.
        prompt: What should appear under the mask; other tasks than "edit" can do without.
        options: Fields of `EditRequest`, and those of `Editor`.

    Returns:
        EditResult, images best first.
    """
    names = inspect.signature(Editor).parameters
    editor = Editor(**{name: options.pop(name) for name in names if name in options})
    return editor.edit(image=image, mask=mask, prompt=prompt, **options)
