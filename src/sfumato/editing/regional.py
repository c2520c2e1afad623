"""Region mode of an edit: whether it can be, and the accelerator of a batch; see `sfumato.accel.region`."""

from typing import Any

from sfumato.accel.region.accelerator import Background, Features, Region, digest
from sfumato.accel.region.area import area_around
from sfumato.accel.region.store import FeatureStore
from sfumato.accel.region.tokens import TokenFeatures
from sfumato.accel.region.unet import UNetFeatures
from sfumato.accel.rows import LiveRows
from sfumato.backbones.base import Backbone, Denoiser
from sfumato.backbones.flow import FlowTransformer
from sfumato.backbones.unet import UNet
from sfumato.denoising.base import Pair
from sfumato.errors import OptionError, Unsupported
from sfumato.methods.base import EditTask, MethodCard, MethodOptions
from sfumato.noise.stream import NoiseStream
from sfumato.request import EditRequest

MARGIN = 2  # latent cells around the mask that UNets compute
MOST = 0.6  # share of the latents above which nothing is gained


def check_region(request: EditRequest, backbone: Backbone, card: MethodCard, options: MethodOptions) -> None:
    """Refuse region mode where it cannot be.

    Args:
        request: The edit.
        backbone: Its model.
        card, options: Its method.

    Raises:
        OptionError: option-contradiction: the method does not know the latents outside the mask before the run, or other options
            change its calls.
        Unsupported: It is not written for the model, or for control pictures.
    """
    if not request.region:
        return
    if not options.known_background:
        raise OptionError(
            f"region needs the noise around the mask to be fixed before the run, which {card.name} with these options does not "
            "do: use the method blended-latent-diffusion with its default preset, or leave region out.",
            code="option-contradiction",
        )
    if (request.step_cache or 1) > 1 or (request.candidates or 0) > request.n:
        raise OptionError(
            "Region mode keeps features of its own: leave step_cache and candidates out, or region.", code="option-contradiction"
        )
    if request.control:
        raise Unsupported("region computes no control pictures: leave them out, or leave region out.")
    denoiser = backbone.denoiser
    if not isinstance(denoiser, UNet) and (not isinstance(denoiser, FlowTransformer) or denoiser.sites is None):
        raise Unsupported(
            f"region cannot run {denoiser.traits.name}: it is written for the UNets of Stable Diffusion and the transformers of "
            "Stable Diffusion 3, FLUX and Qwen-Image; leave it out, or use one of these."
        )


def region_of(
    denoiser: Denoiser, task: EditTask[Any, Any], pair: Pair, rows: LiveRows, store: FeatureStore, start: float
) -> tuple[list[Region], str]:
    """The accelerator of a batch of one window in region mode, none where too much of the latents is edited; and a note.

    Args:
        denoiser: Of the model.
        task, pair: What the batch is sampled from.
        rows: Its rows.
        store: Keeps features between batches and edits.
        start: Fraction of the steps that is computed whole before.
    """
    features, share, kind = _features(denoiser, task)
    if share > MOST:
        return [], (
            f"Region mode was not used: {share:.0%} of the {kind} would have been computed, and above {MOST:.0%} little is "
            "gained. A larger window, such as whole, leaves more around the mask."
        )
    device = denoiser.traits.device
    source, given = task.source.to(device).float(), pair.unconditional
    text = () if given.text is None else (given.text.states, given.text.pooled)
    eps = NoiseStream(task.seeds, source.shape[1:], device).draw()
    known = Background(source=source, eps=eps, plan=task.plan)
    key = features.key, task.plan.run, task.seeds, digest(source, *text, *given.extras.values())
    steps = len(task.plan.run)
    whole = round(start * steps)
    region = Region(features, known, given, rows, store, key, whole)
    return [region], f"Region mode computed {share:.0%} of the {kind} in {steps - whole} of {steps} steps, which is approximate."


def _features(denoiser: Denoiser, task: EditTask[Any, Any]) -> tuple[Features, float, str]:
    """The network's features, the share of it that is computed, and what that is a share of."""
    mask = task.options.widest(task.mask, task.shrink)
    if isinstance(denoiser, UNet):
        area = area_around(mask, MARGIN)
        return UNetFeatures(denoiser.unet, area), area.share, "latents"
    assert isinstance(denoiser, FlowTransformer)
    assert denoiser.sites is not None
    tokens = TokenFeatures(denoiser.transformer, denoiser.sites, mask)
    return tokens, tokens.share, "picture's tokens"
