"""Text match: CLIP similarity of the edited region and the prompt, by the model that also ranks."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sfumato.perception.clip import Scorer, cosines


def text_match(scorer: Scorer, predictions: Sequence[NDArray[np.uint8]], mask: NDArray[np.bool_], prompt: str) -> list[float]:
    """Cosine of the prompt and of each prediction with all outside the mask black, in the order given.

    Args:
        scorer: A CLIP.
        predictions: (H, W, 3) each.
        mask: (H, W), true = edit.
        prompt: What was asked for.
    """
    text = scorer.embed_text([prompt])[0]
    return [float(value) for value in cosines(scorer, text, np.stack(predictions), mask)]
