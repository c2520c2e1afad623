"""What methods with learned words for tasks share: the fitting degree, and the two prompts of a task, mixed."""

from typing import Any

from torch import Tensor

from sfumato.backbones.base import Traits
from sfumato.errors import OptionError
from sfumato.methods.base import EditInputs, MethodOptions, option
from sfumato.text.clip import Parts
from sfumato.text.powerpaint import Around, TaskText, mixed


class TaskOptions(MethodOptions):
    """How closely a thing takes the outline of the mask.

    Args:
        fitting: The fitting degree f of the task `shape`.
    """

    fitting: float = option(
        1.0, "How closely a thing takes the mask's outline in the task shape: 0.5 loosely, 0.95 closely, 1 fully.", ge=0, le=1
    )


def task_states(tasks: TaskText, edit: EditInputs[Any], model: Traits, *, words: bool) -> tuple[Tensor, Tensor]:
    """Text states of an edit's task, each (1, tokens, width): f T(A') + (1 - f) T(B'), and f T(A) + (1 - f) T(B).

    Args:
        tasks: The text encoder T, and what each task says: A and B around the prompt, A' and B' around the negative one.
        edit: Its options are `TaskOptions`.
        model: On whose device and in whose number format they will be.
        words: Whether the user's own words are read too.

    Raises:
        OptionError: option-contradiction, for a fitting degree of a task that mixes nothing.
    """
    said, fitting, texts = tasks.words.prompts[edit.task], edit.options.fitting, edit.texts
    if fitting != 1.0 and said.a == said.b:
        raise OptionError(
            f"fitting is for the task shape, and this is {edit.task}; leave one of them out.",
            code="option-contradiction",
        )

    def encoded(a: Around, b: Around, parts: Parts) -> Tensor:
        known = (parts, texts.embeddings, texts.clip_skip) if words else ()
        of_a, of_b = (tasks.encode(around, *known) for around in (a, b))
        return (of_a if a == b else mixed(of_a, of_b, fitting)).to(model.device, model.dtype)

    prompt, negative = texts.spans
    return encoded(said.negative_a, said.negative_b, negative), encoded(said.a, said.b, prompt)
