"""Region mode of flow-matching transformers: the tokens around the mask, and keys and values of the others.

Only attention reads more than one token, so the network is run on the tokens of the text and on those of the picture that the
mask touches; in every attention the keys and values of the other tokens are added, kept from a pass of the whole source at the
same noise level (KV-Edit, ICCV 2025). The text's own tokens are computed in both.
"""

import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sfumato.accel.region.store import Kept
from sfumato.backbones.flow import TokenSites
from sfumato.backbones.hooks import Hook, hooked
from sfumato.backbones.packing import PATCH
from sfumato.errors import Unsupported


class TokenFeatures:
    """A transformer of which only some tokens are run. It is given whole latents; see `Features`.

    Args:
        transformer: The network.
        sites: Where its tokens are.
        mask: (1|B, 1, h, w), above 0 where anything may change: tokens of 2x2 cells that it touches are run.
    """

    def __init__(self, transformer: Any, sites: TokenSites, mask: Tensor) -> None:
        self.transformer, self.sites = transformer, sites
        touched = F.max_pool2d((mask > 0).float(), PATCH).amax(0).flatten() > 0
        self.chosen, self.others = (places.nonzero().flatten() for places in (touched, ~touched))
        self._cells = touched.view(1, 1, mask.shape[-2] // PATCH, -1).repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)

    @property
    def key(self) -> Hashable:
        """See `Features`."""
        return weakref.ref(self.transformer), tuple(self._cells.shape), tuple(self.chosen.tolist())

    @property
    def share(self) -> float:
        """Share of the picture's tokens that is run."""
        return len(self.chosen) / (len(self.chosen) + len(self.others))

    def cropped(self, x: Tensor) -> Tensor:
        """All of the latents: tokens are left out where they have been made."""
        return x

    def placed(self, made: Tensor, around: Tensor) -> Tensor:
        """`made` on the cells of the tokens that are run, `around` elsewhere."""
        return torch.where(self._cells.to(made.device), made, around)

    @contextmanager
    def recording(self) -> Iterator[list[Kept]]:
        """Context manager of a pass of all tokens; gives the list that it fills."""
        mode = _Recording(self.others, len(self.chosen) + len(self.others), self.sites.text_first)
        with mode:
            yield mode.kept
        if not mode.kept:
            raise Unsupported(
                "Region mode reads keys and values from torch's scaled_dot_product_attention, which this model does not use: "
                "remove its own attention backend, or edit without region."
            )

    @contextmanager
    def replaying(self, kept: Sequence[Kept], rows: Tensor | None) -> Iterator[None]:
        """Context manager of a pass of the chosen tokens; see `UNetFeatures.replaying`."""
        with hooked(self._hooks()), _Replaying(kept, rows):
            yield

    def _hooks(self) -> list[Hook]:
        """Leave the other tokens out behind the embedder, and put their places back behind the last layer."""
        chosen, count = self.chosen, len(self.chosen) + len(self.others)
        sites, network = self.sites, self.transformer
        rotated = False

        def leave_out(_module: nn.Module, _inputs: Any, tokens: Tensor) -> Tensor:
            return tokens[:, chosen.to(tokens.device)]

        def rotate(_module: nn.Module, _inputs: Any, angles: Sequence[Tensor]) -> Sequence[Tensor] | None:
            nonlocal rotated
            if rotated:  # FLUX.2 has a second call for the text
                return None
            rotated, text = True, len(angles[0]) - count
            places = torch.cat([torch.arange(text), chosen.cpu() + text]).to(angles[0].device)
            return tuple(part[places] if i < sites.rotated else part for i, part in enumerate(angles))

        def put_back(_module: nn.Module, _inputs: Any, tokens: Tensor) -> Tensor:
            whole = tokens.new_zeros(len(tokens), count, tokens.shape[-1])
            return whole.index_copy(1, chosen.to(tokens.device), tokens)

        hooks: list[Hook] = [(getattr(network, sites.embedder).register_forward_hook, leave_out, {})]
        if sites.rotary is not None:
            hooks.append((getattr(network, sites.rotary).register_forward_hook, rotate, {}))
        return [*hooks, (network.proj_out.register_forward_hook, put_back, {})]


class _Attention(TorchFunctionMode):
    """Intercepts attention, whose keys and values are (B, heads, tokens, d)."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return self.attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def attention(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        """An attention."""
        raise NotImplementedError


class _Recording(_Attention):
    """Keeps keys and values of the other tokens.

    Args:
        others: Their places among those of the picture.
        count: Tokens of the picture.
        text_first: Whether the text's come before them.
    """

    def __init__(self, others: Tensor, count: int, text_first: bool) -> None:
        super().__init__()
        self.kept: list[Kept] = []
        self._others, self._count, self._text_first = others, count, text_first

    def attention(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        places = self._others.to(key.device) + (key.shape[2] - self._count if self._text_first else 0)
        self.kept.append((key[:, :, places], value[:, :, places]))
        return F.scaled_dot_product_attention(query, key, value, **options)


class _Replaying(_Attention):
    """Adds what was kept."""

    def __init__(self, kept: Sequence[Kept], rows: Tensor | None) -> None:
        super().__init__()
        self._kept, self._rows = iter(kept), rows

    def attention(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        keys, values = (part if self._rows is None else part[self._rows] for part in next(self._kept))
        return F.scaled_dot_product_attention(query, torch.cat([key, keys], 2), torch.cat([value, values], 2), **options)
