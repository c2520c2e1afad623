"""Textual inversion (Gal et al., arXiv:2208.01618): learned token embeddings, loaded from files."""

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from sfumato.backbones.checkpoints import PICKLE_SUFFIXES, check_file
from sfumato.errors import BackboneError, ModelNotFound, OptionError, Unsupported
from sfumato.text.chunks import Embedding

SUFFIXES = (".safetensors", *PICKLE_SUFFIXES)
MOST_VECTORS = 75  # what one chunk holds
_PAIRS = (("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1"))  # what SDXL's two encoders are called
_NAMELESS = frozenset({"emb_params", "*", *(name for pair in _PAIRS for name in pair)})


def parse_embedding(text: str) -> tuple[Path, str | None]:
    """FILE or FILE:TOKEN, where the last colon counts if what is before it ends as a file of weights does."""
    file, colon, token = text.rpartition(":")
    if colon and token and Path(file).suffix.lower() in SUFFIXES:
        return Path(file).expanduser(), token
    return Path(text).expanduser(), None


def read_embeddings(given: Sequence[str], widths: Sequence[int], *, allow_pickle: bool = False) -> tuple[Embedding, ...]:
    """Read files of diffusers', the web UI's and kohya's formats.

    Args:
        given: Each FILE or FILE:TOKEN; one that is given twice counts once. Without a token, the file's stem stands for it, and
            the name in the file if it has one.
        widths: Of the vectors that each of the model's text encoders reads.
        allow_pickle: Whether pickles are read too, with torch's `weights_only`.

    Raises:
        ModelNotFound: If a file is not there.
        UnsafeCheckpoint: If a file is a pickle and they are not allowed.
        BackboneError: If a file is damaged or holds no embedding.
        Unsupported: If the vectors are of another width, or too many.
        OptionError: If one word stands for two files.
    """
    embeddings = tuple(_read(text, widths, allow_pickle) for text in dict.fromkeys(given))
    owners: dict[str, Path] = {}
    for embedding in embeddings:
        for word in {word.lower() for word in embedding.words}:
            if word in owners:
                raise OptionError(
                    f"'{word}' stands for both '{owners[word]}' and '{embedding.path}'; give one of them another word, as in "
                    "FILE:TOKEN.",
                    code="option-embedding",
                )
            owners[word] = embedding.path
    return embeddings


def _read(text: str, widths: Sequence[int], allow_pickle: bool) -> Embedding:
    path, token = parse_embedding(text)
    if not path.is_file():
        raise ModelNotFound(f"There is no embedding file '{path}'; give FILE or FILE:TOKEN.")
    check_file(path, allow_pickle=allow_pickle)
    name, tensors = _tensors(path)
    vectors = tuple(tensor.float().reshape(-1, tensor.shape[-1]) for tensor in _of_encoders(path, tensors, len(widths)))
    found = [vector.shape[-1] for vector in vectors]
    if found != list(widths):
        raise Unsupported(
            f"The vectors of '{path}' are {_list(found)} wide and this model reads {_list(widths)}, so it was made for another "
            "family (768: Stable Diffusion 1.x, 1024: 2.x, 768 and 1280: XL); use one for this model."
        )
    if not 0 < len(vectors[0]) <= MOST_VECTORS or len({len(vector) for vector in vectors}) > 1:
        counts = _list([len(vector) for vector in vectors])
        raise Unsupported(
            f"'{path}' holds {counts} vectors; an embedding has from 1 to {MOST_VECTORS}, the same for each encoder."
        )
    if not all(vector.isfinite().all() for vector in vectors):
        raise BackboneError(f"'{path}' holds numbers that are not finite; fetch it again.")
    words = (token,) if token else tuple(dict.fromkeys(word for word in (path.stem, name) if word))
    return Embedding(path, words, vectors)


def _tensors(path: Path) -> tuple[str | None, dict[str, Tensor]]:
    """The name that a file gives itself, and its tensors."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BackboneError(f"'{path}' cannot be read ({reason}); fetch it again, or use a .safetensors version.") from error
    if isinstance(content, Tensor):
        return None, {"*": content}
    name = None
    if isinstance(content, dict) and "string_to_param" in content:  # the web UI's pickles
        name, content = content.get("name"), dict(content["string_to_param"])
    tensors = {key: value for key, value in dict(content).items() if isinstance(value, Tensor) and value.ndim in (1, 2)}
    if len(tensors) == 1 and name is None:
        name = next((key for key in tensors if key not in _NAMELESS), None)
    return name, tensors


def _of_encoders(path: Path, tensors: dict[str, Tensor], encoders: int) -> list[Tensor]:
    """One tensor for each text encoder of the model, as far as the file distinguishes them."""
    pair = next((names for names in _PAIRS if set(names) <= tensors.keys()), None)
    if pair is not None:
        return [tensors[name] for name in pair]
    if len(tensors) != 1:
        what = f"{len(tensors)} tensors" if tensors else "none"
        raise BackboneError(
            f"'{path}' is not a textual inversion file: it should hold one tensor, or clip_l and clip_g, and holds {what}."
        )
    if encoders == 2:
        raise Unsupported(
            f"'{path}' holds vectors for one text encoder and this model has two; use a file made for SDXL (clip_l and clip_g)."
        )
    return list(tensors.values())


def _list(numbers: Sequence[int]) -> str:
    return " and ".join(map(str, numbers))
