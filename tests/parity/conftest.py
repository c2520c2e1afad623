"""The tiny model, and loops without gradients, as an edit runs them."""

from collections.abc import Iterator

import pytest
import torch

from tests.parity.reference import TinyDenoiser


@pytest.fixture(scope="module")
def backbone() -> TinyDenoiser:
    return TinyDenoiser()


@pytest.fixture
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield
