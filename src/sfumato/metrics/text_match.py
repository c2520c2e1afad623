"""Text match: how well the edited region fits the prompt, by the model that also ranks."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sfumato import ranking


def text_match(
    scorer: ranking.Scorer, predictions: Sequence[NDArray[np.uint8]], mask: NDArray[np.bool_], prompt: str
) -> list[float]:
    """Cosine of the prompt and of each prediction with all outside the mask black, in the order given.

    Args:
        scorer: A CLIP.
        predictions: (H, W, 3) each.
        mask: (H, W), true = edit.
        prompt: What was asked for.
    """
    scores = ranking.rank(np.stack(predictions), predictions[0], mask, prompt, scorer, "region")
    by_place = {score.index: score.total for score in scores}
    return [by_place[i] for i in range(len(predictions))]
