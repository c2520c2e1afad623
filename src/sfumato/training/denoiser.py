"""Training of the embedded denoiser and text encoder: v-prediction (arXiv:2202.00512), zero terminal SNR (2305.08891).

A thing of the world covers dozens of latent cells, which show its colour and shape through a lot of noise: the words are needed
only at the noisiest levels. So half of the training favours these, without the weights that usually favour the cleaner ones; the
other half favours the cleaner ones, which straighten outlines and carry the details of grounds and materials.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel, PreTrainedTokenizerFast

from sfumato.embedded.autoencoder import PatchAutoencoder
from sfumato.embedded.text import MAX_TOKENS, make_text_encoder, make_tokenizer
from sfumato.embedded.world.split import LEARNED
from sfumato.training.latents import LatentSet, Words, load_folder_latents, load_scene_latents
from sfumato.training.loop import OnProgress, Run
from sfumato.training.precision import half_precision
from sfumato.training.samples import write_sheet

CAPTION_DROPOUT = 0.1
GROUND_ALONE, MAIN_ALONE = 0.05, 0.5  # how often a caption names the ground of things alone, or of several things the main one
NOISE_SHIFTS = 2.0, 0.2  # of either half of the samples, how much more noisy levels are drawn: t = s u / (1 + (s - 1) u)
SURROUNDINGS_WEIGHT = 0.5  # how much an error away from the captioned thing counts, against 1 on it and around its outline


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a denoiser is, and how it is trained.

    Args:
        image: Side of the pictures in pixels.
        widths: Channels of the UNet from the latent grid inwards.
        layers: Residual blocks per level.
        batch: Samples per step and worker.
        lr: Peak learning rate.
    """

    image: int
    widths: tuple[int, int, int]
    layers: int
    batch: int
    lr: float


SIZES = {
    "small": Size(image=128, widths=(96, 144, 192), layers=1, batch=64, lr=1e-3),  # for two CPU cores
    "large": Size(image=256, widths=(160, 256, 384), layers=2, batch=256, lr=1e-3),  # for a GPU
}
LATENT_FACTOR = 8


