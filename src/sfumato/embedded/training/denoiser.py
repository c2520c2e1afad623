"""Train the embedded denoiser and its text encoder together: v-prediction (arXiv:2202.00512), zero terminal SNR (2305.08891).

A thing of the world covers dozens of latent cells, which show its colour and shape through a lot of noise: the words are needed
only at the noisiest levels. So these are trained most, without the weights that usually favour the cleaner ones.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, PreTrainedTokenizerFast

from sfumato.embedded.autoencoder import PatchAutoencoder
from sfumato.embedded.text import MAX_TOKENS, make_text_encoder, make_tokenizer
from sfumato.embedded.training.latents import LatentSet, cache_latents, load_latents
from sfumato.embedded.training.loop import Run, progress, spawn, together, wait_for_all
from sfumato.embedded.world.captions import caption

SAMPLE_SIZE = 16  # latent cells a side
CAPTION_DROPOUT = 0.1
NOISE_SHIFT = 2.0  # how much more the noisy levels are drawn: t = s u / (1 + (s - 1) u)
SURROUNDINGS_WEIGHT = 0.5  # how much an error away from the captioned thing counts, against 1 on it and around its outline


def make_scheduler() -> DDIMScheduler:
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

    def __init__(self, tokenizer: PreTrainedTokenizerFast, channels: int, sample_size: int) -> None:
        super().__init__()
        self.text: CLIPTextModel = make_text_encoder(tokenizer)
        self.unet = UNet2DConditionModel(
            sample_size=sample_size,
            in_channels=channels,
            out_channels=channels,
            layers_per_block=1,
            block_out_channels=(96, 144, 192),
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
        states = self.text(tokens).last_hidden_state
        return self.unet(x, timesteps, states).sample


class Batches:
    """Random latents with fresh captions."""

    def __init__(self, data: LatentSet, tokenizer: PreTrainedTokenizerFast, batch_size: int) -> None:
        self.data, self.tokenizer, self.batch_size = data, tokenizer, batch_size
        self.rng = np.random.default_rng()

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Latents (B, C, h, w), cover of the main thing (B, 1, h, w), tokens (B, T)."""
        index = self.rng.integers(0, len(self.data.scenes), self.batch_size)
        texts = ["" if self.rng.random() < CAPTION_DROPOUT else caption(self.data.scenes[i], self.rng) for i in index]
        tokens = self.tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
        x = self.data.latents[index].float().contiguous(memory_format=torch.channels_last)
        return x, self.data.main[index].float(), tokens.input_ids


def diffusion_loss(net: TextDenoiser, scheduler: DDIMScheduler, x: Tensor, main: Tensor, tokens: Tensor) -> Tensor:
    """Squared error of the velocity; errors on the captioned thing and along its outline count more."""
    noise, u = torch.randn_like(x), torch.rand(len(x))
    trained = scheduler.config.num_train_timesteps
    timesteps = (trained * NOISE_SHIFT * u / (1 + (NOISE_SHIFT - 1) * u)).long().clamp(max=trained - 1)
    with torch.autocast("cpu", torch.bfloat16):
        predicted = net(scheduler.add_noise(x, noise, timesteps), timesteps, tokens).float()
    error = (predicted - scheduler.get_velocity(x, noise, timesteps)) ** 2
    near = F.max_pool2d(
        main, 5, stride=1, padding=2
    )  # the thing and two cells around it: shape is told by both sides of an outline
    place = SURROUNDINGS_WEIGHT + (1 - SURROUNDINGS_WEIGHT) * near
    return (place * error).mean() / place.mean()


def train(scenes: Path, vae_folder: Path, out: Path, minutes: float, batch_size: int, lr: float, cooldown: float) -> None:
    caches = cache_latents(vae_folder, scenes, *together())
    wait_for_all()
    data = load_latents(caches, scenes)
    tokenizer = make_tokenizer()
    net = TextDenoiser(tokenizer, data.latents.shape[1], SAMPLE_SIZE)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = Run(net, out / "checkpoint.pt", minutes, lr, cooldown)
    scheduler, batches, report = make_scheduler(), Batches(data, tokenizer, batch_size), progress(run)
    for _ in run.steps():
        loss = diffusion_loss(net, scheduler, *batches.draw())
        run.update(loss, batch_size)
        report(loss.item())


def export(checkpoint: Path, vae_folder: Path, out: Path) -> None:
    """Write the averaged weights as a diffusers folder, float16 safetensors."""
    loaded = PatchAutoencoder.from_pretrained(vae_folder)
    # built anew, because what from_pretrained gives remembers its folder in the configuration
    vae = PatchAutoencoder.from_config({key: value for key, value in loaded.config.items() if not key.startswith("_")})
    vae.load_state_dict(loaded.state_dict())
    tokenizer = make_tokenizer()
    net = TextDenoiser(tokenizer, vae.config.latent_channels, SAMPLE_SIZE)
    net.load_state_dict(torch.load(checkpoint, weights_only=True)["average"])
    net.unet.half().save_pretrained(out / "unet")
    net.text.half().save_pretrained(out / "text_encoder")
    tokenizer.save_pretrained(out / "tokenizer")
    make_scheduler().save_pretrained(out / "scheduler")
    vae.half().save_pretrained(out / "vae")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=Path, required=True)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--cooldown", type=float, default=0.3)
    parser.add_argument("--export", type=Path, help="only write the checkpoint's averaged weights to this folder")
    a = parser.parse_args()
    if a.export:
        export(a.out / "checkpoint.pt", a.vae, a.export)
    else:
        spawn(train, (a.scenes, a.vae, a.out, a.minutes, a.batch_size, a.lr, a.cooldown), a.workers, a.out)
