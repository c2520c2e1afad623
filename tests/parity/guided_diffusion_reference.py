"""OpenAI's UNets as plain functions of their flat state dicts: guided-diffusion (arXiv:2105.05233), GLIDE (arXiv:2112.10741)."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class Published:
    """A UNet of guided-diffusion, or of GLIDE, which reads a text.

    In GLIDE keys and values of the text come before those of the picture in every attention, and the text's vector is added to
    the embedding of the time.
    """

    def __init__(self, weights: dict[str, Tensor], architecture: Any) -> None:
        self.w, self.a = weights, architecture

    def norm(self, name: str, h: Tensor) -> Tensor:
        return F.group_norm(h, 32, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def conv(self, name: str, h: Tensor) -> Tensor:
        weight = self.w[f"{name}.weight"]
        return F.conv2d(h, weight, self.w[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def linear(self, name: str, h: Tensor) -> Tensor:
        return F.linear(h, self.w[f"{name}.weight"], self.w[f"{name}.bias"])

    def residual(self, name: str, h: Tensor, resample: Any = lambda y: y) -> Tensor:
        inner = self.conv(f"{name}.in_layers.2", resample(F.silu(self.norm(f"{name}.in_layers.0", h))))
        scale, shift = self.linear(f"{name}.emb_layers.1", F.silu(self.emb))[..., None, None].chunk(2, 1)
        inner = self.norm(f"{name}.out_layers.0", inner) * (1 + scale) + shift
        inner, h = self.conv(f"{name}.out_layers.3", F.silu(inner)), resample(h)
        skip = f"{name}.skip_connection"
        return inner + (self.conv(skip, h) if f"{skip}.weight" in self.w else h)

    def heads(self, name: str, h: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Of sequences (B, C, n), side by side within each head: (B, heads, channels, n) each."""
        made = F.conv1d(h, self.w[f"{name}.weight"], self.w[f"{name}.bias"])
        return made.unflatten(1, (-1, parts, self.a.head_channels)).unbind(2)

    def attention(self, name: str, h: Tensor) -> Tensor:
        if f"{name}.qkv.weight" not in self.w:
            return h
        q, k, v = self.heads(f"{name}.qkv", self.norm(f"{name}.norm", h).flatten(2), 3)
        if self.states is not None:
            own_k, own_v = self.heads(f"{name}.encoder_kv", self.states.mT, 2)
            k, v = torch.cat([own_k, k], -1), torch.cat([own_v, v], -1)
        mix = (torch.einsum("bhcq,bhck->bhqk", q, k) / math.sqrt(self.a.head_channels)).softmax(-1)
        joined = torch.einsum("bhqk,bhck->bhcq", mix, v).flatten(1, 2)
        return h + F.conv1d(joined, self.w[f"{name}.proj_out.weight"], self.w[f"{name}.proj_out.bias"]).view_as(h)

    def __call__(self, x: Tensor, t: float, states: Tensor | None = None, vector: Tensor | None = None) -> Tensor:
        half, last, stride = self.a.model_channels // 2, len(self.a.widths) - 1, self.a.num_res_blocks + 1
        angles = t * torch.exp(-math.log(10000) * torch.arange(half) / half)
        self.emb = self.linear("time_embed.0", torch.cat([angles.cos(), angles.sin()])[None])
        self.emb = self.linear("time_embed.2", F.silu(self.emb))
        self.states = None if states is None else states.expand(len(x), -1, -1)
        if vector is not None:
            self.emb = self.emb + vector
        h = self.conv("input_blocks.0.0", x)
        kept = [h]
        for i in range(1, stride * (last + 1)):
            if i % stride == 0:
                h = self.residual(f"input_blocks.{i}.0", h, lambda y: F.avg_pool2d(y, 2))
            else:
                h = self.attention(f"input_blocks.{i}.1", self.residual(f"input_blocks.{i}.0", h))
            kept.append(h)
        h = self.attention("middle_block.1", self.residual("middle_block.0", h))
        h = self.residual("middle_block.2", h)
        for i in range(stride * (last + 1)):
            block = f"output_blocks.{i}"
            h = self.attention(f"{block}.1", self.residual(f"{block}.0", torch.cat([h, kept.pop()], 1)))
            if i % stride == stride - 1 and i // stride < last:
                after = 2 if f"{block}.1.qkv.weight" in self.w else 1
                h = self.residual(f"{block}.{after}", h, lambda y: F.interpolate(y, scale_factor=2.0))
        return self.conv("out.2", F.silu(self.norm("out.0", h)))


def glide_text(w: dict[str, Tensor], ids: list[int]) -> tuple[Tensor, Tensor]:
    """GLIDE's text transformer: states (1, L, D) and vector (1, P) of tokens; behind them each place has its own padding."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    x = w["padding_embedding"].clone()
    for place, token in enumerate(ids[: len(x)]):
        x[place] = w["token_embedding.weight"][token] + w["positional_embedding"][place]
    for i in range(len({name.split(".")[2] for name in w if name.startswith("transformer.resblocks.")})):
        block = f"transformer.resblocks.{i}"
        qkv = linear(f"{block}.attn.c_qkv", norm(f"{block}.ln_1", x))
        q, k, v = qkv.view(len(x), -1, 3, 64).permute(2, 1, 0, 3)  # (heads, places, 64) each
        mix = (q @ k.mT / 8).softmax(-1)
        x = x + linear(f"{block}.attn.c_proj", (mix @ v).transpose(0, 1).flatten(1))
        inner = linear(f"{block}.mlp.c_fc", norm(f"{block}.ln_2", x))
        x = x + linear(f"{block}.mlp.c_proj", inner * (1 + torch.erf(inner / math.sqrt(2))) / 2)
    x = norm("final_ln", x)[None]
    return x, linear("transformer_proj", x[:, -1])
