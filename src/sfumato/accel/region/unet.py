"""Region mode of UNets: a dense window, and around it the features that the network has of the source.

The network is run on the window alone. What its layers would read from outside the window is kept from a pass of the whole
source at the same noise level:

- 3x3 convolutions: the ring of cells around the window, instead of padding with zeros. A map of half the size holds the cells
  that the window touches;
- self-attention: keys and values of the places outside (queries come from the window), so that the context stays global;
- group normalisation: count, mean and sum of squared deviations outside, joined with those of the window (Chan, Golub and
  LeVeque, 1979), so that the statistics are those of the whole map.

All other layers act on each place alone. The result is that of the whole network if outside the window nothing differs from the
source; what is left out is the influence of the edit on features outside.

Layers are intercepted by a torch function mode, in the order of their calls: no module is changed, and other threads are not
affected.
"""

import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sfumato.accel.region.area import Area
from sfumato.accel.region.store import Kept
from sfumato.backbones.hooks import Hook, hooked
from sfumato.errors import Unsupported


class UNetFeatures:
    """A UNet2DConditionModel of which only a window is run.

    Args:
        unet: The network.
        area: The window.
    """

    def __init__(self, unet: Any, area: Area) -> None:
        self.unet, self.area = unet, area

    @property
    def key(self) -> Hashable:
        """See `Features`."""
        return weakref.ref(self.unet), self.area

    def cropped(self, x: Tensor) -> Tensor:
        """The window of (B, C, h, w)."""
        return self.area.of(x)

    def placed(self, made: Tensor, around: Tensor) -> Tensor:
        """(B, C, h, w) with what the network made of the window, and `around` it something else."""
        whole = around.clone()
        self.area.of(whole)[:] = made
        return whole

    @contextmanager
    def recording(self) -> Iterator[list[Kept]]:
        """Context manager of a pass of the whole map; gives the list that it fills."""
        mode = _Recording(self.area)
        with self._attending(mode), mode:
            yield mode.kept
        if mode.attended != mode.attentions:
            raise Unsupported(
                "Region mode reads keys and values from torch's scaled_dot_product_attention, which this model does not use: "
                "remove its attention slicing or its own attention processors, or edit without region."
            )

    @contextmanager
    def replaying(self, kept: Sequence[Kept], rows: Tensor | None) -> Iterator[None]:
        """Context manager of a pass of the window.

        Args:
            kept: What `recording` gave.
            rows: For each row of the pass, its row in `kept`; None if they are the same.
        """
        mode = _Replaying(self.area, kept, rows)
        with self._attending(mode), mode:
            yield

    @contextmanager
    def _attending(self, mode: "_Layers") -> Iterator[None]:
        """Say before each attention whether it is self-attention."""

        def told(_module: nn.Module, inputs: Sequence[Any], given: Mapping[str, Any]) -> None:
            other = given.get("encoder_hidden_states", inputs[1] if len(inputs) > 1 else None)
            mode.attends_itself = other is None
            mode.attentions += other is None

        attentions = [module for module in self.unet.modules() if isinstance(module, Attention)]
        hooks: list[Hook] = [(each.register_forward_pre_hook, told, {"with_kwargs": True}) for each in attentions]
        with hooked(hooks):
            yield


