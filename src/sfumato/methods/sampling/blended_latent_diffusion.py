"""Blended Latent Diffusion (Avrahami, Fried, Lischinski, SIGGRAPH 2023, arXiv:2206.02779).

A text-to-image latent diffusion model denoises the whole latent image; at every step, what lies outside the mask is replaced by
the source image, noised to the level of the step. The model thus always sees the true surroundings and continues them.

Algorithm 1 writes z_bg ~ noise(z_init, t) beside z_fg ~ denoise(z_t, d, t), which leaves open whether the source gets the level
before or after the step. The three published scripts answer in two ways, and differ in their start and their end as well;
`Options` holds these choices, and PRESETS the combinations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from sfumato.errors import OptionError
from sfumato.methods.base import FLOW_FAMILIES, START_OPTIONS, TEXT_OPTIONS, EditTask, MethodCard, Watch
from sfumato.methods.blending import blend, check_finite
from sfumato.methods.sampling.differential_diffusion import mask_schedule

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.backbones.base import Backbone
    from sfumato.noise import Level, NoiseStream
    from sfumato.solvers import Solver


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the paper leaves open and the published scripts decide differently. The defaults are the aligned form.

    Args:
        order: Put the source around the latents after the solver step ("post") or before the model's call ("pre").
        background_level: With "post": the level the latents have reached ("next"), or the one they have left ("current", one step
            too noisy: visible in the last steps as grain). With "pre" there is one level only, the latents' own.
        background_noise: New noise in every step, or the noise the latents started from. With fixed noise the background follows
            the trajectory a deterministic solver would take; multistep solvers need it.
        share_noise: Whether all predictions get the same background noise. The starting noise is each one's own in any case.
        init: Start from the noised source (with the fill or scribble under the mask), or from noise alone, at any level.
        final: After the last step put around the latents the clean source, the source at that step's level, or nothing.
        posterior_sample: Whether the source is encoded as a sample from the autoencoder's posterior, each prediction's its own,
            not its mean. Read by the editor, which encodes.
        timestep_spacing, steps_offset, set_alpha_to_one: Scheduler settings, in diffusers' terms.
        dilation_kernels: Sides in latent cells of the square kernels of progressive mask shrinking, largest first.
        defaults: Values of EditRequest that belong to the preset, for fields left None.

    Raises:
        OptionError: option-contradiction.
    """

    order: Literal["post", "pre"] = "post"
    background_level: Literal["next", "current"] = "next"
    background_noise: Literal["fresh", "fixed"] = "fixed"
    share_noise: bool = False
    init: Literal["source", "noise"] = "source"
    final: Literal["clean", "noisy", "none"] = "clean"
    posterior_sample: bool = False
    timestep_spacing: Literal["trailing", "leading", "linspace"] = "trailing"
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    dilation_kernels: tuple[int, ...] = (7, 5, 3)
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.order == "pre" and (self.background_level == "next" or self.final == "noisy"):
            raise OptionError(
                "With order='pre' the source is put in at the latents' own level: use background_level='current' and "
                "final='clean' or 'none'.",
                code="option-contradiction",
            )

    @property
    def schedule(self) -> dict[str, Any]:
        """The settings that `make_solver` takes as overrides."""
        return {key: getattr(self, key) for key in ("timestep_spacing", "steps_offset", "set_alpha_to_one")}


PRESETS: dict[str, Options] = {
    # Step, then the source at the level reached, the clean source at the end. Steps, guidance and start are the model family's.
    "default": Options(),
    # Algorithm 1 to the letter, "t" taken as the level of the model's call, on the sampler and guidance of the paper's own model.
    # The paper's k is not recorded; a quarter of the steps is skipped, as in the later scripts.
    "paper": Options(
        background_level="current",
        background_noise="fresh",
        final="noisy",
        posterior_sample=True,
        timestep_spacing="leading",
        steps_offset=1,
        set_alpha_to_one=False,
        defaults={"scheduler": "ddim", "steps": 50, "guidance_scale": 5.0, "start_fraction": 0.25},
    ),
    # text_editing_LDM.py: the source at the latents' own level before every call, nothing after the last.
    "official-ldm": Options(
        order="pre",
        background_level="current",
        background_noise="fresh",
        share_noise=True,
        final="none",
        posterior_sample=True,
        timestep_spacing="leading",
        steps_offset=1,
        set_alpha_to_one=False,
        defaults={"scheduler": "ddim", "steps": 50, "guidance_scale": 5.0, "start_fraction": 0.0},
    ),
    # text_editing_SD2.py: starts from noise alone, so a scribble has no effect; its last model call (t = 0) changes nothing.
    "official-sd2": Options(
        background_level="current",
        background_noise="fresh",
        init="noise",
        final="noisy",
        timestep_spacing="leading",
        set_alpha_to_one=False,
        defaults={"scheduler": "ddim", "steps": 50, "guidance_scale": 7.5, "start_fraction": 0.25},
    ),
    # text_editing_SDXL.py: as SD2, but from the noised source and in sigmas.
    "official-sdxl": Options(
        background_level="current",
        background_noise="fresh",
        final="noisy",
        timestep_spacing="leading",
        steps_offset=1,
        defaults={"scheduler": "euler", "steps": 50, "guidance_scale": 5.0, "start_fraction": 0.25},
    ),
}


