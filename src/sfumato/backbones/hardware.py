"""Selection of the device and the number format (dtype) that a model runs in."""

from typing import TYPE_CHECKING

from sfumato.errors import OptionError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")


def choose_device(device: "str | torch.device | None" = None) -> "torch.device":
    """The device asked for, or the fastest there is: CUDA, then MPS, then CPU.

    Raises:
        OptionError: If the name is not one of cpu, cuda, cuda:N and mps, or this machine has no such device (option-device).
    """
    import torch

    available = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    available += ["mps"] if torch.backends.mps.is_available() else []
    available += ["cpu"]
    if device is None:
        return torch.device(available[0].removesuffix(":0"))
    name = str(device)
    if name not in available and not (name == "cuda" and available[0].startswith("cuda")):
        raise OptionError(f"Device '{name}' is not on this machine; choose from {', '.join(available)}.", code="option-device")
    return torch.device(name)


def choose_dtype(device: "torch.device", dtype: "str | torch.dtype | None" = None) -> "torch.dtype":
    """The format asked for, or the fastest that is safe on `device`.

    bfloat16 where the CPU multiplies it in hardware (AMX-BF16 or AVX512-BF16) or the GPU does, else float16 on CUDA and
    float32 on CPU and MPS, where half precision is slow or overflows to black pictures.

    Raises:
        OptionError: If the name is none of float32, bfloat16 and float16 (option-dtype).
    """
    import torch

    if dtype is not None:
        name = str(dtype).removeprefix("torch.")
        if name not in DTYPES:
            raise OptionError(f"Dtype '{name}' is unknown; choose from {', '.join(DTYPES)}.", code="option-dtype")
        chosen: torch.dtype = getattr(torch, name)
        return chosen
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and _cpu_multiplies_bfloat16():
        return torch.bfloat16
    return torch.float32


def _cpu_multiplies_bfloat16() -> bool:
    import torch

    if hasattr(torch.cpu, "get_capabilities"):
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def free_memory(device: "torch.device") -> int:
    """Bytes that can be allocated on a device now, what torch holds in reserve included; of a CPU the machine's free memory."""
    import torch

    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return free_main_memory()


def free_main_memory() -> int:
    """Bytes of main memory that are free or can be freed without swapping."""
    import psutil

    return int(psutil.virtual_memory().available)
