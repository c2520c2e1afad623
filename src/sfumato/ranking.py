"""Ranking of the predictions of one edit, best first (Blended Latent Diffusion, arXiv:2206.02779, "Prediction ranking")."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sfumato.errors import OptionError
from sfumato.metrics.border import light_difference, seam_ratio
from sfumato.perception.clip import Scorer, cosines

REGION_WEIGHT, WHOLE_WEIGHT = 0.7, 0.3
# The smallest meaningful spread of each term, so that standardising does not amplify noise between equally good predictions.
COSINE_SPREAD = 0.005
SEAM_SPREAD = 0.05  # of the logarithm: 5 % steeper
LIGHT_SPREAD = 1.0  # one unit of CIE Lab is about the least that can be seen

Mode = Literal["both", "region", "whole", "none"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """How good one prediction is; higher is better.

    Args:
        index: Its place among the predictions as given.
        region: Cosine of the masked prediction and the prompt, in [-1, 1]; None if not asked for, or without a model.
        whole: Coherence of the whole picture, in standard deviations from the mean of this edit's predictions; None if not asked
            for.
        total: What the predictions are ordered by; comparable within one edit only, unless the mode is "region".
    """

    index: int
    region: float | None
    whole: float | None
    total: float

    def as_dict(self) -> dict[str, float]:
        """The parts that there are, by name."""
        parts = {"region": self.region, "whole": self.whole, "total": self.total}
        return {name: value for name, value in parts.items() if value is not None}


def rank(
    predictions: NDArray[np.uint8],
    source: NDArray[np.uint8],
    mask: NDArray[np.generic],
    prompt: str,
    scorer: Scorer | None,
    mode: Mode = "both",
) -> list[Score]:
    """Order the predictions of one edit, best first; equals keep their order.

    - `region` is the paper's ranking (Blended Latent Diffusion, arXiv:2206.02779, "Prediction ranking"): the cosine of CLIP's
      embeddings of the prompt and of the prediction with everything outside the mask black. It cannot see whether the whole
      picture looks right.
    - `whole` answers that with up to three terms, each standardised over this edit's predictions; their sum is divided by the
      square root of their number: (seam) minus the logarithm of `measure.seam_ratio`, 0 if the border is no steeper than the
      source's; (light) minus `light_difference`; (context) the cosine of the prompt and the whole picture, left out without
      a scorer. Likeness to the source is not among them on purpose: the prediction that changes nothing would win.
    - `both` is 0.7 of the standardised region and 0.3 of the whole: the prompt decides, unless a picture falls apart.
    - `none` keeps the order.

    Args:
        predictions: (n, H, W, 3) in 0..255: whole pictures, or the window around the mask of each.
        source: (H, W, 3) the same part of the picture that was edited.
        mask: (H, W); not 0 = edit.
        prompt: What was asked for.
        scorer: The model that compares pictures with the prompt, if there is one.
        mode: As above.

    Returns:
        n scores, best first.

    Raises:
        OptionError: If the mode is "region" and there is no scorer.
    """
    if mode == "region" and scorer is None:
        raise OptionError(
            "Ranking by region needs a ranking model, which compares pictures with the prompt; name one, or rank by whole."
        )
    n, inside = len(predictions), mask.astype(bool)
    text = scorer.embed_text([prompt])[0] if scorer is not None and mode != "none" else None
    region = whole = None
    total = np.zeros(n)
    if scorer is not None and text is not None and mode != "whole":
        total = region = cosines(scorer, text, predictions, inside)
    if mode in ("whole", "both"):
        context = None if scorer is None or text is None else cosines(scorer, text, predictions, np.ones_like(inside))
        total = whole = _whole(predictions, source, inside, context)
    if region is not None and whole is not None:
        total = REGION_WEIGHT * _standardise(region, COSINE_SPREAD) + WHOLE_WEIGHT * whole
    total = total.round(9)  # sums over another order of the predictions differ in the last digits
    order = sorted(range(n), key=lambda i: (-total[i], i))
    return [Score(index=i, region=_at(region, i), whole=_at(whole, i), total=float(total[i])) for i in order]


def _at(values: NDArray[np.float64] | None, i: int) -> float | None:
    return None if values is None else float(values[i])


def _whole(
    pictures: NDArray[np.uint8], source: NDArray[np.uint8], inside: NDArray[np.bool_], context: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    seam = np.array([-max(0.0, math.log(seam_ratio(picture, source, inside))) for picture in pictures])
    light = np.array([-light_difference(picture, inside) for picture in pictures])
    terms = [_standardise(seam, SEAM_SPREAD), _standardise(light, LIGHT_SPREAD)]
    if context is not None:
        terms.append(_standardise(context, COSINE_SPREAD))
    return np.asarray(np.sum(terms, axis=0) / math.sqrt(len(terms)))


def _standardise(values: NDArray[np.float64], least_spread: float) -> NDArray[np.float64]:
    return np.asarray((values - values.mean()) / max(float(values.std()), least_spread))
