"""Ordering the predictions of one edit, best first."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sfumato.background.measure import light_difference, seam_ratio
from sfumato.errors import ModelNotFound, OptionError, UnsafeCheckpoint, Unsupported
from sfumato.text.pieces import embed_long

EMBEDDED = Path(__file__).parents[1] / "embedded" / "weights" / "ranker"
BATCH_SIZE = 32
REGION_WEIGHT, WHOLE_WEIGHT = 0.7, 0.3
# The smallest spread of each term that means anything: predictions that are all fine are not told apart by noise blown up.
COSINE_SPREAD = 0.005
SEAM_SPREAD = 0.05  # of the logarithm: 5 % steeper
LIGHT_SPREAD = 1.0  # one unit of CIE Lab is about the least that can be seen

Mode = Literal["both", "region", "whole", "none"]


class Scorer(Protocol):
    """A model that puts pictures and sentences into one space.

    Args:
        size: Height and width of the pictures it sees.
        mean, std: Of each colour, that it wants pictures standardised by.
    """

    size: tuple[int, int]
    mean: Sequence[float]
    std: Sequence[float]

    def features(self, standardised: Tensor) -> Tensor:
        """(B, 3, *size) standardised pictures to unit vectors (B, D), with gradients where they are enabled."""

    def embed_images(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1], any size, to unit vectors (B, D)."""

    def embed_text(self, prompts: list[str]) -> Tensor:
        """Sentences to unit vectors (N, D)."""


def standardise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(B, 3, H, W) in [0, 1] to mean 0 and deviation 1 of each colour, as a CLIP was trained on."""
    return (images - images.new_tensor(mean).view(3, 1, 1)) / images.new_tensor(std).view(3, 1, 1)


def fit(images: Tensor, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """The whole frame at the model's (height, width), standardised: stretched, not cropped, as the paper does."""
    return standardise(F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1), mean, std)


class CLIPScorer:
    """A CLIP in transformers' format: a folder or a cached hub id, safetensors only, float32.

    Args:
        name: Folder or hub id, holding a CLIPModel, its tokenizer and, unless CLIP's own mean and deviation hold,
            a preprocessor_config.json.
        device: Where to run.

    Raises:
        ModelNotFound: If it is not there (code model-not-cached).
        UnsafeCheckpoint: If the folder holds pickled weights only.
        Unsupported: If it is some other kind of model.
    """

    def __init__(self, name: str, device: str | torch.device = "cpu") -> None:
        from transformers import AutoConfig, AutoTokenizer, CLIPModel

        folder = Path(name)
        if folder.is_dir() and any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
            raise UnsafeCheckpoint(
                f"The ranking model {name} holds pickled weights, which can run code; convert it to safetensors."
            )
        try:
            kind = AutoConfig.from_pretrained(name, local_files_only=True).model_type
            if kind != "clip":
                raise Unsupported(f"The ranking model {name} is of type {kind!r}; name a CLIP model.")
            self.model = CLIPModel.from_pretrained(name, local_files_only=True, use_safetensors=True, dtype=torch.float32)
            self.tokenizer: Any = AutoTokenizer.from_pretrained(name, local_files_only=True)
        except OSError as error:
            raise ModelNotFound(
                f"The ranking model {name} is neither a complete folder nor cached; fetch it with: sfumato models pull {name}",
                code="model-not-cached",
            ) from error
        self.model.to(device).eval().requires_grad_(False)
        self.device = torch.device(device)
        self.mean, self.std = _statistics(name)
        side = self.model.config.vision_config.image_size
        self.size = (side, side)
        self._length = self.model.config.text_config.max_position_embeddings

    def features(self, standardised: Tensor) -> Tensor:
        """See `Scorer.features`."""
        return F.normalize(_pooled(self.model.get_image_features(pixel_values=standardised.to(self.device))), dim=-1)

    def embed_images(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1], any size, to unit vectors (B, D)."""
        with torch.inference_mode():
            return self.features(fit(images.to(self.device), self.size, self.mean, self.std))

    def embed_text(self, prompts: list[str]) -> Tensor:
        """Sentences to unit vectors (N, D); of one longer than the model reads, the mean direction of its pieces."""
        return embed_long(prompts, self._embed, lambda text: len(self.tokenizer(text, verbose=False).input_ids) <= self._length)

    def _embed(self, texts: list[str]) -> Tensor:
        options = {"padding": True, "truncation": True, "max_length": self._length, "return_tensors": "pt"}
        tokens = self.tokenizer(texts, **options).to(self.device)
        with torch.inference_mode():
            features = self.model.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
            return F.normalize(_pooled(features), dim=-1)


def _statistics(name: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of the pixels that a CLIP was trained on."""
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
    from transformers.utils import cached_file

    path = cached_file(name, "preprocessor_config.json", local_files_only=True, _raise_exceptions_for_missing_entries=False)
    settings = json.loads(Path(path).read_text()) if path else {}
    return settings.get("image_mean", OPENAI_CLIP_MEAN), settings.get("image_std", OPENAI_CLIP_STD)