class _Convolution(NamedTuple):
    """Arguments of `conv2d`, as layers give them."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None = None
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1


class _Normalisation(NamedTuple):
    """Arguments of `group_norm`."""

    x: Tensor
    groups: int
    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 1e-5


class _Layers(TorchFunctionMode):
    """Intercepts the layers that read more than one place."""

    def __init__(self) -> None:
        super().__init__()
        self.attends_itself = False  # the next attention
        self.attentions = self.attended = 0  # self-attentions begun, and seen here

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.conv2d:
            given = _Convolution(*args, **kwargs)
            if given.weight.shape[2:] != (1, 1):
                return self.convolution(given, _ring(given))
        elif func is F.interpolate:
            return self.enlarged(*args, **kwargs)
        elif func is F.group_norm:
            return self.normalisation(_Normalisation(*args, **kwargs))
        elif func is F.scaled_dot_product_attention and self.attends_itself:
            self.attended += 1
            return self.attention(*args, **kwargs)
        return func(*args, **kwargs)

    def convolution(self, given: _Convolution, ring: int) -> Tensor:
        """A convolution that reads `ring` cells around each."""
        raise NotImplementedError

    def enlarged(self, x: Tensor, *given: Any, **options: Any) -> Tensor:
        """A map of twice the size, each cell repeated."""
        raise NotImplementedError

    def normalisation(self, given: _Normalisation) -> Tensor:
        """A group normalisation."""
        raise NotImplementedError

    def attention(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        """A self-attention; each (B, heads, places, d)."""
        raise NotImplementedError


def _ring(given: _Convolution) -> int:
    """Cells that a convolution reads around each.

    Raises:
        Unsupported: It does not pad both sides by half its kernel.
    """
    sizes, padding = tuple(given.weight.shape[2:]), tuple(torch.nn.modules.utils._pair(given.padding))
    dilated = tuple(torch.nn.modules.utils._pair(given.dilation)) != (1, 1)
    if dilated or sizes[0] != sizes[1] or padding != (sizes[0] // 2,) * 2 or not sizes[0] % 2:
        raise Unsupported(
            f"Region mode cannot run a convolution of {sizes} cells with a padding of {padding}: edit without region."
        )
    return sizes[0] // 2


def _strides(given: _Convolution) -> bool:
    """Whether a convolution halves the map."""
    return tuple(torch.nn.modules.utils._pair(given.stride)) == (2, 2)


def _edges(here: Area, given: _Convolution, ring: int) -> tuple[int, int]:
    """Cells that a convolution reads above the window and to its left: one more where it halves from an odd cell."""
    strides = _strides(given)
    return ring + (here.top % 2 if strides else 0), ring + (here.left % 2 if strides else 0)


class _Recording(_Layers):
    """Keeps what each layer reads outside the window."""

    def __init__(self, area: Area) -> None:
        super().__init__()
        self.area, self.kept = area, list[Kept]()
        self._here = area  # on the map that was last normalised
        self._outside: dict[tuple[int, int], Tensor] = {}

    def convolution(self, given: _Convolution, ring: int) -> Tensor:
        x, here = given.x, self.area.at((given.x.shape[-2], given.x.shape[-1]))
        above, before = _edges(here, given, ring)
        around = F.pad(x, (ring,) * 4)
        around = around[..., here.top + ring - above : here.bottom + 2 * ring, here.left + ring - before : here.right + 2 * ring]
        inside = around[..., above:-ring, :]
        parts = around[..., :above, :], around[..., -ring:, :], inside[..., :before], inside[..., -ring:]
        self.kept.append(tuple(part.contiguous() for part in parts))
        return F.conv2d(*given)

    def enlarged(self, x: Tensor, *given: Any, **options: Any) -> Tensor:
        return F.interpolate(x, *given, **options)

    def normalisation(self, given: _Normalisation) -> Tensor:
        x = given.x
        self._here = self.area.at((x.shape[-2], x.shape[-1]))
        grouped = x.float().unflatten(1, (given.groups, -1))
        places = self._places(self._here, x.device)
        count = len(places) * grouped.shape[2]
        outside = grouped.flatten(3)[..., places]
        mean = outside.mean((2, 3)) if count else grouped.new_zeros(grouped.shape[:2])
        deviation = (outside - mean[..., None, None]).square().sum((2, 3))
        self.kept.append((mean, deviation, mean.new_full(mean.shape, count)))
        return F.group_norm(*given)

    def attention(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        places = self._places(self._here, key.device)
        self.kept.append((key[:, :, places], value[:, :, places]))
        return F.scaled_dot_product_attention(query, key, value, **options)

    def _places(self, here: Area, device: torch.device) -> Tensor:
        """Flat indices of the places outside the window."""
        if here.size not in self._outside:
            outside = torch.ones(here.size, dtype=torch.bool)
            here.of(outside)[:] = False
            self._outside[here.size] = outside.flatten().nonzero().flatten().to(device)
        return self._outside[here.size]


class _Replaying(_Layers):
    """Joins to each layer's input what was kept."""

    def __init__(self, area: Area, kept: Sequence[Kept], rows: Tensor | None) -> None:
        super().__init__()
        self._kept, self._rows = iter(kept), rows
        self._maps = [area]  # the window on the maps of each size, down to the current one

    def _next(self) -> Kept:
        kept = next(self._kept)
        return kept if self._rows is None else tuple(part[self._rows] for part in kept)

    def convolution(self, given: _Convolution, ring: int) -> Tensor:
        here = self._maps[-1]
        above, before = _edges(here, given, ring)
        x = F.pad(given.x, (before, ring, above, ring))
        inside = x[..., above:-ring, :]
        x[..., :above, :], x[..., -ring:, :], inside[..., :before], inside[..., -ring:] = self._next()
        if _strides(given):
            self._maps.append(here.halved())
        return F.conv2d(*given._replace(x=x, padding=0))

    def enlarged(self, x: Tensor, *given: Any, **options: Any) -> Tensor:
        smaller, here = self._maps.pop(), self._maps[-1]
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        top, left = here.top - 2 * smaller.top, here.left - 2 * smaller.left
        return x[..., top : top + here.shape[0], left : left + here.shape[1]]

    def normalisation(self, given: _Normalisation) -> Tensor:
        mean, deviation, count = self._next()
        grouped = given.x.float().unflatten(1, (given.groups, -1))
        own = grouped[0, 0].numel()
        own_mean = grouped.mean((2, 3, 4))
        own_deviation = (grouped - own_mean[..., None, None, None]).square().sum((2, 3, 4))
        total, apart = count + own, own_mean - mean
        joint = mean + apart * (own / total)
        variance = (deviation + own_deviation + apart.square() * (count * own / total)) / total
        scale = (variance + given.eps).rsqrt()
        x = (grouped - joint[..., None, None, None]) * scale[..., None, None, None]
        x = x.flatten(1, 2)
        if given.weight is not None and given.bias is not None:
            x = x * given.weight.float()[:, None, None] + given.bias.float()[:, None, None]
        return x.to(given.x.dtype)

    def attention(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        keys, values = self._next()
        return F.scaled_dot_product_attention(query, torch.cat([key, keys], 2), torch.cat([value, values], 2), **options)
