"""Image quality and text alignment metrics of other benchmarks; those not installed are left out with a note."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sfumato.errors import ModelNotFound, ResourceError
from sfumato.metrics.diversity import Distance, PublishedLPIPS
from sfumato.metrics.text_match import text_match
from sfumato.perception import clip

CLIP = "openai/clip-vit-large-patch14"
AESTHETIC = "sa_0_4_vit_l_14_linear.pth"
IMAGE_REWARD = Path("ImageReward") / "ImageReward.pt"
HPS = ("xswu/HPSv2", "HPS_v2.1_compressed.pt")
EQUAL_DB, EQUAL_MSE = 1000.0, 1e-10  # as BrushBench reports equal pictures

Picture = NDArray[np.uint8]
Measure = Callable[[Picture, str], float]
"""A picture (H, W, 3) and a prompt to a number."""


def kept_error(picture: Picture, source: Picture, keep: NDArray[np.bool_]) -> tuple[float, float]:
    """BrushBench's squared error and PSNR of the kept part.

    The error is summed over the colours and divided by the number of kept pixels, so it is three times the mean of the elements,
    and the PSNR 4.8 dB below that of the mean.

    Returns:
        The squared error of values in [0, 1], and the PSNR in dB, 1000 for equal pictures.
    """
    difference = (picture[keep].astype(np.float64) - source[keep]) / 255
    square = float((difference**2).sum() / max(1, int(keep.sum())))
    return square, EQUAL_DB if square < EQUAL_MSE else -10 * float(np.log10(square))


def kept_lpips(distance: Distance, picture: Picture, source: Picture, keep: NDArray[np.bool_]) -> float:
    """LPIPS of both pictures with all else black."""
    first, second = (
        torch.from_numpy(image * keep[..., None]).permute(2, 0, 1)[None].float() / 127.5 - 1 for image in (picture, source)
    )
    return float(distance(first, second)[0])


def load_lpips() -> Distance:
    """The network that BrushBench uses.

    Raises:
        EditError: As `PublishedLPIPS`.
    """
    return PublishedLPIPS("squeeze")


def load_clip() -> clip.Scorer:
    """CLIP ViT-L/14.

    Raises:
        ModelNotFound: model-not-cached.
    """
    return clip.load_scorer(CLIP)


def clip_score(scorer: clip.Scorer, picture: Picture, prompt: str) -> float:
    """100 times the cosine of the whole picture and the prompt, at least 0."""
    return 100 * max(0.0, text_match(scorer, [picture], np.ones(picture.shape[:2], bool), prompt)[0])


def r_precision(scorer: clip.Scorer, picture: Picture, prompt: str, others: Sequence[str]) -> float:
    """1 if the picture fits its own prompt better than all others, else 0."""
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    texts = scorer.embed_text([prompt, *(other for other in others if other != prompt)])
    return float((scorer.embed_images(pixels) @ texts.T)[0].argmax() == 0)


def load_aesthetic(scorer: clip.Scorer | None, data: Path) -> Measure:
    """LAION's linear head on the unit CLIP ViT-L/14 vector of the picture.

    Raises:
        ModelNotFound: model-not-found: without that CLIP, or without the head in the data's folder or ~/.cache/emb_reader.
    """
    path = next((p for folder in (data, Path.home() / ".cache" / "emb_reader") if (p := folder / AESTHETIC).is_file()), None)
    if path is None or scorer is None:
        raise ModelNotFound(f"It needs {CLIP} and {AESTHETIC} in the data's folder or in ~/.cache/emb_reader.")
    head = torch.load(path, map_location="cpu", weights_only=True)
    weight, bias = head["weight"].float(), head["bias"].float()

    def measure(picture: Picture, prompt: str) -> float:
        vector = scorer.embed_images(torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255).cpu().float()
        return float((vector @ weight.T + bias)[0, 0])

    return measure


def load_image_reward() -> Measure:
    """ImageReward-v1.0 times 10, through its own package.

    Raises:
        ResourceError: extra-missing.
        ModelNotFound: model-not-cached.
    """
    if find_spec("ImageReward") is None:
        raise ResourceError("It needs: pip install image-reward", code="extra-missing")
    if not (Path.home() / ".cache" / IMAGE_REWARD).is_file():
        raise ModelNotFound(f"Its weights are not in ~/.cache/{IMAGE_REWARD}.", code="model-not-cached")
    import ImageReward

    model: Any = ImageReward.load("ImageReward-v1.0")
    return lambda picture, prompt: 10 * float(model.score(prompt, Image.fromarray(picture)))


def load_hps() -> Measure:
    """HPS v2.1 times 100, through its own package.

    Raises:
        ResourceError: extra-missing.
        ModelNotFound: model-not-cached.
    """
    from huggingface_hub import try_to_load_from_cache

    if find_spec("hpsv2") is None:
        raise ResourceError("It needs: pip install hpsv2", code="extra-missing")
    if not isinstance(try_to_load_from_cache(*HPS), str):
        raise ModelNotFound(f"Its weights, {HPS[1]} of {HPS[0]}, are not cached.", code="model-not-cached")
    import hpsv2

    return lambda picture, prompt: 100 * float(hpsv2.score(Image.fromarray(picture), prompt, hps_version="v2.1")[0])