def _pooled(features: Any) -> Any:
    """The projected vector, which transformers 5 wraps and 4 gives bare."""
    return features if isinstance(features, Tensor) else features.pooler_output


def load_scorer(name: str, device: str | torch.device = "cpu") -> Scorer:
    """Load a ranking model: `embedded`, `open_clip:ARCHITECTURE/TAG-or-file`, or a transformers CLIP (folder or cached id).

    Raises:
        OptionError: If an open_clip name lacks its second part.
        ModelNotFound, UnsafeCheckpoint, Unsupported, ResourceError: As the scorers do.
    """
    if name == "embedded":
        if not EMBEDDED.is_dir():
            raise ModelNotFound("The embedded ranking model is missing from this installation; install sfumato again.")
        return CLIPScorer(str(EMBEDDED), device)
    if name.startswith("open_clip:"):
        architecture, _, pretrained = name.removeprefix("open_clip:").partition("/")
        if not pretrained:
            raise OptionError(f"The ranking model {name!r} lacks its weights; write open_clip:ARCHITECTURE/TAG or .../FILE.")
        from sfumato.ranking.open_clip import OpenCLIPScorer

        return OpenCLIPScorer(architecture, pretrained, device)
    return CLIPScorer(name, device)


@dataclass(frozen=True, kw_only=True)
class Score:
    """How good one prediction is; higher is better.

    Args:
        index: Its place among the predictions as given.
        region: Cosine of the masked prediction and the prompt, in [-1, 1]; None if not asked for, or without a model.
        whole: How well the picture hangs together, in deviations from the mean of this edit's predictions; None if not asked for.
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

    - `region` is the paper's ranking (Blended Latent Diffusion, arXiv:2206.02779): the cosine of CLIP's embeddings of the prompt
      and of the prediction with everything outside the mask black. It cannot see whether the whole picture looks right.
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
        total = region = _cosines(scorer, text, predictions, inside)
    if mode in ("whole", "both"):
        context = None if scorer is None or text is None else _cosines(scorer, text, predictions, np.ones_like(inside))
        total = whole = _whole(predictions, source, inside, context)
    if region is not None and whole is not None:
        total = REGION_WEIGHT * _standardise(region, COSINE_SPREAD) + WHOLE_WEIGHT * whole
    total = total.round(9)  # sums over another order of the predictions differ in the last digits
    order = sorted(range(n), key=lambda i: (-total[i], i))
    return [Score(index=i, region=_at(region, i), whole=_at(whole, i), total=float(total[i])) for i in order]


def _at(values: NDArray[np.float64] | None, i: int) -> float | None:
    return None if values is None else float(values[i])


def _cosines(scorer: Scorer, text: Tensor, pictures: NDArray[np.uint8], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Cosine of each picture, black where not `inside`, with the prompt's vector; (n,)."""
    cosines = []
    for start in range(0, len(pictures), BATCH_SIZE):
        masked = pictures[start : start + BATCH_SIZE] * inside[..., None]
        vectors = scorer.embed_images(torch.from_numpy(masked).permute(0, 3, 1, 2).float() / 255)
        cosines.append((vectors.cpu().double() @ text.cpu().double()).numpy())
    return np.concatenate(cosines).round(6)  # the float32 model's last digits depend on a picture's place in the batch


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
