"""The editor: one loaded model, and an edit in three stages: prepare, sample, finish."""

import inspect
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sfumato.accel.base import Accelerator
from sfumato.accel.region.store import FeatureStore
from sfumato.backbones import loading
from sfumato.backbones.base import Backbone
from sfumato.backbones.options import LoadOptions
from sfumato.background.registry import usual_times
from sfumato.editing import tasks
from sfumato.editing.choice import Choice, Held
from sfumato.editing.facts import background_notes, facts, text_notes
from sfumato.editing.finishing import Composed, animation, layer, put_back, restore_all
from sfumato.editing.prepared import Clock, Prepared, PreparedWindow, Sample, as_run
from sfumato.editing.preparing import prepare
from sfumato.editing.progress import Listener, Meter, Progress
from sfumato.editing.resolving import resolve, with_background
from sfumato.editing.sampling import Latents, sample
from sfumato.editing.scoring import Scorers
from sfumato.editing.speed import speed_notes
from sfumato.errors import OptionError
from sfumato.methods import registry
from sfumato.pictures.reading import MAX_PIXELS
from sfumato.pictures.sizing import size_notes
from sfumato.pictures.writing import write_animation
from sfumato.request import EditRequest, EditResult, make_request


class Editor:
    """Edits pictures with one loaded model.

    Args:
        model: "embedded", a hub id that is cached, a diffusers folder, or a .safetensors or .gguf file.
        method: Name of the method used when an edit does not name one.
        device: "cpu", "cuda", "cuda:N" or "mps"; the fastest one present by default.
        dtype: "float32", "bfloat16" or "float16"; by default the fastest that is accurate on the device.
        offline: Never use the network.
        allow_pickle: Load pickled checkpoints too (with weights_only=True).
        lora: LoRA files, each FILE or FILE:SCALE.
        max_pixels: Refuse larger pictures before decoding them.
        vae: Autoencoder in place of the model's own: a file, or a folder in diffusers' format.
        prediction_type: "epsilon", "v_prediction" or "sample", in place of what the model's files say.
        ranker: CLIP that ranks predictions: "embedded", a transformers CLIP folder or id, or "open_clip:ARCH/WEIGHTS";
            by default the embedded one for the embedded model, and ViT-B/16 if it is cached for others.
        branch: BrushNet or inpainting ControlNet beside the model: a folder, a .safetensors file, or a hub id that is cached.
        control_model: ControlNets for control pictures, each as `branch`.
        memory: Where the weights are kept: "full" (on the device), "offload" (there one network at a time), "sequential" (one
            layer at a time), or "auto", the first of them that fits. The pictures are the same.
        quantization: Weights of linear layers in "int8", "fp8" or "nf4"; approximate.
        compile: Compile the denoiser's blocks when they are first called; the same but for rounding.

    Raises:
        BackboneError, ResourceError: The model is absent, unsafe or not supported; it fits in no way.
        OptionError: An unknown method, device, dtype, prediction type, memory or quantization.
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
        branch: str | None = None,
        control_model: tuple[str, ...] = (),
        memory: str = "auto",
        quantization: str | None = None,
        compile: bool = False,
    ) -> None:
        registry.get(method)
        chosen_device = loading.choose_device(device)
        chosen_dtype = loading.choose_dtype(chosen_device, dtype)
        options = LoadOptions(
            device=chosen_device,
            dtype=chosen_dtype,
            offline=offline,
            allow_pickle=allow_pickle,
            memory=memory,
            quantization=quantization,
            compile=compile,
        )
        own = Choice(model, tuple(lora), vae, prediction_type, branch, tuple(control_model))
        self._hold(Held(own, options), chosen_device, chosen_dtype, method, ranker, max_pixels)

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

        Args:
            pipe: A text-to-image, image-to-image or inpainting pipeline of a supported family.
            method, ranker, prediction_type: As in `Editor`.

        Raises:
            Unsupported: The pipeline is of no supported family, or has a part, such as a ControlNet, that would be left out.
        """
        registry.get(method)
        wrapped = loading.from_pipe(pipe)
        held = Held(Choice(wrapped.traits.name, prediction_type=prediction_type), LoadOptions(), wrapped)
        editor = cls.__new__(cls)
        editor._hold(held, wrapped.traits.device, wrapped.traits.dtype, method, ranker)
        return editor

    def _hold(
        self,
        held: Held,
        device: torch.device,
        dtype: torch.dtype,
        method: str,
        ranker: str | None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """Set every attribute, for both ways to make an editor."""
        self._held, self.device, self.dtype, self.method, self.max_pixels = held, device, dtype, method, max_pixels
        likely = tasks.usual_method(held.own.model) if method == tasks.DEFAULT_METHOD else method
        if method != tasks.DEFAULT_METHOD:
            held.own.check_branch(method)
        self.backbone: Backbone = held.get(held.own.for_method(likely))
        self.model, self.lora = held.own.model, held.own.lora
        self.scorers = Scorers(ranker, self.device)
        self.accelerators: tuple[Accelerator, ...] = ()  # attached to the denoiser in every edit
        self.features = FeatureStore()  # of pictures that were edited in region mode

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
            request: The edit; or give its fields as keyword arguments. Where it names no model or method, this editor's are used,
                and with that model its LoRA files, autoencoder and prediction type.
            on_progress: Called after every step; an error that it raises ends the edit.
            save_steps: Write the first prediction's clean estimate of every step to this animated GIF.
            options: The request's fields and the method's own options, in place of `request`.

        Returns:
            EditResult, images best first.

        Raises:
            InputError, BackboneError, ResourceError, Cancelled: See `sfumato.errors`. The editor stays usable.
        """
        if request is None:
            request = make_request(options)
        elif options:
            raise OptionError(f"Give either a request or options, not both (got {', '.join(options)}).")
        prepared = self.prepare(request, on_progress=on_progress, keep_frames=save_steps is not None)
        return self.finish(prepared, self.sample(prepared.samples), save_steps=save_steps)

    def prepare(self, request: EditRequest, *, on_progress: Listener | None = None, keep_frames: bool = False) -> Prepared:
        """First stage: load the model, fill in defaults, read the pictures, encode source and prompts.

        Args:
            request: The edit.
            on_progress: Called in this stage and the two others; an error that it raises ends the edit.
            keep_frames: Keep what `finish` needs to write the steps as an animation.

        Raises:
            InputError, BackboneError, ResourceError: See `sfumato.errors`. The editor stays usable.
        """
        named = "method" in request.model_fields_set or self.method != EditRequest.model_fields["method"].default
        names_controls, given = "control_model" in request.model_fields_set, request
        request = self._held.own.complete(request, self.method)
        tasks.check_controls(request, names_controls)
        tasks.check_frames(request, keep_frames)
        clock, meter = Clock(), Meter()
        listener = meter.wrapping(on_progress)
        with clock.stage("load"):
            listener(Progress(stage="load", step=0, total=1))
            choice = self._held.wanted(request, request.method if named else tasks.preferred(request))
            if named:
                choice.check_branch(request.method)
            asked, request = request, request.model_copy(update=choice._asdict())
            if (backbone := self._held.get(choice)) is not self.backbone:
                self.backbone = backbone
                self.scorers.forget()
                self.features.clear()
            card = tasks.choose_method(request, backbone.traits, named)
            request = request.model_copy(update={"method": card.name})
            resolved = resolve(request, backbone, card, allow_pickle=self._held.options.allow_pickle)
        edit = Prepared(
            backbone=backbone, card=card, resolved=resolved, on_progress=listener, clock=clock, keeps_frames=keep_frames
        )
        with torch.inference_mode(), clock.stage("encode"):
            listener(Progress(stage="encode", step=0, total=1))
            parts = prepare(
                resolved.request,
                resolution=backbone.traits.resolution,
                factor=backbone.traits.factor,
                context=backbone.traits.context,
                max_pixels=self.max_pixels,
                precision=resolved.options.precision,
            )
            seen = not named and choice != self._held.wanted(asked, tasks.DEFAULT_METHOD)  # by a version that sees the mask
            if seen and any(part.thin for part in parts) and tasks.edits_strokes(asked):
                plain = given.model_copy(update={"method": tasks.DEFAULT_METHOD})
                edit = self.prepare(plain, on_progress=on_progress, keep_frames=keep_frames)
                edit.windows[0].notes.append(tasks.THIN)
                return edit
            edit.rank = self.scorers.rank
            edit.guide = self.scorers.guide(resolved) if card.guided else None
            edit.windows = [
                PreparedWindow(edit, card.load(), with_background(resolved, part.seam_informative), part, i, len(parts))
                for i, part in enumerate(parts)
            ]
            if not named and request.task != "edit":
                edit.windows[0].notes.append(tasks.chosen_note(request.task, card))
        meter.expect(usual_times(edit.windows[0].request))
        listener(Progress(stage="encode", step=1, total=1))
        return edit

    def sample(self, samples: Sequence[Sample]) -> Iterator[Latents]:
        """Second stage: latents of the predictions, lazily, batch by batch; see `sfumato.editing.sampling.sample`.

        Args:
            samples: Of one edit or of several: those with equal keys share batches. Each prediction is as if sampled alone.

        Raises:
            Cancelled, ResourceError: See `sfumato.errors`.
        """
        return sample(samples, self.accelerators, self.features)

    def finish(self, edit: Prepared, made: Iterable[Latents], *, save_steps: Path | None = None) -> EditResult:
        """Third stage: decode the latents of one edit, reconstruct the background, rank, and compose the pictures.

        Args:
            edit: The edit.
            made: Its latents; iterated lazily, so with `sample`'s iterator each batch is decoded before the next is sampled.
            save_steps: Write the first prediction's clean estimate of every step to this animated GIF.

        Raises:
            ResourceError, Cancelled: See `sfumato.errors`.
        """
        windows = restore_all(edit, made)
        request, notes = as_run(edit.windows)
        with edit.clock.stage("rank"):
            edit.on_progress(Progress(stage="rank", step=0, total=1))
            scores = self.scorers.rank(edit, request, windows, notes)
        scores = scores[: request.n]
        order = [score.index for score in scores] if scores else list(range(request.n))
        kept = edit.windows[0].kept
        if save_steps is not None:
            write_animation(animation(edit, windows, request), save_steps)
        edit.on_progress(Progress(stage="rank", step=1, total=1))
        parts = [window.inputs for window in edit.windows]
        size = parts[0].picture.size
        chosen = [made[order] for made in windows]
        return EditResult(
            images=Composed(partial(put_back, parts, request=request), chosen, size),
            layers=Composed(partial(layer, parts), chosen, size),
            seeds=[request.seed + kept[i] for i in order],
            scores=[score.as_dict() for score in scores],
            timings=edit.clock.seconds,
            request=request.model_copy(update={"size": request.size and size}),
            mask=Image.fromarray(parts[0].levels),
            notes=[
                *size_notes(request.size, size),
                *edit.backbone.notes,
                *notes,
                *speed_notes(edit),
                *text_notes(edit, request),
                *background_notes(request),
            ],
            facts=facts(edit, self.device, self.dtype, self._held.options),
        )


def edit(image: Any, mask: Any = None, prompt: str = "", **options: Any) -> EditResult:
    """Edit a picture: only what lies under the mask changes, or its margins (`task="outpaint", expand=(64, 0, 64, 0)`).

    Args:
        image: Path or PIL image.
        mask: Path or PIL image, white = edit; None if `box=(x, y, width, height)` is given instead, or to outpaint.
        prompt: What should appear under the mask; other tasks than "edit" and "shape" can do without.
        options: Fields of `EditRequest`, the method's own options, and arguments of `Editor`.

    Returns:
        EditResult, images best first.

    Raises:
        InputError, BackboneError, ResourceError: See `sfumato.errors`.
    """
    names = inspect.signature(Editor).parameters
    editor = Editor(**{name: options.pop(name) for name in names if name in options})
    return editor.edit(image=image, mask=mask, prompt=prompt, **options)
