"""Device and dtype."""

import pytest
import torch

from sfumato.backbones import hardware, loading
from sfumato.errors import OptionError


def test_devices_and_dtypes_are_chosen_from_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")

    assert loading.choose_device("cpu") == cpu
    assert loading.choose_dtype(cpu, "float16") == loading.choose_dtype(cpu, torch.float16) == torch.float16
    for supported, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(hardware, "_cpu_multiplies_bfloat16", lambda supported=supported: supported)
        assert loading.choose_dtype(cpu) == dtype
    assert loading.choose_dtype(torch.device("mps")) == torch.float32
    with pytest.raises(OptionError, match="float32, bfloat16, float16"):
        loading.choose_dtype(cpu, "int8")
    with pytest.raises(OptionError, match=r"choose from .*cpu"):
        loading.choose_device("toaster")
