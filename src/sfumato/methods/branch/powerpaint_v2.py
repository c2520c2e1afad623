"""PowerPaint v2 (Zhuang et al., ECCV 2024, arXiv:2312.03594, and their code of 2024): a BrushNet that is told the task.

    eps(z_t, t, text)_i = UNet(z_t, t, text)_i + w Z_i(branch([z_t, E(x masked), m], t, c)_i)
    c = f T(A) + (1 - f) T(B)

is BrushNet's equation (`brushnet.py`) with a branch that keeps its attention and attends to c: what the task says (A and B, the
learned words `P_ctxt`, `P_shape`, `P_obj` alone), read by the branch's own text encoder T, and mixed by the fitting degree f. The
unconditional branch of guidance has the task's negative prompts, mixed alike. The user's words go to the base alone, with "empty
scene" behind them where nothing is to be drawn. So guidance acts by words through the base, and by tasks through the branch.

The loop is BrushNet's. The network and its loading: `backbones/powerpaint_v2.py`. What tasks say: `text/powerpaint.py`.
"""

from dataclasses import replace
from functools import partial

from sfumato.backbones.base import Backbone
from sfumato.denoising.base import Pair
from sfumato.methods.base import EditInputs, Preset
from sfumato.methods.branch import brushnet
from sfumato.methods.conditioning import brushnet_channels, text_pair
from sfumato.methods.task_prompts import TaskOptions, task_states
from sfumato.text.powerpaint import Around


class Options(brushnet.Options, TaskOptions):
    """BrushNet's, and the fitting degree."""


_FROM_NOISE = {"start_fraction": 0.0}

PRESETS: dict[str, Preset[Options]] = {
    # Steps and guidance are the model family's.
    "default": Preset(options=Options(), defaults=_FROM_NOISE),
    # The authors' demo, which returns the decoded picture as it is.
    "official": Preset(
        options=Options(blend=False, posterior_sample=True, timestep_spacing="linspace", steps_offset=1, set_alpha_to_one=False),
        defaults={"scheduler": "unipc", "steps": 45, "guidance_scale": 7.5, "background": "none", **_FROM_NOISE},
    ),
}

plan, run = brushnet.plan, brushnet.run


def condition(models: Backbone, edit: EditInputs[Options]) -> Pair:
    """The prompts for the base; the task, masked picture and mask for the branch.

    Raises:
        OptionError: option-contradiction: a fitting degree for another task than shape.
    """
    tasks = models.branch_tasks
    assert tasks is not None
    states = task_states(tasks, edit, models.traits, words=False)
    told = replace(edit, texts=edit.texts.around(tasks.words.base.get(edit.task, Around())))
    encode = partial(models.autoencoder.encode, generator=edit.generator)
    channels = brushnet_channels(encode, edit.pixels, edit.mask_pixels)
    return edit.options.controlled(text_pair(models, told), channels, states)