def make_scheduler() -> DDIMScheduler:
    """The noise schedule of Stable Diffusion, with v prediction."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        rescale_betas_zero_snr=True,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )


class TextDenoiser(nn.Module):
    """UNet and text encoder as one module, so that one optimizer and one checkpoint hold both."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, channels: int, size: Size = SIZES["small"]) -> None:
        super().__init__()
        self.text: CLIPTextModel = make_text_encoder(tokenizer)
        self.unet = UNet2DConditionModel(
            sample_size=size.image // LATENT_FACTOR,
            in_channels=channels,
            out_channels=channels,
            layers_per_block=size.layers,
            block_out_channels=size.widths,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=self.text.config.hidden_size,
            attention_head_dim=(4, 4, 4),
            norm_num_groups=16,
            # the caption as a whole joins the time embedding: attention to single words takes far longer to form
            addition_embed_type="text",
            addition_embed_type_num_heads=4,
        )

    def forward(self, x: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """The network's answer to noisy latents (B, C, h, w) and tokens (B, L), of the shape of x."""
        states = self.text(tokens).last_hidden_state
        return self.unet(x, timesteps, states).sample


class Batches:
    """Random latents with fresh captions, of which some leave things out.

    What a caption leaves out counts for nothing in the loss. It stands in pictures that are edited too, outside the mask; a model
    that learnt to draw it would put more of its kind inside.
    """

    def __init__(self, data: LatentSet, tokenizer: PreTrainedTokenizerFast, batch_size: int, device: torch.device) -> None:
        self.data, self.tokenizer, self.batch_size, self.device = data, tokenizer, batch_size, device
        self.rng = np.random.default_rng()

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (B, C, h, w), weights of the loss (B, 1, h, w), tokens (B, T)."""
        index = self.rng.integers(0, len(self.data.words), self.batch_size)
        texts, names_main, names_others = zip(*(self._caption(self.data.words[i]) for i in index), strict=True)
        tokens = self.tokenizer(list(texts), padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
        x = self.data.latents[index].float().contiguous(memory_format=torch.channels_last)
        main, others = self.data.main[index].float(), self.data.others[index].float()
        named = [torch.tensor(names).view(-1, 1, 1, 1) for names in (names_main, names_others)]
        weights = loss_weights(main * named[0], main * ~named[0] + others * ~named[1])
        return x.to(self.device), weights.to(self.device), tokens.input_ids.to(self.device)

    def _caption(self, words: Words) -> tuple[str, bool, bool]:
        """A caption, and whether it names the main object and the others."""
        chance = self.rng.random()
        if chance < CAPTION_DROPOUT:
            return "", True, True
        if words.ground is not None and chance < CAPTION_DROPOUT + GROUND_ALONE:
            return words.ground(self.rng), False, False
        if words.main is not None and chance < CAPTION_DROPOUT + GROUND_ALONE + MAIN_ALONE:
            return words.main(self.rng), True, False
        return words.whole(self.rng), True, True


def loss_weights(named: Tensor, unnamed: Tensor) -> Tensor:
    """How much the error in each cell counts, (B, 1, h, w).

    Args:
        named: Fraction of each cell that the main object covers, (B, 1, h, w); 0 if the caption leaves it out.
        unnamed: The same of what the caption leaves out.
    """
    # the object and two cells around it: both sides of an outline define a shape
    near = F.max_pool2d(named, 5, stride=1, padding=2)
    place = SURROUNDINGS_WEIGHT + (1 - SURROUNDINGS_WEIGHT) * near
    return place * (F.max_pool2d(unnamed, 3, stride=1, padding=1) == 0)


def quick_attention(device: torch.device) -> AbstractContextManager[None]:
    """Plain matrix products on a CPU: its fused attention is slow backwards at a hundred tokens."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def random_timesteps(count: int, trained: int, device: torch.device) -> Tensor:
    """Timesteps (count,) int64 in [0, trained), the noisiest and the cleanest more often."""
    u, half = torch.rand(2, count, device=device)
    shift = torch.where(half < 0.5, *NOISE_SHIFTS)
    return (trained * shift * u / (1 + (shift - 1) * u)).long().clamp(max=trained - 1)


def velocity_loss(predict: Callable[[Tensor, Tensor], Tensor], scheduler: DDIMScheduler, x: Tensor, weights: Tensor) -> Tensor:
    """Squared error of the velocity at random noise levels, weighted by cell.

    Args:
        predict: Velocity of noisy latents (B, C, h, w) at timesteps (B,).
        scheduler: Noises them.
        x: Clean latents (B, C, h, w).
        weights: (B, 1, h, w).
    """
    noisy, timesteps, velocity = noised(scheduler, x)
    return weighted_error(predict(noisy, timesteps), velocity, weights)


def noised(scheduler: DDIMScheduler, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Clean latents (B, C, h, w) at random noise levels: noisy ones, their timesteps (B,), and the velocity."""
    noise = torch.randn_like(x)
    timesteps = random_timesteps(len(x), scheduler.config.num_train_timesteps, x.device)
    noisy = scheduler.add_noise(x, noise, timesteps).contiguous(memory_format=torch.channels_last)
    return noisy, timesteps, scheduler.get_velocity(x, noise, timesteps)


def weighted_error(predicted: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """Mean squared error of (B, C, h, w), weighted by cell (B, 1, h, w)."""
    return (weights * (predicted.float() - wanted) ** 2).mean() / weights.mean()


def diffusion_loss(net: Any, scheduler: DDIMScheduler, x: Tensor, weights: Tensor, tokens: Tensor) -> Tensor:
    """The velocity loss of a `TextDenoiser` told tokens (B, T)."""
    with half_precision(x.device), quick_attention(x.device):
        return velocity_loss(lambda noisy, timesteps: net(noisy, timesteps, tokens), scheduler, x, weights)


def start_from_weights(net: TextDenoiser, folder: Path) -> None:
    """Begin with the weights of a saved model; words that it did not know begin as they are.

    Args:
        net: Of the same size as what was saved.
        folder: With `unet`, `text_encoder` and `tokenizer`.
    """
    net.unet.load_state_dict({k: v.float() for k, v in load_file(folder / "unet/diffusion_pytorch_model.safetensors").items()})
    saved = load_file(folder / "text_encoder/model.safetensors")
    earlier = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer", local_files_only=True).get_vocab()
    state = net.text.state_dict()
    for name, weight in saved.items():
        if "token_embedding" in name:
            for word, row in make_tokenizer().get_vocab().items():
                if word in earlier:
                    state[name][row] = weight[earlier[word]].float()
        elif "position_embedding.weight" in name:
            state[name][: len(weight)] = weight.float()
        elif state[name].shape == weight.shape:
            state[name] = weight.to(state[name].dtype)
    net.text.load_state_dict(state)


def train(
    *,
    vae: Path,
    out: Path,
    minutes: float,
    scenes: Path | None = None,
    data: Path | None = None,
    size: Size = SIZES["small"],
    device: str = "cpu",
    cooldown: float = 0.3,
    lr: float | None = None,
    start_from: Path | None = None,
    on_progress: OnProgress = print,
) -> None:
    """Train on rendered scenes, or on a user's folder of pictures with captions.

    Args:
        vae: Folder of the autoencoder.
        out: Gets `checkpoint.pt`, sheets of samples, and the averaged weights in diffusers' format in `model`.
        minutes: Of this call.
        scenes, data: Rendered shards, or a folder of pictures (see `latents.load_folder_latents`).
        size: Architecture and batch.
        device: cpu or cuda.
        cooldown: Share of the minutes over which the learning rate falls.
        lr: Peak learning rate; the size's by default.
        start_from: Folder of a saved model to begin with, if there is no checkpoint.
        on_progress: See `loop.Run`.
    """
    latents = load_folder_latents(vae, data, size.image) if data else load_scene_latents(vae, scenes or out.parent / "scenes")
    tokenizer, place = make_tokenizer(), torch.device(device)
    net = TextDenoiser(tokenizer, latents.latents.shape[1], size)
    if start_from is not None:
        start_from_weights(net, start_from)
    net.to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def on_save(run: Run) -> None:
        export(net, vae, out / "model")
        write_sheet(out / "model", out / f"samples-{run.samples:08d}.png", place)

    run = Run(net, out / "checkpoint.pt", minutes, size.lr if lr is None else lr, cooldown, on_save, on_progress)
    network: Any = torch.compile(net) if place.type == "cuda" else net
    scheduler, batches = make_scheduler(), Batches(latents, tokenizer, size.batch, place)
    for _ in run.steps():
        run.update(diffusion_loss(network, scheduler, *batches.draw()), size.batch)


def export(net: TextDenoiser, vae_folder: Path, out: Path) -> None:
    """Write the weights as a diffusers folder, float16 safetensors."""
    loaded = PatchAutoencoder.from_pretrained(vae_folder)
    # rebuilt, because from_pretrained stores its folder in the configuration
    vae = PatchAutoencoder.from_config({key: value for key, value in loaded.config.items() if not key.startswith("_")})
    vae.load_state_dict(loaded.state_dict())
    tokenizer = make_tokenizer()
    copy = TextDenoiser(tokenizer, vae.config.latent_channels)
    copy.unet = UNet2DConditionModel.from_config(net.unet.config)
    copy.load_state_dict(net.state_dict())
    copy.unet.half().save_pretrained(out / "unet")
    copy.text.half().save_pretrained(out / "text_encoder")
    make_tokenizer(LEARNED).save_pretrained(out / "tokenizer")
    make_scheduler().save_pretrained(out / "scheduler")
    vae.half().save_pretrained(out / "vae")