def run(backbone: Backbone, task: EditTask, watch: Watch, noise: NoiseStream | None = None) -> Tensor:
    """Edit one batch of predictions (Algorithm 1; its symbols stand beside the lines).

    Multistep solvers remember earlier predictions, so for them the prediction, too, is tied to the source outside the mask.

    Args:
        backbone: The model.
        task: What to do; `task.options` is an `Options`.
        watch: Called after each step with the prediction of the clean latents, the source around it.
        noise: Where all noise comes from; by default one generator per prediction, seeded with `task.seeds`.

    Returns:
        (B, C, h, w) clean scaled latents, float32.

    Raises:
        OptionError: scheduler-unknown, steps-too-many, option-contradiction.
        BackboneError: numerics.
    """
    from sfumato.masks.latent import shrink_schedule
    from sfumato.noise import NoiseStream
    from sfumato.solvers import make_solver

    options: Options = task.options
    solver = make_solver(
        task.scheduler,
        backbone.scheduler_config,
        backbone.prediction_type,
        task.steps,
        task.start_fraction,
        task.start_sigma,
        {**options.schedule, **task.schedule},
    )
    _check_compatible(options, solver)
    total = solver.steps - solver.start
    source, start, mask = (tensor.to(backbone.device).float() for tensor in (task.source, task.start, task.mask))  # z_init, m
    masks = shrink_schedule(mask, total, options.dilation_kernels) if task.shrink else [mask] * total  # mask shrinking
    masks = mask_schedule(masks)  # soft masks; of a hard one this is the mask itself
    background = _Background(source, noise or NoiseStream(task.seeds, source.shape[1:], backbone.device), options)
    latents = background.start(blend(start, source, masks[0]), solver.before[solver.start])  # z_k ~ noise(z_init, k)

    for done, mask in enumerate(masks, 1):
        i = solver.start + done - 1  # t from k to 0
        if options.order == "pre":
            latents = blend(latents, background.at(solver.before[i]), mask)
        shown = solver.scale_input(latents, i)
        output = backbone.predict(shown, solver.timesteps[i], task.conditioning, task.guidance_scale)
        if solver.multistep:
            output = blend(output, solver.output_for(source, i, latents), mask)
        latents, clean = solver.step(output, i, latents, background.noise)  # z_fg ~ denoise(z_t, d, t)
        level = _level_after(options, solver, i)
        if level is not None:
            latents = blend(latents, background.at(level), mask)  # z_t = z_fg m + noise(z_init, t) (1 - m)
        check_finite(latents, backbone, i, solver.steps)
        watch(done, total, blend(clean, source, mask))
    return latents


class _Background:
    """The source at any level: what the edited area is surrounded with."""

    def __init__(self, source: Tensor, noise: NoiseStream, options: Options) -> None:
        self.noise = noise
        self._source = source
        self._options = options
        self._eps = noise.draw()  # (B, C, h, w)

    def start(self, clean: Tensor, level: Level) -> Tensor:
        """Starting latents (B, C, h, w): `clean` (1 or B, C, h, w) at the level, or noise of the level's standard deviation."""
        from sfumato.noise import noised

        return noised(clean, level, self._eps) if self._options.init == "source" else level.scale * self._eps

    def at(self, level: Level) -> Tensor:
        """The source at the level: (1, C, h, w) where it is one and clean or the noise is shared, else (B, C, h, w)."""
        from sfumato.noise import CLEAN, noised

        if level == CLEAN:
            return self._source
        if self._options.background_noise == "fixed":
            return noised(self._source, level, self._eps)
        return noised(self._source, level, self.noise.draw_shared() if self._options.share_noise else self.noise.draw())


def _level_after(options: Options, solver: Solver, step: int) -> Level | None:
    """Level of the source to put around the latents after a step; None for nothing."""
    from sfumato.noise import CLEAN

    if step == solver.steps - 1 and options.final != "noisy":
        return CLEAN if options.final == "clean" else None
    if options.order == "pre":
        return None
    return solver.after[step] if options.background_level == "next" else solver.before[step]


def _check_compatible(options: Options, solver: Solver) -> None:
    aligned = options.order == "post" and options.background_level == "next" and options.background_noise == "fixed"
    if solver.multistep and not aligned:
        raise OptionError(
            f"This preset changes the latents between steps in a way that {solver.name} cannot follow: "
            "choose the scheduler ddim, euler or lcm, or the default preset.",
            code="option-contradiction",
        )


CARD = MethodCard(
    name="blended-latent-diffusion",
    kind="sampling",
    title="Blended Latent Diffusion",
    paper="Avrahami, Fried, Lischinski: Blended Latent Diffusion, SIGGRAPH 2023, arXiv:2206.02779",
    needs=("embedded", "embedded-fast", "sd1", "sd2", "sdxl", "ldm", *FLOW_FAMILIES),
    options=(*TEXT_OPTIONS, *START_OPTIONS, "scheduler", "shrink", "soft_mask"),
    presets=PRESETS,
    run=run,
)
