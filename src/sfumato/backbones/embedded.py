"""Backend of the embedded model: a small Stable Diffusion with a closed vocabulary of whole words."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from sfumato.backbones import hub
from sfumato.backbones.base import Conditioning
from sfumato.backbones.checkpoints import read_json
from sfumato.backbones.stable_diffusion import StableDiffusion, text_pipeline
from sfumato.embedded import WINDOW
from sfumato.text.limits import TextReader

FAMILIES = {"FlowMatchEulerDiscreteScheduler": "embedded-flow", "LCMScheduler": "embedded-fast"}  # others: "embedded"
GRAIN_SEED = 0  # one for every picture, as of the grain of one camera


class Embedded(StableDiffusion):
    """A UNet on a PatchAutoencoder's latents, conditioned by a CLIP text encoder over whole words."""

    context = WINDOW

    @classmethod
    def from_folder(
        cls, folder: Path, *, name: str, device: torch.device, dtype: torch.dtype, base: Path | None = None
    ) -> "Embedded":
        """Load the subfolders `unet`, `vae`, `text_encoder`, `tokenizer` and `scheduler` of `folder` (diffusers' format).

        The scheduler says what the model is: FlowMatchEulerDiscreteScheduler a flow-matching one, with 1000 s as timestep,
        LCMScheduler a distilled one. Parts that are not in `folder`, such as the autoencoder, are those of `base`, by default of
        the embedded model. With `adapter.safetensors` in `folder` the UNet is changed by it.

        Raises:
            BackboneError: adapter-mismatch.
        """
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
        from transformers import CLIPTextModel, PreTrainedTokenizerFast

        from sfumato.embedded import adapter
        from sfumato.embedded.autoencoder import PatchAutoencoder

        def home(subfolder: str) -> Path:
            return folder / subfolder if (folder / subfolder).is_dir() else (base or hub.WEIGHTS) / subfolder

        def part(kind: Any, subfolder: str, dtype: torch.dtype = dtype) -> Any:
            return kind.from_pretrained(home(subfolder), use_safetensors=True, local_files_only=True, dtype=dtype).to(device)

        def make_unet() -> Any:
            change = folder / adapter.FILE
            if not change.is_file():
                return part(UNet2DConditionModel, "unet")
            unet = part(UNet2DConditionModel, "unet", torch.float32)
            adapter.merge(unet, change, adapter.base_digest(home("unet").parent))
            return torch.nn.Module.to(unet, dtype)  # diffusers' own warns of parts kept in float32, of which there are none

        tokenizer = PreTrainedTokenizerFast.from_pretrained(home("tokenizer"), local_files_only=True)
        text_parts = SimpleNamespace(text_encoder=part(CLIPTextModel, "text_encoder"), tokenizer=tokenizer)
        scheduler_config = read_json(home("scheduler") / "scheduler_config.json")
        family = FAMILIES.get(scheduler_config["_class_name"], "embedded")
        return cls(
            text_pipeline(text_parts),
            name=name,
            family=family,
            unet=make_unet(),
            vae=part(PatchAutoencoder, "vae"),
            scheduler_config=scheduler_config | ({"prediction_type": "flow"} if family == "embedded-flow" else {}),
            device=device,
        )

    def _decoded(self, latents: Tensor) -> Tensor:
        """The grain that the autoencoder loses is synthesised, from the same noise for all pictures."""
        noise = torch.Generator().manual_seed(GRAIN_SEED)
        picture: Tensor = self.vae.picture(self.unscale(latents), noise)
        return picture.float()

    @torch.no_grad()
    def encode_prompt(self, prompt: str, negative_prompt: str, size: tuple[int, int]) -> Conditioning:
        """See `Backbone.encode_prompt`. Its captions are short: what is longer is cut, not read in chunks."""
        conditional, unconditional = self._text.encode_prompt(prompt, self.device, 1, True, negative_prompt)
        return Conditioning(states=torch.cat([unconditional, conditional]).to(self.dtype), extra={})

    def text_readers(self) -> list[TextReader]:
        """See `Backbone.text_readers`."""
        return [TextReader("the embedded model", self._text.tokenizer, self._text.tokenizer.model_max_length)]

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of the prompt that are outside the vocabulary, as the user wrote them, each once, in order."""
        tokenizer = self._text.tokenizer
        encoded = tokenizer(prompt, add_special_tokens=False, truncation=False, return_offsets_mapping=True, verbose=False)
        words = [
            prompt[start:end]
            for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
            if token == tokenizer.unk_token_id
        ]
        return list(dict.fromkeys(word for word in words if any(map(str.isalnum, word))))

    def known_words(self) -> list[str]:
        """The vocabulary in the order of its tokens, without special tokens and punctuation."""
        tokenizer = self._text.tokenizer
        words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        return [word for word, token in words if token not in tokenizer.all_special_ids and any(map(str.isalnum, word))]
