"""Where a model's weights are kept, and what fits: decided from sizes and free memory, before anything is loaded.

Weights are counted exactly. What the networks need besides is an estimate for one prediction at the model's native side, from the
shapes that their layers give (counted with bf16 networks of Stable Diffusion 1.5's, XL's and FLUX.1's configurations).
"""

from dataclasses import dataclass
from typing import Literal

from sfumato.backbones.sizes import Network, Sizes
from sfumato.errors import OUT_OF_MEMORY, OptionError, ResourceError

Mode = Literal["full", "offload", "sequential"]
MODES: tuple[Mode, ...] = ("full", "offload", "sequential")  # the quickest first
CHOICES = ("auto", *MODES)
BITS = {"int8": 8.0, "fp8": 8.0, "nf4": 4.5}
"""By `quantization`: bits of a packed weight; nf4 has a float32 scale for 64 weights."""

ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2}
GIBIBYTE = 2**30
RESERVE = GIBIBYTE // 2  # for the libraries' own work space; an assumption
ROWS = 2  # both branches of guidance
TENSORS = 25  # of width x cells that are alive at once in a denoiser: 16 (SDXL), 17 (FLUX.1), 25 (Stable Diffusion 1.5)
PIXEL_TENSORS = 6  # of width x pixels in an autoencoder: 5 when it encodes, 6 when it decodes
TEXT_TOKENS = 512


@dataclass(frozen=True, kw_only=True)
class Free:
    """Free bytes: of the device, and of main memory, which are the same on a CPU."""

    device: int
    main: int
    is_cpu: bool = False


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes that an edit needs on the device and in main memory."""

    device: int
    main: int

    def fits(self, free: Free) -> bool:
        """Whether there are as many."""
        return self.device <= free.device and self.main <= free.main


def check_choices(memory: str, quantization: str | None, *, compile: bool = False) -> None:
    """Refuse unknown values, and layer-by-layer placement of what cannot be moved so: packed weights, compiled blocks.

    Raises:
        OptionError: option-memory, option-quantization, option-contradiction.
    """
    if memory not in CHOICES:
        raise OptionError(f"Memory '{memory}' is unknown; choose from {', '.join(CHOICES)}.", code="option-memory")
    if quantization is not None and quantization not in BITS:
        raise OptionError(f"Quantization '{quantization}' is unknown; choose from {', '.join(BITS)}.", code="option-quantization")
    if memory == "sequential" and quantization is not None:
        raise OptionError(
            f"Weights in {quantization} are not moved layer by layer: leave --quantization out, or use --memory offload.",
            code="option-contradiction",
        )
    if memory == "sequential" and compile:
        raise OptionError(
            "Compiled blocks are not moved layer by layer: leave --compile out, or use --memory offload.",
            code="option-contradiction",
        )


def weight_bytes(network: Network, itemsize: int, quantization: str | None = None) -> int:
    """Bytes of a network's weights in a format of `itemsize` bytes."""
    if network.fixed_bytes is not None:
        return network.fixed_bytes
    packed = network.packed if quantization is not None else 0
    bits = BITS.get(quantization or "", 0.0)
    return int((network.elements - packed) * itemsize + packed * bits / 8)


def activation_bytes(network: Network, itemsize: int, side: int) -> int:
    """Estimated bytes, besides weights, of one prediction of `side` x `side` pixels."""
    pixels = side * side
    if network.role == "autoencoder":
        return PIXEL_TENSORS * network.width * pixels * itemsize
    if network.role == "denoiser":
        cells = pixels // 64 if network.name == "unet" else pixels // 256 + TEXT_TOKENS
        return TENSORS * network.width * cells * itemsize * ROWS
    return 0


def need(sizes: Sizes, mode: Mode, itemsize: int, quantization: str | None = None, *, is_cpu: bool = False) -> Need:
    """What an edit needs with weights kept in one of the three ways.

    In all of them the autoencoder, which is small, stays on the device.
    """
    whole = [weight_bytes(network, itemsize, quantization) for network in sizes.networks]
    work = [activation_bytes(network, itemsize, sizes.side) for network in sizes.networks]
    total, peak = sum(whole), max(work, default=0)
    if is_cpu:
        return Need(device=total + peak + RESERVE, main=total + peak + RESERVE)
    if mode == "full":
        return Need(device=total + peak + RESERVE, main=total)
    stays = turn = 0
    for network, weights, activations in zip(sizes.networks, whole, work, strict=True):
        if network.role == "autoencoder":
            stays, moved = stays + weights, 0
        else:
            moved = weights if mode == "offload" else network.largest * itemsize
        turn = max(turn, moved + activations)
    return Need(device=stays + turn + RESERVE, main=total)


def modes(sizes: Sizes, quantization: str | None) -> tuple[Mode, ...]:
    """The ways that are possible: packed weights are not moved layer by layer."""
    packed = quantization is not None or any(network.fixed_bytes is not None for network in sizes.networks)
    return MODES[:2] if packed else MODES


def choose(sizes: Sizes, free: Free, itemsize: int, quantization: str | None = None) -> Mode | None:
    """The quickest way that fits; None if none does."""
    if free.is_cpu:
        return "full" if need(sizes, "full", itemsize, quantization, is_cpu=True).fits(free) else None
    ways = modes(sizes, quantization)
    return next((mode for mode in ways if need(sizes, mode, itemsize, quantization).fits(free)), None)


def nothing_fits(model: str, sizes: Sizes, free: Free, dtype: str, quantization: str | None) -> ResourceError:
    """The error for a model that fits in no way, with a setting that would do if there is one."""
    itemsize = ITEMSIZE[dtype]
    least = min(
        (need(sizes, mode, itemsize, quantization, is_cpu=free.is_cpu) for mode in modes(sizes, quantization)),
        key=lambda each: (each.device, each.main),
    )
    short_of_main = least.device <= free.device
    wanted, there = (least.main, free.main) if short_of_main else (least.device, free.device)
    place = "main memory" if short_of_main or free.is_cpu else "memory of the device"
    smaller = ["--dtype bfloat16"] if itemsize == 4 and choose(sizes, free, 2, quantization) else []
    packed = [name for name in BITS if quantization is None and not (free.is_cpu and name == "nf4")]
    smaller += [f"--quantization {name}" for name in packed if choose(sizes, free, itemsize, name)]
    advice = f"use {' or '.join(smaller)}" if smaller else "close other programs or use a smaller model"
    return ResourceError(
        f"'{model}' needs at least {gigabytes(wanted)} of {place} in {quantization or dtype}, and {gigabytes(there)} are free: "
        f"{advice}, or try all the same with --memory full.",
        code=OUT_OF_MEMORY,
    )


def needs_tiles(pixels: int, width: int, itemsize: int, free: int) -> bool:
    """Whether an autoencoder cannot work on a picture as a whole, by the estimate above.

    Args:
        pixels: Of the picture.
        width: Channels of the autoencoder at full resolution.
        itemsize: Bytes of a number.
        free: Free bytes of its device.
    """
    return PIXEL_TENSORS * width * pixels * itemsize > free


def gigabytes(count: int) -> str:
    """Bytes for people: GB of 10^9 bytes, as cards are sold."""
    return f"{count / 1e9:.2f} GB" if count < 1e9 else f"{count / 1e9:.1f} GB"
