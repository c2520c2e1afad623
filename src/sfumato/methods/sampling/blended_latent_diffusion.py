"""Blended Latent Diffusion (Avrahami, Fried, Lischinski, SIGGRAPH 2023, arXiv:2206.02779, section 4.1, Algorithm 1).

A text-to-image latent diffusion model denoises the whole latent image; at every step, what lies outside the mask is replaced by
the source image, noised to the level of the step. The model thus always sees the true surroundings and continues them.

Algorithm 1 writes z_bg ~ noise(z_init, t) beside z_fg ~ denoise(z_t, d, t), which leaves open whether the source gets the level
before or after the step. The three published scripts answer in two ways, and differ in their start and their end as well;
`Options` holds these choices, and PRESETS the combinations.

Where the rest of the paper is: progressive mask shrinking (section 4.3) in `masks/schedules.py`; background reconstruction
(section 4.2) in `background/`; prediction ranking in `ranking.py`. The solver's step is DDIM (arXiv:2010.02502, equation 12) or
another of `noise/solvers.py`; noising is DDPM's q(x_t | x_0) (arXiv:2006.11239, equation 4) in `noise/levels.py`.

The source may also be noised with the noise that the model itself predicts: DInG (ICLR 2026, arXiv:2512.18365), its delayed form
of one call a step. Drawn noise knows nothing of what the model has made, so that more steps do not bring the result nearer to the
conditional distribution; the model's own noise does.
"""

from typing import Any, Literal

from torch import Tensor

from sfumato.backbones.base import Traits
from sfumato.denoising.base import Model
from sfumato.errors import OptionError
from sfumato.masks.latent import dilate
from sfumato.masks.schedules import mask_schedule, shrink_schedule
from sfumato.methods.base import EditTask, MethodOptions, Preset, Sampling, Watch, option
from sfumato.methods.blending import blend, check_finite, inputs, plan_steps
from sfumato.methods.conditioning import text_pair
from sfumato.noise.levels import CLEAN, Level, noised
from sfumato.noise.plan import Plan, Step
from sfumato.noise.solvers import Solver
from sfumato.noise.stochastic import Renewal, renewed, renewed_share
from sfumato.noise.stream import NoiseStream


class Options(MethodOptions):
    """What the paper leaves open and the published scripts decide differently. The defaults are the aligned form.

    Args:
        order: Put the source around the latents after the solver step ("post") or before the model's call ("pre").
        background_level: With "post": the level the latents have reached ("next"), or the one they have left ("current", one step
            too noisy: visible in the last steps as grain). With "pre" there is one level only, the latents' own.
        background_noise: New noise in every step, the noise the latents started from, or the noise that the model predicts, with
            guidance. With fixed noise the background follows the trajectory a deterministic solver would take. With own noise
            it is as if the predicted clean latents were replaced by the source, and the predicted noise kept. Multistep
            solvers need one of the two.
        eta, renewal: How much of its noise a step draws anew, and by which rule (`noise/stochastic.py`). For solvers that neither
            remember nor draw.
        share_noise: Whether all predictions get the same new background noise. The starting noise is each one's own in any case.
        init: Start from the noised source (with the fill or scribble under the mask), or from noise alone, at any level.
        final: After the last step put around the latents the clean source, the source at that step's level, or nothing.
        timestep_spacing, steps_offset, set_alpha_to_one: Scheduler settings, in diffusers' terms.
        dilation_kernels: Sides in latent cells of the square kernels of progressive mask shrinking, largest first.

    Raises:
        OptionError: option-contradiction.
    """

    order: Literal["post", "pre"] = "post"
    background_level: Literal["next", "current"] = "next"
    background_noise: Literal["fresh", "fixed", "own"] = option(
        "fixed", "Noise of the source outside the mask: new in every step, that of the start, or the model's own prediction."
    )
    eta: float = option(0.0, "Draw part of the noise anew in every step; 0 draws none.", ge=0, le=1)
    renewal: Renewal = option("square", "Which part eta 1 draws anew: DDPM's, or DInG's by the level.")
    share_noise: bool = False
    init: Literal["source", "noise"] = "source"
    final: Literal["clean", "noisy", "none"] = "clean"
    timestep_spacing: Literal["trailing", "leading", "linspace"] = "trailing"
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    dilation_kernels: tuple[int, ...] = (7, 5, 3)

    def model_post_init(self, context: Any) -> None:
        """Refuse what contradicts itself."""
        if self.order == "pre" and (self.background_level == "next" or self.final == "noisy"):
            raise OptionError(
                "With order='pre' the source is put in at the latents' own level: use background_level='current' and "
                "final='clean' or 'none'.",
                code="option-contradiction",
            )

    @property
    def known_background(self) -> bool:
        """See `MethodOptions`."""
        return (self.order, self.background_level, self.background_noise, self.init) == ("post", "next", "fixed", "source")

    def widest(self, mask: Tensor, shrink: bool) -> Tensor:
        """See `MethodOptions`: progressive mask shrinking begins with the most dilated mask."""
        return dilate(mask, max(self.dilation_kernels, default=1)) if shrink else mask

    @property
    def schedule(self) -> dict[str, Any]:
        """Its scheduler settings."""
        return {key: getattr(self, key) for key in ("timestep_spacing", "steps_offset", "set_alpha_to_one")}


PRESETS: dict[str, Preset[Options]] = {
    # Step, then the source at the level reached, the clean source at the end. Steps, guidance and start are the model family's.
    "default": Preset(options=Options()),
    # DInG with one call a step; the paper takes 100 steps and a guidance scale of 2.
    "ding": Preset(options=Options(background_noise="own", eta=1.0)),
    # Algorithm 1 to the letter, "t" taken as the level of the model's call, on the sampler and guidance of the paper's own model.
    # The paper's k is not recorded; a quarter of the steps is skipped, as in the later scripts.
    "paper": Preset(
        options=Options(
            background_level="current",
            background_noise="fresh",
            final="noisy",
            posterior_sample=True,
            timestep_spacing="leading",
            steps_offset=1,
            set_alpha_to_one=False,
        ),
        defaults={"scheduler": "ddim", "steps": 50, "guidance_scale": 5.0, "start_fraction": 0.25},
    ),
    # text_editing_LDM.py: the source at the latents' own level before every call, nothing after the last.
    "official-ldm": Preset(
        options=Options(
            order="pre",
            background_level="current",
            background_noise="fresh",
            share_noise=True,
            final="none",
            posterior_sample=True,
            timestep_spacing="leading",
            steps_offset=1,
            set_alpha_to_one=False,
        ),
        defaults={"scheduler": "ddim", "steps": 50, "guidance_scale": 5.0, "start_fraction": 0.0},
    ),
    # text_editing_SD2.py: starts from noise alone, so a scribble has no effect; its last model call (t = 0) changes nothing.
    "official-sd2": Preset(
        options=Options(
            background_level="current",
            background_noise="fresh",
            init="noise",
            final="noisy",
            timestep_spacing="leading",
            set_alpha_to_one=False,
        ),
        defaults={"scheduler": "ddim", "steps": 50, "guidance_scale": 7.5, "start_fraction": 0.25},
    ),
    # text_editing_SDXL.py: as SD2, but from the noised source and in sigmas.
    "official-sdxl": Preset(
        options=Options(
            background_level="current",
            background_noise="fresh",
            final="noisy",
            timestep_spacing="leading",
            steps_offset=1,
        ),
        defaults={"scheduler": "euler", "steps": 50, "guidance_scale": 5.0, "start_fraction": 0.25},
    ),
}


def plan(model: Traits, sampling: Sampling, options: Options) -> Plan:
    """Plan a run.

    Raises:
        OptionError: scheduler-unknown, steps-too-many, option-contradiction.
    """
    made = plan_steps(model, sampling, options.schedule)
    solver = made.solver
    aligned = options.order == "post" and options.background_level == "next" and options.background_noise != "fresh"
    if solver.multistep and not aligned:
        raise OptionError(
            f"This preset, or background_noise=fresh, changes the latents between steps in a way that {solver.name} cannot "
            "follow: choose the scheduler ddim, euler or lcm, or the default preset with fixed or own noise.",
            code="option-contradiction",
        )
    if options.eta and (solver.multistep or solver.draws):
        raise OptionError(
            f"eta={options.eta:g} draws noise anew after every step, and {solver.name} "
            f"{'remembers its earlier steps' if solver.multistep else 'draws noise itself'}: "
            "choose the scheduler ddim or euler, or eta=0.",
            code="option-contradiction",
        )
    return made


