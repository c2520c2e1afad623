"""Registry of the protocols on a user's own data: the paper's, BrushBench's and EditBench's."""

from pathlib import Path
from typing import Any

from sfumato.bench import brushbench, editbench, paper
from sfumato.bench.measuring import Instruments
from sfumato.bench.runner import Plan


def prepare(
    name: str,
    data: Path,
    *,
    limit: int | None = None,
    predictions: int | None = None,
    seed: int = 0,
    classifier: str | None = None,
    prompts: str | None = None,
) -> tuple[Plan, Instruments, str]:
    """Examples, instruments and one sentence about a protocol.

    Args:
        name: paper, brushbench or editbench.
        data: Folder of the data.
        limit: Only so many examples.
        predictions: Per edit; the protocol's own number by default.
        seed: As in `Plan`.
        classifier: Of the paper's protocol: folder or cached id.
        prompts: Of EditBench: full, mask-simple or mask-rich.

    Raises:
        OptionError: data-invalid: the folder does not hold what the protocol needs.
        ModelNotFound: The paper's protocol has no classifier.
    """
    shared: dict[str, Any] = {"limit": limit, "seed": seed}
    if name == "paper":
        return paper.prepare(data, classifier or paper.CLASSIFIER, predictions=predictions or paper.PREDICTIONS, **shared)
    if name == "brushbench":
        return brushbench.prepare(data, predictions=predictions or 1, **shared)
    return editbench.prepare(data, prompts or editbench.PROMPTS[0], predictions=predictions or 1, **shared)
