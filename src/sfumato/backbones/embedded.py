"""Backend of the embedded model: a small Stable Diffusion with a closed vocabulary of whole words."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, PreTrainedTokenizerFast

from sfumato.backbones import hub
from sfumato.backbones.autoencoder import LatentAutoencoder, seen_by
from sfumato.backbones.base import Backbone, Seen, Text, TextEncoder
from sfumato.backbones.checkpoints import read_json
from sfumato.backbones.clip_text import text_pipeline
from sfumato.backbones.powerpaint import with_words
from sfumato.backbones.unet import UNet, unet_traits
from sfumato.embedded import WINDOW, adapter
from sfumato.embedded.autoencoder import PatchAutoencoder
from sfumato.text.clip import Encoder
from sfumato.text.limits import TextReader
from sfumato.text.powerpaint import PLACEHOLDERS, PLAIN, PLAIN_BASE, TaskText, TaskWords, as_embeddings

FAMILIES = {"FlowMatchEulerDiscreteScheduler": "embedded-flow", "LCMScheduler": "embedded-fast"}  # others: "embedded"
GRAIN_SEED = 0  # one for every picture, as of the grain of one camera


class EmbeddedAutoencoder(LatentAutoencoder):
    """A PatchAutoencoder; its pictures have grain."""

    def _decoded(self, latents: Tensor, seen: Seen | None) -> Tensor:
        """The grain that the autoencoder loses is synthesised, from the same noise for all pictures."""
        noise, code = torch.Generator().manual_seed(GRAIN_SEED), self.unscale(latents)
        picture: Tensor = self.vae.picture(code, noise, **seen_by(self.vae, seen, code))
        return picture.float()


class EmbeddedText(TextEncoder):
    """A CLIP text encoder over whole words.

    Args:
        tokenizer, text_encoder: transformers' PreTrainedTokenizerFast and CLIPTextModel; the latter is frozen, in place.
        device, dtype: Of the denoiser.
    """

    def __init__(self, tokenizer: Any, text_encoder: Any, device: torch.device, dtype: torch.dtype) -> None:
        text_encoder.eval().requires_grad_(False)
        self._pipe = text_pipeline(SimpleNamespace(tokenizer=tokenizer, text_encoder=text_encoder))
        self._tokenizer, self._device, self._dtype = tokenizer, device, dtype
        self.encoder: Encoder = Encoder(tokenizer, text_encoder, 0, False, device)  # for what has learned words

    @torch.no_grad()
    def encode(self, prompts: Sequence[str | None]) -> list[Text]:
        """See `TextEncoder.encode`. Its captions are short: what is longer is cut, not read in chunks."""
        encoded = [self._pipe.encode_prompt(prompt or "", self._device, 1, False)[0] for prompt in prompts]
        return [Text(states=states.to(self._dtype)) for states in encoded]

    def text_readers(self) -> list[TextReader]:
        """See `TextEncoder.text_readers`."""
        return [TextReader("the embedded model", self._tokenizer, self._tokenizer.model_max_length)]

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of the prompt that are outside the vocabulary, as the user wrote them, each once, in order."""
        encoded = self._tokenizer(prompt, add_special_tokens=False, truncation=False, return_offsets_mapping=True, verbose=False)
        words = [
            prompt[start:end]
            for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
            if token == self._tokenizer.unk_token_id
        ]
        return list(dict.fromkeys(word for word in words if any(map(str.isalnum, word))))

    def known_words(self) -> list[str]:
        """The vocabulary in the order of its tokens, without special tokens and punctuation."""
        words = sorted(self._tokenizer.get_vocab().items(), key=lambda item: item[1])
        return [word for word, token in words if token not in self._tokenizer.all_special_ids and any(map(str.isalnum, word))]


def task_text(change: Path, encoder: Encoder) -> TaskText | None:
    """The words for tasks that an adapter's file holds, read by the model's text encoder; None if it holds none."""
    learned = adapter.learned(change)
    if not set(PLACEHOLDERS) <= learned.keys():
        return None
    return TaskText(encoder, TaskWords(embeddings=as_embeddings(learned, change), prompts=PLAIN, base=PLAIN_BASE))


def from_folder(folder: Path, *, name: str, device: torch.device, dtype: torch.dtype, base: Path | None = None) -> Backbone:
    """Load the subfolders `unet`, `vae`, `text_encoder`, `tokenizer` and `scheduler` of `folder` (diffusers' format).

    The scheduler says what the model is: FlowMatchEulerDiscreteScheduler a flow-matching one, told 1000 s as timestep,
    LCMScheduler a distilled one. Parts that are not in `folder`, such as the autoencoder, are those of `base`, by default of
    the embedded model. With `adapter.safetensors` in `folder` the UNet is changed by it.

    Raises:
        BackboneError: adapter-mismatch.
    """

    def home(subfolder: str) -> Path:
        return folder / subfolder if (folder / subfolder).is_dir() else (base or hub.WEIGHTS) / subfolder

    def part(kind: Any, subfolder: str, dtype: torch.dtype = dtype) -> Any:
        return kind.from_pretrained(home(subfolder), use_safetensors=True, local_files_only=True, dtype=dtype).to(device)

    change = folder / adapter.FILE

    def make_unet() -> Any:
        if not change.is_file():
            return part(UNet2DConditionModel, "unet")
        unet = part(UNet2DConditionModel, "unet", torch.float32)
        adapter.merge(unet, change, adapter.base_digest(home("unet").parent))
        return torch.nn.Module.to(unet, dtype)  # diffusers' own warns of parts kept in float32, of which there are none

    config = read_json(home("scheduler") / "scheduler_config.json")
    family = FAMILIES.get(config["_class_name"], "embedded")
    if family == "embedded-flow":
        config |= {"prediction_type": "flow"}
    tokenizer = PreTrainedTokenizerFast.from_pretrained(home("tokenizer"), local_files_only=True)
    text_encoder = EmbeddedText(tokenizer, part(CLIPTextModel, "text_encoder"), device, dtype)
    unet = make_unet()
    autoencoder = EmbeddedAutoencoder(part(PatchAutoencoder, "vae"), name=name, device=device)
    traits = unet_traits(unet, autoencoder, name=name, family=family, scheduler_config=config, context=WINDOW)
    if change.is_file() and (tasks := task_text(change, text_encoder.encoder)) is not None:
        text_encoder.tasks, traits = tasks, with_words(traits, tasks.words)
    return Backbone(denoiser=UNet(unet, traits), autoencoder=autoencoder, text_encoder=text_encoder)