condition = text_pair


def run(model: Model, task: EditTask[Options, Plan], watch: Watch, noise: NoiseStream | None = None) -> Tensor:
    """Edit one batch of predictions (Algorithm 1; its symbols stand beside the lines).

    Multistep solvers remember earlier predictions, so for them the prediction, too, is tied to the source outside the mask.

    Args:
        model: The model.
        task: What to do.
        watch: Called after each step with the prediction of the clean latents, the source around it.
        noise: Where all noise comes from; by default one generator per prediction, seeded with `task.seeds`.

    Returns:
        (B, C, h, w) clean scaled latents, float32.

    Raises:
        BackboneError: numerics.
    """
    options, solver = task.options, Solver(task.plan)
    steps = task.plan.run
    source, start, mask, noise = inputs(task, model.traits.device, noise)  # z_init, its fill, m
    masks = shrink_schedule(mask, len(steps), options.dilation_kernels) if task.shrink else [mask] * len(steps)
    masks = mask_schedule(masks)  # soft masks; of a hard one this is the mask itself
    background = _Background(source, noise, options)
    latents = background.start(blend(start, source, masks[0]), steps[0].before)  # z_k ~ noise(z_init, k)

    for done, (step, m) in enumerate(zip(steps, masks, strict=True), 1):  # t from k to 0
        if options.order == "pre":
            latents = blend(latents, background.at(step.before), m)
        output = model(solver.scale_input(latents, step), step).prediction
        eps = solver.predicted_noise(output, step, latents)
        background.follow(eps)
        if task.plan.solver.multistep:
            output = blend(output, solver.output_for(source, step, latents), m)
        latents, clean = solver.step(output, step, latents, background.noise)  # z_fg ~ denoise(z_t, d, t)
        latents = renewed(latents, eps, step, renewed_share(step, options.renewal, options.eta), background.noise)
        level = _level_after(options, step, last=done == len(steps))
        if level is not None:
            latents = blend(latents, background.at(level), m)  # z_t = z_fg m + noise(z_init, t) (1 - m)
        check_finite(latents, model.traits, step.index, len(task.plan.steps))
        watch(done, len(steps), blend(clean, source, m))
    return latents


class _Background:
    """The noised source z_bg, which surrounds the edited area."""

    def __init__(self, source: Tensor, noise: NoiseStream, options: Options) -> None:
        self.noise = noise
        self._source = source
        self._options = options
        self._eps = noise.draw()  # (B, C, h, w)

    def start(self, clean: Tensor, level: Level) -> Tensor:
        """Starting latents (B, C, h, w): `clean` (1|B, C, h, w) at the level, or noise of the level's standard deviation."""
        return noised(clean, level, self._eps) if self._options.init == "source" else level.scale * self._eps

    def follow(self, eps: Tensor) -> None:
        """Take over the noise (B, C, h, w) that the model predicts, if the source is to have the model's own."""
        if self._options.background_noise == "own":
            self._eps = eps

    def at(self, level: Level) -> Tensor:
        """The source at the level: as it leads where it is clean or the noise is shared, else (B, C, h, w)."""
        if level == CLEAN:
            return self._source
        if self._options.background_noise != "fresh":
            return noised(self._source, level, self._eps)
        return noised(self._source, level, self.noise.draw_shared() if self._options.share_noise else self.noise.draw())


def _level_after(options: Options, step: Step, *, last: bool) -> Level | None:
    """Level of the source to put around the latents after a step; None for nothing."""
    if last and options.final != "noisy":
        return CLEAN if options.final == "clean" else None
    if options.order == "pre":
        return None
    return step.after if options.background_level == "next" else step.before
