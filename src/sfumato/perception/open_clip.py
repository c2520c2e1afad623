"""CLIP models of the optional package open_clip."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.errors import ResourceError, UnsafeCheckpoint
from sfumato.perception.preprocessing import fit
from sfumato.text.pieces import embed_long


class OpenCLIPScorer:
    """A CLIP of the open_clip package.

    Args:
        architecture: Its name there, such as ViT-B-16.
        pretrained: A tag, such as openai, or a .safetensors file.
        device: Where to run.

    Raises:
        ResourceError: If the package is not installed (code extra-missing).
        UnsafeCheckpoint: If `pretrained` is a file of another format.
    """

    def __init__(self, architecture: str, pretrained: str, device: str | torch.device = "cpu") -> None:
        try:
            import open_clip
        except ImportError as error:
            raise ResourceError(
                "Ranking with open_clip needs an optional package; install it with: pip install 'sfumato[open_clip]'",
                code="extra-missing",
            ) from error
        if Path(pretrained).is_file() and not pretrained.endswith(".safetensors"):
            raise UnsafeCheckpoint(f"The ranking model {pretrained} is pickled, which can run code; convert it to safetensors.")
        self.device = torch.device(device)
        self.model = open_clip.create_model(architecture, pretrained=pretrained, device=self.device).eval()
        self.tokenizer = open_clip.get_tokenizer(architecture)
        self.model.requires_grad_(False)
        visual = self.model.visual
        height, width = visual.image_size
        self.size, self.mean, self.std = (height, width), visual.image_mean, visual.image_std

    def features(self, standardised: Tensor) -> Tensor:
        """See `Scorer.features`."""
        return F.normalize(self.model.encode_image(standardised.to(self.device)), dim=-1)

    def embed_images(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1], any size, to unit vectors (B, D)."""
        with torch.inference_mode():
            return self.features(fit(images.to(self.device), self.size, self.mean, self.std))

    def embed_text(self, prompts: list[str]) -> Tensor:
        """Sentences to unit vectors (N, D); of one longer than the model reads, the mean direction of its pieces."""
        return embed_long(prompts, self._embed, self._fits)

    def _embed(self, texts: list[str]) -> Tensor:
        with torch.inference_mode():
            return F.normalize(self.model.encode_text(self.tokenizer(texts).to(self.device)), dim=-1)

    def _fits(self, text: str) -> bool:
        """The tokenizer cuts what is too long: then another word at the end changes nothing."""
        return not torch.equal(self.tokenizer([text]), self.tokenizer([f"{text} and"]))
