"""CLIP (Radford et al., arXiv:2103.00020): embeds pictures and text; for ranking, guidance and text match."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.utils import cached_file

from sfumato.errors import ModelNotFound, OptionError, UnsafeCheckpoint, Unsupported
from sfumato.perception.open_clip import OpenCLIPScorer
from sfumato.perception.preprocessing import fit
from sfumato.text.pieces import embed_long

EMBEDDED = Path(__file__).parents[1] / "embedded" / "weights" / "ranker"
BATCH_SIZE = 32


class Scorer(Protocol):
    """A model that embeds pictures and text in one space.

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
        from transformers import AutoConfig, AutoTokenizer, CLIPModel  # noqa: PLC0415, slow to import

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
        return OpenCLIPScorer(architecture, pretrained, device)
    return CLIPScorer(name, device)


def cosines(scorer: Scorer, text: Tensor, pictures: NDArray[np.uint8], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Cosine of each picture, black where not `inside`, with the prompt's vector; (n,)."""
    cosines = []
    for start in range(0, len(pictures), BATCH_SIZE):
        masked = pictures[start : start + BATCH_SIZE] * inside[..., None]
        vectors = scorer.embed_images(torch.from_numpy(masked).permute(0, 3, 1, 2).float() / 255)
        cosines.append((vectors.cpu().double() @ text.cpu().double()).numpy())
    return np.concatenate(cosines).round(6)  # the float32 model's last digits depend on a picture's place in the batch
